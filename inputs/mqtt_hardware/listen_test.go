package mqtt_hardware

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/config"

	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
)

// listening is the plugin as a broker; its URL is for devices.
func listening(t *testing.T, change ...func(*MQTTHardware)) (i *instance, url string) {
	t.Helper()
	all := append([]func(*MQTTHardware){func(p *MQTTHardware) { p.Servers, p.Listen = nil, "tcp://127.0.0.1:0" }}, change...)
	i = prepare(t, "", all...)
	i.start()
	i.untilConnected()
	return i, "tcp://" + i.embedded.bound
}

// device connects to the embedded broker.
func device(t *testing.T, url, name, user, password string) (mqtt.Client, error) {
	t.Helper()
	o := mqtt.NewClientOptions().AddBroker(url).SetClientID(name).SetUsername(user).SetPassword(password).SetAutoReconnect(false)
	c := mqtt.NewClient(o)
	token := c.Connect()
	require.True(t, token.WaitTimeout(soon))
	t.Cleanup(func() { c.Disconnect(0) })
	return c, token.Error()
}

// A device's PUBACK waits for the outputs, at each QoS, and those of several devices do not mix.
func TestListenAcknowledgesAfterDelivery(t *testing.T) {
	t.Parallel()
	i, url := listening(t)
	i.out.set(nil)
	var tokens []mqtt.Token
	for n := range 4 {
		c, err := device(t, url, fmt.Sprint("device ", n), "", "")
		require.NoError(t, err)
		for qos := range byte(3) { // both devices use the same packet identifiers
			token := c.Publish(fmt.Sprintf("t/%d", n), qos, false, fmt.Sprintf("%d %d", n, qos))
			if qos > 0 {
				tokens = append(tokens, token)
			}
		}
	}
	i.until("all are here", func() bool { return i.out.count() == 12 })
	for _, token := range tokens {
		require.False(t, token.WaitTimeout(20*time.Millisecond), "acknowledged before it is delivered")
	}
	i.out.set(accept)
	for _, token := range tokens {
		require.True(t, token.WaitTimeout(soon))
		require.NoError(t, token.Error())
	}
	i.until("counted", func() bool { return i.stats.acked.Get() == 8 && i.stats.unacked.Get() == 0 })
}

// What a device publishes goes to others that subscribed, too, retained where it says so; topics that are not listed are
// between devices alone.
func TestListenPassesOn(t *testing.T) {
	t.Parallel()
	i, url := listening(t)
	sender, err := device(t, url, "sender", "", "")
	require.NoError(t, err)
	for _, topic := range []string{"t/state", "other/state"} {
		token := sender.Publish(topic, 1, true, "on")
		require.True(t, token.WaitTimeout(soon))
		require.NoError(t, token.Error())
	}
	got := make(chan string, 10)
	receiver, err := device(t, url, "receiver", "", "")
	require.NoError(t, err)
	token := receiver.Subscribe("#", 1, func(_ mqtt.Client, m mqtt.Message) {
		got <- fmt.Sprintf("%s=%s %v", m.Topic(), m.Payload(), m.Retained())
	})
	require.True(t, token.WaitTimeout(soon))
	require.ElementsMatch(t, []string{"t/state=on true", "other/state=on true"}, []string{<-got, <-got})
	i.untilTexts([]string{"on"})
	require.EqualValues(t, 1, i.stats.dropped[droppedUnwanted].Get())
}

// Devices that listen to each other at QoS 1 and 2 hold nobody up: mochi as it is stands still under this, now and then.
func TestListenBetweenDevices(t *testing.T) {
	t.Parallel()
	const each = 1000
	i, url := listening(t)
	var got atomic.Int64
	receiver := sender5(t, url, func(paho.PublishReceived) (bool, error) { got.Add(1); return true, nil })
	answer, err := receiver.Subscribe(t.Context(), &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "#", QoS: 2}}})
	require.NoError(t, err)
	require.Equal(t, []byte{0}, answer.Reasons)
	var publishing sync.WaitGroup
	for _, qos := range []byte{1, 2} {
		c, err := device(t, url, fmt.Sprint("device ", qos), "", "")
		require.NoError(t, err)
		publishing.Go(func() {
			for n := range each {
				c.Publish("t/x", qos, false, fmt.Sprint(n)).Wait()
			}
		})
	}
	for n := range each { // the receiver's own goroutine at the broker is busy, too
		_, err := receiver.Publish(t.Context(), &paho.Publish{Topic: "t/y", QoS: 2, Payload: fmt.Append(nil, n)})
		require.NoError(t, err)
	}
	publishing.Wait()
	i.until("all are here", func() bool { return i.stats.acked.Get() == 3*each })
	require.NotZero(t, got.Load())
}

func TestListenUsers(t *testing.T) {
	t.Parallel()
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	require.NoError(t, err)
	users := filepath.Join(t.TempDir(), "users")
	require.NoError(t, os.WriteFile(users, fmt.Appendf(nil, "# devices\nsensor:%s\n", hash), 0o600))
	_, url := listening(t, func(p *MQTTHardware) { p.ListenUsers = users })
	_, err = device(t, url, "a", "sensor", "secret")
	require.NoError(t, err)
	for _, wrong := range [][2]string{{"sensor", "wrong"}, {"nobody", "secret"}, {"", ""}} {
		_, err = device(t, url, "b", wrong[0], wrong[1])
		require.Error(t, err, wrong)
	}
}

// Passwords may come from a secret store instead of a file.
func TestListenPasswords(t *testing.T) {
	t.Parallel()
	_, url := listening(t, func(p *MQTTHardware) {
		p.ListenPasswords = map[string]*config.Secret{"sensor": secret("right")}
	})
	_, err := device(t, url, "a", "sensor", "right")
	require.NoError(t, err)
	for _, wrong := range [][2]string{{"sensor", "wrong"}, {"sensor", ""}, {"nobody", "right"}, {"", ""}} {
		_, err = device(t, url, "b", wrong[0], wrong[1])
		require.Error(t, err, wrong)
	}
}

func secret(text string) *config.Secret {
	s := config.NewSecret([]byte(text))
	return &s
}

// Devices need a certificate of the authority where one is named.
func TestListenMutualTLS(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	i, url := listening(t, func(p *MQTTHardware) {
		p.Listen = "ssl://127.0.0.1:0"
		p.ListenTLSCert, p.ListenTLSKey = a.file("server.pem"), a.file("server-key.pem")
		p.ListenTLSClientCAs = []string{a.file("ca.pem")}
	})
	publish := func(c *tls.Config) error {
		o := mqtt.NewClientOptions().AddBroker("ssl" + strings.TrimPrefix(url, "tcp")).SetAutoReconnect(false).SetTLSConfig(c)
		client := mqtt.NewClient(o)
		defer client.Disconnect(0)
		token := client.Connect()
		require.True(t, token.WaitTimeout(soon))
		if token.Error() == nil {
			token = client.Publish("t/x", 1, false, "hello")
			require.True(t, token.WaitTimeout(soon))
		}
		return token.Error()
	}
	require.Error(t, publish(a.client), "without a certificate")
	pair, err := tls.LoadX509KeyPair(a.file("client.pem"), a.file("client-key.pem"))
	require.NoError(t, err)
	with := a.client.Clone()
	with.Certificates = []tls.Certificate{pair}
	require.NoError(t, publish(with))
	i.untilTexts([]string{"hello"})
}

// A broker in servers goes before listen, so that one configuration serves both.
func TestListenServersGoFirst(t *testing.T) {
	t.Parallel()
	b := testbroker.StartMochi(t, testbroker.MochiOptions{})
	i := connect(t, b.URL(), func(p *MQTTHardware) { p.Listen = "tcp://127.0.0.1:0" })
	require.Nil(t, i.embedded)
	require.Contains(t, i.lines('I')[0], `listen = "tcp://127.0.0.1:0" is not used`)
	i.stop()
	i, _ = listening(t, func(p *MQTTHardware) { p.Servers = []string{""} })
	require.NotNil(t, i.embedded)
}

// A device that lost its connection repeats what was not acknowledged. That is no second message, and what it waits for
// comes on the new connection.
func TestListenRepeated(t *testing.T) {
	t.Parallel()
	for _, qos := range []byte{1, 2} {
		i, url := listening(t)
		i.out.set(nil)
		conn := raw(t, url)
		publish := func(dup bool) {
			p := create[*packets.PublishPacket](t, packets.Publish)
			p.TopicName, p.Payload, p.Qos, p.MessageID, p.Dup = "t/x", []byte("once"), qos, 7, dup
			require.NoError(t, p.Write(conn))
		}
		publish(false)
		i.until("it is here", func() bool { return i.out.count() == 1 })
		require.NoError(t, conn.Close())

		conn = raw(t, url)
		publish(true)
		require.NoError(t, packets.NewControlPacket(packets.Pingreq).Write(conn))
		readAs[*packets.PingrespPacket](t, conn) // it is read, and not acknowledged
		i.out.set(accept)
		if qos == 1 {
			require.EqualValues(t, 7, readAs[*packets.PubackPacket](t, conn).MessageID)
		} else {
			require.EqualValues(t, 7, readAs[*packets.PubrecPacket](t, conn).MessageID)
			require.NoError(t, conn.Close()) // again, before PUBREL
			conn = raw(t, url)
			publish(true)
			require.EqualValues(t, 7, readAs[*packets.PubrecPacket](t, conn).MessageID)
			release := create[*packets.PubrelPacket](t, packets.Pubrel)
			release.MessageID = 7
			require.NoError(t, release.Write(conn))
			answer := read(t, conn)
			for repeated := true; repeated; { // PUBREC, which the broker repeats, too
				if _, repeated = answer.(*packets.PubrecPacket); repeated {
					answer = read(t, conn)
				}
			}
			require.IsType(t, &packets.PubcompPacket{}, answer)
			require.EqualValues(t, 7, answer.Details().MessageID)
		}
		publish(false) // the identifier is free for the next one
		i.until("the next one", func() bool { return i.out.count() == 2 })
		require.Equal(t, 2, i.out.count())
		i.stop()
	}
}

// What a device repeats is the same message only if it is the same.
func TestListenRepeatedWithOtherContent(t *testing.T) {
	t.Parallel()
	i, url := listening(t)
	i.out.set(nil)
	conn := raw(t, url)
	for _, text := range []string{"one", "other"} {
		p := create[*packets.PublishPacket](t, packets.Publish)
		p.TopicName, p.Payload, p.Qos, p.MessageID, p.Dup = "t/x", []byte(text), 1, 7, text == "other"
		require.NoError(t, p.Write(conn))
	}
	i.until("both", func() bool { return i.out.count() == 2 })
	i.out.set(accept)
	require.EqualValues(t, 7, readAs[*packets.PubackPacket](t, conn).MessageID)
}

// A last will is a message like any other, and is bounded like any other.
func TestListenWill(t *testing.T) {
	t.Parallel()
	i, url := listening(t, func(p *MQTTHardware) { p.ListenMaxRetained = 1 })
	for n, name := range []string{"first", "second"} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "tcp://"))
		require.NoError(t, err)
		c := create[*packets.ConnectPacket](t, packets.Connect)
		c.ProtocolName, c.ProtocolVersion, c.ClientIdentifier, c.CleanSession, c.Keepalive = "MQTT", 4, name, true, 60
		c.WillFlag, c.WillQos, c.WillRetain, c.WillTopic, c.WillMessage = true, 1, true, "t/"+name, []byte("gone")
		require.NoError(t, c.Write(conn))
		require.Zero(t, readAs[*packets.ConnackPacket](t, conn).ReturnCode)
		require.NoError(t, conn.Close())
		i.until("the will", func() bool { return i.out.count() == n+1 })
	}
	require.Equal(t, []string{"gone", "gone"}, i.out.texts())
	_, first := i.embedded.server.Topics.Retained.Get("t/first")
	_, second := i.embedded.server.Topics.Retained.Get("t/second")
	require.True(t, first)
	require.False(t, second)
}

// A will that would wait for longer than its session lasts comes when the session ends.
func TestListenWillWithDelay(t *testing.T) {
	t.Parallel()
	i, url := listening(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "tcp://"))
	require.NoError(t, err)
	delay := uint32(3600)
	_, err = paho.NewClient(paho.ClientConfig{Conn: conn}).Connect(t.Context(), &paho.Connect{
		ClientID: "five", CleanStart: true, KeepAlive: 60, WillMessage: &paho.WillMessage{Topic: "t/x", Payload: []byte("gone")},
		WillProperties: &paho.WillProperties{WillDelayInterval: &delay},
	})
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	i.untilTexts([]string{"gone"})
}

// Why a device is sent away can be seen.
func TestListenRefusals(t *testing.T) {
	t.Parallel()
	i, url := listening(t, func(p *MQTTHardware) {
		p.ListenMaxClients, p.ListenMaxPacketSize = 1, 2048
		p.ListenPasswords = map[string]*config.Secret{"sensor": secret("right")}
	})
	_, err := device(t, url, "a", "sensor", "wrong")
	require.Error(t, err)
	first, err := device(t, url, "b", "sensor", "right")
	require.NoError(t, err)
	_, err = device(t, url, "c", "sensor", "right")
	require.ErrorContains(t, err, "server Unavailable")
	first.Publish("t/x", 0, false, strings.Repeat("x", 3000))
	for _, reason := range []string{refusedCredentials, refusedClients, refusedSize} {
		i.until(reason, func() bool { return i.stats.refused[reason].Get() > 0 }) // a device may try again with MQTT 3.1
	}
	log := strings.Join(i.lines('W'), "\n")
	for _, want := range []string{`"sensor"`, "listen_max_clients = 1", "listen_max_packet_size = 2048"} {
		require.Contains(t, log, want)
	}
	require.NotContains(t, log, "wrong\"")
}

// What MQTT 5 says beside the payload reaches other devices, too.
func TestListenPassesPropertiesOn(t *testing.T) {
	t.Parallel()
	_, url := listening(t)
	got := make(chan *paho.Publish, 1)
	receiver := sender5(t, url, func(r paho.PublishReceived) (bool, error) { got <- r.Packet; return true, nil })
	_, err := receiver.Subscribe(t.Context(), &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "#"}}})
	require.NoError(t, err)
	_, err = receiver.Publish(t.Context(), &paho.Publish{Topic: "t/x", QoS: 1, Payload: []byte("x"), Properties: &paho.PublishProperties{
		ContentType: "text/plain", User: paho.UserProperties{{Key: "site", Value: "berlin"}},
	}})
	require.NoError(t, err)
	p := <-got
	require.Equal(t, "text/plain", p.Properties.ContentType)
	require.Equal(t, "berlin", p.Properties.User.Get("site"))
}

// raw is a device's connection with a session that lasts.
func raw(t *testing.T, url string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "tcp://"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	c := create[*packets.ConnectPacket](t, packets.Connect)
	c.ProtocolName, c.ProtocolVersion, c.ClientIdentifier, c.Keepalive = "MQTT", 4, "raw", 60
	require.NoError(t, c.Write(conn))
	require.Zero(t, readAs[*packets.ConnackPacket](t, conn).ReturnCode)
	return conn
}

func create[P packets.ControlPacket](t *testing.T, kind byte) P {
	t.Helper()
	p, ok := packets.NewControlPacket(kind).(P)
	require.True(t, ok)
	return p
}

func readAs[P packets.ControlPacket](t *testing.T, conn net.Conn) P {
	t.Helper()
	p, ok := read(t, conn).(P)
	require.True(t, ok)
	return p
}

func read(t *testing.T, conn net.Conn) packets.ControlPacket {
	t.Helper()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(soon)))
	p, err := packets.ReadPacket(conn)
	require.NoError(t, err)
	return p
}

func TestListenWrongOptions(t *testing.T) {
	t.Parallel()
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	require.NoError(t, err)
	users := filepath.Join(t.TempDir(), "known")
	require.NoError(t, os.WriteFile(users, fmt.Appendf(nil, "sensor:%s\n", hash), 0o600))
	junk := filepath.Join(t.TempDir(), "users")
	require.NoError(t, os.WriteFile(junk, []byte("sensor:plain\n"), 0o600))
	for name, tt := range map[string]struct {
		change func(*MQTTHardware)
		want   []string
	}{
		"open to all": {func(p *MQTTHardware) { p.Listen = "tcp://0.0.0.0:1883" }, []string{"listen", "0.0.0.0:1883", "listen_users"}},
		"no URL":      {func(p *MQTTHardware) { p.Listen = "1883" }, []string{"listen", `"1883"`, "tcp://127.0.0.1:1883"}},
		"passwords too": {func(p *MQTTHardware) {
			p.ListenUsers, p.ListenPasswords = users, map[string]*config.Secret{"sensor": secret("x")}
		}, []string{"listen_passwords", `"sensor"`, "listen_users"}},
		"no password": {func(p *MQTTHardware) {
			p.ListenPasswords = map[string]*config.Secret{"sensor": secret("")}
		}, []string{"listen_passwords", `"sensor"`, "empty"}},
		"plain users":    {func(p *MQTTHardware) { p.ListenUsers = junk }, []string{"listen_users", "line 1", "bcrypt"}},
		"no users file":  {func(p *MQTTHardware) { p.ListenUsers = junk + "x" }, []string{"listen_users", junk + "x"}},
		"no certificate": {func(p *MQTTHardware) { p.Listen = "ssl://127.0.0.1:8883" }, []string{"listen_tls_cert"}},
		"TLS without":    {func(p *MQTTHardware) { p.ListenTLSCert = "a.pem" }, []string{"listen", "ssl://"}},
		"clients":        {func(p *MQTTHardware) { p.ListenMaxClients = 0 }, []string{"listen_max_clients", "0"}},
		"no port":        {func(p *MQTTHardware) { p.Listen = "tcp://127.0.0.1:99999" }, []string{"listen", "99999", "tcp://127.0.0.1:1883"}},
		"credentials":    {func(p *MQTTHardware) { p.Listen = "tcp://me:hidden@127.0.0.1:1" }, []string{"listen", "127.0.0.1:1"}},
		"no topics":      {func(p *MQTTHardware) { p.Topics, p.Hardware = nil, []string{"cpu"} }, []string{"listen", "topics"}},
		"packets":        {func(p *MQTTHardware) { p.ListenMaxPacketSize = 1 }, []string{"listen_max_packet_size", "1KiB"}},
		"retained":       {func(p *MQTTHardware) { p.ListenMaxRetained = -1 }, []string{"listen_max_retained", "-1"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := New()
			p.Topics, p.Listen, p.Servers = []string{"#"}, "tcp://127.0.0.1:1883", nil
			tt.change(p)
			err := p.Init()
			require.NotContains(t, fmt.Sprint(err), "hidden")
			for _, want := range tt.want {
				require.ErrorContains(t, err, want)
			}
		})
	}
}

// A port that is taken is an error at once, and leaves nothing behind.
func TestListenPortTaken(t *testing.T) {
	t.Parallel()
	_, url := listening(t)
	second := prepare(t, "", func(p *MQTTHardware) { p.Servers, p.Listen = nil, url })
	require.ErrorContains(t, second.Start(second.out), "listen")
	second.Stop()
}

func TestListenRetainedLimit(t *testing.T) {
	t.Parallel()
	i, url := listening(t, func(p *MQTTHardware) { p.ListenMaxRetained = 1 })
	c, err := device(t, url, "a", "", "")
	require.NoError(t, err)
	for _, topic := range []string{"t/1", "t/2", "t/1"} {
		token := c.Publish(topic, 1, true, "x")
		require.True(t, token.WaitTimeout(soon))
	}
	i.until("all", func() bool { return i.out.count() == 3 })
	retained := i.embedded.server.Topics.Retained
	_, kept := retained.Get("t/1")
	_, over := retained.Get("t/2")
	require.True(t, kept)
	require.False(t, over)
}

var _ telegraf.ServiceInput = New()

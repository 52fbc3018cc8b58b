package mqtt_hardware

import (
	"net"
	"strings"
	"testing"

	packets5 "github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf/config"

	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
)

func five(p *MQTTHardware) { p.Protocol = protocol5 }

// sender5 publishes with MQTT 5.
func sender5(t *testing.T, url string, received ...func(paho.PublishReceived) (bool, error)) *paho.Client {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "tcp://"))
	require.NoError(t, err)
	c := paho.NewClient(paho.ClientConfig{Conn: conn, OnPublishReceived: received})
	_, err = c.Connect(t.Context(), &paho.Connect{ClientID: "sender", CleanStart: true, KeepAlive: 60})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Disconnect(&paho.Disconnect{}) })
	return c
}

// What MQTT 5 says beside the payload becomes tags and fields when asked for.
func TestProtocolProperties(t *testing.T) {
	t.Parallel()
	for _, kind := range brokers {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			b := kind.start(t)
			i := connect(t, b.URL(), five, func(p *MQTTHardware) {
				p.UserProperties, p.MessageProperties = []string{"si*"}, knownProperties
			})
			expiry := uint32(60)
			_, err := sender5(t, b.URL()).Publish(t.Context(), &paho.Publish{
				Topic: "t/x", QoS: 1, Payload: []byte("\x81\xa1a\x01"), Properties: &paho.PublishProperties{
					ContentType: "application/msgpack", ResponseTopic: "r/x", CorrelationData: []byte("c1"), MessageExpiry: &expiry,
					User: paho.UserProperties{{Key: "site", Value: "berlin"}, {Key: "secret", Value: "no"}},
				},
			})
			require.NoError(t, err)
			i.until("metric", func() bool { return i.out.count() == 1 })
			m := i.out.all()[0]
			require.Equal(t, map[string]string{"topic": "t/x", "site": "berlin"}, m.Tags())
			fields := m.Fields()
			require.EqualValues(t, 1, fields["a"], "the content type says how it is read")
			require.Equal(t, "application/msgpack", fields["content_type"])
			require.Equal(t, "r/x", fields["response_topic"])
			require.Equal(t, "c1", fields["correlation_data"])
			require.Contains(t, fields, "message_expiry")
		})
	}
}

// The broker sends no more than max_undelivered_messages, since it was told so.
func TestProtocolReceiveMaximum(t *testing.T) {
	t.Parallel()
	for _, kind := range brokers {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			b := kind.start(t)
			i := connect(t, b.URL(), five, persistent, func(p *MQTTHardware) { p.MaxUndeliveredMessages = 5 })
			i.out.set(nil)
			send(t, b.URL(), 1, "t/x", numbers(0, 20)...)
			i.until("the window", func() bool { return i.out.count() == 5 })
			require.LessOrEqual(t, i.stats.received.Get(), int64(5))
			i.out.set(accept)
			i.untilTexts(numbers(0, 20))
			i.stop()
			require.Empty(t, leftover(t, b))
		})
	}
}

// Retained messages are flagged, or dropped when that is asked for, with both protocols.
func TestProtocolRetained(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{protocol3, protocol5} {
		for _, skip := range []bool{false, true} {
			b := testbroker.StartMochi(t, testbroker.MochiOptions{})
			c := sender5(t, b.URL())
			_, err := c.Publish(t.Context(), &paho.Publish{Topic: "t/old", QoS: 1, Retain: true, Payload: []byte("old")})
			require.NoError(t, err)
			i := connect(t, b.URL(), func(p *MQTTHardware) { p.Protocol, p.SkipRetained = protocol, skip })
			i.until("the retained one", func() bool { return i.stats.received.Get() == 1 })
			send(t, b.URL(), 1, "t/new", "new")
			if skip {
				i.untilTexts([]string{"new"})
				require.EqualValues(t, 1, i.stats.dropped[droppedRetained].Get())
			} else {
				i.untilTexts([]string{"old", "new"})
				require.Equal(t, true, i.out.all()[0].Fields()["retained"])
				require.NotContains(t, i.out.all()[1].Fields(), "retained")
			}
			i.stop()
		}
	}
}

// Others can see whether the plugin is there: in good order, and when its connection is cut.
func TestProtocolAvailability(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{protocol3, protocol5} {
		for _, kind := range brokers {
			t.Run(protocol+" "+kind.name, func(t *testing.T) {
				t.Parallel()
				b := kind.start(t)
				i := connect(t, b.URL(), func(p *MQTTHardware) { p.Protocol, p.AvailabilityTopic = protocol, "state/plugin" })
				watcher := connect(t, b.URL(), func(p *MQTTHardware) { p.Topics = []string{"state/#"} })
				watcher.untilTexts([]string{"online"})
				i.stop()
				watcher.untilTexts([]string{"online", "offline"})
			})
		}
	}
}

func TestProtocolWrongOptions(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*MQTTHardware)
		want   []string
	}{
		"version":   {func(p *MQTTHardware) { p.Protocol = "4" }, []string{"protocol", `"4"`, "3.1.1", "5"}},
		"5 alone":   {func(p *MQTTHardware) { p.NoLocal = true }, []string{"no_local", "5"}},
		"expiry":    {func(p *MQTTHardware) { five(p); p.SessionExpiry = 1 }, []string{"session_expiry", "1ns", "168h"}},
		"handling":  {func(p *MQTTHardware) { five(p); p.RetainHandling = 3 }, []string{"retain_handling", "3", "0"}},
		"topic":     {func(p *MQTTHardware) { p.AvailabilityTopic = "a/#" }, []string{"availability_topic", "a/#"}},
		"property":  {func(p *MQTTHardware) { five(p); p.MessageProperties = []string{"x"} }, []string{"message_properties", `"x"`, "content_type"}},
		"user glob": {func(p *MQTTHardware) { five(p); p.UserProperties = []string{"[a"} }, []string{"user_properties", "[a"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := New()
			p.Topics = []string{"#"}
			tt.change(p)
			err := p.Init()
			for _, want := range tt.want {
				require.ErrorContains(t, err, want)
			}
		})
	}
}

// A refusal names its code and the broker's own words.
func TestProtocolRefused(t *testing.T) {
	t.Parallel()
	url := ruledMochi(t, &rules{user: func(_, password string) bool { return password == "right" }})
	i := prepare(t, url, five, func(p *MQTTHardware) {
		p.Username = config.NewSecret([]byte("u"))
		p.Password = config.NewSecret([]byte("wrong"))
	})
	i.start()
	i.until("logged", func() bool { return len(i.lines('E')) > 0 })
	require.Contains(t, i.lines('E')[0], "the broker refused")
	require.Contains(t, i.lines('E')[0], "code 0x86")
}

// A broker that sends its clients elsewhere is quoted in the log, whether it does so at once or later.
func TestProtocolRedirected(t *testing.T) {
	t.Parallel()
	elsewhere := &packets5.Properties{ServerReference: "mqtt.example:1883", ReasonString: "moved"}
	moved := packets5.NewControlPacket(packets5.CONNACK)
	moved.Content = &packets5.Connack{ReasonCode: packets5.ConnackServerMoved, Properties: elsewhere}
	later := packets5.NewControlPacket(packets5.DISCONNECT)
	later.Content = &packets5.Disconnect{ReasonCode: packets5.DisconnectServerMoved, Properties: elsewhere}
	for name, answers := range map[string][]*packets5.ControlPacket{
		"at once": {moved},
		"later":   {packets5.NewControlPacket(packets5.CONNACK), later},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := "tcp://" + serveTCP(t, nil, func(conn net.Conn) {
				defer func() { _ = conn.Close() }()
				for _, answer := range answers { // to CONNECT and SUBSCRIBE
					if _, err := packets5.ReadPacket(conn); err != nil {
						return
					}
					if _, err := answer.WriteTo(conn); err != nil {
						return
					}
				}
			})
			i := prepare(t, url, five)
			i.start()
			logged := func() string { return strings.Join(append(i.lines('E'), i.lines('W')...), "\n") }
			i.until("logged", func() bool { return strings.Contains(logged(), "mqtt.example:1883") })
			require.Contains(t, logged(), "(moved)")
		})
	}
}

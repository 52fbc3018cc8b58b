package mqtt_hardware

import (
	"context"
	"crypto/tls"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	mochipackets "github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf/testutil"

	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
)

// brokers are the two kinds. A test runs with both.
var brokers = []struct {
	name  string
	start func(t *testing.T) testbroker.Broker
}{
	{"mochi", func(t *testing.T) testbroker.Broker {
		t.Helper()
		return testbroker.StartMochi(t, testbroker.MochiOptions{})
	}},
	{"mosquitto", func(t *testing.T) testbroker.Broker {
		t.Helper()
		return testbroker.StartMosquitto(t, testbroker.MosquittoOptions{})
	}},
}

// instance is the plugin between a broker and an outlet.
type instance struct {
	*MQTTHardware
	t   *testing.T
	out *outlet
	log *testutil.CaptureLogger

	once sync.Once // Stop was called
}

// prepare brings a plugin as far as Init. It subscribes to t/#.
func prepare(t *testing.T, url string, change ...func(*MQTTHardware)) *instance {
	t.Helper()
	i := &instance{MQTTHardware: New(), t: t, out: &outlet{verdict: accept}, log: &testutil.CaptureLogger{}}
	i.Protocol = protocolUnderTest()
	i.Servers, i.Topics, i.Log, i.Statistics = []string{url}, []string{"t/#"}, i.log, statistics(t)
	for _, c := range change {
		c(i.MQTTHardware)
	}
	require.NoError(t, i.Init())
	return i
}

// protocolUnderTest is 3.1.1 unless the environment says otherwise, so that all tests of sessions can be run with both.
func protocolUnderTest() string {
	if p := os.Getenv("MQTT_PROTOCOL"); p != "" {
		return p
	}
	return protocol3
}

// only3 skips what needs a scripted broker, which speaks 3.1.1.
func only3(t *testing.T) {
	t.Helper()
	if protocolUnderTest() != protocol3 {
		t.Skip("the scripted broker speaks MQTT 3.1.1")
	}
}

// connect starts the plugin and waits until it has subscribed.
func connect(t *testing.T, url string, change ...func(*MQTTHardware)) *instance {
	t.Helper()
	i := prepare(t, url, change...)
	i.start()
	i.untilConnected()
	return i
}

// persistent gives the plugin a session that the broker keeps.
func persistent(p *MQTTHardware) { p.PersistentSession, p.ClientID = true, "plugin" }

func (i *instance) start() {
	i.t.Helper()
	within(i.t, soon, "Start", func() { require.NoError(i.t, i.Start(i.out)) })
	i.t.Cleanup(i.stop)
}

// stop may be called again; the plugin's Stop is called once.
func (i *instance) stop() {
	i.t.Helper()
	i.stopWithin(drainTime + soon)
}

func (i *instance) stopWithin(limit time.Duration) {
	i.t.Helper()
	within(i.t, limit, "Stop", func() { i.once.Do(func() { i.Stop(); i.out.end() }) })
	require.Zero(i.t, i.out.lateCount(), "metrics after Stop")
}

func (i *instance) until(what string, condition func() bool) {
	i.t.Helper()
	require.Eventually(i.t, condition, soon, 2*time.Millisecond, what)
}

func (i *instance) untilConnected() {
	i.t.Helper()
	i.until("connected", func() bool { return i.stats.connected.Get() == 1 })
}

func (i *instance) untilTexts(want []string) {
	i.t.Helper()
	i.until("metrics", func() bool { return i.out.count() >= len(want) })
	require.Equal(i.t, want, i.out.texts())
}

func (i *instance) lines(level byte) []string {
	i.t.Helper()
	var lines []string
	for _, entry := range i.log.Messages() {
		if entry.Level == level {
			lines = append(lines, entry.Text)
		}
	}
	return lines
}

// leftover is what the broker still owes the plugin's session.
func leftover(t *testing.T, b testbroker.Broker) []string {
	t.Helper()
	messages, err := testbroker.Leftover(t.Context(), b.URL(), "plugin", "t/leftover")
	require.NoError(t, err)
	var texts []string
	for _, m := range messages {
		texts = append(texts, string(m.Payload))
	}
	return texts
}

func send(t *testing.T, url string, qos byte, topic string, texts ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	var messages iter.Seq[testbroker.Message] = func(yield func(testbroker.Message) bool) {
		for _, text := range texts {
			if !yield(testbroker.Message{Topic: topic, Payload: []byte(text)}) {
				return
			}
		}
	}
	published, err := testbroker.Publish(ctx, url, testbroker.Opts{QoS: qos}, messages)
	require.NoError(t, err)
	require.Len(t, texts, published)
}

// numbers are n texts.
func numbers(from, n int) []string {
	var texts []string
	for i := from; i < from+n; i++ {
		texts = append(texts, fmt.Sprint("n", i))
	}
	return texts
}

// rules are who may do what at a mochi; nil allows.
type rules struct {
	mochi.HookBase
	user      func(name, password string) bool
	subscribe func(filter string) bool
}

func (*rules) ID() string { return "rules" }

func (*rules) Provides(b byte) bool {
	return b == mochi.OnConnectAuthenticate || b == mochi.OnACLCheck || b == mochi.OnSessionEstablished
}

// OnSessionEstablished keeps mochi from a lock that it takes twice, as in the plugin's own broker.
func (*rules) OnSessionEstablished(c *mochi.Client, _ mochipackets.Packet) {
	c.State.Inflight.ResetSendQuota(0)
}

func (r *rules) OnConnectAuthenticate(_ *mochi.Client, p mochipackets.Packet) bool {
	return r.user == nil || !p.Connect.UsernameFlag || r.user(string(p.Connect.Username), string(p.Connect.Password))
}

func (r *rules) OnACLCheck(_ *mochi.Client, topic string, write bool) bool {
	return write || r.subscribe == nil || r.subscribe(topic)
}

// ruledMochi is a broker with rules, on tcp and on the listeners besides.
func ruledMochi(t *testing.T, r *rules, more ...listeners.Listener) (url string) {
	t.Helper()
	server := mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, server.AddHook(r, nil))
	plain := listeners.NewTCP(listeners.Config{ID: "plain", Address: "127.0.0.1:0"})
	for _, l := range append(more, plain) {
		require.NoError(t, server.AddListener(l))
	}
	require.NoError(t, server.Serve())
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	return "tcp://" + plain.Address()
}

// mosquittoWith has these lines in its configuration.
func mosquittoWith(t *testing.T, lines ...string) *testbroker.Mosquitto {
	t.Helper()
	return testbroker.StartMosquitto(t, testbroker.MosquittoOptions{Lines: lines})
}

// freeAddress was free a moment ago; nobody listens there.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return l.Addr().String()
}

// scripted answers what the test says. answer returns what is sent, nothing for nil; or false to close.
func scripted(t *testing.T, answer func(connection int, p packets.ControlPacket) (packets.ControlPacket, bool)) (url string) {
	t.Helper()
	connections := make(chan int, 1)
	connections <- 0
	return "tcp://" + serveTCP(t, nil, func(conn net.Conn) {
		defer func() { _ = conn.Close() }()
		number := <-connections
		connections <- number + 1
		for {
			p, err := packets.ReadPacket(conn)
			if err != nil {
				return
			}
			reply, open := answer(number, p)
			if !open {
				return
			}
			if reply != nil && reply.Write(conn) != nil {
				return
			}
		}
	})
}

func connack(code byte) packets.ControlPacket {
	p, _ := packets.NewControlPacket(packets.Connack).(*packets.ConnackPacket)
	p.ReturnCode = code
	return p
}

func suback(to *packets.SubscribePacket) packets.ControlPacket {
	p, _ := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
	p.MessageID, p.ReturnCodes = to.MessageID, to.Qoss
	return p
}

// accepting answers as a broker does that has nothing to send.
func accepting(p packets.ControlPacket) (packets.ControlPacket, bool) {
	switch p := p.(type) {
	case *packets.ConnectPacket:
		return connack(packets.Accepted), true
	case *packets.SubscribePacket:
		return suback(p), true
	case *packets.PingreqPacket:
		return packets.NewControlPacket(packets.Pingresp), true
	case *packets.DisconnectPacket:
		return nil, false
	}
	return nil, true
}

func requireClientCertificate(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.ClientAuth = tls.RequireAndVerifyClientCert
	return c
}

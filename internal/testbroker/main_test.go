package testbroker_test

import (
	"context"
	"iter"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	soon  = 20 * time.Second       // the bound of a wait that succeeds
	quiet = 300 * time.Millisecond // how long nothing must happen
)

// brokers are the two kinds, each started with the default window.
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

// bounded returns a context that no test outlives.
func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// numbered yields from, from+1, … as payloads, on topics that subscription t/# matches.
func numbered(from, n int) iter.Seq[testbroker.Message] {
	return func(yield func(testbroker.Message) bool) {
		for i := from; i < from+n; i++ {
			if !yield(testbroker.Message{Topic: "t/x", Payload: []byte(strconv.Itoa(i))}) {
				return
			}
		}
	}
}

func publish(t *testing.T, b testbroker.Broker, qos byte, from, n int) {
	t.Helper()
	published, err := testbroker.Publish(bounded(t), b.URL(), testbroker.Opts{QoS: qos}, numbered(from, n))
	require.NoError(t, err)
	require.Equal(t, n, published)
}

// subscriber is a plain paho client with a persistent session on t/#, which acknowledges only when told to.
type subscriber struct {
	t      *testing.T
	client mqtt.Client
	got    chan mqtt.Message
	once   sync.Once
}

func subscribe(t *testing.T, b testbroker.Broker, id string, qos byte, clean bool) *subscriber {
	t.Helper()
	s := connect(t, b, id, clean)
	s.wait(s.client.Subscribe("t/#", qos, nil))
	return s
}

func connect(t *testing.T, b testbroker.Broker, id string, clean bool) *subscriber {
	t.Helper()
	s := &subscriber{t: t, got: make(chan mqtt.Message, 200_000)}
	s.client = mqtt.NewClient(mqtt.NewClientOptions().
		AddBroker(b.URL()).SetClientID(id).SetProtocolVersion(4).SetCleanSession(clean).
		SetAutoReconnect(false).SetAutoAckDisabled(true).SetConnectTimeout(5 * time.Second).
		SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { s.got <- m }))
	s.wait(s.client.Connect())
	t.Cleanup(s.leave)
	return s
}

func (s *subscriber) wait(token mqtt.Token) {
	s.t.Helper()
	require.True(s.t, token.WaitTimeout(soon))
	require.NoError(s.t, token.Error())
}

// read returns when the broker has read all acknowledgements so far.
func (s *subscriber) read() {
	s.t.Helper()
	s.wait(s.client.Unsubscribe("no/such/filter"))
}

func (s *subscriber) leave() { s.once.Do(func() { s.client.Disconnect(500) }) }

// take returns the next n messages, unacknowledged.
func (s *subscriber) take(n int) []mqtt.Message {
	s.t.Helper()
	deadline := time.NewTimer(soon)
	defer deadline.Stop()
	var taken []mqtt.Message
	for len(taken) < n {
		select {
		case m := <-s.got:
			taken = append(taken, m)
		case <-deadline.C:
			require.FailNow(s.t, "messages are missing", "%d of %d came", len(taken), n)
		}
	}
	return taken
}

// takeAll acknowledges whatever comes until n messages came, and returns their payloads.
func (s *subscriber) takeAll(n int) []string {
	s.t.Helper()
	var payloads []string
	for range n {
		m := s.take(1)[0]
		m.Ack()
		payloads = append(payloads, string(m.Payload()))
	}
	return payloads
}

// nothing fails if a message comes.
func (s *subscriber) nothing() {
	s.t.Helper()
	wait := time.NewTimer(quiet)
	defer wait.Stop()
	select {
	case m := <-s.got:
		require.FailNow(s.t, "a message too many", "payload %s", m.Payload())
	case <-wait.C:
	}
}

func payloads(messages []mqtt.Message) []string {
	var out []string
	for _, m := range messages {
		out = append(out, string(m.Payload()))
	}
	return out
}

func numbers(from, n int) []string {
	var out []string
	for i := from; i < from+n; i++ {
		out = append(out, strconv.Itoa(i))
	}
	return out
}

// unacked compares what the broker says, if it says anything.
func unacked(t *testing.T, b testbroker.Broker, id string, want int) {
	t.Helper()
	if _, ok := b.(*testbroker.Mosquitto); ok {
		return
	}
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		n, err := b.Unacked(id)
		require.NoError(c, err)
		require.Equal(c, want, n)
	}, soon, 5*time.Millisecond, "unacknowledged at %s", id)
}

func deliver(b *testing.B, broker testbroker.Broker) {
	b.Helper()
	var left atomic.Int64
	left.Store(int64(b.N))
	done := make(chan struct{})
	client := mqtt.NewClient(mqtt.NewClientOptions().AddBroker(broker.URL()).SetClientID("bench").SetAutoReconnect(false).
		SetDefaultPublishHandler(func(mqtt.Client, mqtt.Message) {
			if left.Add(-1) == 0 {
				close(done)
			}
		}))
	require.True(b, client.Connect().WaitTimeout(soon))
	defer client.Disconnect(500)
	require.True(b, client.Subscribe("t/#", 1, nil).WaitTimeout(soon))
	b.ResetTimer()
	_, err := testbroker.Publish(b.Context(), broker.URL(), testbroker.Opts{QoS: 1, Inflight: 1000}, numbered(0, b.N))
	require.NoError(b, err)
	select {
	case <-done:
	case <-time.After(time.Minute):
		require.FailNow(b, "messages are missing", "%d of %d", left.Load(), b.N)
	}
}

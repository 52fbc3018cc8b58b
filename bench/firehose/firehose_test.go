package firehose_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/bench/firehose"
	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
)

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func numbered(n int) (topic string, payload []byte) {
	return "t/" + strconv.Itoa(n%3), fmt.Appendf(nil, "%d", n)
}

// subscribe connects a real client, which acknowledges what it gets when received returns.
func subscribe(t *testing.T, url string, received func(mqtt.Message)) {
	t.Helper()
	client := mqtt.NewClient(mqtt.NewClientOptions().AddBroker(url).SetClientID("subscriber").
		SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { received(m) }))
	token := client.Connect()
	require.True(t, token.WaitTimeout(10*time.Second))
	require.NoError(t, token.Error())
	t.Cleanup(func() { client.Disconnect(100) })
	token = client.SubscribeMultiple(map[string]byte{"t/#": 1, "u": 1}, nil)
	require.True(t, token.WaitTimeout(10*time.Second))
	require.NoError(t, token.Error())
}

func TestBrokerSends(t *testing.T) {
	t.Parallel()
	b, err := firehose.Listen()
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Close()) }()
	var got []string
	subscribe(t, b.URL(), func(m mqtt.Message) { got = append(got, m.Topic()+" "+string(m.Payload())) })
	at, err := b.WaitSubscribed(within(t))
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), at, time.Minute)

	const n = 3000
	require.NoError(t, b.Send(within(t), firehose.Load{N: n, Message: numbered, Window: 20}))
	require.NoError(t, b.Send(within(t), firehose.Load{N: 1, Message: numbered}))
	want := make([]string, 0, n+1)
	for i := range n {
		topic, payload := numbered(i)
		want = append(want, topic+" "+string(payload))
	}
	require.Equal(t, append(want, "t/0 0"), got)
}

func TestBrokerHoldsItsWindow(t *testing.T) {
	t.Parallel()
	b, err := firehose.Listen()
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Close()) }()
	var got atomic.Int32
	release := make(chan struct{})
	subscribe(t, b.URL(), func(mqtt.Message) {
		if got.Add(1) == 1 {
			<-release
		}
	})
	_, err = b.WaitSubscribed(within(t))
	require.NoError(t, err)
	var sent atomic.Int32
	short, cancel := context.WithTimeout(within(t), 200*time.Millisecond)
	defer cancel()
	err = b.Send(short, firehose.Load{N: 100, Message: numbered, Window: 20, Sent: func(int, time.Time) { sent.Add(1) }})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.EqualValues(t, 20, sent.Load())
	close(release)
}

func TestPublisher(t *testing.T) {
	t.Parallel()
	broker := testbroker.StartMochi(t, testbroker.MochiOptions{})
	all := make(chan string, 1000)
	subscribe(t, broker.URL(), func(m mqtt.Message) { all <- string(m.Payload()) })
	p, err := firehose.Dial(within(t), broker.URL(), "firehose")
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()

	const n, rate = 200, 1000
	began := time.Now()
	var sent []time.Time
	require.NoError(t, p.Publish(within(t), firehose.Load{
		N: n, Rate: rate, Message: numbered, Sent: func(_ int, at time.Time) { sent = append(sent, at) },
	}))
	require.GreaterOrEqual(t, time.Since(began), (n-1)*time.Second/rate)
	require.Len(t, sent, n)
	require.True(t, slices.IsSortedFunc(sent, time.Time.Compare))
	for i := range n {
		select {
		case payload := <-all:
			require.Equal(t, strconv.Itoa(i), payload)
		case <-within(t).Done():
			require.Fail(t, "not all came")
		}
	}
}

func TestPublisherNoticesTheEnd(t *testing.T) {
	t.Parallel()
	broker := testbroker.StartMochi(t, testbroker.MochiOptions{})
	p, err := firehose.Dial(within(t), broker.URL(), "firehose")
	require.NoError(t, err)
	defer func() { _ = p.Close() }()
	require.NoError(t, broker.Stop())
	require.Error(t, p.Publish(within(t), firehose.Load{N: 10, Message: numbered}))
}

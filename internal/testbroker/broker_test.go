package testbroker_test

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
)

// The window is real: of 100 messages 20 are sent, and the other 80 follow as the first are acknowledged.
func TestWindowHolds(t *testing.T) {
	for _, qos := range []byte{1, 2} {
		t.Run(fmt.Sprintf("qos %d", qos), func(t *testing.T) {
			for _, kind := range brokers {
				t.Run(kind.name, func(t *testing.T) {
					b := kind.start(t)
					s := subscribe(t, b, "window", qos, false)
					publish(t, b, qos, 0, 100)

					first := s.take(20)
					s.nothing()
					require.Equal(t, numbers(0, 20), payloads(first))
					unacked(t, b, "window", 100)

					for _, m := range first {
						m.Ack()
					}
					require.Equal(t, numbers(20, 80), s.takeAll(80))
					s.nothing()
					unacked(t, b, "window", 0)
				})
			}
		})
	}
}

// One acknowledgement makes room for one message.
func TestMochiWindowMovesByOne(t *testing.T) {
	b := testbroker.StartMochi(t, testbroker.MochiOptions{MaxInflight: 3})
	s := subscribe(t, b, "one", 1, false)
	publish(t, b, 1, 0, 10)
	held := s.take(3)
	for i := 3; i < 10; i++ {
		s.nothing()
		held[1].Ack() // not the oldest
		held = append(slices.Delete(held, 1, 2), s.take(1)...)
		require.Equal(t, fmt.Sprint(i), string(held[2].Payload()))
		unacked(t, b, "one", 12-i)
	}
}

// A client that publishes uses packet ids of its own; they must not acknowledge what it receives. (mochi's own delivery
// fails here.)
func TestPublishingSubscriberKeepsItsWindow(t *testing.T) {
	for _, kind := range brokers {
		t.Run(kind.name, func(t *testing.T) {
			b := kind.start(t)
			s := subscribe(t, b, "both", 1, false)
			publish(t, b, 1, 0, 20)
			held := s.take(20)
			for range 30 {
				s.wait(s.client.Publish("elsewhere", 1, false, "x"))
				s.wait(s.client.Publish("elsewhere", 2, false, "x"))
			}
			publish(t, b, 1, 20, 1)
			s.nothing()
			unacked(t, b, "both", 21)
			for _, m := range held {
				m.Ack()
			}
			require.Equal(t, numbers(20, 1), s.takeAll(1))
		})
	}
}

// What was sent and not acknowledged, and what came while the client was away, is there when it returns, in order.
func TestSessionOutlivesConnection(t *testing.T) {
	for _, kind := range brokers {
		t.Run(kind.name, func(t *testing.T) {
			b := kind.start(t)
			s := subscribe(t, b, "away", 1, false)
			publish(t, b, 1, 0, 30)
			s.take(20)[0].Ack()
			s.take(1)
			s.leave()
			publish(t, b, 1, 30, 200)
			unacked(t, b, "away", 229)

			s = connect(t, b, "away", false)
			again := s.take(20)
			if _, ok := b.(*testbroker.Mochi); ok {
				s.nothing() // Mosquitto 2.0.11 sends more than its window after one acknowledgement came
			}
			require.Equal(t, numbers(1, 20), payloads(again))
			require.True(t, again[0].Duplicate())
			for _, m := range again {
				m.Ack()
			}
			require.Equal(t, numbers(21, 209), s.takeAll(209))
			unacked(t, b, "away", 0)
		})
	}
}

// A second client with the same id takes the session over from one that does not acknowledge.
func TestSessionTakenOver(t *testing.T) {
	for _, kind := range brokers {
		t.Run(kind.name, func(t *testing.T) {
			b := kind.start(t)
			first := subscribe(t, b, "twin", 1, false)
			publish(t, b, 1, 0, 25)
			first.take(20)
			second := connect(t, b, "twin", false)
			require.Equal(t, numbers(0, 25), second.takeAll(25))
			require.Eventually(t, func() bool { return !first.client.IsConnectionOpen() }, soon, time.Millisecond)
		})
	}
}

func TestCleanSessionLeavesNothing(t *testing.T) {
	b := testbroker.StartMochi(t, testbroker.MochiOptions{})
	s := subscribe(t, b, "clean", 1, true)
	publish(t, b, 1, 0, 25)
	unacked(t, b, "clean", 25)
	s.leave()
	require.Eventually(t, func() bool {
		_, err := b.Unacked("clean")
		return errors.Is(err, testbroker.ErrNoSession)
	}, soon, time.Millisecond)

	subscribe(t, b, "wiped", 1, false).leave()
	publish(t, b, 1, 0, 25)
	unacked(t, b, "wiped", 25)
	s = connect(t, b, "wiped", true)
	s.nothing()
	unacked(t, b, "wiped", 0)
}

// Everything is still there after a restart, on the same port.
func TestRestartKeepsSessions(t *testing.T) {
	for _, kind := range brokers {
		t.Run(kind.name, func(t *testing.T) {
			b := kind.start(t)
			url := b.URL()
			s := subscribe(t, b, "restart", 1, false)
			publish(t, b, 1, 0, 50)
			s.take(20)
			s.wait(s.client.Publish("t/kept", 1, true, "retained"))

			require.NoError(t, b.Restart())
			require.Equal(t, url, b.URL())
			publish(t, b, 1, 50, 10)

			s = connect(t, b, "restart", false)
			want := append(numbers(0, 50), "retained")
			require.Equal(t, append(want, numbers(50, 10)...), s.takeAll(61))
			s.nothing()

			late := subscribe(t, b, "late", 1, true)
			require.Equal(t, []string{"retained"}, late.takeAll(1))
		})
	}
}

func TestStartAndStop(t *testing.T) {
	for _, kind := range brokers {
		t.Run(kind.name, func(t *testing.T) {
			b := kind.start(t)
			require.ErrorIs(t, b.Start(), testbroker.ErrRunning)

			// A connection that says nothing does not hold up Stop.
			silent, err := net.Dial("tcp", strings.TrimPrefix(b.URL(), "tcp://"))
			require.NoError(t, err)
			defer func() { _ = silent.Close() }() // the broker closes it too

			require.NoError(t, b.Stop())
			require.NoError(t, b.Stop())
			_, err = testbroker.Publish(bounded(t), b.URL(), testbroker.Opts{}, numbered(0, 1))
			require.Error(t, err)
			require.NoError(t, b.Start())
			publish(t, b, 0, 0, 10)
		})
	}
}

func TestVolatileMochiForgets(t *testing.T) {
	b := testbroker.StartMochi(t, testbroker.MochiOptions{Volatile: true})
	subscribe(t, b, "gone", 1, false).leave()
	publish(t, b, 1, 0, 5)
	require.NoError(t, b.Restart())
	_, err := testbroker.Leftover(bounded(t), b.URL(), "gone", "t/end")
	require.ErrorIs(t, err, testbroker.ErrNoSession)
}

// What was saved before SIGKILL is there after it.
func TestMosquittoKill(t *testing.T) {
	b := testbroker.StartMosquitto(t, testbroker.MosquittoOptions{Autosave: time.Second})
	saved := func() int {
		text, err := b.Log()
		require.NoError(t, err)
		return strings.Count(text, "Saving in-memory database")
	}
	subscribe(t, b, "killed", 1, false).leave()
	publish(t, b, 1, 0, 5)
	before := saved()
	require.Eventually(t, func() bool { return saved() >= before+2 }, soon, 10*time.Millisecond)
	require.NoError(t, b.Kill())
	require.NoError(t, b.Start())
	publish(t, b, 1, 5, 5)
	_, err := b.Unacked("killed")
	require.ErrorIs(t, err, errors.ErrUnsupported)
	left, err := testbroker.Leftover(bounded(t), b.URL(), "killed", "t/end")
	require.NoError(t, err)
	require.Len(t, left, 10)
}

// Mosquitto drops beyond max_queued_messages, and says nothing to the publisher.
func TestMosquittoQueueLimit(t *testing.T) {
	b := testbroker.StartMosquitto(t, testbroker.MosquittoOptions{MaxInflight: 5, MaxQueued: 10})
	subscribe(t, b, "short", 1, false).leave()
	publish(t, b, 1, 0, 100)
	s := connect(t, b, "short", false)
	got := s.take(5)
	s.nothing()
	require.Equal(t, numbers(0, 5), payloads(got))
}

// A burst far above mochi's own limits (8192 in flight, 8192 pending writes), to a client that is away and to one that
// is there.
func TestBurstIsNotDropped(t *testing.T) {
	const burst = 50_000
	for _, kind := range brokers {
		t.Run(kind.name, func(t *testing.T) {
			b := kind.start(t)
			subscribe(t, b, "away", 1, false).leave()
			there := subscribe(t, b, "there", 1, false)
			zero := subscribe(t, b, "zero", 0, true)
			publish(t, b, 1, 0, burst)
			require.Equal(t, numbers(0, burst), there.takeAll(burst))
			require.Equal(t, numbers(0, burst), payloads(zero.take(burst)))
			back := connect(t, b, "away", false)
			require.Equal(t, numbers(0, burst), back.takeAll(burst))
			back.nothing()
			unacked(t, b, "there", 0)
			unacked(t, b, "away", 0)
		})
	}
}

func TestSharedSubscription(t *testing.T) {
	for _, kind := range brokers {
		t.Run(kind.name, func(t *testing.T) {
			b := kind.start(t)
			one, two := connect(t, b, "one", true), connect(t, b, "two", true)
			one.wait(one.client.Subscribe("$share/g/t/#", 1, nil))
			two.wait(two.client.Subscribe("$share/g/t/#", 1, nil))
			publish(t, b, 1, 0, 15)
			var got []string
			for range 15 {
				select {
				case m := <-one.got:
					got = append(got, string(m.Payload()))
				case m := <-two.got:
					got = append(got, string(m.Payload()))
				case <-time.After(soon):
					require.FailNow(t, "messages are missing")
				}
			}
			require.ElementsMatch(t, numbers(0, 15), got)
			one.nothing()
			two.nothing()
		})
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, opts := range []testbroker.MochiOptions{{MaxInflight: -1}, {MaxInflight: 20_000}, {Addr: "nowhere"}} {
		_, err := testbroker.NewMochi(opts)
		require.Error(t, err)
	}
	for _, opts := range []testbroker.MosquittoOptions{
		{Path: "mosquitto"},
		{Path: "mosquitto", Dir: "/does/not/exist"},
		{Path: "mosquitto", Dir: t.TempDir(), MaxQueued: -1},
	} {
		_, err := testbroker.NewMosquitto(opts)
		require.Error(t, err)
	}
}

// What Mosquitto complains about is in the error of Start.
func TestMosquittoThatDoesNotStart(t *testing.T) {
	path, ok := testbroker.LookMosquitto()
	if !ok {
		t.Skip("mosquitto is not installed")
	}
	b, err := testbroker.NewMosquitto(testbroker.MosquittoOptions{Path: path, Dir: t.TempDir(), Lines: []string{"no_such_option 1"}})
	require.NoError(t, err)
	require.ErrorContains(t, b.Start(), "no_such_option")
	require.NoError(t, b.Stop())
}

func TestLeftover(t *testing.T) {
	for _, kind := range brokers {
		t.Run(kind.name, func(t *testing.T) {
			b := kind.start(t)
			ctx := bounded(t)
			_, err := testbroker.Leftover(ctx, b.URL(), "left", "t/end")
			require.ErrorIs(t, err, testbroker.ErrNoSession)

			s := subscribe(t, b, "left", 1, false)
			publish(t, b, 1, 0, 60)
			for _, m := range s.take(20)[:7] {
				m.Ack()
			}
			s.take(7)
			s.read()
			s.leave()

			left, err := testbroker.Leftover(ctx, b.URL(), "left", "t/end")
			require.NoError(t, err)
			var got []string
			for _, m := range left {
				got = append(got, string(m.Payload))
			}
			require.Equal(t, numbers(7, 53), got)
			require.True(t, left[0].Duplicate)
			last := left[52]
			if _, ok := b.(*testbroker.Mochi); ok {
				require.False(t, last.Duplicate) // Mosquitto 2.0.11 also sets it on what it never sent before
			}
			last.Duplicate = false
			require.Equal(t, testbroker.Message{Topic: "t/x", QoS: 1, Payload: []byte("59")}, last)

			for range 3 { // drained, sentinel included
				left, err = testbroker.Leftover(ctx, b.URL(), "left", "t/end")
				require.NoError(t, err)
				require.Empty(t, left)
			}
		})
	}
}

// A client that acknowledges everything and leaves at once, without waiting for the broker to read it, has left nothing.
func TestLeftoverAfterHastyClient(t *testing.T) {
	for _, kind := range brokers {
		t.Run(kind.name, func(t *testing.T) {
			b := kind.start(t)
			for range 20 {
				s := subscribe(t, b, "hasty", 1, false)
				publish(t, b, 1, 0, 20)
				for _, m := range s.take(20) {
					m.Ack()
				}
				s.leave()
				left, err := testbroker.Leftover(bounded(t), b.URL(), "hasty", "t/end")
				require.NoError(t, err)
				require.Empty(t, left)
			}
		})
	}
}

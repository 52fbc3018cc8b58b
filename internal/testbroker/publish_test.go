package testbroker_test

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
)

func TestPublishAtEachQoS(t *testing.T) {
	for _, qos := range []byte{0, 1, 2} {
		t.Run(fmt.Sprintf("qos %d", qos), func(t *testing.T) {
			for _, kind := range brokers {
				t.Run(kind.name, func(t *testing.T) {
					b := kind.start(t)
					s := subscribe(t, b, "all", qos, true)
					publish(t, b, qos, 0, 2000)
					require.Equal(t, numbers(0, 2000), s.takeAll(2000))
				})
			}
		})
	}
}

func TestPublishKeepsItsRate(t *testing.T) {
	b := testbroker.StartMochi(t, testbroker.MochiOptions{})
	begin := time.Now()
	n, err := testbroker.Publish(bounded(t), b.URL(), testbroker.Opts{QoS: 1, Rate: 500}, numbered(0, 251))
	require.NoError(t, err)
	require.Equal(t, 251, n)
	require.GreaterOrEqual(t, time.Since(begin), 490*time.Millisecond)
}

// Every message counted arrives, though the broker goes away three times while they are published.
func TestPublishSurvivesRestarts(t *testing.T) {
	for _, qos := range []byte{1, 2} {
		t.Run(fmt.Sprintf("qos %d", qos), func(t *testing.T) {
			for _, kind := range brokers {
				t.Run(kind.name, func(t *testing.T) {
					b := kind.start(t)
					const total = 3000
					subscribe(t, b, "kept", qos, false).leave()
					milestones := make(chan int, total)
					type result struct {
						n   int
						err error
					}
					done := make(chan result, 1)
					go func() {
						count := 0
						n, err := testbroker.Publish(bounded(t), b.URL(), testbroker.Opts{
							QoS: qos, Rate: 2000, Resume: true, Acked: func(testbroker.Message) { count++; milestones <- count },
						}, numbered(0, total))
						done <- result{n, err}
					}()
					var r result
					for running := true; running; {
						select {
						case count := <-milestones:
							if count%700 == 0 && count < total {
								require.NoError(t, b.Restart())
							}
						case r = <-done:
							running = false
						}
					}
					require.NoError(t, r.err)
					require.Equal(t, total, r.n)

					left, err := testbroker.Leftover(bounded(t), b.URL(), "kept", "t/end")
					require.NoError(t, err)
					seen := make(map[string]bool)
					for _, m := range left {
						seen[string(m.Payload)] = true
					}
					require.Len(t, seen, total)
				})
			}
		})
	}
}

func TestPublishEnds(t *testing.T) {
	b := testbroker.StartMochi(t, testbroker.MochiOptions{})

	t.Run("with its context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(bounded(t))
		n, err := testbroker.Publish(ctx, b.URL(), testbroker.Opts{QoS: 1, Inflight: 1, Acked: func(m testbroker.Message) {
			if string(m.Payload) == "99" {
				cancel()
			}
		}}, numbered(0, 1_000_000))
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, 100, n)
	})
	t.Run("with a lost connection", func(t *testing.T) {
		n, err := testbroker.Publish(bounded(t), b.URL(), testbroker.Opts{QoS: 1, Inflight: 1, Acked: func(m testbroker.Message) {
			if string(m.Payload) == "99" {
				require.NoError(t, b.Restart())
			}
		}}, numbered(0, 1_000_000))
		require.Error(t, err)
		require.Equal(t, 100, n)
	})
	t.Run("with a broker that does not return", func(t *testing.T) {
		n, err := testbroker.Publish(bounded(t), b.URL(), testbroker.Opts{
			QoS: 1, Inflight: 1, Resume: true, Timeout: time.Second,
			Acked: func(m testbroker.Message) {
				if string(m.Payload) == "99" {
					require.NoError(t, b.Stop())
				}
			},
		}, numbered(0, 1_000_000))
		require.ErrorContains(t, err, "did not return")
		require.Equal(t, 100, n)
	})
	t.Run("with an option that makes no sense", func(t *testing.T) {
		_, err := testbroker.Publish(bounded(t), b.URL(), testbroker.Opts{QoS: 3}, numbered(0, 1))
		require.ErrorContains(t, err, "QoS")
	})
}

// What the devices count is what a subscriber got, each sequence number once, across a restart at least once.
func TestDevices(t *testing.T) {
	for _, kind := range brokers {
		t.Run(kind.name, func(t *testing.T) {
			b := kind.start(t)
			home := testbroker.Home()
			for i := range home {
				home[i].Every = 10 * time.Millisecond
				home[i].Topic = "t/" + home[i].Topic
			}
			home[3].QoS = 2
			devices := testbroker.NewDevices(home...)
			subscribe(t, b, "home", 2, false).leave()

			ctx, stop := context.WithCancel(bounded(t))
			done := make(chan error, 1)
			go func() { done <- devices.Run(ctx, b.URL()) }()
			total := func() int { return int(devices.Published(1) + devices.Published(2)) }
			require.Eventually(t, func() bool { return total() > 100 }, soon, time.Millisecond)
			require.NoError(t, b.Restart())
			before := total()
			require.Eventually(t, func() bool { return total() > before+100 }, soon, time.Millisecond)
			stop()
			require.NoError(t, <-done)

			left, err := testbroker.Leftover(bounded(t), b.URL(), "home", "t/end")
			require.NoError(t, err)
			number := regexp.MustCompile(`(?:"seq":|seq=)(\d+)`)
			topics, seen := make(map[string]int), make(map[int]byte)
			for _, m := range left {
				found := number.FindSubmatch(m.Payload)
				require.NotNil(t, found, "%s", m.Payload)
				seq, err := strconv.Atoi(string(found[1]))
				require.NoError(t, err)
				topics[m.Topic]++
				seen[seq] = m.QoS
			}
			require.Len(t, topics, 4)
			byQoS := make(map[byte]uint64)
			for _, qos := range seen {
				byQoS[qos]++
			}
			require.Equal(t, devices.Published(1), byQoS[1])
			require.Equal(t, devices.Published(2), byQoS[2])
		})
	}
}

func TestDevicesAreChecked(t *testing.T) {
	devices := testbroker.NewDevices(testbroker.Device{Topic: "x"})
	require.ErrorContains(t, devices.Run(bounded(t), "tcp://127.0.0.1:1"), "device x")
}

// How fast a client that acknowledges at once is served: an upper bound for what a benchmark on this broker can show.
func BenchmarkThroughput(b *testing.B) {
	for _, window := range []int{20, 1000} {
		b.Run(fmt.Sprintf("mochi window %d", window), func(b *testing.B) {
			broker := testbroker.StartMochi(b, testbroker.MochiOptions{MaxInflight: window})
			deliver(b, broker)
		})
		b.Run(fmt.Sprintf("mosquitto window %d", window), func(b *testing.B) {
			deliver(b, testbroker.StartMosquitto(b, testbroker.MosquittoOptions{MaxInflight: window}))
		})
	}
}

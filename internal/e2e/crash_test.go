package e2e

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
)

// Telegraf is killed at random moments under load, with the server away half of the time. Nothing is lost, and what is doubled
// was in flight when it was killed.
func TestKill(t *testing.T) {
	t.Parallel()
	kills := soaking(t, 5, 50)
	each(t, func(t *testing.T, broker testbroker.Broker) {
		random := rand.New(rand.NewPCG(seed(t), 0))
		logs := standIn(t)
		dir := t.TempDir()
		r := newSafeRig(t, broker.URL(), logs.URL(), dir, "  retry_budget = \"500ms\"", "")
		r.start()
		flow := startFlow(t, broker.URL(), 1000)
		var cuts []time.Time   // when the agent was killed or the server went away
		for i := range kills { // each begins with the server as the one before left it: here, away, away, here
			pause(t, time.Duration(random.IntN(1000))*time.Millisecond)
			if i%2 == 0 {
				require.NoError(t, map[bool]func() error{true: logs.Down, false: logs.Up}[i%4 == 0]())
				cuts = append(cuts, time.Now())
				pause(t, time.Duration(random.IntN(2000))*time.Millisecond)
			}
			r.agent.Kill()
			cuts = append(cuts, time.Now())
			r.start()
		}
		require.NoError(t, logs.Up())
		n := flow.end()
		waitStored(t, logs.URL(), n)
		r.waitLedger(func(l ledger) bool { return l.onDisk == 0 && l.dropped+l.rejected == 0 })
		r.stop()
		times := stored(t, logs.URL())
		doubled := requireAll(t, times, n)
		t.Logf("%d of %d doubled in %d kills", doubled, n, kills)
		r.requireClosed()
		requireNoDumps(t, dir)
		requireNothingLeft(t, broker.URL())
		requireInFlight(t, logs, cuts)
	})
}

// requireInFlight checks that what is stored more than once was in flight when the agent was killed or the server went away. A
// message has either two times, if the broker sent it again, or its copies have the same, if the agent did: in both cases such
// a moment lies between the two. It also bounds how many there are at each.
func requireInFlight(t *testing.T, logs *vlreceiver.Server, cuts []time.Time) {
	t.Helper()
	// The window, which Mosquitto stretches, and from the disk 100 ms of restoring, and two requests of 256 batches.
	const most = 5*testbroker.DefaultMaxInflight + 10_000 + 2*256*testbroker.DefaultMaxInflight
	const late = 50 * time.Millisecond // in which the server may still store what was sent before
	earlier := make(map[string]vlreceiver.Row)
	byBroker, byAgent := make([]int, len(cuts)), make([]int, len(cuts))
	for row := range logs.All(vlreceiver.Tenant{}) {
		if row.Fields["topic"] != topic {
			continue
		}
		before, again := earlier[row.Fields["seq"]]
		earlier[row.Fields["seq"]] = row
		if !again {
			continue
		}
		from, to, by := before.Stored.Add(-late), row.Stored, byAgent
		if !before.Time.Equal(row.Time) {
			from, to, by = before.Time, row.Time, byBroker
			if to.Before(from) {
				from, to = to, from
			}
		}
		cut := slices.IndexFunc(cuts, func(at time.Time) bool { return !at.Before(from) })
		require.True(t, cut >= 0 && cuts[cut].Before(to), "message %s came twice and nothing was cut between:\n%+v\n%+v",
			row.Fields["seq"], before, row)
		by[cut]++
	}
	for cut := range cuts {
		require.LessOrEqual(t, byBroker[cut]+byAgent[cut], most, "doubled at cut %d", cut+1)
	}
	t.Logf("doubled at each cut, by the broker %v, by the agent %v", byBroker, byAgent)
}

// flow publishes events until it is ended. It stays through restarts of the broker.
type flow struct {
	tb    testing.TB
	once  sync.Once
	stop  chan struct{}
	ended func()
	n     int
}

func startFlow(tb testing.TB, brokerURL string, rate float64) *flow {
	tb.Helper()
	return startFlowOf(tb, brokerURL, rate, func(seq int) testbroker.Message {
		payload, _ := event(seq)
		return testbroker.Message{Topic: topic, Payload: []byte(payload)}
	})
}

func startFlowOf(tb testing.TB, brokerURL string, rate float64, message func(seq int) testbroker.Message) *flow {
	tb.Helper()
	f := &flow{tb: tb, stop: make(chan struct{})}
	ctx, giveUp := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		o := testbroker.Opts{QoS: 1, Rate: rate, Resume: true, Timeout: patience}
		_, err := testbroker.Publish(ctx, brokerURL, o, func(yield func(testbroker.Message) bool) {
			for {
				select {
				case <-f.stop:
					return
				default:
				}
				f.n++
				if !yield(message(f.n)) {
					return
				}
			}
		})
		ended <- err
	}()
	f.ended = func() {
		tb.Helper()
		require.NoError(tb, <-ended)
	}
	tb.Cleanup(giveUp)
	return f
}

// end ends it and returns how many messages were published, all of which the broker has acknowledged.
func (f *flow) end() int {
	f.tb.Helper()
	f.once.Do(func() { close(f.stop) })
	f.ended()
	return f.n
}

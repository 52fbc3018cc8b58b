package e2e

import (
	"fmt"
	"iter"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/agentproc"
	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
)

const (
	liveTopic = "e2e/live"
	acked     = "internal_mqtt_hardware.messages_acked"
	doubts    = "internal_victorialogs.possibly_doubled"
)

// The server is away for long at 2,000 messages a second: they wait on disk, acknowledged, in no more memory, and come back
// while live ones go on. Not parallel, since it measures.
func TestLongOutage(t *testing.T) { //nolint:paralleltest // see above
	const rate = 2000
	outage := setting(t, "SOAK_OUTAGE", time.Duration(soaking(t, 12, 60))*time.Second)
	n := rate * int(outage/time.Second)
	dir := t.TempDir()
	broker := brokers["mochi"](t)
	logs := standIn(t)
	r := newSafeRig(t, broker.URL(), logs.URL(), dir, "", "")
	r.start()

	require.NoError(t, logs.Down())
	away := time.Now()
	published := publishing(t, broker.URL(), testbroker.Opts{QoS: 1, Rate: rate}, events(1, n))
	pause(t, 4*time.Second) // of which retry_budget is 3
	var early int64
	var longest time.Duration
	for time.Since(away) < outage {
		before, at := r.agent.Self(acked), time.Now()
		pause(t, time.Second)
		require.NoError(t, r.agent.WaitFor(within(t, patience), func(a *agentproc.Agent) bool { return a.Self(acked) > before }),
			"no message was acknowledged after %s of outage", time.Since(away))
		longest = max(longest, time.Since(at))
		if early == 0 && time.Since(away) >= outage/3 {
			early = rss(t, r)
		}
	}
	late := rss(t, r)
	published()
	onDisk := r.waitLedger(func(l ledger) bool { return l.received == int64(n) && l.onDisk == int64(n) })
	t.Logf("%d messages on disk after %s away; looking each second, one was acknowledged after %s at the latest", onDisk.onDisk,
		time.Since(away).Round(time.Millisecond), longest.Round(time.Millisecond))
	t.Logf("resident memory: %d KiB after a third of the outage, %d KiB at its end", early>>10, late>>10)
	require.LessOrEqual(t, late-early, int64(20<<20), "bytes that the memory grew by")
	r.requireNothingUnacked(broker)

	stop := make(chan struct{})
	live := publishing(t, broker.URL(), testbroker.Opts{QoS: 1, Rate: 100}, lives(stop))
	pause(t, time.Second)
	require.NoError(t, logs.Up())
	require.Zero(t, requireAll(t, waitStored(t, logs.URL(), n), n), "doubled")
	pause(t, time.Second)
	close(stop)
	live()
	r.waitLedger(func(l ledger) bool { return l.delivered >= int64(n) && l.onDisk == 0 })
	r.stop()
	require.Zero(t, requireAll(t, stored(t, logs.URL()), n), "doubled")
	l := r.requireClosed()
	require.Equal(t, l.received, l.delivered, "%+v", l)
	requireNoDumps(t, dir)
	requireNothingLeft(t, broker.URL())
	report(t, logs, n)
}

// report logs how fast the backlog came back and how long live messages took meanwhile and after.
func report(t *testing.T, logs *vlreceiver.Server, n int) {
	t.Helper()
	var first, last time.Time
	type message struct {
		sent time.Time
		took time.Duration
	}
	var lives []message
	for row := range logs.All(vlreceiver.Tenant{}) {
		switch row.Fields["topic"] {
		case topic:
			if first.IsZero() {
				first = row.Stored
			}
			last = row.Stored
		case liveTopic:
			ns, err := strconv.ParseInt(row.Fields["sent"], 10, 64)
			require.NoError(t, err)
			sent := time.Unix(0, ns)
			lives = append(lives, message{sent: sent, took: row.Stored.Sub(sent)})
		}
	}
	t.Logf("restored %d rows in %s: %.0f a second", n, last.Sub(first).Round(time.Millisecond), float64(n)/last.Sub(first).Seconds())
	for _, part := range []struct {
		name   string
		belong func(message) bool
	}{
		{"while the backlog came back", func(m message) bool { return m.sent.After(first) && m.sent.Before(last) }},
		{"after it", func(m message) bool { return m.sent.After(last) }},
	} {
		var took []time.Duration
		for _, m := range lives {
			if part.belong(m) {
				took = append(took, m.took)
			}
		}
		if slices.Sort(took); len(took) > 0 {
			t.Logf("%d live messages %s: from publishing to storing %s in the middle, %s at the 99th percentile, %s at most",
				len(took), part.name, took[len(took)/2].Round(time.Microsecond),
				took[len(took)*99/100].Round(time.Microsecond), took[len(took)-1].Round(time.Microsecond))
		}
	}
}

// lives are messages that say when they were published, until stop.
func lives(stop <-chan struct{}) iter.Seq[testbroker.Message] {
	return func(yield func(testbroker.Message) bool) {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if !yield(testbroker.Message{Topic: liveTopic, Payload: fmt.Appendf(nil, `{"sent":"%d"}`, time.Now().UnixNano())}) {
				return
			}
		}
	}
}

func rss(t *testing.T, r *rig) int64 {
	t.Helper()
	bytes, err := r.agent.RSS()
	require.NoError(t, err)
	return bytes
}

// requireNothingUnacked waits until a mochi has all the acknowledgements.
func (r *rig) requireNothingUnacked(broker testbroker.Broker) {
	r.tb.Helper()
	require.Eventually(r.tb, func() bool {
		n, err := broker.Unacked(clientID)
		return err == nil && n == 0
	}, patience, 20*time.Millisecond, "messages that the broker has no acknowledgement of")
}

package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/agentproc"
	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
)

// mostInRequest is how many events one request can hold: the broker's window if they are live, or 256 batches of it from disk.
const mostInRequest = 256 * testbroker.DefaultMaxInflight

// For three seconds under load the server answers wrongly, or not at all. Nothing is lost, and only what the server stored
// without saying so is doubled.
func TestAnswers(t *testing.T) {
	t.Parallel()
	const n, rate = 6000, 1000
	status := func(code int, retryAfter string) vlreceiver.Fault {
		return vlreceiver.Fault{Kind: vlreceiver.FaultStatus, Status: code, RetryAfter: retryAfter}
	}
	for _, c := range []struct {
		name    string
		fault   vlreceiver.Fault
		doubles bool   // what the server stored without saying so is there twice
		doubts  bool   // whole batches went out without an answer
		logged  string // by the agent
	}{
		{"429", status(429, ""), false, false, "refused: the server answered 429"},
		{"503 with Retry-After", status(503, "2"), false, false, "refused: the server answered 503"},
		{"500", status(500, ""), false, false, "refused: the server answered 500"},
		{
			"502 late",
			vlreceiver.Fault{Kind: vlreceiver.FaultStatus, Status: 502, Delay: 300 * time.Millisecond},
			false, false,
			"refused: the server answered 502",
		},
		{"401", status(401, ""), false, false, "wrong configuration: the server answered 401"},
		{"404", status(404, ""), false, false, "wrong configuration: the server answered 404"},
		{"reset", vlreceiver.Fault{Kind: vlreceiver.FaultReset}, false, true, "cannot send"},
		{"no answer", vlreceiver.Fault{Kind: vlreceiver.FaultHang}, false, true, "cannot send"},
		{"cut in the answer", vlreceiver.Fault{Kind: vlreceiver.FaultCut}, true, true, "cannot send"},
		{"stored after the client gave up", vlreceiver.Fault{Kind: vlreceiver.FaultLate}, true, true, "cannot send"},
		{"200 late", vlreceiver.Fault{Kind: vlreceiver.FaultSlow, Delay: 500 * time.Millisecond}, false, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			broker := brokers["mochi"](t)
			logs := standIn(t)
			dir := t.TempDir()
			r := newSafeRig(t, broker.URL(), logs.URL(), dir, "  timeout = \"1s\"\n  retry_budget = \"1s\"", "")
			r.start()
			published := publishing(t, broker.URL(), testbroker.Opts{QoS: 1, Rate: rate}, events(1, n))
			require.NoError(t, logs.WaitCount(within(t, patience), vlreceiver.Tenant{}, rate))
			logs.Fail(c.fault)
			pause(t, 3*time.Second)
			logs.Fail()
			published()
			doubled := requireAll(t, waitStored(t, logs.URL(), n), n)
			l := r.waitLedger(func(l ledger) bool { return l.delivered == n })
			require.Zero(t, l.onDisk+l.rejected+l.dropped)
			inDoubt := r.agent.Self(doubts)
			r.stop()
			t.Logf("%d doubled, %d batches possibly; %d batches went to disk", doubled, inDoubt,
				r.agent.SelfTotal("internal_victorialogs.batches_dumped"))
			if c.doubles {
				require.NotZero(t, doubled)
			} else {
				require.Zero(t, doubled)
			}
			require.LessOrEqual(t, doubled, int(inDoubt)*mostInRequest, "events doubled, of batches that are said to be")
			if c.doubts {
				require.NotZero(t, inDoubt)
			} else {
				require.Zero(t, inDoubt)
			}
			faults := r.logged(" E! [outputs.victorialogs]") + r.logged(" W! [outputs.victorialogs]")
			if c.logged == "" {
				require.Zero(t, faults)
			} else {
				require.Equal(t, 1, r.logged(c.logged))
				require.Equal(t, 1, faults)
				require.Equal(t, 1, r.logged("takes batches again"))
			}
			requireRetryAfter(t, logs, c.fault.RetryAfter)
			r.requireClosed()
			requireNoDumps(t, dir)
			requireNothingLeft(t, broker.URL())
		})
	}
}

// requireRetryAfter checks that no request came earlier than the answers asked for, but for those in flight together.
func requireRetryAfter(t *testing.T, logs *vlreceiver.Server, text string) {
	t.Helper()
	if text == "" {
		return
	}
	wait, err := time.ParseDuration(text + "s")
	require.NoError(t, err)
	var refused time.Time
	together := 0
	for _, request := range logs.Requests() {
		if !refused.IsZero() && request.At.Sub(refused) < wait {
			together++
		}
		if request.Status == 503 {
			refused = request.At
		}
	}
	require.LessOrEqual(t, together, 1, "requests before Retry-After was over")
}

// The real server is ended with SIGTERM under load again and again. Nothing is lost, and what is doubled is counted.
func TestServerEnds(t *testing.T) {
	t.Parallel()
	ends := soaking(t, 3, 20)
	random := rand.New(rand.NewPCG(seed(t), 0))
	broker := brokers["mochi"](t)
	server := realServer(t)
	dir := t.TempDir()
	r := newSafeRig(t, broker.URL(), server.URL(), dir, "  retry_budget = \"500ms\"", "")
	r.start()
	flow := startFlow(t, broker.URL(), 2000)
	for range ends {
		pause(t, time.Duration(500+random.IntN(1000))*time.Millisecond)
		require.NoError(t, server.Stop())
		pause(t, time.Duration(random.IntN(2000))*time.Millisecond)
		require.NoError(t, server.Start(within(t, patience)))
	}
	n := flow.end()
	doubled := requireAll(t, waitStored(t, server.URL(), n), n)
	l := r.waitLedger(func(l ledger) bool { return l.delivered == int64(n) })
	require.Zero(t, l.onDisk+l.rejected+l.dropped)
	inDoubt := r.agent.Self(doubts)
	r.stop()
	t.Logf("%d of %d doubled, %d batches possibly, in %d ends", doubled, n, inDoubt, ends)
	require.LessOrEqual(t, doubled, int(inDoubt)*mostInRequest)
	r.requireClosed()
	requireNoDumps(t, dir)
	requireNothingLeft(t, broker.URL())
}

// A password is rotated, and for five seconds the agent has the old one. Nothing is lost and one line says so.
func TestRotatedPassword(t *testing.T) {
	t.Parallel()
	const n, rate = 8000, 1000
	broker := brokers["mochi"](t)
	logs := standIn(t)
	dir := t.TempDir()
	r := newSafeRig(t, broker.URL(), logs.URL(), dir, "  username = \"edge\"\n  password = \"a-word-nobody-knows\"", "")
	r.start()
	published := publishing(t, broker.URL(), testbroker.Opts{QoS: 1, Rate: rate}, events(1, n))
	require.NoError(t, logs.WaitCount(within(t, patience), vlreceiver.Tenant{}, rate))
	logs.Fail(vlreceiver.Fault{Kind: vlreceiver.FaultStatus, Status: 401})
	pause(t, 5*time.Second)
	require.NotZero(t, r.agent.SelfTotal("internal_victorialogs.batches_dumped"))
	logs.Fail()
	published()
	require.Zero(t, requireAll(t, waitStored(t, logs.URL(), n), n), "doubled")
	r.waitLedger(func(l ledger) bool { return l.delivered == n && l.received == n })
	r.stop()
	require.Equal(t, 1, r.logged(" E! "), "%s", r.agent.Log())
	require.Equal(t, 1, r.logged("answered 401"))
	require.Equal(t, 1, r.logged("takes batches again"))
	require.Zero(t, r.logged(" W! [outputs"))
	require.NotContains(t, r.agent.Log(), "a-word-nobody-knows")
	r.requireClosed()
	requireNoDumps(t, dir)
	requireNothingLeft(t, broker.URL())
}

// One row among 10,000 is such that the server answers 400 to each request that holds it, and another one is too large for a
// proxy. All others are delivered; these two lie in rejected/, and bin/dlq shows them.
func TestPoisonLine(t *testing.T) {
	t.Parallel()
	const n, poison, large = 10_000, 4711, "e2e/large"
	for _, way := range []struct{ name, lines string }{
		{"live", ""},
		{"from disk", "  retry_budget = \"300ms\""},
	} {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			broker := brokers["mochi"](t)
			logs := standIn(t)
			logs.Fail(
				vlreceiver.Fault{
					Kind: vlreceiver.FaultStatus, Status: 400, Holding: fmt.Sprintf(`"seq":%d,`, poison),
					Body: "cannot process jsonline request; error: something in this line",
				},
				vlreceiver.Fault{Kind: vlreceiver.FaultStatus, Status: 413, Least: 64 << 10},
			)
			dir := t.TempDir()
			r := newSafeRig(t, broker.URL(), logs.URL(), dir, way.lines, "")
			r.start()
			if way.lines != "" {
				require.NoError(t, logs.Down())
			}
			random := rand.New(rand.NewPCG(1, 2))
			var text strings.Builder // that does not become small when compressed
			for text.Len() < 150<<10 {
				fmt.Fprintf(&text, "%016x", random.Uint64())
			}
			publish(t, broker.URL(), testbroker.Opts{QoS: 1}, events(1, n/2))
			publish(t, broker.URL(), testbroker.Opts{QoS: 1}, func(yield func(testbroker.Message) bool) {
				yield(testbroker.Message{Topic: large, Payload: []byte(text.String())}) // which becomes the message
			})
			publish(t, broker.URL(), testbroker.Opts{QoS: 1}, events(n/2+1, n))
			if way.lines != "" {
				r.waitLedger(func(l ledger) bool { return l.onDisk == n+1 })
				require.NoError(t, logs.Up())
			}
			times := waitStored(t, logs.URL(), n-1)
			require.Len(t, times, n-1)
			require.Zero(t, times[poison])
			for seq, often := range times {
				require.Equal(t, 1, often, "event %d", seq)
			}
			l := r.waitLedger(func(l ledger) bool { return l.delivered+l.rejected == n+1 })
			require.EqualValues(t, 2, l.rejected)
			require.EqualValues(t, 2, r.agent.Self("internal_victorialogs.metrics_rejected.refused_by_server"))
			r.stop()

			refused := 0
			for _, request := range logs.Requests() {
				if request.Status == 400 {
					refused++
				}
			}
			t.Logf("%d requests were answered 400", refused)
			aside := rejected(t, dir)
			require.Len(t, aside, 2)
			if aside[0].Status == 413 {
				slices.Reverse(aside)
			}
			for i, want := range []struct {
				status       int
				answer, line string
			}{
				{400, "something in this line", message(poison)},
				{413, "", text.String()},
			} {
				require.Equal(t, "refused_by_server", aside[i].Reason)
				require.Equal(t, 1, aside[i].Count)
				require.Equal(t, want.status, aside[i].Status)
				require.Contains(t, aside[i].Answer, want.answer)
				lines, err := aside[i].Lines()
				require.NoError(t, err)
				var row map[string]any
				require.NoError(t, json.Unmarshal(lines, &row))
				require.Equal(t, want.line, row["_msg"])
			}
			l = r.requireClosed()
			require.EqualValues(t, 2, l.rejected)
			requireNoDumps(t, dir)
			requireNothingLeft(t, broker.URL())
		})
	}
}

// waitAcked waits until the agent has acknowledged so many messages in this life.
func (r *rig) waitAcked(n int) {
	r.tb.Helper()
	require.NoError(r.tb, r.agent.WaitFor(within(r.tb, patience), func(a *agentproc.Agent) bool { return a.Self(acked) >= int64(n) }),
		"%d of %d acknowledged", r.agent.Self(acked), n)
}

package e2e

import (
	"os/exec"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/agentproc"
	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
)

// The agent is reloaded or restarted under load while the server is away and a backlog is on disk.
func TestRestartWithBacklog(t *testing.T) {
	t.Parallel()
	const n, rate, backlog = 6000, 1000, 2000
	for _, way := range []struct {
		name string
		do   func(*rig)
	}{
		{"SIGHUP", func(r *rig) {
			require.NoError(r.tb, r.agent.Signal(syscall.SIGHUP))
			require.NoError(r.tb, r.agent.WaitFor(within(r.tb, patience), func(*agentproc.Agent) bool {
				return r.logged("and subscribed to") == 2
			}))
		}},
		{"SIGTERM", func(r *rig) {
			r.stop()
			l := r.requireClosed()
			require.Zero(r.tb, l.dropped, "%+v", l)
			require.Equal(r.tb, l.received, l.onDisk, "%+v", l)
			r.start()
		}},
	} {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, broker testbroker.Broker) {
				logs := standIn(t)
				require.NoError(t, logs.Down())
				dir := t.TempDir()
				r := newSafeRig(t, broker.URL(), logs.URL(), dir, "  retry_budget = \"500ms\"", "")
				r.start()
				published := publishing(t, broker.URL(), testbroker.Opts{QoS: 1, Rate: rate}, events(1, n))
				r.waitAcked(backlog)
				way.do(r)
				r.waitAcked(100)
				require.NoError(t, logs.Up())
				published()
				require.Zero(t, requireAll(t, waitStored(t, logs.URL(), n), n), "doubled")
				l := r.waitLedger(func(l ledger) bool { return l.delivered >= backlog })
				t.Logf("%+v", l)
				r.stop()
				require.Zero(t, requireAll(t, stored(t, logs.URL()), n), "doubled")
				l = r.requireClosed()
				require.Zero(t, l.dropped+l.rejected, "%+v", l)
				requireNoDumps(t, dir)
				requireNothingLeft(t, broker.URL())
				require.Zero(t, l.onDisk, "a ledger that says there is something on disk: %+v", l)
			})
		})
	}
}

// Between two runs the URL, the stream fields and the tenant are changed. The backlog goes where it was meant to go, to the new
// server.
func TestBacklogOfAnotherConfiguration(t *testing.T) {
	t.Parallel()
	const n = 2000
	broker := brokers["mochi"](t)
	old, logs := standIn(t), standIn(t)
	require.NoError(t, old.Down())
	dir := t.TempDir()
	before := newSafeRig(t, broker.URL(), old.URL(), dir,
		"  retry_budget = \"500ms\"\n  account_id = 7\n  project_id = 8\n  stream_fields = [\"topic\"]\n  content_encoding = \"gzip\"", "")
	before.start()
	publish(t, broker.URL(), testbroker.Opts{QoS: 1}, events(1, n))
	before.waitAcked(n)
	before.stop()
	l := before.requireClosed()
	require.EqualValues(t, n, l.onDisk)

	after := newSafeRig(t, broker.URL(), logs.URL(), dir, "  account_id = 9\n  stream_fields = [\"host\"]", "")
	after.start()
	publish(t, broker.URL(), testbroker.Opts{QoS: 1}, events(n+1, 2*n))
	require.NoError(t, logs.WaitCount(within(t, patience), vlreceiver.Tenant{AccountID: 7, ProjectID: 8}, n))
	require.NoError(t, logs.WaitCount(within(t, patience), vlreceiver.Tenant{AccountID: 9}, n))
	after.waitLedger(func(l ledger) bool { return l.recovered == n && l.delivered == 2*n })
	after.stop()
	after.requireClosed()
	for tenant, want := range map[vlreceiver.Tenant]struct {
		stream string
		first  int
	}{
		{AccountID: 7, ProjectID: 8}: {`{topic="e2e/device"}`, 1},
		{AccountID: 9}:               {`{host="edge"}`, n + 1},
	} {
		seen := make(map[string]int)
		for row := range logs.All(tenant) {
			require.Equal(t, want.stream, row.Stream)
			seen[row.Fields["_msg"]]++
		}
		require.Len(t, seen, n)
		for seq := want.first; seq < want.first+n; seq++ {
			require.Equal(t, 1, seen[message(seq)], "event %d of tenant %s", seq, tenant)
		}
	}
	for _, request := range logs.Requests() {
		query := request.Query.Get("_stream_fields")
		switch tenant := request.Header.Get("AccountID") + ":" + request.Header.Get("ProjectID"); tenant {
		case "7:8":
			require.Equal(t, "topic gzip", query+" "+request.Header.Get("Content-Encoding"))
		case "9:0":
			require.Equal(t, "host zstd", query+" "+request.Header.Get("Content-Encoding"))
		default:
			require.Fail(t, "a request of another tenant", tenant)
		}
	}
	require.Zero(t, logs.Count(vlreceiver.Tenant{}))
	require.Zero(t, old.RequestCount())
	requireNoDumps(t, dir)
	requireNothingLeft(t, broker.URL())
}

// Two agents have one directory: the second says so and ends, and the first does not notice.
func TestTwoAgentsOneDirectory(t *testing.T) {
	t.Parallel()
	const n = 1000
	broker := brokers["mochi"](t)
	logs := standIn(t)
	dir := t.TempDir()
	first := newSafeRig(t, broker.URL(), logs.URL(), dir, "", "")
	first.start()
	second := newSafeRig(t, broker.URL(), logs.URL(), dir, "", "")
	second.launch()
	select {
	case <-second.agent.Ended():
	case <-within(t, patience).Done():
		require.Fail(t, "the second agent goes on")
	}
	var exit *exec.ExitError
	require.ErrorAs(t, second.agent.Stop(within(t, patience)), &exit)
	require.Equal(t, 1, exit.ExitCode())
	require.Contains(t, second.agent.Log(), dir)
	require.Contains(t, second.agent.Log(), "in use by another process")
	require.Zero(t, second.logged("and subscribed to"))

	publish(t, broker.URL(), testbroker.Opts{QoS: 1}, events(1, n))
	require.Zero(t, requireAll(t, waitStored(t, logs.URL(), n), n), "doubled")
	first.stop()
	first.requireClosed()
	requireNothingLeft(t, broker.URL())
}

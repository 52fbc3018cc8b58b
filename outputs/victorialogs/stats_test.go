package victorialogs

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf/selfstat"
)

// The names are a contract: dashboards rely on them.
func TestSelfMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, &wire{})
		r.Add(event(0))
		pass(time.Second)

		plain := make(map[string]any)
		reasons := make(map[string][]string)
		for _, m := range selfstat.Metrics() {
			if rig, _ := m.GetTag("rig"); rig != r.stats.received.Tags()["rig"] {
				continue
			}
			require.Equal(t, "internal_victorialogs", m.Name())
			for _, field := range m.FieldList() {
				if reason, ok := m.GetTag("reason"); ok {
					reasons[field.Key] = append(reasons[field.Key], reason)
				} else {
					plain[field.Key] = field.Value
				}
			}
		}
		require.Equal(t, []string{
			"batches_restored", "batches_retried", "batches_sent", "bytes_sent", "dlq_bytes", "dlq_deleted", "dlq_items", "dlq_metrics",
			"dlq_oldest_age_ns", "dlq_quarantined", "metrics_delivered", "metrics_received", "metrics_recovered", "pending_bytes",
			"pending_metrics", "possibly_doubled", "rejected_deleted", "request_time_ns",
		}, sortedKeys(plain))
		require.Equal(t, int64(1), plain["metrics_received"])
		require.Equal(t, int64(1), plain["metrics_delivered"])
		require.Equal(t, int64(1), plain["batches_sent"])

		for _, list := range reasons {
			slices.Sort(list)
		}
		require.Equal(t, map[string][]string{
			"metrics_rejected": {"line_too_long", "refused_by_server", "too_many_fields", "too_new", "too_old"},
			"metrics_dropped":  {"drop_oldest", "max_pending", "shutdown"},
			"batches_dumped":   {"max_pending", "retry_budget", "server_away", "shutdown"},
			"fields_repaired":  {"duplicate_name", "empty_name", "invalid_utf8", "long_name", "non_finite", "reserved_name"},
		}, reasons)
	})
}

func TestRepairsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, &wire{})
		m := event(0)
		m.AddField("_time", "x")
		m.AddField("text", "a\xffb\xff")
		r.Add(m)
		r.Add(m)
		require.Equal(t, int64(2), r.stats.repaired[repairedReserved].Get())
		require.Equal(t, int64(4), r.stats.repaired[repairedUTF8].Get())
	})
}

// Telegraf's shim, and so execd, sets none.
func TestWithoutStatistics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		r := start(t, w, func(v *VictoriaLogs) { v.Statistics = nil })
		r.Add(event(0))
		r.Add(bigEvent(1, 300_000))
		pass(time.Second)
		require.Equal(t, []int{0}, w.ids())
		require.NoError(t, r.Close())
	})
}

// pending_bytes is what max_pending bounds: open and closed batches together.
func TestPendingBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{}
		s.down.Store(true)
		r := start(t, &wire{answer: s.answer})
		stat := r.stats.pendingBytes
		require.Zero(t, stat.Get())
		r.Add(event(0))
		require.Positive(t, stat.Get(), "the open batch")
		pass(time.Second)
		require.Positive(t, stat.Get(), "a closed batch")
		s.down.Store(false)
		pass(time.Minute)
		require.Zero(t, stat.Get(), "delivered")
	})
}

package victorialogs

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf/selfstat"
)

// The names are those of docs/metrics.md, which has a test of its own.
func TestSelfMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, &wire{})
		r.Add(event(0))
		pass(time.Second)

		plain := make(map[string]any)
		for _, m := range selfstat.Metrics() {
			if rig, _ := m.GetTag("rig"); rig != r.stats.received.Tags()["rig"] {
				continue
			}
			require.Equal(t, "internal_victorialogs", m.Name())
			for _, field := range m.FieldList() {
				if _, ok := m.GetTag("reason"); !ok {
					plain[field.Key] = field.Value
				}
			}
		}
		require.Equal(t, int64(1), plain["metrics_received"])
		require.Equal(t, int64(1), plain["metrics_delivered"])
		require.Equal(t, int64(1), plain["batches_sent"])
	})
}

// dlq_room_bytes is what max_size leaves, where the disk has more.
func TestRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{}
		s.down.Store(true)
		r := start(t, &wire{answer: s.answer}, onDisk(t.TempDir()), func(v *VictoriaLogs) { v.DLQ.MaxSize = 1 << 20 })
		require.Equal(t, int64(1<<20), r.stats.dlqMaxBytes.Get())
		require.Equal(t, int64(1<<20), r.stats.dlqRoomBytes.Get())
		r.Add(event(0))
		pass(10 * time.Second)
		require.Equal(t, int64(1), r.stats.dlqItems.Get())
		require.InDelta(t, 1<<20-300, r.stats.dlqRoomBytes.Get(), 300, "a dump has been written")
		require.NoError(t, r.Close())
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

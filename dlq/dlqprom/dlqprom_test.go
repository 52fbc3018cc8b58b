package dlqprom_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/dlq"
	"github.com/edgetide/telegraf-victorialogs/dlq/dlqprom"
)

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	m, err := dlqprom.New(registry, prometheus.Labels{"queue": "a"})
	require.NoError(t, err)
	_, err = dlqprom.New(registry, prometheus.Labels{"queue": "a"})
	require.Error(t, err, "the same twice")
	_, err = dlqprom.New(registry, prometheus.Labels{"queue": "b"})
	require.NoError(t, err, "labels tell them apart")

	m.Enqueued(10)
	m.Enqueued(20)
	m.Sealed(dlq.ReasonSize, 2, 30)
	m.Restored(1, 10)
	m.Dropped("max_size", 3, 33)
	m.Quarantined("item", 4, 44)
	m.Failed(errors.New("failed"))
	m.Stored(1, 2, 30, 300, time.Unix(1_700_000_000, 0))
	got := gather(t, registry)
	for name, want := range map[string]float64{
		"dlq_enqueued_items_total{queue=a}":                2,
		"dlq_enqueued_bytes_total{queue=a}":                30,
		"dlq_enqueued_items_total{queue=b}":                0,
		"dlq_sealed_dumps_total{queue=a,reason=size}":      1,
		"dlq_sealed_items_total{queue=a,reason=size}":      2,
		"dlq_restored_items_total{queue=a}":                1,
		"dlq_restored_bytes_total{queue=a}":                10,
		"dlq_dropped_items_total{queue=a,reason=max_size}": 3,
		"dlq_quarantined_items_total{queue=a,reason=item}": 4,
		"dlq_failures_total{queue=a}":                      1,
		"dlq_stored_dumps{queue=a}":                        1,
		"dlq_stored_items{queue=a}":                        2,
		"dlq_stored_bytes{queue=a}":                        30,
		"dlq_stored_size_bytes{queue=a}":                   300,
		"dlq_oldest_dump_timestamp_seconds{queue=a}":       1_700_000_000,
		"dlq_oldest_dump_timestamp_seconds{queue=b}":       0,
	} {
		require.Contains(t, got, name)
		require.InDelta(t, want, got[name], 0, name)
	}
	m.Stored(0, 0, 0, 0, time.Time{})
	require.Zero(t, gather(t, registry)["dlq_oldest_dump_timestamp_seconds{queue=a}"])
}

// gather returns all values, by name and labels.
func gather(t *testing.T, g prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := g.Gather()
	require.NoError(t, err)
	values := make(map[string]float64)
	for _, family := range families {
		require.NotEmpty(t, family.GetHelp())
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			values[family.GetName()+"{"+strings.Join(labels, ",")+"}"] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return values
}

// TestThroughTheLoop has the numbers of a queue and a restorer that share the metrics.
func TestThroughTheLoop(t *testing.T) {
	registry := prometheus.NewRegistry()
	m, err := dlqprom.New(registry, nil)
	require.NoError(t, err)
	disk, err := dlq.OpenDisk(t.TempDir(), dlq.DiskOptions{Metrics: m})
	require.NoError(t, err)
	queue, err := dlq.NewQueue(disk, dlq.EncodeString, dlq.QueueOptions{Capacity: 100, Metrics: m})
	require.NoError(t, err)
	for range 100 {
		require.NoError(t, queue.Enqueue(t.Context(), "ten bytes!"))
	}
	require.NoError(t, queue.Close(t.Context()))
	restorer, err := dlq.NewRestorer(disk, dlq.DecodeString, func(context.Context, string) error { return nil },
		dlq.RestorerOptions[string]{Metrics: m})
	require.NoError(t, err)
	require.NoError(t, restorer.Drain(t.Context()))
	require.NoError(t, disk.Close())
	got := gather(t, registry)
	for name, want := range map[string]float64{
		"dlq_enqueued_bytes_total{}":          1000,
		"dlq_restored_items_total{}":          100,
		"dlq_sealed_dumps_total{reason=size}": 10,
		"dlq_stored_dumps{}":                  0,
		"dlq_stored_size_bytes{}":             0,
	} {
		require.Contains(t, got, name)
		require.InDelta(t, want, got[name], 0, name)
	}
}

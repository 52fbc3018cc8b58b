// Package dlqprom shows what a dead letter queue does as Prometheus metrics:
//
//	dlq_enqueued_items_total, dlq_enqueued_bytes_total
//	dlq_sealed_dumps_total{reason}, dlq_sealed_items_total{reason}
//	dlq_restored_items_total, dlq_restored_bytes_total
//	dlq_dropped_items_total{reason}, dlq_quarantined_items_total{reason}
//	dlq_failures_total
//	dlq_stored_dumps, dlq_stored_items, dlq_stored_bytes, dlq_stored_size_bytes
//	dlq_oldest_dump_timestamp_seconds, 0 when there is none
package dlqprom

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/edgetide/telegraf-victorialogs/dlq"
)

// metrics implements dlq.Metrics.
type metrics struct {
	enqueuedItems, enqueuedBytes     prometheus.Counter
	sealedDumps, sealedItems         *prometheus.CounterVec
	restoredItems, restoredBytes     prometheus.Counter
	dropped, quarantined             *prometheus.CounterVec
	failures                         prometheus.Counter
	dumps, items, bytes, size, since prometheus.Gauge
}

// New registers the metrics. The labels are put on each of them, and tell several queues of one process apart.
func New(r prometheus.Registerer, labels prometheus.Labels) (dlq.Metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "dlq", Name: name, Help: help, ConstLabels: labels})
	}
	byReason := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "dlq", Name: name, Help: help, ConstLabels: labels},
			[]string{"reason"})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "dlq", Name: name, Help: help, ConstLabels: labels})
	}
	m := &metrics{
		enqueuedItems: counter("enqueued_items_total", "Items that were taken."),
		enqueuedBytes: counter("enqueued_bytes_total", "Bytes of items that were taken."),
		sealedDumps:   byReason("sealed_dumps_total", "Dumps that were closed, by why."),
		sealedItems:   byReason("sealed_items_total", "Items in dumps that were closed, by why."),
		restoredItems: counter("restored_items_total", "Items that were delivered."),
		restoredBytes: counter("restored_bytes_total", "Bytes of items that were delivered."),
		dropped:       byReason("dropped_items_total", "Items that are gone without being delivered."),
		quarantined:   byReason("quarantined_items_total", "Items that were set aside."),
		failures:      counter("failures_total", "Failures that are tried again."),
		dumps:         gauge("stored_dumps", "Dumps that wait to be restored."),
		items:         gauge("stored_items", "Items in dumps that wait to be restored."),
		bytes:         gauge("stored_bytes", "Bytes of items in dumps that wait to be restored."),
		size:          gauge("stored_size_bytes", "Bytes on disk of all dumps, the open one included."),
		since:         gauge("oldest_dump_timestamp_seconds", "When the oldest dump was made; 0 without one."),
	}
	for _, c := range []prometheus.Collector{
		m.enqueuedItems, m.enqueuedBytes, m.sealedDumps, m.sealedItems, m.restoredItems, m.restoredBytes,
		m.dropped, m.quarantined, m.failures, m.dumps, m.items, m.bytes, m.size, m.since,
	} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) Enqueued(bytes int) {
	m.enqueuedItems.Inc()
	m.enqueuedBytes.Add(float64(bytes))
}

func (m *metrics) Sealed(reason dlq.Reason, items, _ uint64) {
	m.sealedDumps.WithLabelValues(reason.String()).Inc()
	m.sealedItems.WithLabelValues(reason.String()).Add(float64(items))
}

func (m *metrics) Restored(items, bytes uint64) {
	m.restoredItems.Add(float64(items))
	m.restoredBytes.Add(float64(bytes))
}

func (m *metrics) Dropped(reason string, items, _ uint64) {
	m.dropped.WithLabelValues(reason).Add(float64(items))
}

func (m *metrics) Quarantined(reason string, items, _ uint64) {
	m.quarantined.WithLabelValues(reason).Add(float64(items))
}

func (m *metrics) Failed(error) { m.failures.Inc() }

func (m *metrics) Stored(dumps int, items, bytes uint64, size int64, oldest time.Time) {
	m.dumps.Set(float64(dumps))
	m.items.Set(float64(items))
	m.bytes.Set(float64(bytes))
	m.size.Set(float64(size))
	if oldest.IsZero() {
		m.since.Set(0)
		return
	}
	m.since.Set(float64(oldest.UnixNano()) / 1e9)
}

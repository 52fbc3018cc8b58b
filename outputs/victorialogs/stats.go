package victorialogs

import (
	"sync/atomic"
	"time"

	"github.com/influxdata/telegraf/selfstat"
)

// Reasons for which a batch was dropped. Each is the value of the tag reason of metrics_dropped.
const (
	droppedMaxPending = "max_pending" // no room was left in memory
	droppedShutdown   = "shutdown"    // not delivered before the plugin had to close
	droppedOldest     = "drop_oldest" // the dead letters had no room left
)

// Reasons for which a batch went to the dead letters. Each is the value of the tag reason of batches_dumped.
const (
	dumpedAway     = "server_away"  // the server was known to be away
	dumpedBudget   = "retry_budget" // it could not be delivered for that long
	dumpedPending  = "max_pending"  // little room was left in memory
	dumpedShutdown = "shutdown"     // the plugin had to close
)

// rejectedByServer is the reason of rows that the server answered it would never take.
const rejectedByServer = "refused_by_server"

// stats are the self-metrics of one instance; inputs.internal shows them as internal_victorialogs. At every moment
// received + recovered = delivered + onDisk + rejected + dropped + pending, each summed over its reasons.
type stats struct {
	received       selfstat.Stat
	delivered      selfstat.Stat
	rejected       map[string]selfstat.Stat // by reason
	dropped        map[string]selfstat.Stat // by reason
	repaired       [repairs]selfstat.Stat
	batchesSent    selfstat.Stat
	batchesRetried selfstat.Stat
	bytesSent      selfstat.Stat
	pendingMetrics selfstat.Stat
	pendingBytes   selfstat.Stat
	requestTime    selfstat.Stat

	recovered       selfstat.Stat            // of earlier lives of the process, as they come off the disk
	onDisk          selfstat.Stat            // of this life
	dumped          map[string]selfstat.Stat // batches, by reason
	batchesRestored selfstat.Stat
	possiblyDoubled selfstat.Stat // batches
	rejectedGone    selfstat.Stat // rejected rows that are no longer kept
	dlqItems        selfstat.Stat // batches
	dlqBytes        selfstat.Stat
	dlqQuarantined  selfstat.Stat // batches
	dlqDeleted      selfstat.Stat // batches
	dlqOldestAge    selfstat.Stat
	dlqMaxBytes     selfstat.Stat // max_size
	dlqRoomBytes    selfstat.Stat
	oldest          atomic.Int64 // when the oldest dump was made, Unix ns; 0: there is none
}

// offDisk counts rows that leave the dead letters; those of earlier lives are counted as recovered.
func (s *stats) offDisk(rows int, ours bool) {
	if ours {
		s.onDisk.Incr(-int64(rows))
	} else {
		s.recovered.Incr(int64(rows))
	}
}

// age brings the age of the oldest dump up to date.
func (s *stats) age() {
	var age time.Duration
	if oldest := s.oldest.Load(); oldest != 0 {
		age = time.Since(time.Unix(0, oldest))
	}
	s.dlqOldestAge.Set(age.Nanoseconds())
}

func newStats(c *selfstat.Collector) *stats {
	const measurement = "victorialogs"
	byReason := func(field string, reasons ...string) map[string]selfstat.Stat {
		m := make(map[string]selfstat.Stat, len(reasons))
		for _, reason := range reasons {
			m[reason] = c.Register(measurement, field, map[string]string{"reason": reason})
		}
		return m
	}
	s := &stats{
		received:  c.Register(measurement, "metrics_received", nil),
		delivered: c.Register(measurement, "metrics_delivered", nil),
		rejected: byReason("metrics_rejected", errLineTooLong.Error(), errTooManyFields.Error(), errTooOld.Error(),
			errTooNew.Error(), rejectedByServer),
		dropped:        byReason("metrics_dropped", droppedMaxPending, droppedShutdown, droppedOldest),
		batchesSent:    c.Register(measurement, "batches_sent", nil),
		batchesRetried: c.Register(measurement, "batches_retried", nil),
		bytesSent:      c.Register(measurement, "bytes_sent", nil),
		pendingMetrics: c.Register(measurement, "pending_metrics", nil),
		pendingBytes:   c.Register(measurement, "pending_bytes", nil),
		requestTime:    c.RegisterTiming(measurement, "request_time_ns", nil),

		recovered:       c.Register(measurement, "metrics_recovered", nil),
		onDisk:          c.Register(measurement, "dlq_metrics", nil),
		dumped:          byReason("batches_dumped", dumpedAway, dumpedBudget, dumpedPending, dumpedShutdown),
		batchesRestored: c.Register(measurement, "batches_restored", nil),
		possiblyDoubled: c.Register(measurement, "possibly_doubled", nil),
		rejectedGone:    c.Register(measurement, "rejected_deleted", nil),
		dlqItems:        c.Register(measurement, "dlq_items", nil),
		dlqBytes:        c.Register(measurement, "dlq_bytes", nil),
		dlqQuarantined:  c.Register(measurement, "dlq_quarantined", nil),
		dlqDeleted:      c.Register(measurement, "dlq_deleted", nil),
		dlqOldestAge:    c.Register(measurement, "dlq_oldest_age_ns", nil),
		dlqMaxBytes:     c.Register(measurement, "dlq_max_bytes", nil),
		dlqRoomBytes:    c.Register(measurement, "dlq_room_bytes", nil),
	}
	for kind := range repairs {
		s.repaired[kind] = c.Register(measurement, "fields_repaired", map[string]string{"reason": kind.String()})
	}
	return s
}

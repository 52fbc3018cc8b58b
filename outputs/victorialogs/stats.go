package victorialogs

import "github.com/influxdata/telegraf/selfstat"

// Reasons for which a batch was dropped. Each is the value of the tag reason of metrics_dropped.
const (
	droppedMaxPending = "max_pending" // no room was left in memory
	droppedShutdown   = "shutdown"    // not delivered before the plugin had to close
)

// rejectedByServer is the reason of rows that the server answered it would never take.
const rejectedByServer = "refused_by_server"

// stats are the self-metrics of one instance; inputs.internal shows them as internal_victorialogs. At every moment
// received = delivered + rejected + dropped + pending, each summed over its reasons.
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
		dropped:        byReason("metrics_dropped", droppedMaxPending, droppedShutdown),
		batchesSent:    c.Register(measurement, "batches_sent", nil),
		batchesRetried: c.Register(measurement, "batches_retried", nil),
		bytesSent:      c.Register(measurement, "bytes_sent", nil),
		pendingMetrics: c.Register(measurement, "pending_metrics", nil),
		pendingBytes:   c.Register(measurement, "pending_bytes", nil),
		requestTime:    c.RegisterTiming(measurement, "request_time_ns", nil),
	}
	for kind := range repairs {
		s.repaired[kind] = c.Register(measurement, "fields_repaired", map[string]string{"reason": kind.String()})
	}
	return s
}

package tcp_exporter

import "github.com/influxdata/telegraf/selfstat"

// Reasons for which something was not streamed. Each is the value of the tag reason of metrics_skipped.
const (
	skippedString     = "string"     // a text is no number
	skippedNonFinite  = "non_finite" // NaN or an infinity
	skippedTooLong    = "too_long"   // as a message
	skippedSerializer = "serializer" // which refused the metric
)

// Reasons for which a client was refused. Each is the value of the tag reason of clients_refused.
const (
	refusedMaxClients = "max_clients"
	refusedTLS        = "tls" // the handshake failed, or took too long
)

// Reasons for which a client was closed. Each is the value of the tag reason of clients_closed.
const (
	closedLeft         = "left"
	closedWriteTimeout = "write_timeout" // it took nothing for that long
	closedShutdown     = "shutdown"
)

// stats are the self-metrics of one instance; inputs.internal shows them as internal_tcp_exporter.
type stats struct {
	clients         selfstat.Stat            // now
	refused         map[string]selfstat.Stat // clients, by reason
	closed          map[string]selfstat.Stat // clients, by reason
	sent            selfstat.Stat            // messages, to each client
	dropped         selfstat.Stat            // messages, for each client
	skipped         map[string]selfstat.Stat // fields, or metrics with a serializer, by reason
	metadataSkipped selfstat.Stat            // events that are sent without metadata, since there is no room for more names
}

func newStats(c *selfstat.Collector) *stats {
	const measurement = "tcp_exporter"
	byReason := func(field string, reasons ...string) map[string]selfstat.Stat {
		m := make(map[string]selfstat.Stat, len(reasons))
		for _, reason := range reasons {
			m[reason] = c.Register(measurement, field, map[string]string{"reason": reason})
		}
		return m
	}
	return &stats{
		clients:         c.Register(measurement, "clients", nil),
		refused:         byReason("clients_refused", refusedMaxClients, refusedTLS),
		closed:          byReason("clients_closed", closedLeft, closedWriteTimeout, closedShutdown),
		sent:            c.Register(measurement, "messages_sent", nil),
		dropped:         c.Register(measurement, "messages_dropped", nil),
		skipped:         byReason("metrics_skipped", skippedString, skippedNonFinite, skippedTooLong, skippedSerializer),
		metadataSkipped: c.Register(measurement, "metadata_skipped", nil),
	}
}

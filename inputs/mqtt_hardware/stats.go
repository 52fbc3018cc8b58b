package mqtt_hardware

import "github.com/influxdata/telegraf/selfstat"

// Reasons for which a message was dropped. Each is the value of the tag reason of messages_dropped.
const (
	droppedOverflow = "overflow" // the outputs do not keep up
	droppedShutdown = "shutdown" // it came while the plugin stopped
	droppedRetained = "retained" // skip_retained asks for it
	droppedUnwanted = "unwanted" // an old subscription of the session brought it
)

// Reasons for which the embedded broker sent a device away. Each is the value of the tag reason of devices_refused.
const (
	refusedClients     = "max_clients"
	refusedCredentials = "credentials"
	refusedSize        = "packet_size"
)

// stats are the self-metrics of one instance; inputs.internal shows them as internal_mqtt_hardware.
type stats struct {
	received     selfstat.Stat
	acked        selfstat.Stat
	unacked      selfstat.Stat
	malformed    selfstat.Stat
	repeated     selfstat.Stat // the broker sent again what we still had
	redelivered  selfstat.Stat // handed to Telegraf again after it was rejected
	reconnects   selfstat.Stat
	connected    selfstat.Stat
	payloadBytes selfstat.Stat
	dropped      map[string]selfstat.Stat // by reason
	refused      map[string]selfstat.Stat // devices, by reason
}

func newStats(c *selfstat.Collector) *stats {
	const measurement = "mqtt_hardware"
	s := &stats{
		received:     c.Register(measurement, "messages_received", nil),
		acked:        c.Register(measurement, "messages_acked", nil),
		unacked:      c.Register(measurement, "messages_unacked", nil),
		malformed:    c.Register(measurement, "messages_malformed", nil),
		repeated:     c.Register(measurement, "messages_repeated", nil),
		redelivered:  c.Register(measurement, "messages_redelivered", nil),
		reconnects:   c.Register(measurement, "reconnects", nil),
		connected:    c.Register(measurement, "connected", nil),
		payloadBytes: c.Register(measurement, "payload_bytes", nil),
		dropped:      make(map[string]selfstat.Stat),
		refused:      make(map[string]selfstat.Stat),
	}
	for _, reason := range []string{droppedOverflow, droppedRetained, droppedShutdown, droppedUnwanted} {
		s.dropped[reason] = c.Register(measurement, "messages_dropped", map[string]string{"reason": reason})
	}
	for _, reason := range []string{refusedClients, refusedCredentials, refusedSize} {
		s.refused[reason] = c.Register(measurement, "devices_refused", map[string]string{"reason": reason})
	}
	return s
}

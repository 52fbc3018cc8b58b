package mqtt_hardware

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf/selfstat"
)

// The names are a contract (docs/design.md).
func TestStatsNames(t *testing.T) {
	newStats(statistics(t))
	names := make(map[string][]string)
	for _, m := range selfstat.Metrics() {
		if m.Tags()["test"] != t.Name() {
			continue
		}
		for name := range m.Fields() {
			names[m.Name()] = append(names[m.Name()], name)
		}
	}
	require.Len(t, names, 1)
	for _, name := range []string{
		"messages_received", "messages_acked", "messages_unacked", "messages_malformed", "reconnects", "connected", "payload_bytes",
	} {
		require.Contains(t, names["internal_mqtt_hardware"], name)
	}
}

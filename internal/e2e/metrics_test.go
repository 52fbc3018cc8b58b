package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/agentproc"
	"github.com/edgetide/telegraf-victorialogs/internal/selfmetrics"
	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
)

// freeAddr is an address that nobody listens on now.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return l.Addr().String()
}

// inPrometheus asks outputs.prometheus_client and returns the series of each name.
func inPrometheus(t *testing.T, addr string) map[string][]map[string]string {
	t.Helper()
	req, err := http.NewRequestWithContext(within(t, patience), http.MethodGet, "http://"+addr+"/metrics", http.NoBody)
	require.NoError(t, err)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(req)
	require.NoError(t, err)
	defer func() { require.NoError(t, answer.Body.Close()) }()
	require.Equal(t, http.StatusOK, answer.StatusCode)
	text, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(string(text)))
	require.NoError(t, err)
	series := make(map[string][]map[string]string)
	for name, family := range families {
		for _, m := range family.GetMetric() {
			labels := make(map[string]string)
			for _, label := range m.GetLabel() {
				labels[label.GetName()] = label.GetValue()
			}
			series[name] = append(series[name], labels)
		}
	}
	return series
}

// What docs/metrics.md says is what Prometheus sees, in name and labels: all of it, and nothing else.
func TestMetricsInPrometheus(t *testing.T) {
	t.Parallel()
	broker, logs, addr := testbroker.StartMochi(t, testbroker.MochiOptions{}), standIn(t), freeAddr(t)
	r := newRig(t, broker.URL(), logs.URL(), "", fmt.Sprintf(`
  alias = "main"
[[outputs.tcp_exporter]]
  listen = "127.0.0.1:0"
  alias = "main"
[[inputs.internal]]
  interval = "200ms"
[[outputs.prometheus_client]]
  listen = %q
  flush_interval = "200ms"
  namepass = ["internal_*"]`, addr))
	r.start()
	require.NoError(t, r.agent.WaitFor(within(t, patience), func(*agentproc.Agent) bool {
		return r.agent.Self("internal_mqtt_hardware.connected") == 1 && len(inPrometheus(t, addr)) > 0
	}))

	table, err := selfmetrics.Table("../../docs/metrics.md")
	require.NoError(t, err)
	shown := inPrometheus(t, addr)
	for _, m := range table {
		var reasons []string
		require.NotEmpty(t, shown[m.Prometheus], "%s is not there", m.Prometheus)
		for _, labels := range shown[m.Prometheus] {
			require.Equal(t, "edge", labels["host"])
			require.Equal(t, map[bool]string{true: "main"}[labels["output"] != ""], labels["alias"])
			require.Equal(t, strings.TrimPrefix(m.Measurement, "internal_"), labels["input"]+labels["output"])
			if reason, ok := labels["reason"]; ok {
				reasons = append(reasons, reason)
			}
		}
		slices.Sort(reasons)
		require.Equal(t, m.Reasons, reasons, m.Prometheus)
		delete(shown, m.Prometheus)
	}
	for name := range shown {
		for _, m := range table {
			require.False(t, strings.HasPrefix(name, m.Measurement+"_"), "%s is not in docs/metrics.md", name)
		}
	}
	r.stop()
}

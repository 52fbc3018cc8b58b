package docs

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/selfstat"

	"github.com/edgetide/telegraf-victorialogs/internal/selfmetrics"
	_ "github.com/edgetide/telegraf-victorialogs/plugins"
)

// The names are a contract: dashboards and scripts rely on them.
func TestMetrics(t *testing.T) {
	table, err := selfmetrics.Table("metrics.md")
	require.NoError(t, err)
	documented := make(map[string][]string) // reasons by measurement.field
	for _, m := range table {
		require.NotContains(t, documented, m.Measurement+"."+m.Field, "it is listed twice")
		documented[m.Measurement+"."+m.Field] = m.Reasons
		require.Equal(t, m.Measurement+"_"+m.Field, m.Prometheus)
		require.Contains(t, []string{"counter", "gauge"}, m.Kind, m.Field)
		require.NotEmpty(t, m.Unit, m.Field)
		require.NotEmpty(t, m.Meaning, m.Field)
	}

	ours := make(map[string]bool) // measurements
	agent := config.NewConfig()
	for _, kind := range []string{"inputs", "outputs"} {
		samples, err := filepath.Glob("../" + kind + "/*/sample.conf")
		require.NoError(t, err)
		require.NotEmpty(t, samples)
		for _, path := range samples {
			sample, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NoError(t, agent.LoadConfigData(sample, path))
			ours["internal_"+filepath.Base(filepath.Dir(path))] = true
		}
	}
	for _, input := range agent.Inputs {
		require.NoError(t, input.Init())
	}
	for _, output := range agent.Outputs {
		require.NoError(t, output.Init())
	}
	registered := make(map[string][]string)
	for _, m := range selfstat.Metrics() {
		if !ours[m.Name()] {
			continue
		}
		for _, field := range m.FieldList() {
			key := m.Name() + "." + field.Key
			registered[key] = append(registered[key], m.Tags()["reason"])
		}
	}
	for key, reasons := range registered {
		slices.Sort(reasons)
		if slices.Equal(reasons, []string{""}) {
			registered[key] = nil
		}
	}
	require.Equal(t, registered, documented, "what is registered, and what docs/metrics.md says")
}

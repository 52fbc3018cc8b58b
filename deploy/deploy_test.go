// Package deploy holds the tests of what operators take from here: the dashboard and the alerts.
package deploy

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/selfmetrics"
	"github.com/edgetide/telegraf-victorialogs/internal/series"
)

// table are the self-metrics by their names in Prometheus.
func table(t *testing.T) map[string]selfmetrics.Metric {
	t.Helper()
	list, err := selfmetrics.Table("../docs/metrics.md")
	require.NoError(t, err)
	byName := make(map[string]selfmetrics.Metric)
	for _, m := range list {
		byName[m.Prometheus] = m
	}
	require.NotEmpty(t, byName)
	return byName
}

// requireSensible checks that an expression can be parsed, that it uses our metrics alone, counters as counters and gauges
// as gauges, and that a reason that it asks for is one. It returns the metrics that it uses.
func requireSensible(t *testing.T, known map[string]selfmetrics.Metric, text string) (used []string) {
	t.Helper()
	expr, err := parser.ParseExpr(text)
	require.NoError(t, err, text)
	parser.Inspect(expr, func(node parser.Node, path []parser.Node) error {
		switch node := node.(type) {
		case *parser.VectorSelector:
			m, ok := known[node.Name]
			require.True(t, ok, "%s is not in docs/metrics.md: %s", node.Name, text)
			used = append(used, node.Name)
			for _, matcher := range node.LabelMatchers {
				if matcher.Name == "reason" {
					require.True(t, slices.ContainsFunc(m.Reasons, matcher.Matches), "%s: no reason is %s", text, matcher)
				}
			}
			for _, above := range path {
				call, ok := above.(*parser.Call)
				if !ok {
					continue
				}
				switch call.Func.Name {
				case "rate", "increase":
					require.Equal(t, "counter", m.Kind, text)
				case "deriv", "min_over_time":
					require.Equal(t, "gauge", m.Kind, text)
				default:
					require.Contains(t, []string{"absent", "last_over_time"}, call.Func.Name, text)
				}
			}
		case *parser.AggregateExpr:
			for _, label := range node.Grouping {
				require.Contains(t, []string{"host", "input", "output", "alias", "reason"}, label, text)
			}
			if slices.Contains(node.Grouping, "reason") {
				parser.Inspect(node, func(inner parser.Node, _ []parser.Node) error {
					if selector, ok := inner.(*parser.VectorSelector); ok {
						require.NotEmpty(t, known[selector.Name].Reasons, text)
					}
					return nil
				})
			}
		}
		return nil
	})
	require.NotEmpty(t, used, text)
	return used
}

// Each panel says what it shows, and each self-metric is in one.
func TestDashboard(t *testing.T) {
	content, err := os.ReadFile("grafana/dashboard.json")
	require.NoError(t, err)
	var dashboard struct {
		Title, UID string
		Templating struct {
			List []struct{ Name, Type, Query, Definition string }
		}
		Panels []struct {
			ID                       int
			Type, Title, Description string
			GridPos                  struct{ X, Y, W, H int }
			FieldConfig              struct {
				Defaults struct{ Unit string }
			}
			Datasource struct{ UID string }
			Targets    []struct {
				Expr, LegendFormat string
				Datasource         struct{ UID string }
			}
		}
	}
	var loose map[string]any // Query of a variable is a text or an object
	require.NoError(t, json.Unmarshal(content, &loose))
	content = regexp.MustCompile(`"query": \{[^}]*\}`).ReplaceAll(content, []byte(`"query": ""`))
	require.NoError(t, json.Unmarshal(content, &dashboard))
	require.NotEmpty(t, dashboard.Title)
	require.NotEmpty(t, dashboard.UID)
	require.Equal(t, "datasource", dashboard.Templating.List[0].Type)
	require.Equal(t, "prometheus", dashboard.Templating.List[0].Query)
	require.Equal(t, "host", dashboard.Templating.List[1].Name)

	known := table(t)
	shown := make(map[string]bool)
	ids := make(map[int]bool)
	taken := make(map[[2]int]string) // squares of the grid
	for _, panel := range dashboard.Panels {
		require.False(t, ids[panel.ID], "two panels have the id %d", panel.ID)
		ids[panel.ID] = true
		require.NotEmpty(t, panel.Title)
		for x := panel.GridPos.X; x < panel.GridPos.X+panel.GridPos.W; x++ {
			require.Less(t, x, 24, panel.Title)
			for y := panel.GridPos.Y; y < panel.GridPos.Y+panel.GridPos.H; y++ {
				require.Empty(t, taken[[2]int{x, y}], "it lies over %q", panel.Title)
				taken[[2]int{x, y}] = panel.Title
			}
		}
		if panel.Type == "row" {
			continue
		}
		require.NotEmpty(t, panel.Description, panel.Title)
		require.NotEmpty(t, panel.FieldConfig.Defaults.Unit, panel.Title)
		require.Equal(t, "${datasource}", panel.Datasource.UID, panel.Title)
		require.NotEmpty(t, panel.Targets, panel.Title)
		for _, target := range panel.Targets {
			require.Equal(t, "${datasource}", target.Datasource.UID, panel.Title)
			require.NotEmpty(t, target.LegendFormat, panel.Title)
			require.Contains(t, target.Expr, `{host=~"$host"`)
			expr := strings.NewReplacer("$host", ".*", "$__rate_interval", "1m").Replace(target.Expr)
			require.NotContains(t, expr, "$")
			for _, name := range requireSensible(t, known, expr) {
				shown[name] = true
			}
		}
	}
	require.Equal(t, slices.Sorted(maps.Keys(known)), slices.Sorted(maps.Keys(shown)), "each self-metric is in a panel")
}

// alerts are the rules, as Prometheus reads them, strictly.
func alerts(t *testing.T) []rulefmt.Rule {
	t.Helper()
	content, err := os.ReadFile("alerts/telegraf-victorialogs.yml")
	require.NoError(t, err)
	groups, errs := rulefmt.Parse(content, false, model.UTF8Validation)
	require.Empty(t, errs)
	var rules []rulefmt.Rule
	for _, group := range groups.Groups {
		rules = append(rules, group.Rules...)
	}
	return rules
}

// Each alert is about our metrics, says what it is about, and has a chapter in the operations manual.
func TestAlerts(t *testing.T) {
	manual, err := os.ReadFile("../docs/operations.md")
	require.NoError(t, err)
	_, manual2, ok := strings.Cut(string(manual), "\n## Alerts\n")
	require.True(t, ok, "docs/operations.md has no section Alerts")
	chapters, _, _ := strings.Cut(manual2, "\n## ")
	known := table(t)
	var names []string
	for _, rule := range alerts(t) {
		names = append(names, rule.Alert)
		requireSensible(t, known, rule.Expr)
		require.Contains(t, []string{"critical", "warning"}, rule.Labels["severity"], rule.Alert)
		require.NotEmpty(t, rule.Annotations["summary"], rule.Alert)
		require.NotEmpty(t, rule.Annotations["description"], rule.Alert)
		require.Equal(t, "https://github.com/edgetide/telegraf-victorialogs/blob/main/docs/operations.md#"+strings.ToLower(rule.Alert),
			rule.Annotations["runbook_url"])
	}
	var described []string
	for _, heading := range regexp.MustCompile(`(?m)^### (.*)$`).FindAllStringSubmatch(chapters, -1) {
		described = append(described, heading[1])
	}
	require.Equal(t, names, described, "the alerts, and the chapters of docs/operations.md, in their order")
}

// healthy is an agent that has been well for hours. A value each minute: a+bxn is n more values, each b more; _ is none.
const healthy = `
internal_victorialogs_metrics_received{host="a",output="victorialogs"} 0+600x240
internal_victorialogs_metrics_dropped{host="a",output="victorialogs",reason="max_pending"} 0x240
internal_victorialogs_metrics_rejected{host="a",output="victorialogs",reason="too_old"} 0x240
internal_victorialogs_batches_sent{host="a",output="victorialogs"} 0+60x240
internal_victorialogs_batches_retried{host="a",output="victorialogs"} 3x240
internal_victorialogs_dlq_items{host="a",output="victorialogs"} 0x240
internal_victorialogs_dlq_bytes{host="a",output="victorialogs"} 0x240
internal_victorialogs_dlq_oldest_age_ns{host="a",output="victorialogs"} 0x240
internal_victorialogs_dlq_quarantined{host="a",output="victorialogs"} 0x240
internal_victorialogs_dlq_max_bytes{host="a",output="victorialogs"} 1000x240
internal_victorialogs_dlq_room_bytes{host="a",output="victorialogs"} 900x240
internal_mqtt_hardware_connected{host="a",input="mqtt_hardware"} 1x240
internal_mqtt_hardware_reconnects{host="a",input="mqtt_hardware"} 2x240
internal_mqtt_hardware_messages_received{host="a",input="mqtt_hardware"} 0+300x240
internal_mqtt_hardware_messages_dropped{host="a",input="mqtt_hardware",reason="overflow"} 0x240
internal_mqtt_hardware_messages_dropped{host="a",input="mqtt_hardware",reason="retained"} 0+1x240
`

// What is wrong, and which alerts fire then, and no others.
func TestAlertsFire(t *testing.T) {
	const output, input = `{host="a",output="victorialogs"} `, `{host="a",input="mqtt_hardware"} `
	for _, c := range []struct {
		name   string
		series string // instead of those of the healthy agent, or beside them
		at     time.Duration
		want   []string
	}{
		{"all is well", "", 3 * time.Hour, nil},
		{"all is well from the start", "", time.Minute, nil},
		{"hardware only", "internal_mqtt_hardware_connected" + input + "0x240\n" +
			"internal_mqtt_hardware_reconnects" + input + "0x240\n" +
			"internal_mqtt_hardware_messages_received" + input + "0x240", 3 * time.Hour, nil},
		{"without dead letters", "internal_victorialogs_dlq_max_bytes" + output + "0x240\n" +
			"internal_victorialogs_dlq_room_bytes" + output + "0x240", 3 * time.Hour, nil},
		{
			"one of two agents is gone", `internal_victorialogs_metrics_received{host="b",output="victorialogs",version="1"} 0+600x60 stale _x180`,
			2 * time.Hour,
			[]string{"TelegrafGone"},
		},
		{
			"one of two outputs is gone", `internal_victorialogs_metrics_received{host="a",output="victorialogs",alias="b"} 0+600x60 stale _x180`,
			2 * time.Hour,
			[]string{"TelegrafGone"},
		},
		{"an agent was upgraded", `internal_victorialogs_metrics_received{host="b",output="victorialogs",version="1"} 0+600x60 stale _x180
internal_victorialogs_metrics_received{host="b",output="victorialogs",version="2"} _x61 0+600x180`, 2 * time.Hour, nil},
		{
			"an agent restarts", `internal_victorialogs_metrics_received{host="b",output="victorialogs"} 0+600x60 stale _x2 0+600x180`,
			62 * time.Minute, nil,
		},
		{
			"metrics are dropped", `internal_victorialogs_metrics_dropped{host="a",output="victorialogs",reason="max_pending"} 0x60 5x180`,
			65 * time.Minute,
			[]string{"TelegrafMetricsDropped"},
		},
		{
			"metrics were dropped long ago", `internal_victorialogs_metrics_dropped{host="a",output="victorialogs",reason="max_pending"} 0x60 5x180`,
			90 * time.Minute, nil,
		},
		{
			"metrics were dropped before anybody looked", `internal_victorialogs_metrics_dropped{host="b",output="victorialogs",reason="drop_oldest"} _x60 5x180`,
			62 * time.Minute,
			[]string{"TelegrafMetricsDropped"},
		},
		{
			"the disk is nearly full", "internal_victorialogs_dlq_room_bytes" + output + "900-10x240",
			90 * time.Minute,
			[]string{"TelegrafDiskNearlyFull"},
		},
		{"the server is away", "internal_victorialogs_batches_sent" + output + "0+60x60 3600x180\n" +
			"internal_victorialogs_batches_retried" + output + "3x60 3+2x180", 80 * time.Minute, []string{"TelegrafServerTakesNothing"}},
		{"there is nothing to send", "internal_victorialogs_batches_sent" + output + "5x240", 80 * time.Minute, nil},
		{"the server was away for a minute", "internal_victorialogs_batches_retried" + output + "3x60 9x180", 65 * time.Minute, nil},
		{"the backlog grows", "internal_victorialogs_dlq_items" + output + "0x60 0+2x180\n" +
			"internal_victorialogs_dlq_bytes" + output + "0x60 0+2000x180", 105 * time.Minute, []string{"TelegrafBacklogGrows"}},
		{"the backlog drains", "internal_victorialogs_dlq_items" + output + "900-2x240\n" +
			"internal_victorialogs_dlq_bytes" + output + "900000-2000x240", 105 * time.Minute, nil},
		{"short outages, each soon over", "internal_victorialogs_dlq_items" + output + strings.Repeat("0x10 0+2x10 ", 12) + "\n" +
			"internal_victorialogs_dlq_bytes" + output + strings.Repeat("0x10 0+2000x10 ", 12), 105 * time.Minute, nil},
		{
			"an old dead letter", "internal_victorialogs_dlq_oldest_age_ns" + output + "0+60000000000x240",
			70 * time.Minute,
			[]string{"TelegrafDeadLettersOld"},
		},
		{
			"a row is rejected", `internal_victorialogs_metrics_rejected{host="a",output="victorialogs",reason="too_old"} 0x60 1x180`,
			62 * time.Minute,
			[]string{"TelegrafRowsRejected"},
		},
		{"a batch is set aside", "internal_victorialogs_dlq_quarantined" + output + "1x240", time.Minute, []string{"TelegrafDeadLettersQuarantined"}},
		{"the broker is away", "internal_mqtt_hardware_connected" + input + "1x60 0x180", 70 * time.Minute, []string{"TelegrafBrokerDisconnected"}},
		{"the broker was away for a minute", "internal_mqtt_hardware_connected" + input + "1x60 0 1x180", 70 * time.Minute, nil},
		{
			"the outputs do not keep up", `internal_mqtt_hardware_messages_dropped{host="a",input="mqtt_hardware",reason="overflow"} 0x60 0+3x180`,
			70 * time.Minute,
			[]string{"TelegrafMessagesDropped"},
		},
		{
			"no input gives anything", "internal_victorialogs_metrics_received" + output + "0+600x60 36000x180",
			110 * time.Minute,
			[]string{"TelegrafNoData"},
		},
		{
			"no input gave anything for a while", "internal_victorialogs_metrics_received" + output + "0+600x60 36000x20 36000+600x160",
			80 * time.Minute, nil,
		},
		{
			"devices are silent", "internal_mqtt_hardware_messages_received" + input + "0+300x60 18000x180",
			135 * time.Minute,
			[]string{"TelegrafNoMessages"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := make(series.Database)
			load(t, data, healthy)
			load(t, data, c.series)
			require.Equal(t, c.want, firing(t, data, c.at))
		})
	}
	t.Run("no agent at all", func(t *testing.T) {
		require.Equal(t, []string{"TelegrafGone"}, firing(t, make(series.Database), time.Hour))
	})
}

// firing are the alerts that fire at a time, in their order: whose expression had an answer all along for that long.
func firing(t *testing.T, data series.Database, at time.Duration) (names []string) {
	t.Helper()
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Minute})
	defer func() { require.NoError(t, engine.Close()) }()
	for _, rule := range alerts(t) {
		begin := max(at-time.Duration(rule.For), 0)
		query, err := engine.NewRangeQuery(t.Context(), data, nil, rule.Expr, start.Add(begin), start.Add(at), time.Minute)
		require.NoError(t, err)
		result := query.Exec(t.Context())
		require.NoError(t, result.Err, rule.Alert)
		matrix, err := result.Matrix()
		require.NoError(t, err)
		steps := int((at-begin)/time.Minute) + 1
		if at >= time.Duration(rule.For) && slices.ContainsFunc(matrix, func(s promql.Series) bool { return len(s.Floats) == steps }) {
			names = append(names, rule.Alert)
		}
		query.Close()
	}
	return names
}

var start = time.Unix(0, 0)

// load adds series in the notation of Prometheus's tests, with a value each minute.
func load(t *testing.T, data series.Database, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) == "" {
			continue
		}
		set, values, err := parser.ParseSeriesDesc(strings.TrimSpace(line))
		require.NoError(t, err, line)
		delete(data, set.String()) // of the healthy agent
		for minute, value := range values {
			if !value.Omitted {
				data.Add(set, start.Add(time.Duration(minute)*time.Minute), value.Value)
			}
		}
	}
}

package main

import (
	"html"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/series"
)

// Each panel is on the page, with what there is to see.
func TestDraw(t *testing.T) {
	d, err := readDashboard("../dashboard.json")
	require.NoError(t, err)
	begin := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	seen := recording{
		data: make(series.Database), begin: begin, away: begin.Add(time.Minute), back: begin.Add(2 * time.Minute),
		end: begin.Add(3 * time.Minute),
	}
	for at := begin; at.Before(seen.end); at = at.Add(scrapes) {
		passed := at.Sub(begin).Seconds()
		for name, value := range map[string]float64{
			"internal_victorialogs_metrics_received":  1500 * passed,
			"internal_victorialogs_dlq_bytes":         1 << 20,
			"internal_victorialogs_dlq_oldest_age_ns": 90e9,
			"internal_mqtt_hardware_connected":        1,
		} {
			seen.data.Add(labels.FromStrings("__name__", name, "host", "gateway-7"), at, value)
		}
	}
	content, width, height, err := draw(t.Context(), d, seen)
	require.NoError(t, err)
	page := html.UnescapeString(string(content))
	for _, panel := range d.Panels {
		require.Contains(t, page, panel.Title)
	}
	for _, text := range []string{"received gateway-7", "1.5 Kc/s", "1 MiB", "1.5 min", "Yes</b>", "12:02", "No data"} {
		require.Contains(t, page, ">"+text, text)
	}
	require.NotContains(t, page, "NaN")
	require.Greater(t, width, 1000)
	require.Greater(t, height, width)
}

func TestFormat(t *testing.T) {
	for _, c := range []struct {
		value float64
		unit  string
		want  string
	}{
		{0, "bytes", "0 B"},
		{1536, "bytes", "1.5 KiB"},
		{1500, "Bps", "1.5 kB/s"},
		{0.25, "cps", "0.25 c/s"},
		{2500, "short", "2.5 K"},
		{340e3, "ns", "340 µs"},
		{59e9, "ns", "59 s"},
		{150e9, "ns", "2.5 min"},
		{0, "bool_yes_no", "No"},
	} {
		require.Equal(t, c.want, format(c.value, c.unit))
	}
}

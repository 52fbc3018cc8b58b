// Package selfmetrics reads the table of self-metrics in docs/metrics.md, for the tests that hold code, dashboard and
// alerts against it.
package selfmetrics

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// Metric is one row of the table.
type Metric struct {
	Measurement string
	Field       string
	Prometheus  string // the name that outputs.prometheus_client gives it
	Kind        string // "counter" or "gauge"
	Unit        string
	Reasons     []string // sorted; none: it has no tag reason
	Meaning     string
}

// Table reads the file docs/metrics.md.
func Table(path string) ([]Metric, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var metrics []Metric
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "| `internal_") {
			continue
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 7 {
			return nil, fmt.Errorf("%s: a row has %d cells instead of 7: %s", path, len(cells), line)
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		m := Metric{
			Measurement: unquote(cells[0]), Field: unquote(cells[1]), Prometheus: unquote(cells[2]),
			Kind: cells[3], Unit: cells[4], Meaning: cells[6],
		}
		if cells[5] != "" {
			for reason := range strings.SplitSeq(cells[5], ", ") {
				m.Reasons = append(m.Reasons, unquote(reason))
			}
			slices.Sort(m.Reasons)
		}
		metrics = append(metrics, m)
	}
	return metrics, nil
}

func unquote(cell string) string { return strings.Trim(cell, "`") }

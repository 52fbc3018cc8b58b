package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/edgetide/telegraf-victorialogs/outputs/tcp_exporter/wire"
)

// event is a metric as it is shown.
type event struct {
	time              time.Time // zero: it has none
	name              string
	labels            map[string]string
	kind              wire.Metadata_MetricType
	operation         string
	count             uint64  // of a counter
	value             float64 // of any
	unit, description string
}

// newEvent reports whether it knows what happened.
func newEvent(m *wire.Metric) (e event, ok bool) {
	e = event{name: m.GetName(), labels: m.GetLabels()}
	if m.GetTimestamp().IsValid() {
		e.time = m.GetTimestamp().AsTime()
	}
	switch o := m.GetOperation().(type) {
	case *wire.Metric_IncrementCounter:
		e.kind, e.operation, e.count = wire.Metadata_COUNTER, "increment_counter", o.IncrementCounter
	case *wire.Metric_SetCounter:
		e.kind, e.operation, e.count = wire.Metadata_COUNTER, "set_counter", o.SetCounter
	case *wire.Metric_IncrementGauge:
		e.kind, e.operation, e.value = wire.Metadata_GAUGE, "increment_gauge", o.IncrementGauge
	case *wire.Metric_DecrementGauge:
		e.kind, e.operation, e.value = wire.Metadata_GAUGE, "decrement_gauge", o.DecrementGauge
	case *wire.Metric_SetGauge:
		e.kind, e.operation, e.value = wire.Metadata_GAUGE, "set_gauge", o.SetGauge
	case *wire.Metric_RecordHistogram:
		e.kind, e.operation, e.value = wire.Metadata_HISTOGRAM, "record_histogram", o.RecordHistogram
	default:
		return e, false
	}
	if e.kind == wire.Metadata_COUNTER {
		e.value = float64(e.count)
	}
	return e, true
}

// series is the name and the labels, in one line and with nothing that a terminal would obey.
func (e event) series() string {
	var b strings.Builder
	b.WriteString(clean(e.name))
	if len(e.labels) > 0 {
		b.WriteByte('{')
		for i, key := range slices.Sorted(maps.Keys(e.labels)) {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, "%s=%s", clean(key), strconv.Quote(e.labels[key]))
		}
		b.WriteByte('}')
	}
	return b.String()
}

// line is the event in one line: when, what, and how much.
func (e event) line() string {
	at := "-"
	if !e.time.IsZero() {
		at = e.time.Format(time.RFC3339Nano)
	}
	value := formatValue(e.value)
	if e.kind == wire.Metadata_COUNTER {
		value = strconv.FormatUint(e.count, 10)
	}
	switch e.operation {
	case "increment_counter", "increment_gauge":
		value = "+" + value
	case "decrement_gauge":
		value = formatValue(-e.value)
	}
	line := at + " " + e.series() + " " + value
	if e.unit != "" {
		line += " " + clean(e.unit)
	}
	return line
}

// clean makes one word of a name: what is no plain character is escaped, control characters above all, which a terminal
// would obey, and quotation marks.
func clean(s string) string {
	quoted := strconv.Quote(s)
	return quoted[1 : len(quoted)-1]
}

// visible escapes in a message what a terminal would obey. There, too, may be something of the server's, such as the names
// in its certificate.
func visible(s string) string {
	var b strings.Builder
	for _, r := range s {
		if unicode.IsGraphic(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(clean(string(r)))
		}
	}
	return b.String()
}

func formatValue(v float64) string {
	if a := math.Abs(v); a != 0 && (a < 1e-6 || a >= 1e15) {
		return strconv.FormatFloat(v, 'g', -1, 64)
	}
	return strconv.FormatFloat(v, 'f', -1, 64)
}

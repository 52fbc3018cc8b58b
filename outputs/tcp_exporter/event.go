package tcp_exporter

import (
	"math"
	"strconv"
	"strings"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/filter"

	"github.com/edgetide/telegraf-victorialogs/outputs/tcp_exporter/wire"
)

// events makes an event of each field of a metric. The series' name is the measurement's and the field's, joined by an
// underscore; its labels are the tags:
//
//	counter: integer >= 0                      set_counter
//	counter: other numbers                     set_gauge
//	gauge, untyped: numbers                    set_gauge
//	bool                                       set_gauge, 0 or 1
//	histogram, summary: _count, _bucket{le}    set_counter
//	histogram, summary: other numbers          set_gauge
//	fields in histogram_fields                 record_histogram
//	text, NaN, infinities                      skipped and counted
//
// Telegraf has two forms of histograms and summaries. In the newer one a bucket is a field that ends in _bucket, in a metric
// with the tag le. In the older one it is a field whose name is the bound, or the quantile; it becomes the label then.
type events struct {
	naming     naming
	histograms filter.Filter // of histogram_fields; nil: there are none
	described  map[string]Description
	stats      *stats

	known [3]map[string]struct{} // names whose metadata is in the stream, by the type of their series

	// Memory that is used again.
	name, common, series, frame []byte
}

func (e *events) encode(s *stream, m telegraf.Metric) {
	measurement := wire.Text(e.naming.apply(m.Name()))
	e.common = wire.AppendTimestamp(e.common[:0], m.Time())
	labels := len(e.common)
	for _, tag := range m.TagList() {
		e.common = wire.AppendLabel(e.common, tag.Key, tag.Value)
	}
	common := len(e.common)
	for _, field := range m.FieldList() {
		e.name = append(e.name[:0], measurement...)
		e.common = e.common[:common]
		if !e.splitOff(m, field.Key) {
			e.name = append(append(e.name, '_'), wire.Text(field.Key)...)
		}
		operation, skip := e.operation(m.Type(), field)
		if skip != "" {
			e.stats.skipped[skip].Incr(1)
			continue
		}
		e.add(s, labels, operation)
	}
	if cap(e.frame) > maxTaken { // what one burst made huge
		e.name, e.common, e.series, e.frame = nil, nil, nil, nil
	}
}

// splitOff makes a label of a field's name that is a bound or a quantile, as in the older form.
func (e *events) splitOff(m telegraf.Metric, key string) bool {
	label := "le"
	switch m.Type() {
	case telegraf.Histogram:
	case telegraf.Summary:
		label = "quantile"
	default:
		return false
	}
	if key == "" || !strings.ContainsAny(key[:1], "+-.0123456789") || m.HasTag(label) {
		return false
	}
	if _, err := strconv.ParseFloat(key, 64); err != nil {
		return false
	}
	if label == "le" {
		e.name = append(e.name, "_bucket"...)
	}
	e.common = wire.AppendLabel(e.common, label, key)
	return true
}

// operation says what a field means, or for which reason it is skipped.
func (e *events) operation(kind telegraf.ValueType, field *telegraf.Field) (o wire.Operation, skip string) {
	number, skip := toNumber(field.Value)
	if skip != "" {
		return o, skip
	}
	if e.histograms != nil && (e.histograms.Match(field.Key) || e.histograms.Match(string(e.name))) {
		return wire.RecordHistogram(number), ""
	}
	_, isFloat := field.Value.(float64)
	switch kind {
	case telegraf.Counter:
		if count, ok := toCount(field.Value); ok && !isFloat {
			return wire.SetCounter(count), ""
		}
	case telegraf.Histogram, telegraf.Summary: // their counts are floats where they come from Prometheus
		if count, ok := toCount(field.Value); ok && isCount(string(e.name)) {
			return wire.SetCounter(count), ""
		}
	}
	return wire.SetGauge(number), ""
}

func isCount(name string) bool {
	return strings.HasSuffix(name, "_count") || strings.HasSuffix(name, "_bucket")
}

func toNumber(value any) (number float64, skip string) {
	switch v := value.(type) {
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return 0, skippedNonFinite
		}
		return v, ""
	case int64:
		return float64(v), ""
	case uint64:
		return float64(v), ""
	case bool:
		if v {
			return 1, ""
		}
		return 0, ""
	}
	return 0, skippedString
}

// toCount gives the numbers that a counter on the wire can hold.
func toCount(value any) (count uint64, ok bool) {
	switch v := value.(type) {
	case int64:
		return uint64(v), v >= 0 //nolint:gosec // checked
	case uint64:
		return v, true
	case float64:
		return uint64(v), v >= 0 && v < 1<<64 && v == math.Trunc(v)
	}
	return 0, false
}

// add hands one event to the stream, and before it the metadata if it is the first of its name and type.
func (e *events) add(s *stream, labels int, o wire.Operation) {
	e.frame = wire.AppendMetric(e.frame[:0], e.name, e.common, o)
	if len(e.frame) > wire.MaxMessage {
		e.stats.skipped[skippedTooLong].Incr(1)
		return
	}
	kind := o.Type()
	if _, ok := e.known[kind][string(e.name)]; !ok && !e.describe(s, string(e.name), kind) {
		e.stats.metadataSkipped.Incr(1)
	}
	if s.last != nil {
		e.series = strconv.AppendInt(e.series[:0], int64(kind), 10)
		e.series = append(append(e.series, e.name...), 0xff) // which is no UTF-8
		e.series = append(e.series, e.common[labels:]...)
	}
	s.event(e.series, e.frame)
}

// describe adds the metadata of a name to the stream, if there is room.
func (e *events) describe(s *stream, name string, kind wire.Metadata_MetricType) bool {
	metadata := &wire.Metadata{Name: name, MetricType: kind}
	if d, ok := e.described[name]; ok {
		if d.Unit != "" {
			metadata.Unit = &wire.Metadata_UnitValue{UnitValue: d.Unit}
		}
		metadata.Description = &wire.Metadata_DescriptionValue{DescriptionValue: wire.Text(d.Description)}
	}
	frame, err := wire.AppendEvent(nil, &wire.Event{Event: &wire.Event_Metadata{Metadata: metadata}})
	if err != nil || !s.describe(frame) {
		return false
	}
	if e.known[kind] == nil {
		e.known[kind] = make(map[string]struct{})
	}
	e.known[kind][name] = struct{}{}
	return true
}

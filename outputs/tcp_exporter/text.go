package tcp_exporter

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/metric"
	"github.com/influxdata/telegraf/models"
	"github.com/influxdata/telegraf/plugins/serializers"
	"github.com/influxdata/telegraf/plugins/serializers/influx"
	_ "github.com/influxdata/telegraf/plugins/serializers/json" // for people, as influx is; other hosts may not have it

	"github.com/edgetide/telegraf-victorialogs/outputs/tcp_exporter/wire"
)

// serialized makes one message of a metric, as one of Telegraf's serializers writes it.
type serialized struct {
	naming     naming
	serializer telegraf.Serializer
	stats      *stats

	// Memory that is used again.
	series []byte
	keys   []string
}

func (e *serialized) encode(s *stream, m telegraf.Metric) {
	if name := e.naming.apply(m.Name()); name != m.Name() {
		m = metric.FromMetric(m) // with Write, the metric is the host's
		m.SetName(name)
	}
	message, err := e.serializer.Serialize(m)
	switch {
	case err != nil || len(message) == 0:
		e.stats.skipped[skippedSerializer].Incr(1)
		return
	case len(message) > wire.MaxMessage:
		e.stats.skipped[skippedTooLong].Incr(1)
		return
	}
	if s.last != nil {
		e.identify(m)
	}
	s.event(e.series, message)
}

// identify makes series what metrics have in common that tell the same: the name, the tags, and the names of the fields.
// Inputs may give fields in any order.
func (e *serialized) identify(m telegraf.Metric) {
	e.keys = e.keys[:0]
	for _, field := range m.FieldList() {
		e.keys = append(e.keys, field.Key)
	}
	slices.Sort(e.keys)
	e.series = append(append(e.series[:0], m.Name()...), 0)
	for _, tag := range m.TagList() {
		e.series = wire.AppendLabel(e.series, tag.Key, tag.Value)
	}
	e.series = append(e.series, 0) // with which no label begins
	for _, key := range e.keys {
		e.series = append(append(e.series, key...), 0)
	}
}

// newSerializer makes the serializer of a format. With data_format Telegraf makes it, with the serializer's own options.
func (t *TCPExporter) newSerializer(format string) (telegraf.Serializer, error) {
	if t.DataFormat != "" && t.DataFormat != format {
		return nil, fmt.Errorf("format = %q: must be %q, as data_format is, or be left out", format, t.DataFormat)
	}
	create, ok := serializers.Serializers[format]
	if !ok {
		return nil, fmt.Errorf(`format = %q: must be "protobuf" or one of Telegraf's serializers that are built in: %s`, format,
			strings.Join(slices.Sorted(maps.Keys(serializers.Serializers)), ", "))
	}
	if t.makeSerializer != nil && (t.DataFormat != "" || format == "influx") { // influx is what Telegraf makes without data_format
		s, err := t.makeSerializer()
		if running, ok := s.(*models.RunningSerializer); ok && t.DataFormat == "" {
			keepUnsigned(running.Serializer)
		}
		return s, err
	}
	if t.DataFormat != "" {
		return nil, errors.New("data_format: this host makes no serializers; set format alone")
	}
	s := create()
	if i, ok := s.(telegraf.Initializer); ok {
		if err := i.Init(); err != nil {
			return nil, fmt.Errorf("format = %q: %w; its options need data_format = %q", format, err, format)
		}
	}
	keepUnsigned(s)
	return s, nil
}

// keepUnsigned makes line protocol that loses nothing: without it, an unsigned integer becomes a signed one, or is cut.
func keepUnsigned(s telegraf.Serializer) {
	if s, ok := s.(*influx.Serializer); ok {
		s.UintSupport = true
	}
}

// Package wire is the format in which metrics-exporter-tcp streams metrics:
//
//	frame:  length  varint
//	        Event   of that many bytes, as in event.proto
//
// There is no handshake, and nothing goes from the client to the server. event.pb.go is generated from event.proto; it
// encodes what is seldom sent, and clients and tests decode with it. What is sent all the time, a Metric, is encoded by
// hand, into memory that the caller uses again.
package wire

import (
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Needs protoc and its google/protobuf/timestamp.proto: Debian's protobuf-compiler and libprotobuf-dev. The path from the
// module's root is the file's name in protobuf's registry, which all of a process share.
//
//go:generate go build -o ../../../.build/protoc-gen-go google.golang.org/protobuf/cmd/protoc-gen-go
//go:generate sh -c "cd ../../.. && protoc --plugin=.build/protoc-gen-go --go_out=. --go_opt=paths=source_relative outputs/tcp_exporter/wire/event.proto"

// MaxMessage bounds an Event, in bytes. Clients need a bound, so that they do not take memory on the word of a length.
const MaxMessage = 1 << 20

// EmptyEvent is a frame with an Event that holds nothing. Clients pass over it.
var EmptyEvent = []byte{0}

// AppendEvent appends a frame of any kind, by the generated code.
func AppendEvent(dst []byte, e *Event) ([]byte, error) {
	dst = appendSize(dst, proto.Size(e))
	return proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(dst, e)
}

// Field numbers of event.proto.
const (
	eventMetric = 2

	metricName      = 1
	metricTimestamp = 2
	metricLabels    = 3
	metricSet       = 5 // counter
	metricSetGauge  = 8
	metricRecord    = 9

	timestampSeconds = 1
	timestampNanos   = 2

	mapKey   = 1
	mapValue = 2
)

// Operation is what happens to a series, and the value.
type Operation struct {
	number protowire.Number
	bits   uint64 // the integer, or the bits of the float
}

// SetCounter sets a counter.
func SetCounter(value uint64) Operation { return Operation{metricSet, value} }

// SetGauge sets a gauge.
func SetGauge(value float64) Operation { return Operation{metricSetGauge, math.Float64bits(value)} }

// RecordHistogram adds a sample to a histogram.
func RecordHistogram(value float64) Operation {
	return Operation{metricRecord, math.Float64bits(value)}
}

// Type is the type of the series.
func (o Operation) Type() Metadata_MetricType {
	switch o.number {
	case metricSet:
		return Metadata_COUNTER
	case metricRecord:
		return Metadata_HISTOGRAM
	}
	return Metadata_GAUGE
}

// Every field number here fits in a tag of one byte.
const tagSize = 1

func (o Operation) size() int {
	if o.number == metricSet {
		return tagSize + protowire.SizeVarint(o.bits)
	}
	return tagSize + protowire.SizeFixed64()
}

func (o Operation) append(dst []byte) []byte {
	if o.number == metricSet {
		return protowire.AppendVarint(protowire.AppendTag(dst, o.number, protowire.VarintType), o.bits)
	}
	return protowire.AppendFixed64(protowire.AppendTag(dst, o.number, protowire.Fixed64Type), o.bits)
}

// AppendTimestamp appends the timestamp of a Metric.
func AppendTimestamp(dst []byte, t time.Time) []byte {
	seconds, nanos := uint64(t.Unix()), uint64(t.Nanosecond()) //nolint:gosec // protobuf's int64 is two's complement
	size := 0
	if seconds != 0 {
		size += tagSize + protowire.SizeVarint(seconds)
	}
	if nanos != 0 {
		size += tagSize + protowire.SizeVarint(nanos)
	}
	dst = protowire.AppendTag(dst, metricTimestamp, protowire.BytesType)
	dst = appendSize(dst, size)
	if seconds != 0 {
		dst = protowire.AppendTag(dst, timestampSeconds, protowire.VarintType)
		dst = protowire.AppendVarint(dst, seconds)
	}
	if nanos != 0 {
		dst = protowire.AppendTag(dst, timestampNanos, protowire.VarintType)
		dst = protowire.AppendVarint(dst, nanos)
	}
	return dst
}

// AppendLabel appends a label of a Metric.
func AppendLabel(dst []byte, key, value string) []byte {
	key, value = Text(key), Text(value)
	dst = protowire.AppendTag(dst, metricLabels, protowire.BytesType)
	dst = appendSize(dst, 2*tagSize+protowire.SizeBytes(len(key))+protowire.SizeBytes(len(value)))
	dst = protowire.AppendString(protowire.AppendTag(dst, mapKey, protowire.BytesType), key)
	return protowire.AppendString(protowire.AppendTag(dst, mapValue, protowire.BytesType), value)
}

// AppendMetric appends a frame with a Metric. The name must be valid UTF-8; common is what AppendTimestamp and AppendLabel
// made, and is shared by the fields of a Telegraf metric.
func AppendMetric[T string | []byte](dst []byte, name T, common []byte, o Operation) []byte {
	size := len(common) + o.size()
	if len(name) > 0 {
		size += tagSize + protowire.SizeBytes(len(name))
	}
	dst = appendSize(dst, tagSize+protowire.SizeBytes(size))
	dst = protowire.AppendTag(dst, eventMetric, protowire.BytesType)
	dst = appendSize(dst, size)
	if len(name) > 0 {
		dst = protowire.AppendTag(dst, metricName, protowire.BytesType)
		dst = appendSize(dst, len(name))
		dst = append(dst, name...)
	}
	return o.append(append(dst, common...))
}

func appendSize(dst []byte, n int) []byte {
	return protowire.AppendVarint(dst, uint64(n)) //nolint:gosec // a length
}

// Text makes valid UTF-8 of a text, since decoders refuse a message that has other bytes in a string.
func Text(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

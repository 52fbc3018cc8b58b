package wire

import (
	"bytes"
	"encoding/hex"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"
)

func TestCheckVectors(t *testing.T) {
	frame, err := AppendEvent(nil, &Event{Event: &Event_Metadata{Metadata: &Metadata{
		Name:        "cpu_usage_idle",
		MetricType:  Metadata_GAUGE,
		Unit:        &Metadata_UnitValue{UnitValue: "percent"},
		Description: &Metadata_DescriptionValue{},
	}}})
	require.NoError(t, err)
	require.Equal(t, "1f0a1d0a0e6370755f75736167655f69646c6510011a0770657263656e742200", hex.EncodeToString(frame))

	// A zero inside the oneof is still encoded.
	zero, err := proto.Marshal(&Metric{Operation: &Metric_IncrementCounter{}})
	require.NoError(t, err)
	require.Equal(t, "2000", hex.EncodeToString(zero))
	for _, tt := range []struct {
		operation Operation
		want      string
	}{
		{SetCounter(0), "0412022800"},
		{SetGauge(0), "0b1209410000000000000000"},
		{RecordHistogram(0), "0b1209490000000000000000"},
	} {
		require.Equal(t, tt.want, hex.EncodeToString(AppendMetric(nil, "", nil, tt.operation)))
	}
}

func TestEmptyEvent(t *testing.T) {
	e := &Event{}
	require.NoError(t, protodelim.UnmarshalFrom(bytes.NewReader(EmptyEvent), e))
	require.Nil(t, e.GetEvent())
}

// What is encoded by hand is byte for byte what the generated code makes.
func TestByHandIsAsGenerated(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.String().Draw(t, "name")
		at := time.Unix(rapid.Int64Range(-1e12, 1e12).Draw(t, "seconds"), rapid.Int64Range(0, 1e9-1).Draw(t, "nanoseconds"))
		metric := &Metric{Name: Text(name), Timestamp: timestamppb.New(at)}
		common := AppendTimestamp(nil, at)
		if rapid.Bool().Draw(t, "labelled") { // one, since the generated code writes more of them in any order
			key, value := rapid.String().Draw(t, "key"), rapid.String().Draw(t, "value")
			metric.Labels = map[string]string{Text(key): Text(value)}
			common = AppendLabel(common, key, value)
		}
		value := rapid.Float64().Draw(t, "value")
		count := rapid.Uint64().Draw(t, "count")
		var o Operation
		switch rapid.IntRange(0, 2).Draw(t, "operation") {
		case 0:
			o, metric.Operation = SetCounter(count), &Metric_SetCounter{SetCounter: count}
			require.Equal(t, Metadata_COUNTER, o.Type())
		case 1:
			o, metric.Operation = SetGauge(value), &Metric_SetGauge{SetGauge: value}
			require.Equal(t, Metadata_GAUGE, o.Type())
		case 2:
			o, metric.Operation = RecordHistogram(value), &Metric_RecordHistogram{RecordHistogram: value}
			require.Equal(t, Metadata_HISTOGRAM, o.Type())
		}
		want, err := AppendEvent([]byte("x"), &Event{Event: &Event_Metric{Metric: metric}})
		require.NoError(t, err)
		require.Equal(t, hex.EncodeToString(want), hex.EncodeToString(AppendMetric([]byte("x"), Text(name), common, o)))
	})
}

func TestEveryLabelArrives(t *testing.T) {
	labels := map[string]string{"a": "1", "": "", "é": "ü\n", "long": string(bytes.Repeat([]byte("x"), 300))}
	var common []byte
	for key, value := range labels {
		common = AppendLabel(common, key, value)
	}
	e := &Event{}
	require.NoError(t, protodelim.UnmarshalFrom(bytes.NewReader(AppendMetric(nil, "m", common, SetGauge(math.Pi))), e))
	require.Equal(t, labels, e.GetMetric().GetLabels())
	require.Equal(t, "m", e.GetMetric().GetName())
}

// Decoders refuse a message with a string that is no UTF-8.
func TestBytesThatAreNoText(t *testing.T) {
	require.Equal(t, "a\uFFFDb", Text("a\xff\xfeb"))
	e := &Event{}
	frame := AppendMetric(nil, Text("m\xff"), AppendLabel(nil, "k\xff", "v\xff"), SetCounter(1))
	require.NoError(t, protodelim.UnmarshalFrom(bytes.NewReader(frame), e))
	require.Equal(t, "m\uFFFD", e.GetMetric().GetName())
	require.Equal(t, map[string]string{"k\uFFFD": "v\uFFFD"}, e.GetMetric().GetLabels())
}

func TestNothingIsAllocated(t *testing.T) {
	at := time.Unix(1, 2)
	var frame, common []byte
	require.Zero(t, testing.AllocsPerRun(100, func() {
		common = AppendLabel(AppendTimestamp(common[:0], at), "host", "gateway")
		frame = AppendMetric(frame[:0], "cpu_usage_idle", common, SetGauge(97.5))
	}))
}

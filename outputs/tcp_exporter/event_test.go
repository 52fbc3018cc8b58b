package tcp_exporter

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/metric"

	"github.com/edgetide/telegraf-victorialogs/outputs/tcp_exporter/wire"
)

func TestMapping(t *testing.T) {
	tests := []struct {
		name   string
		metric telegraf.Metric
		want   *wire.Metric // nil: skipped
		kind   wire.Metadata_MetricType
		skip   string
	}{
		{
			name: "counter, integer", metric: one("net", nil, "bytes", int64(7), telegraf.Counter),
			want: &wire.Metric{Name: "net_bytes", Operation: &wire.Metric_SetCounter{SetCounter: 7}},
		},
		{
			name: "counter, zero", metric: one("net", nil, "bytes", int64(0), telegraf.Counter),
			want: &wire.Metric{Name: "net_bytes", Operation: &wire.Metric_SetCounter{}},
		},
		{
			name: "counter, unsigned", metric: one("net", nil, "bytes", uint64(math.MaxUint64), telegraf.Counter),
			want: &wire.Metric{Name: "net_bytes", Operation: &wire.Metric_SetCounter{SetCounter: math.MaxUint64}},
		},
		{
			name: "counter, float", metric: one("net", nil, "bytes", 7.0, telegraf.Counter), kind: wire.Metadata_GAUGE,
			want: &wire.Metric{Name: "net_bytes", Operation: &wire.Metric_SetGauge{SetGauge: 7}},
		},
		{
			name: "counter, negative", metric: one("net", nil, "bytes", int64(-1), telegraf.Counter), kind: wire.Metadata_GAUGE,
			want: &wire.Metric{Name: "net_bytes", Operation: &wire.Metric_SetGauge{SetGauge: -1}},
		},
		{
			name: "gauge", metric: one("mem", nil, "used", 1.5, telegraf.Gauge), kind: wire.Metadata_GAUGE,
			want: &wire.Metric{Name: "mem_used", Operation: &wire.Metric_SetGauge{SetGauge: 1.5}},
		},
		{
			name: "untyped integer", metric: one("mem", nil, "used", int64(-3)), kind: wire.Metadata_GAUGE,
			want: &wire.Metric{Name: "mem_used", Operation: &wire.Metric_SetGauge{SetGauge: -3}},
		},
		{
			name: "untyped unsigned", metric: one("mem", nil, "used", uint64(3)), kind: wire.Metadata_GAUGE,
			want: &wire.Metric{Name: "mem_used", Operation: &wire.Metric_SetGauge{SetGauge: 3}},
		},
		{
			name: "true", metric: one("door", nil, "open", true), kind: wire.Metadata_GAUGE,
			want: &wire.Metric{Name: "door_open", Operation: &wire.Metric_SetGauge{SetGauge: 1}},
		},
		{
			name: "false of a counter", metric: one("door", nil, "open", false, telegraf.Counter), kind: wire.Metadata_GAUGE,
			want: &wire.Metric{Name: "door_open", Operation: &wire.Metric_SetGauge{}},
		},
		{name: "text", metric: one("door", nil, "state", "open"), skip: skippedString},
		{name: "NaN", metric: one("door", nil, "angle", math.NaN()), skip: skippedNonFinite},
		{name: "infinity", metric: one("door", nil, "angle", math.Inf(-1), telegraf.Counter), skip: skippedNonFinite},
		{
			name: "a histogram's count", metric: one("prometheus", nil, "rpc_count", 12.0, telegraf.Histogram),
			want: &wire.Metric{Name: "prometheus_rpc_count", Operation: &wire.Metric_SetCounter{SetCounter: 12}},
		},
		{
			name: "a histogram's sum", metric: one("prometheus", nil, "rpc_sum", 12.0, telegraf.Histogram), kind: wire.Metadata_GAUGE,
			want: &wire.Metric{Name: "prometheus_rpc_sum", Operation: &wire.Metric_SetGauge{SetGauge: 12}},
		},
		{
			name: "a bucket", metric: one("prometheus", map[string]string{"le": "0.5"}, "rpc_bucket", 9.0, telegraf.Histogram),
			want: &wire.Metric{
				Name: "prometheus_rpc_bucket", Labels: map[string]string{"le": "0.5"}, Operation: &wire.Metric_SetCounter{SetCounter: 9},
			},
		},
		{
			name: "a bucket of the older form", metric: one("rpc", map[string]string{"a": "b"}, "+Inf", 9.0, telegraf.Histogram),
			want: &wire.Metric{
				Name: "rpc_bucket", Labels: map[string]string{"a": "b", "le": "+Inf"}, Operation: &wire.Metric_SetCounter{SetCounter: 9},
			},
		},
		{
			name: "a count of the older form", metric: one("rpc", nil, "count", 9.0, telegraf.Summary),
			want: &wire.Metric{Name: "rpc_count", Operation: &wire.Metric_SetCounter{SetCounter: 9}},
		},
		{
			name: "a count that no counter can hold", metric: one("rpc", nil, "count", 9.5, telegraf.Summary), kind: wire.Metadata_GAUGE,
			want: &wire.Metric{Name: "rpc_count", Operation: &wire.Metric_SetGauge{SetGauge: 9.5}},
		},
		{
			name: "a sum of the older form", metric: one("rpc", nil, "sum", 9.0, telegraf.Summary), kind: wire.Metadata_GAUGE,
			want: &wire.Metric{Name: "rpc_sum", Operation: &wire.Metric_SetGauge{SetGauge: 9}},
		},
		{
			name: "a quantile", metric: one("prometheus", map[string]string{"quantile": "0.99"}, "rpc", 0.25, telegraf.Summary),
			kind: wire.Metadata_GAUGE,
			want: &wire.Metric{
				Name: "prometheus_rpc", Labels: map[string]string{"quantile": "0.99"}, Operation: &wire.Metric_SetGauge{SetGauge: 0.25},
			},
		},
		{
			name: "a quantile of the older form", metric: one("rpc", nil, "0.99", 0.25, telegraf.Summary), kind: wire.Metadata_GAUGE,
			want: &wire.Metric{
				Name: "rpc", Labels: map[string]string{"quantile": "0.99"}, Operation: &wire.Metric_SetGauge{SetGauge: 0.25},
			},
		},
		{name: "a quantile of nothing", metric: one("rpc", nil, "0.99", math.NaN(), telegraf.Summary), skip: skippedNonFinite},
		{
			name: "a sample by its field", metric: one("http", nil, "took_ns", int64(5)), kind: wire.Metadata_HISTOGRAM,
			want: &wire.Metric{Name: "http_took_ns", Operation: &wire.Metric_RecordHistogram{RecordHistogram: 5}},
		},
		{
			name: "a sample by its series", metric: one("http", nil, "size", uint64(0), telegraf.Counter), kind: wire.Metadata_HISTOGRAM,
			want: &wire.Metric{Name: "http_size", Operation: &wire.Metric_RecordHistogram{}},
		},
		{name: "a sample that is text", metric: one("http", nil, "took_ns", "5"), skip: skippedString},
		{
			name: "no UTF-8", metric: one("a\xff", map[string]string{"b\xff": "c\xff"}, "d\xff", 1.0), kind: wire.Metadata_GAUGE,
			want: &wire.Metric{
				Name: "a\uFFFD_d\uFFFD", Labels: map[string]string{"b\uFFFD": "c\uFFFD"}, Operation: &wire.Metric_SetGauge{SetGauge: 1},
			},
		},
		{name: "too long", metric: one("a", map[string]string{"b": strings.Repeat("c", wire.MaxMessage)}, "d", 1.0), skip: skippedTooLong},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := start(t, func(p *TCPExporter) { p.HistogramFields = []string{"took_*", "http_size"} })
			v := r.join()
			r.Add(tt.metric)
			r.Add(sample(1)) // so that something comes
			if tt.want != nil {
				metadata := v.next().GetMetadata()
				require.Equal(t, tt.want.GetName(), metadata.GetName())
				require.Equal(t, tt.kind, metadata.GetMetricType())
				require.Nil(t, metadata.GetUnit())
				tt.want.Timestamp = timestamppb.New(at)
				require.Equal(t, tt.want.String(), v.metric().String())
			}
			require.Equal(t, "load_system", v.metric().GetName())
			for reason, stat := range r.server.stats.skipped {
				want := int64(0)
				if reason == tt.skip {
					want = 1
				}
				require.Equal(t, want, stat.Get(), reason)
			}
		})
	}
}

func TestAFieldIsAnEvent(t *testing.T) {
	r := start(t)
	v := r.join()
	r.Add(metric.New("cpu", map[string]string{"cpu": "0", "host": "a"}, map[string]any{"user": 1, "system": 2, "name": "x", "idle": 3}, at))
	got := make(map[string]float64)
	for range 3 {
		m := v.metric()
		require.Equal(t, map[string]string{"cpu": "0", "host": "a"}, m.GetLabels())
		got[m.GetName()] = m.GetSetGauge()
	}
	require.Equal(t, map[string]float64{"cpu_user": 1, "cpu_system": 2, "cpu_idle": 3}, got)
	require.Equal(t, int64(1), r.server.stats.skipped[skippedString].Get())
}

func TestNaming(t *testing.T) {
	for _, call := range []string{"Add", "Write"} {
		t.Run(call, func(t *testing.T) {
			r := start(t, func(p *TCPExporter) { p.NameOverride, p.NamePrefix, p.NameSuffix = "b", "a_", "_c" })
			v := r.join()
			m := sample(1)
			if call == "Add" {
				r.Add(m)
			} else {
				require.NoError(t, r.Write([]telegraf.Metric{m}))
				require.Equal(t, "load", m.Name())
			}
			require.Equal(t, "a_b_c_system", v.metric().GetName())
		})
	}
}

// Metadata goes before the first event that it is about, to clients that are there as to those that come.
func TestMetadata(t *testing.T) {
	r := start(t, func(p *TCPExporter) {
		p.Describe = append(p.Describe,
			Description{Name: "load_system", Unit: "percent", Description: "how much"},
			Description{Name: "net_in", Type: "counter", Unit: "bytes"})
	})
	first := r.join()
	require.Equal(t, `name:"net_in" unit_value:"bytes" description_value:""`, squeeze(first.next().GetMetadata()))
	r.Add(sample(1))
	require.Equal(t, `name:"load_system" metric_type:GAUGE unit_value:"percent" description_value:"how much"`,
		squeeze(first.next().GetMetadata()))
	require.Equal(t, 1, int(first.next().GetMetric().GetSetGauge()))
	r.Add(sample(2))
	require.Equal(t, 2, int(first.next().GetMetric().GetSetGauge()))

	second := r.join()
	require.Equal(t, "net_in", second.next().GetMetadata().GetName())
	require.Equal(t, "load_system", second.next().GetMetadata().GetName())

	r.Add(one("load", nil, "system", 3, telegraf.Counter)) // another type is another series
	r.Add(one("net", nil, "in", 4, telegraf.Counter))
	for _, v := range []*viewer{first, second} {
		require.Equal(t, `name:"load_system" unit_value:"percent" description_value:"how much"`, squeeze(v.next().GetMetadata()))
		require.Equal(t, uint64(3), v.next().GetMetric().GetSetCounter())
		require.Equal(t, uint64(4), v.next().GetMetric().GetSetCounter())
	}
}

// squeeze is a message as text, whose number of spaces is random.
func squeeze(m *wire.Metadata) string { return strings.Join(strings.Fields(m.String()), " ") }

// Names without end take no memory without end; the events go out all the same.
func TestMetadataIsBounded(t *testing.T) {
	r := start(t, func(p *TCPExporter) { p.BufferSize = 100_000 })
	v := r.join()
	const names = 30_000
	for n := range names {
		r.Add(one(fmt.Sprintf("measurement_with_a_long_name_%d", n), nil, "value", n))
	}
	metadata := 0
	for n := range names {
		e := v.next()
		for ; e.GetMetadata() != nil; e = v.next() {
			metadata++
		}
		require.Equal(t, n, int(e.GetMetric().GetSetGauge()))
	}
	require.Equal(t, int64(names-metadata), r.server.stats.metadataSkipped.Get())
	require.Positive(t, r.server.stats.metadataSkipped.Get())
	require.LessOrEqual(t, len(r.stream.metadata), maxMetadata)
	encoder, ok := r.encoder.(*events)
	require.True(t, ok)
	require.Len(t, encoder.known[wire.Metadata_GAUGE], metadata+1)
}

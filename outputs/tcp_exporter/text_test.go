package tcp_exporter

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"math"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/metric"
	"github.com/influxdata/telegraf/plugins/parsers/influx"
	"github.com/influxdata/telegraf/testutil"

	"github.com/edgetide/telegraf-victorialogs/outputs/tcp_exporter/wire"
)

// awkward are metrics that line protocol can hold, but not easily.
func awkward() []telegraf.Metric {
	return []telegraf.Metric{
		sample(1),
		metric.New("all types", map[string]string{"a tag": "a, b=c", "host": "gäteway", `back\slash`: `c:\dir`}, map[string]any{
			"least": int64(math.MinInt64), "most": int64(math.MaxInt64), "unsigned": uint64(math.MaxUint64), "small": uint64(1),
			"tiny": math.SmallestNonzeroFloat64, "huge": math.MaxFloat64, "third": 1.0 / 3, "whole": 2.0, "negative": -0.5,
			"yes": true, "no": false, "empty": "", "space key, = ": "x",
			"quoted": `say "hello" \ back`, "lines": "one\ntwo\r\nthree\n\n", "unicode": "täglich\u2028", "ends in a backslash": `c:\`,
		}, at),
		metric.New(`m,e=a "sure"`, nil, map[string]any{"v": 1}, time.Unix(0, 1)),
		metric.New("before 1970", nil, map[string]any{"v": 1}, time.Unix(-1, 999999999)),
		metric.New("log", nil, map[string]any{"message": strings.Repeat("a long text, with \"quotes\"\n", 8000)}, at),
	}
}

func TestInfluxIsReadBackWithoutLoss(t *testing.T) {
	r := start(t, func(p *TCPExporter) { p.Format = "influx" })
	v := r.dial()
	r.waitFor("a reader", func() bool { return r.stream.readers.Load() == 1 })
	want := awkward()
	for _, m := range awkward() {
		r.Add(m)
	}
	r.stop()
	requireRead(t, want, v)
}

// requireRead reads line protocol as Telegraf's inputs do.
func requireRead(t *testing.T, want []telegraf.Metric, r io.Reader) {
	t.Helper()
	parser := influx.NewStreamParser(r)
	var got []telegraf.Metric
	for {
		m, err := parser.Next()
		if errors.Is(err, influx.EOF) {
			break
		}
		require.NoError(t, err)
		got = append(got, m)
	}
	testutil.RequireMetricsEqual(t, want, got)
}

// The same for people: with nc, and nothing else.
func TestNetcat(t *testing.T) {
	path, err := exec.LookPath("nc")
	if err != nil {
		t.Skip("nc is not on PATH")
	}
	r := start(t, func(p *TCPExporter) { p.Format = "influx" })
	host, port, _ := strings.Cut(r.address(), ":")
	nc := exec.Command(path, host, port) // its input ends at once; some then close their direction
	out, err := nc.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, nc.Start())
	r.waitFor("a reader", func() bool { return r.stream.readers.Load() == 1 })
	for _, m := range awkward() {
		r.Add(m)
	}
	r.stop()
	requireRead(t, awkward(), out)
	require.NoError(t, nc.Wait())
}

// With data_format Telegraf makes the serializer, with its own options.
func TestFormats(t *testing.T) {
	tests := []struct {
		options string
		want    string
	}{
		{`format = "influx"`, "load,host=gateway system=1i 1700000000123456789\n"},
		{"format = \"influx\"\ninflux_omit_timestamp = true", "load,host=gateway system=1i\n"},
		{`data_format = "influx"`, "load,host=gateway system=1i 1700000000123456789\n"},
		{`format = "json"`, `{"fields":{"system":1},"name":"load","tags":{"host":"gateway"},"timestamp":1700000000}` + "\n"},
		{
			"data_format = \"json\"\njson_timestamp_units = \"1ms\"",
			`{"fields":{"system":1},"name":"load","tags":{"host":"gateway"},"timestamp":1700000000123}` + "\n",
		},
		{
			"format = \"json\"\ndata_format = \"json\"\njson_timestamp_units = \"1ns\"",
			`{"fields":{"system":1},"name":"load","tags":{"host":"gateway"},"timestamp":1700000000123456789}` + "\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.options, func(t *testing.T) {
			p, err := load(t, `listen = "127.0.0.1:0"`+"\n"+tt.options)
			require.NoError(t, err)
			p.Log = testutil.Logger{}
			r := &rig{TCPExporter: p, tb: t}
			require.NoError(t, r.Connect())
			t.Cleanup(r.stop)
			v := r.dial()
			r.waitFor("a reader", func() bool { return r.stream.readers.Load() == 1 })
			r.Add(sample(1))
			r.stop()
			got, err := io.ReadAll(v)
			require.NoError(t, err)
			require.Equal(t, tt.want, string(got))
		})
	}
}

// Unsigned integers lose nothing, unless influx_uint_support says so.
func TestUnsigned(t *testing.T) {
	for options, want := range map[string]string{
		`format = "influx"`: "18446744073709551615u", `data_format = "influx"`: "9223372036854775807i",
		"data_format = \"influx\"\ninflux_uint_support = true": "18446744073709551615u",
	} {
		p, err := load(t, options)
		require.NoError(t, err)
		encoder, ok := p.encoder.(*serialized)
		require.True(t, ok)
		message, err := encoder.serializer.Serialize(one("m", nil, "v", uint64(math.MaxUint64)))
		require.NoError(t, err)
		require.Contains(t, string(message), want, options)
	}
}

func TestTextIsSkippedWithAReason(t *testing.T) {
	r := start(t, func(p *TCPExporter) { p.Format = "influx" })
	v := r.dial()
	r.waitFor("a reader", func() bool { return r.stream.readers.Load() == 1 })
	r.Add(one("m", nil, "v", math.NaN()))
	r.Add(one("m", nil, "v", strings.Repeat("x", wire.MaxMessage)))
	r.stop()
	require.Empty(t, v.rest())
	require.Equal(t, int64(1), r.server.stats.skipped[skippedSerializer].Get())
	require.Equal(t, int64(1), r.server.stats.skipped[skippedTooLong].Get())
}

func TestTextSnapshotAndNaming(t *testing.T) {
	r := start(t, func(p *TCPExporter) { p.Format, p.Snapshot, p.NamePrefix = "json", true, "site_" })
	m := sample(1)
	require.NoError(t, r.Write([]telegraf.Metric{m, one("load", nil, "system", 5), sample(2)}))
	require.Equal(t, "load", m.Name(), "with Write it is the host's")
	v := json.NewDecoder(r.dial())
	for _, want := range []float64{5, 2} {
		var got struct {
			Name   string
			Fields map[string]float64
		}
		require.NoError(t, v.Decode(&got))
		require.Equal(t, "site_load", got.Name)
		require.Equal(t, map[string]float64{"system": want}, got.Fields)
	}
}

// A series is a name, tags and a field, so metrics that share the first two hide each other only if they have the same fields.
func TestTextSnapshotHasAllFields(t *testing.T) {
	r := start(t, func(p *TCPExporter) { p.Format, p.Snapshot = "influx", true })
	several := func(a, b int) telegraf.Metric {
		return metric.New("load", map[string]string{"host": "a"}, map[string]any{"one": a, "two": b, "three": 3, "four": 4}, at)
	}
	for n := range 50 { // the order of fields is not always the same
		r.Add(several(n, 2*n))
	}
	r.Add(one("load", map[string]string{"host": "a"}, "system", 5))
	r.Add(one("load", map[string]string{"host": "a"}, "user", 6))
	r.Add(one("load", map[string]string{"host": "a"}, "system", 7))
	r.Add(one("load", map[string]string{"host": "a", "system": ""}, "user", 8)) // an empty tag is not in line protocol
	r.Add(one("end", nil, "end", 1))
	lines := bufio.NewScanner(r.dial())
	var got []string
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "end ") {
		got = append(got, strings.Fields(lines.Text())[1])
	}
	require.Len(t, got, 4)
	require.ElementsMatch(t, []string{"one=49i", "two=98i", "three=3i", "four=4i"}, strings.Split(got[0], ","))
	require.Equal(t, []string{"user=6i", "system=7i", "user=8i"}, got[1:])
}

package victorialogs

import (
	"context"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf"

	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
	"github.com/edgetide/telegraf-victorialogs/internal/vlserver"
)

// servers are the stand-in and, where it is on PATH, VictoriaLogs itself.
var servers = []struct {
	name  string
	start func(t *testing.T) (url string)
}{
	{"stand-in", func(t *testing.T) string {
		t.Helper()
		return receiver(t, vlreceiver.Config{}).URL()
	}},
	{"VictoriaLogs", func(t *testing.T) string {
		t.Helper()
		path, ok := vlserver.Look()
		if !ok {
			t.Skip("victoria-logs is not on PATH")
		}
		s, err := vlserver.New(path, "", t.TempDir())
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		require.NoError(t, s.Start(ctx))
		t.Cleanup(func() { require.NoError(t, s.Stop()) })
		return s.URL()
	}},
}

// What a query answers is what the metric held, for all that servers mix up, cut or drop.
func TestRowsReadBack(t *testing.T) {
	long := strings.Repeat("n", 129)
	type row = map[string]string
	tests := []struct {
		metric telegraf.Metric
		want   row // beside _time, _stream, _stream_id and id
	}{
		{newMetric("m", map[string]string{"host": "a"}, pairs("n", int64(1<<53+1))), row{"_msg": "m", "measurement": "m", "host": "a", "n": "9007199254740993"}},
		{newMetric("m", nil, pairs("n", uint64(math.MaxUint64))), row{"_msg": "m", "measurement": "m", "n": "18446744073709551615"}},
		{newMetric("m", nil, pairs("n", 0.1, "m", 1e-7, "b", true)), row{"_msg": "m", "measurement": "m", "n": "0.1", "m": "1e-07", "b": "true"}},
		{newMetric("m", nil, pairs("a", math.NaN(), "b", math.Inf(1), "c", math.Inf(-1))), row{"_msg": "m", "measurement": "m", "a": "NaN", "b": "+Inf", "c": "-Inf"}},
		{newMetric("m", nil, pairs("message", "line\none \"two\"\ttab \\ é😀 \x00\x1f\x7f\u2028</script>")), row{"_msg": "line\none \"two\"\ttab \\ é😀 \x00\x1f\x7f\u2028</script>", "measurement": "m"}},
		{newMetric("m", nil, pairs("a", "x\xffy")), row{"_msg": "m", "measurement": "m", "a": "x\ufffdy"}},
		{newMetric("m", nil, pairs("_time", "x", "_msg", "y", "_stream", "z", "_stream_id", "i")), row{"_msg": "m", "measurement": "m", "_time_": "x", "_msg_": "y", "_stream_": "z", "_stream_id_": "i"}},
		{newMetric("m", map[string]string{"k": "tag"}, pairs("k", "field", "", "empty")), row{"_msg": "m", "measurement": "m", "k": "tag", "k_": "field", "unnamed": "empty"}},
		{newMetric("m", map[string]string{long: "tag"}, pairs(long+"x", "field")), row{"_msg": "m", "measurement": "m", shortened(long): "tag", shortened(long + "x"): "field"}},
		{newMetric("", nil, pairs("message", int64(5))), row{"_msg": "5", "measurement": "unnamed"}},
		{newMetric("m", nil, pairs("a", strings.Repeat("é\n", 50_000))), row{"_msg": "m", "measurement": "m", "a": strings.Repeat("é\n", 50_000)}},
		{newMetric("m", nil, pairs("a.b", "x", `q"\,=`, "y", "é", "z")), row{"_msg": "m", "measurement": "m", "a.b": "x", `q"\,=`: "y", "é": "z"}},
	}
	for _, server := range servers {
		t.Run(server.name, func(t *testing.T) {
			url := server.start(t)
			for _, encoding := range encodings {
				r := start(t, nil, at(url), encodedAs(encoding), func(v *VictoriaLogs) { v.ExtraFields = map[string]string{"encoding": encoding} })
				begin := time.Now()
				for id, tt := range tests {
					m := tt.metric.Copy()
					m.AddField("id", id)
					m.SetTime(begin.Add(time.Duration(id)))
					r.Add(m)
				}
				require.NoError(t, r.Close())
				require.Equal(t, int64(len(tests)), delivered(r))

				found := 0
				require.NoError(t, vlserver.Rows(t.Context(), url, 0, func(got map[string]string) {
					if got["encoding"] != encoding {
						return
					}
					found++
					id, err := strconv.Atoi(got["id"])
					require.NoError(t, err)
					stamp, err := time.Parse(time.RFC3339Nano, got["_time"])
					require.NoError(t, err)
					require.True(t, begin.Add(time.Duration(id)).Equal(stamp), "row %d is of %s", id, stamp)
					stream := `{measurement="` + tests[id].want["measurement"] + `"}`
					if host := tests[id].want["host"]; host != "" {
						stream = `{host="` + host + `",measurement="m"}`
					}
					require.Equal(t, stream, got["_stream"])
					for _, own := range []string{"_time", "_stream", "_stream_id", "id", "encoding"} {
						delete(got, own)
					}
					require.Equal(t, tests[id].want, got, "row %d", id)
				}))
				require.Equal(t, len(tests), found)
			}
		})
	}
}

// The bounds of the encoder are those of the server: what it lets through is stored, to the byte.
func TestBoundsAreStored(t *testing.T) {
	many := newMetric("m", nil, nil)
	for i := range 997 {
		many.AddField("f"+strconv.Itoa(i), i)
	}
	fixed := len(encode(t, newEncoder(), newMetric("m", nil, pairs("f", ""))))
	tests := map[string]telegraf.Metric{
		"1000 fields":      many,
		"256000 bytes":     newMetric("m", nil, pairs("f", strings.Repeat("x", 256_000-fixed-20))),
		"a name of 128":    newMetric("m", nil, pairs(strings.Repeat("é", 64), "x")),
		"47 hours ahead":   newMetric("m", nil, pairs("ahead", int64(1))),
		"6 days old":       newMetric("m", nil, pairs("old", int64(1))),
		"another zone":     newMetric("m", nil, pairs("zone", int64(1))),
		"no tag, no field": newMetric("m", nil, nil),
	}
	for _, server := range servers {
		t.Run(server.name, func(t *testing.T) {
			url := server.start(t)
			for name, m := range tests {
				m = m.Copy()
				now := time.Now()
				switch name {
				case "47 hours ahead":
					now = now.Add(47 * time.Hour)
				case "6 days old":
					now = now.Add(-6 * 24 * time.Hour)
				case "another zone":
					now = now.In(time.FixedZone("west", -8*3600))
				}
				m.SetTime(now)
				r := start(t, nil, at(url))
				before, err := vlserver.Count(t.Context(), url)
				require.NoError(t, err)
				r.Add(m)
				require.NoError(t, r.Close())
				require.Equal(t, int64(1), delivered(r), name)
				after, err := vlserver.Count(t.Context(), url)
				require.NoError(t, err)
				require.Equal(t, before+1, after, name)
			}
		})
	}
}

// Faults that lose nothing: each row is there, and at most as often as the server may have taken it without saying so.
func TestEachRowArrives(t *testing.T) {
	const rows = 2000
	tests := []struct {
		name   string
		faults []vlreceiver.Fault
		twice  bool // may be
	}{
		{"none", nil, false},
		{"503", []vlreceiver.Fault{{Kind: vlreceiver.FaultStatus, Status: 503, Times: 3}}, false},
		{"429 with Retry-After", []vlreceiver.Fault{{Kind: vlreceiver.FaultStatus, Status: 429, RetryAfter: "1", Times: 1}}, false},
		{"401 early", []vlreceiver.Fault{{Kind: vlreceiver.FaultStatus, Status: 401, Times: 2}}, false},
		{"413 early", []vlreceiver.Fault{{Kind: vlreceiver.FaultStatus, Status: 413, Times: 5}}, false},
		{"reset", []vlreceiver.Fault{{Kind: vlreceiver.FaultReset, Times: 3}}, false},
		{"cut", []vlreceiver.Fault{{Kind: vlreceiver.FaultCut, Times: 2}}, true},
		{"hang", []vlreceiver.Fault{{Kind: vlreceiver.FaultHang, Times: 2}}, false},
	}
	for _, tt := range tests {
		for _, encoding := range encodings {
			t.Run(tt.name+" "+encoding, func(t *testing.T) {
				s := receiver(t, vlreceiver.Config{}, tt.faults...)
				r := start(t, nil, at(s.URL()), encodedAs(encoding), func(v *VictoriaLogs) {
					v.MaxBatchSize, v.Timeout = 64<<10, duration(500*time.Millisecond)
					v.RetryInitial, v.RetryMax, v.RetryBudget = duration(time.Millisecond), duration(20*time.Millisecond), duration(20*time.Second)
				})
				var all []*watched
				for id := range rows {
					all = append(all, watch(bigEvent(id, 200)))
					r.Add(all[id])
				}
				require.NoError(t, r.Close())
				require.Equal(t, map[string]int{"accepted": rows}, outcomes(all))
				requireBalance(t, r)

				count := make(map[string]int)
				for row := range s.All(vlreceiver.Tenant{}) {
					count[row.Fields["id"]]++
				}
				require.Len(t, count, rows)
				if !tt.twice {
					require.Equal(t, rows, s.Count(vlreceiver.Tenant{}))
				}
			})
		}
	}
}

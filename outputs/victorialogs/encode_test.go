package victorialogs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/metric"
	telegrafjson "github.com/influxdata/telegraf/plugins/serializers/json"
)

const start2024 = `{"_time":1709208000123456789,` // received2024

// newEncoder returns an encoder with the defaults of the plugin.
func newEncoder(change ...func(*encoder)) *encoder {
	e := &encoder{measurementField: "measurement", messageFields: []string{"message", "msg"}, maxFuture: 48 * time.Hour}
	for _, f := range change {
		f(e)
	}
	if e.taken == nil {
		e.prepare(nil)
	}
	return e
}

func withExtra(extra map[string]string) func(*encoder) { return func(e *encoder) { e.prepare(extra) } }

func encode(tb testing.TB, e *encoder, m telegraf.Metric) string {
	tb.Helper()
	line, err := e.appendLine([]byte("before"), m, received2024)
	require.NoError(tb, err)
	line, found := bytes.CutPrefix(line, []byte("before"))
	require.True(tb, found)
	return string(line)
}

func repairsOf(e *encoder) map[string]int64 {
	counts := make(map[string]int64)
	e.takeRepairs(func(kind repair, n int64) { counts[kind.String()] += n })
	return counts
}

func TestLine(t *testing.T) {
	tests := []struct {
		name    string
		encoder *encoder
		metric  telegraf.Metric
		want    string // after _time
		repairs map[string]int64
	}{
		{
			name:   "tags before fields",
			metric: newMetric("cpu", map[string]string{"host": "a", "cpu": "0"}, pairs("usage", 99.5, "n", int64(3))),
			want:   `"_msg":"cpu","measurement":"cpu","cpu":"0","host":"a","usage":99.5,"n":3}`,
		},
		{
			name:    "extra fields last and sorted",
			encoder: newEncoder(withExtra(map[string]string{"site": "berlin", "line": `4"`})),
			metric:  newMetric("cpu", nil, pairs("usage", 1.0)),
			want:    `"_msg":"cpu","measurement":"cpu","usage":1,"line":"4\"","site":"berlin"}`,
		},
		{
			name:    "measurement goes nowhere",
			encoder: newEncoder(func(e *encoder) { e.measurementField = "" }),
			metric:  newMetric("cpu", nil, pairs("measurement", "mine")),
			want:    `"_msg":"cpu","measurement":"mine"}`,
		},
		{
			name:    "measurement under another name",
			encoder: newEncoder(func(e *encoder) { e.measurementField = `na"me` }),
			metric:  newMetric("cpu", nil, pairs("measurement", "mine")),
			want:    `"_msg":"cpu","na\"me":"cpu","measurement":"mine"}`,
		},
		{
			name:   "neither tags nor fields",
			metric: newMetric("cpu", nil, nil),
			want:   `"_msg":"cpu","measurement":"cpu"}`,
		},
		{
			name:    "no name",
			metric:  newMetric("", nil, pairs("n", int64(1))),
			want:    `"_msg":"unnamed","measurement":"unnamed","n":1}`,
			repairs: map[string]int64{"empty_name": 1},
		},
		{
			name:    "invalid UTF-8 in the values",
			metric:  newMetric("a\xff", map[string]string{"t": "\xc3("}, pairs("f", "x\xe2\x82y\xed\xa0\x80")),
			want:    `"_msg":"a` + "\ufffd" + `","measurement":"a` + "\ufffd" + `","t":"` + "\ufffd(" + `","f":"x` + "\ufffd\ufffdy\ufffd\ufffd\ufffd" + `"}`,
			repairs: map[string]int64{"invalid_utf8": 7},
		},

		// The message.
		{
			name:   "first message field that the metric has",
			metric: newMetric("log", nil, pairs("msg", "second", "n", int64(1), "message", "first")),
			want:   `"_msg":"first","measurement":"log","msg":"second","n":1}`,
		},
		{
			name:   "empty message gives way to the next",
			metric: newMetric("log", nil, pairs("message", "", "msg", "second")),
			want:   `"_msg":"second","measurement":"log","message":""}`,
		},
		{
			name:   "empty messages give way to the name",
			metric: newMetric("log", nil, pairs("message", "", "msg", "")),
			want:   `"_msg":"log","measurement":"log","message":"","msg":""}`,
		},
		{name: "integer message", metric: newMetric("log", nil, pairs("message", int64(0))), want: `"_msg":"0","measurement":"log"}`},
		{name: "float message", metric: newMetric("log", nil, pairs("message", 1e300)), want: `"_msg":"1e+300","measurement":"log"}`},
		{name: "bool message", metric: newMetric("log", nil, pairs("message", false)), want: `"_msg":"false","measurement":"log"}`},
		{
			name: "message that is no number", metric: newMetric("log", nil, pairs("message", math.NaN(), "n", int64(1))),
			want: `"_msg":"NaN","measurement":"log","n":1}`, repairs: map[string]int64{"non_finite": 1},
		},
		{name: "message is no tag", metric: newMetric("log", map[string]string{"message": "tag"}, nil), want: `"_msg":"log","measurement":"log","message":"tag"}`},
		{
			name:    "message field of the server's own name",
			encoder: newEncoder(func(e *encoder) { e.messageFields = []string{"_msg"} }),
			metric:  newMetric("log", nil, pairs("_msg", "hello", "n", int64(1))),
			want:    `"_msg":"hello","measurement":"log","n":1}`,
		},
		{
			name:   "message beside a tag of that name", // the field leaves its name, so nothing is repaired
			metric: newMetric("log", map[string]string{"message": "tag"}, pairs("message", "field", "n", int64(1))),
			want:   `"_msg":"field","measurement":"log","message":"tag","n":1}`,
		},
		{
			name:    "no message fields",
			encoder: newEncoder(func(e *encoder) { e.messageFields = nil }),
			metric:  newMetric("log", nil, pairs("message", "hello")),
			want:    `"_msg":"log","measurement":"log","message":"hello"}`,
		},

		// The measurement's name.
		{
			name:    "override",
			encoder: newEncoder(func(e *encoder) { e.nameOverride = "other" }),
			metric:  newMetric("cpu", nil, nil), want: `"_msg":"other","measurement":"other"}`,
		},
		{
			name:    "prefix and suffix",
			encoder: newEncoder(func(e *encoder) { e.namePrefix, e.nameSuffix = `a"`, "_z" }),
			metric:  newMetric("cpu", nil, nil), want: `"_msg":"a\"cpu_z","measurement":"a\"cpu_z"}`,
		},
		{
			name:    "override, prefix and suffix", // in Telegraf's order
			encoder: newEncoder(func(e *encoder) { e.nameOverride, e.namePrefix, e.nameSuffix = "other", "a_", "_z" }),
			metric:  newMetric("cpu", nil, nil), want: `"_msg":"a_other_z","measurement":"a_other_z"}`,
		},
		{
			name:    "prefix of nothing",
			encoder: newEncoder(func(e *encoder) { e.namePrefix = "a_" }),
			metric:  newMetric("", nil, nil), want: `"_msg":"a_","measurement":"a_"}`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := tt.encoder
			if e == nil {
				e = newEncoder()
			}
			want := tt.repairs
			if want == nil {
				want = map[string]int64{}
			}
			require.Equal(t, start2024+tt.want+"\n", encode(t, e, tt.metric))
			require.Equal(t, want, repairsOf(e), "repairs")
			require.Empty(t, repairsOf(e), "repairs are taken once")
			require.Equal(t, start2024+tt.want+"\n", encode(t, e, tt.metric), "the second time")
		})
	}
}

func TestValues(t *testing.T) {
	tests := []struct {
		value any
		want  string
	}{
		{"text", `"text"`},
		{"", `""`},
		{true, "true"},
		{false, "false"},
		{int64(0), "0"},
		{int64(-1), "-1"},
		{int64(1<<53 + 1), "9007199254740993"},
		{int64(math.MaxInt64), "9223372036854775807"},
		{int64(math.MinInt64), "-9223372036854775808"},
		{uint64(math.MaxUint64), "18446744073709551615"},
		{int8(-8), "-8"},
		{[]byte("bytes"), `"bytes"`},
		{math.NaN(), `"NaN"`},
		{math.Inf(1), `"+Inf"`},
		{math.Inf(-1), `"-Inf"`},
		{0.1, "0.1"},
		{5.0, "5"},
		{1e20, "100000000000000000000"},
		{1e21, "1e+21"},
		{float32(0.5), "0.5"},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%T %v", tt.value, tt.value), func(t *testing.T) {
			line := encode(t, newEncoder(), newMetric("m", nil, pairs("v", tt.value)))
			require.Equal(t, start2024+`"_msg":"m","measurement":"m","v":`+tt.want+"}\n", line)
		})
	}
	t.Run("a type that Telegraf does not have", func(t *testing.T) {
		m := newMetric("m", nil, pairs("v", "x"))
		m.FieldList()[0].Value = 90 * time.Second
		require.Equal(t, "1m30s", readLine(t, encode(t, newEncoder(), m))["v"])
	})
	t.Run("no value", func(t *testing.T) { // what metric.AddField makes of a type that it does not know
		row := readLine(t, encode(t, newEncoder(), newMetric("m", nil, pairs("v", nil, "message", nil))))
		require.Nil(t, row["v"], "a word that nobody sent must not become data")
		require.Equal(t, "m", row["_msg"], "no message is no message")
	})
}

// Each finite float must be a number that reads back to the same bits, and no longer than encoding/json makes it but for
// the leading zero of its exponent.
func TestFloats(t *testing.T) {
	values := []float64{0, math.Copysign(0, -1), math.MaxFloat64, math.SmallestNonzeroFloat64, 1e-6, 9.99e-7, 1e21, 1 << 53, 0.1, 1.0 / 3}
	random := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		values = append(values, math.Float64frombits(random.Uint64()), random.NormFloat64())
		decimal := float64(random.Int64N(int64(math.Pow10(1+random.IntN(17))))) / math.Pow10(random.IntN(9)) // as sensors have them
		values = append(values, decimal, -decimal, math.Nextafter(decimal, 0), math.Nextafter(decimal, math.MaxFloat64))
	}
	e := newEncoder()
	for _, v := range values {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			continue
		}
		got := string(e.appendValue(nil, v))
		oracle, err := json.Marshal(v)
		require.NoError(t, err)
		require.True(t, json.Valid([]byte(got)), got)
		require.LessOrEqual(t, len(got), len(oracle)+1, "%s against %s", got, oracle)
		back, err := strconv.ParseFloat(got, 64)
		require.NoError(t, err)
		require.Equal(t, math.Float64bits(v), math.Float64bits(back), got)
		if !strings.Contains(got, "e") {
			require.Equal(t, strconv.FormatFloat(v, 'f', -1, 64), got)
		}
	}
}

func TestEscapes(t *testing.T) {
	texts := []string{"", `"`, `\`, `\"`, "/", "<>&'", "\u2028\u2029", "é😀", "\ufffd", "\ufeff", "\U0010ffff", "a\x00b", strings.Repeat("\x01", 100)}
	for b := range 256 {
		texts = append(texts, string([]byte{byte(b)}), "a"+string([]byte{byte(b)})+"z", string([]byte{'\xc3', byte(b)}))
	}
	e := newEncoder()
	for _, text := range texts {
		want := string([]rune(text)) // each invalid byte becomes U+FFFD
		got := e.appendString(nil, text)
		require.True(t, utf8.Valid(got), "%q", text)
		for _, b := range got {
			require.GreaterOrEqual(t, b, byte(' '), "%q has a raw control character", text)
		}
		var back string
		require.NoError(t, json.Unmarshal(got, &back), "%q", text)
		require.Equal(t, want, back)

		row := readLine(t, encode(t, e, newMetric(text+"m", map[string]string{"t" + text: text}, pairs("f"+text, text))))
		require.Equal(t, want+"m", row["_msg"])
		key := strings.ToValidUTF8(text, "\ufffd")
		require.Equal(t, want, row["t"+key])
		require.Equal(t, want, row["f"+key])
	}
}

func TestNames(t *testing.T) {
	long := strings.Repeat("n", 128)
	wide := strings.Repeat("é", 80) // 160 bytes
	odd := "x" + wide               // the cut falls into a character
	tag := func(key string) map[string]string { return map[string]string{key: "tag"} }
	site := newEncoder(withExtra(map[string]string{"site": "berlin"}))
	shortOf := func(name string) string { return shortened(name) }

	tests := []struct {
		name    string
		encoder *encoder
		metric  telegraf.Metric
		want    map[string]any // beside _time, _msg, measurement and extra fields
		repairs map[string]int64
	}{
		{
			name:    "the server's own names",
			metric:  newMetric("m", tag("_time"), pairs("_msg", "a", "_stream", "b", "_stream_id", "c")),
			want:    map[string]any{"_time_": "tag", "_msg_": "a", "_stream_": "b", "_stream_id_": "c"},
			repairs: map[string]int64{"reserved_name": 4},
		},
		{
			name:    "the server's own name in a tag and a field",
			metric:  newMetric("m", tag("_time"), pairs("_time", "field")),
			want:    map[string]any{"_time_": "tag", "_time__": "field"},
			repairs: map[string]int64{"reserved_name": 2},
		},
		{
			name:    "a repaired name that is taken",
			metric:  newMetric("m", nil, pairs("_time", "a", "_time_", "b")),
			want:    map[string]any{"_time__": "a", "_time_": "b"},
			repairs: map[string]int64{"reserved_name": 1},
		},
		{
			name:    "tag and field",
			metric:  newMetric("m", tag("key"), pairs("key", "field")),
			want:    map[string]any{"key": "tag", "key_": "field"},
			repairs: map[string]int64{"duplicate_name": 1},
		},
		{
			name:    "tag and field, and a third with the repaired name",
			metric:  newMetric("m", map[string]string{"key": "tag", "key_": "tag_"}, pairs("key", "field", "key__", "field__")),
			want:    map[string]any{"key": "tag", "key_": "tag_", "key__": "field__", "key___": "field"},
			repairs: map[string]int64{"duplicate_name": 1},
		},
		{
			name:    "empty in a tag and a field",
			metric:  newMetric("m", tag(""), pairs("", "field", "unnamed", "mine")),
			want:    map[string]any{"unnamed": "mine", "unnamed_": "tag", "unnamed__": "field"},
			repairs: map[string]int64{"empty_name": 2, "duplicate_name": 2},
		},
		{
			name:    "measurement",
			metric:  newMetric("m", tag("measurement"), pairs("measurement", int64(5))),
			want:    map[string]any{"measurement_": "tag", "measurement__": json.Number("5")},
			repairs: map[string]int64{"duplicate_name": 2},
		},
		{
			name:    "an extra field",
			encoder: site,
			metric:  newMetric("m", tag("site"), pairs("site_", "field")),
			want:    map[string]any{"site__": "tag", "site_": "field"},
			repairs: map[string]int64{"duplicate_name": 1},
		},
		{
			name:   "128 bytes",
			metric: newMetric("m", tag(long), pairs(wide[:128], "field")),
			want:   map[string]any{long: "tag", wide[:128]: "field"},
		},
		{
			name:    "over 128 bytes, and alike in the first 128",
			metric:  newMetric("m", tag(long+"a"), pairs(long+"b", "b", long, "short")),
			want:    map[string]any{shortOf(long + "a"): "tag", shortOf(long + "b"): "b", long: "short"},
			repairs: map[string]int64{"long_name": 2},
		},
		{
			name:    "over 128 bytes, with the cut in a character",
			metric:  newMetric("m", tag(wide), pairs(odd, "field")),
			want:    map[string]any{shortOf(wide): "tag", shortOf(odd): "field"},
			repairs: map[string]int64{"long_name": 2},
		},
		{
			name:    "over 128 bytes, and the shortened one is there already",
			metric:  newMetric("m", tag(long+"a"), pairs(shortOf(long+"a"), "field")),
			want:    map[string]any{shortOf(shortOf(long+"a") + "_"): "tag", shortOf(long + "a"): "field"},
			repairs: map[string]int64{"long_name": 1, "duplicate_name": 1},
		},
		{
			name:    "128 bytes in a tag and a field",
			metric:  newMetric("m", tag(long), pairs(long, "field")),
			want:    map[string]any{long: "tag", shortOf(long + "_"): "field"},
			repairs: map[string]int64{"duplicate_name": 1},
		},
		{
			name:    "invalid UTF-8",
			metric:  newMetric("m", tag("a\xff"), pairs("b\xc3", "field")),
			want:    map[string]any{"a\ufffd": "tag", "b\ufffd": "field"},
			repairs: map[string]int64{"invalid_utf8": 2},
		},
		{
			name:    "invalid UTF-8 that becomes a name that is there already",
			metric:  newMetric("m", tag("a\ufffd"), pairs("a\xff", "field")),
			want:    map[string]any{"a\ufffd": "tag", "a\ufffd_": "field"},
			repairs: map[string]int64{"invalid_utf8": 1, "duplicate_name": 1},
		},
		{
			name:    "128 bytes of invalid UTF-8, which the repair lengthens",
			metric:  newMetric("m", nil, pairs(strings.Repeat("a\xff", 64), "field")),
			want:    map[string]any{shortOf(strings.Repeat("a\ufffd", 64)): "field"},
			repairs: map[string]int64{"invalid_utf8": 1, "long_name": 1},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := tt.encoder
			if e == nil {
				e = newEncoder()
			}
			line := encode(t, e, tt.metric)
			row := readLine(t, line)
			for _, own := range append([]string{"_time", "_msg", "measurement"}, e.taken[5:]...) {
				require.Contains(t, row, own)
				delete(row, own)
			}
			require.Equal(t, tt.want, row)
			want := tt.repairs
			if want == nil {
				want = map[string]int64{}
			}
			require.Equal(t, want, repairsOf(e), "repairs")
		})
	}
}

func TestShortened(t *testing.T) {
	for _, name := range []string{strings.Repeat("n", 129), strings.Repeat("é", 80), "x" + strings.Repeat("é", 80), strings.Repeat("😀", 1000)} {
		got := shortened(name)
		require.LessOrEqual(t, len(got), maxNameBytes)
		require.Greater(t, len(got), maxNameBytes-utf8.UTFMax)
		require.True(t, utf8.ValidString(got))
		require.Equal(t, got, shortened(name))
		require.NotEqual(t, got, shortened(name+"n"))
	}
}

func TestTimes(t *testing.T) {
	zone := time.FixedZone("east", 14*3600)
	tests := []struct {
		name string
		time time.Time
		want string // empty: only that it reads back
	}{
		{"2024", received2024, "1709208000123456789"},
		{"another zone", received2024.In(zone), "1709208000123456789"},
		{"1960", time.Date(1960, 1, 1, 0, 0, 0, 1, time.UTC), `"1960-01-01T00:00:00.000000001Z"`},
		{"zero of Unix", time.Unix(0, 0), `"1970-01-01T00:00:00Z"`},
		{"second day of 1970", time.Date(1970, 1, 2, 3, 4, 5, 6, time.UTC), `"1970-01-02T03:04:05.000000006Z"`},
		{"second day of 1970 in another zone", time.Date(1970, 1, 2, 3, 4, 5, 6, zone), `"1970-01-01T13:04:05.000000006Z"`},
		{"first of 1971", time.Date(1971, 1, 1, 0, 0, 0, 0, time.UTC), "31536000000000000"},
		{"first of 1971, in 1970 still", time.Date(1971, 1, 1, 0, 0, 0, 0, zone), ""},
		{"2261", time.Date(2261, 12, 31, 23, 59, 59, 999999999, time.UTC), "9214646399999999999"},
		{"2262", time.Date(2262, 1, 1, 0, 0, 0, 0, time.UTC), ""},
		{"2262 in 2261 still", time.Date(2262, 1, 1, 0, 0, 0, 0, zone), ""},
		{"last that the server reads", time.Unix(0, math.MaxInt64), ""},
		{"first that the server reads", time.Unix(0, math.MinInt64), `"1677-09-21T00:12:43.145224192Z"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := metric.New("m", nil, nil, tt.time)
			line := encode(t, newEncoder(func(e *encoder) { e.maxFuture = 0 }), m)
			if tt.want != "" {
				require.Equal(t, `{"_time":`+tt.want+`,"_msg":"m","measurement":"m"}`+"\n", line)
			}
			requireTime(t, tt.time, readLine(t, line)["_time"])
		})
	}
}

// VictoriaLogs holds int64 nanoseconds. A line with another time is malformed to it: among good lines it answers 200 and
// drops it, so the row must be rejected here, whatever the bounds.
func TestTimesThatNoServerTakes(t *testing.T) {
	for want, years := range map[error][]int{errTooOld: {-1, 0, 1, 1600, 1677}, errTooNew: {2263, 2300, 9999, 10_000}} {
		for _, year := range years {
			t.Run(strconv.Itoa(year), func(t *testing.T) {
				e := newEncoder(func(e *encoder) { e.maxFuture = 0 })
				_, err := e.appendLine(nil, metric.New("m", nil, nil, time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)), received2024)
				require.ErrorIs(t, err, want)
			})
		}
	}
}

func TestAge(t *testing.T) {
	bound := newEncoder(func(e *encoder) { e.maxAge, e.maxFuture = time.Hour, time.Minute })
	unbound := newEncoder(func(e *encoder) { e.maxFuture = 0 })
	tests := []struct {
		name    string
		encoder *encoder
		offset  time.Duration
		want    error
	}{
		{"as old as may be", bound, -time.Hour, nil},
		{"too old", bound, -time.Hour - 1, errTooOld},
		{"as new as may be", bound, time.Minute, nil},
		{"too new", bound, time.Minute + 1, errTooNew},
		{"no bound, old", unbound, -50 * 365 * 24 * time.Hour, nil},
		{"no bound, new", unbound, 50 * 365 * 24 * time.Hour, nil},
		{"default, old", newEncoder(), -50 * 365 * 24 * time.Hour, nil},
		{"default, new", newEncoder(), 48*time.Hour + 1, errTooNew},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			now := time.Now()
			before := []byte("before")
			line, err := tt.encoder.appendLine(before, metric.New("m", nil, nil, now.Add(tt.offset)), now)
			require.ErrorIs(t, err, tt.want)
			if tt.want != nil {
				require.Equal(t, before, line)
			}
		})
	}
}

func TestLineLength(t *testing.T) {
	fixed := len(encode(t, newEncoder(), newMetric("m", nil, pairs("f", ""))))
	tests := []struct {
		name string
		text string
		want error
	}{
		{"256000 bytes", strings.Repeat("x", 256_000-fixed), nil},
		{"256001 bytes", strings.Repeat("x", 256_001-fixed), errLineTooLong},
		{"256000 bytes when escaped", strings.Repeat("\n", (256_000-fixed)/2), nil},
		{"too long when escaped only", strings.Repeat("\x00", 100_000), errLineTooLong},
		{"4 MiB", strings.Repeat("x", 4<<20), errLineTooLong},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := newEncoder()
			line, err := e.appendLine([]byte("before"), newMetric("m", nil, pairs("f", tt.text)), received2024)
			require.ErrorIs(t, err, tt.want)
			if tt.want != nil {
				require.Equal(t, "before", string(line))
				return
			}
			require.InDelta(t, 256_000+len("before"), len(line), 1)
			require.Equal(t, tt.text, readLine(t, string(line[len("before"):]))["f"])
		})
	}
}

func TestFieldCount(t *testing.T) {
	tests := []struct {
		name         string
		tags, fields int
		message      bool
		encoder      *encoder
		want         error
	}{
		{"1000", 500, 497, false, newEncoder(), nil},
		{"1001", 500, 498, false, newEncoder(), errTooManyFields},
		{"1000 with a message", 0, 996, true, newEncoder(), nil},
		{"1000 with a message of its own", 0, 997, true, newEncoder(), nil},
		{"1001 with a message", 0, 998, true, newEncoder(), errTooManyFields},
		{"1000 with extra fields", 0, 995, false, newEncoder(withExtra(map[string]string{"a": "", "b": ""})), nil},
		{"1001 with extra fields", 0, 996, false, newEncoder(withExtra(map[string]string{"a": "", "b": ""})), errTooManyFields},
		{"1000 without a measurement", 0, 998, false, newEncoder(func(e *encoder) { e.measurementField = "" }), nil},
		{"1001 without a measurement", 0, 999, false, newEncoder(func(e *encoder) { e.measurementField = "" }), errTooManyFields},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tags, fields := make(map[string]string), make(map[string]any)
			for i := range tt.tags {
				tags["tag"+strconv.Itoa(i)] = "x"
			}
			for i := range tt.fields {
				fields["field"+strconv.Itoa(i)] = i
			}
			if tt.message {
				fields["message"] = "hello"
			}
			line, err := tt.encoder.appendLine(nil, metric.New("m", tags, fields, received2024), received2024)
			require.ErrorIs(t, err, tt.want)
			if err == nil {
				row := readLine(t, string(line))
				require.LessOrEqual(t, len(row), maxFields)
				require.GreaterOrEqual(t, len(row), maxFields-1)
			}
		})
	}
}

// awkward are names and texts that have gone wrong somewhere.
var awkward = []string{
	"", "a", "a_", "a__", "_time", "_time_", "_msg", "_stream", "_stream_id", "measurement", "measurement_", "site", "site_", "unnamed",
	"unnamed_", "message", "msg", "a\xff", "a\xfe", "a\ufffd", "a\ufffd_", "\x00", `"`, `\`, "a,b", "a.b", " ", "\n", "é", strings.Repeat("n", 128),
	strings.Repeat("n", 129), strings.Repeat("n", 128) + "_", strings.Repeat("é", 64), strings.Repeat("é", 65), strings.Repeat("\xff", 128),
}

func awkwardMetric(random *rand.Rand) telegraf.Metric {
	pick := func() string { return awkward[random.IntN(len(awkward))] }
	m := metric.New(pick(), nil, nil, received2024)
	for range random.IntN(6) {
		m.AddTag(pick(), pick())
	}
	for i := range random.IntN(8) {
		m.AddField(pick(), []any{pick(), random.Int64(), random.Uint64(), random.NormFloat64(), math.NaN(), i%2 == 0}[random.IntN(6)])
	}
	return m
}

func TestNoKeyRepeatsAndNoValueIsLost(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	extra := map[string]string{"site": "berlin", "a__": "x"}
	for name, e := range map[string]*encoder{"defaults": newEncoder(), "extra fields": newEncoder(withExtra(extra))} {
		t.Run(name, func(t *testing.T) {
			for range 2000 {
				m := awkwardMetric(random)
				line := encode(t, e, m)
				requireRow(t, e, m, line)
				require.Equal(t, line, encode(t, e, m), "the same metric is the same line")
			}
		})
	}
}

// A source whose fields come in another order each time, as those of a Go map do, must find each under the same name.
func TestNamesDoNotDependOnTheOrder(t *testing.T) {
	for _, tt := range []struct {
		name   string
		fields []telegraf.Field
	}{
		{"clean", pairs("a", int64(1), "b", int64(2))},
		{"reserved", pairs("_time", int64(1), "_time_", int64(2), "_msg", int64(3))},
		{"clash with extra field", pairs("site", int64(1), "site_", int64(2))},
		{"clash with measurement", pairs("measurement", int64(1), "measurement_", int64(2))},
		{"long", pairs(strings.Repeat("n", 129), int64(1), strings.Repeat("n", 130), int64(2))},
		{"invalid UTF-8", pairs("a\xff", int64(1), "a\xfe", int64(2))},
		{"empty and clash", pairs("", int64(1), "unnamed", int64(2))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := newEncoder(withExtra(map[string]string{"site": "berlin"}))
			want := readLine(t, encode(t, e, newMetric("m", nil, tt.fields)))
			slices.Reverse(tt.fields)
			require.Equal(t, want, readLine(t, encode(t, e, newMetric("m", nil, tt.fields))))
		})
	}
}

// readLine reads one line of JSON as a strict reader does.
func readLine(tb testing.TB, line string) map[string]any {
	tb.Helper()
	require.True(tb, utf8.ValidString(line), "%q", line)
	require.Equal(tb, len(line)-1, strings.IndexByte(line, '\n'), "one line: %q", line)
	row := make(map[string]any)
	decoder := json.NewDecoder(strings.NewReader(line))
	decoder.UseNumber()
	open, err := decoder.Token()
	require.NoError(tb, err)
	require.Equal(tb, json.Delim('{'), open)
	for decoder.More() {
		token, err := decoder.Token()
		require.NoError(tb, err, "%q", line)
		key, ok := token.(string)
		require.True(tb, ok)
		value, err := decoder.Token()
		require.NoError(tb, err, "%q", line)
		require.NotContains(tb, row, key, "a key twice: %q", line)
		row[key] = value
	}
	closing, err := decoder.Token()
	require.NoError(tb, err)
	require.Equal(tb, json.Delim('}'), closing)
	_, err = decoder.Token()
	require.ErrorIs(tb, err, io.EOF)
	return row
}

// requireRow holds a line against the metric: each value is there once, under its own name if the server keeps that.
func requireRow(tb testing.TB, e *encoder, m telegraf.Metric, line string) {
	tb.Helper()
	row := readLine(tb, line)
	require.LessOrEqual(tb, len(line), maxLineBytes)
	require.LessOrEqual(tb, len(row), maxFields)
	take := func(key string) any {
		require.Contains(tb, row, key, "%q", line)
		value := row[key]
		delete(row, key)
		return value
	}

	requireTime(tb, m.Time(), take("_time"))
	name := m.Name()
	if name == "" {
		name = "unnamed"
	}
	message := findMessage(e, m)
	if message == nil {
		require.True(tb, isSame(name, take("_msg")), "_msg: %q", line)
	} else {
		require.True(tb, isSameText(message.Value, take("_msg")), "_msg: %q", line)
	}
	own := []string{"_time", "_msg", "_stream", "_stream_id"}
	if e.measurementField != "" {
		require.True(tb, isSame(name, take(e.measurementField)), "%q", line)
		own = append(own, e.measurementField)
	}
	for _, extra := range e.taken[len(own):] {
		take(extra)
		own = append(own, extra)
	}

	var renamed []any
	for _, tag := range m.TagList() {
		if keeps(tag.Key, own) {
			require.True(tb, isSame(tag.Value, take(tag.Key)), "tag %q: %q", tag.Key, line)
		} else {
			renamed = append(renamed, tag.Value)
		}
	}
	for _, field := range m.FieldList() {
		switch {
		case field == message:
		case keeps(field.Key, own) && !m.HasTag(field.Key):
			require.True(tb, isSame(field.Value, take(field.Key)), "field %q: %q", field.Key, line)
		default:
			renamed = append(renamed, field.Value)
		}
	}
	require.Len(tb, row, len(renamed), "%q", line)
	slices.SortStableFunc(renamed, func(a, b any) int { // an integer beyond 2^53 also looks like its neighbour float
		_, aFloat := a.(float64)
		_, bFloat := b.(float64)
		return map[bool]int{true: 1}[aFloat] - map[bool]int{true: 1}[bFloat]
	})
	for _, value := range renamed {
		found := false
		for _, key := range sortedKeys(row) {
			require.LessOrEqual(tb, len(key), maxNameBytes)
			require.NotEmpty(tb, key)
			if isSame(value, row[key]) {
				delete(row, key)
				found = true
				break
			}
		}
		require.True(tb, found, "%v is lost: %q", value, line)
	}
}

func keeps(name string, own []string) bool {
	return name != "" && len(name) <= 128 && utf8.ValidString(name) && !slices.Contains(own, name)
}

func findMessage(e *encoder, m telegraf.Metric) *telegraf.Field {
	for _, name := range e.messageFields {
		for _, field := range m.FieldList() {
			if field.Key == name && field.Value != "" {
				return field
			}
		}
	}
	return nil
}

func isSame(value, read any) bool {
	switch v := value.(type) {
	case string:
		return read == string([]rune(v))
	case bool:
		return read == v
	case int64:
		return read == json.Number(strconv.FormatInt(v, 10))
	case uint64:
		return read == json.Number(strconv.FormatUint(v, 10))
	case float64:
		switch {
		case math.IsNaN(v):
			return read == "NaN"
		case math.IsInf(v, 1):
			return read == "+Inf"
		case math.IsInf(v, -1):
			return read == "-Inf"
		}
		number, ok := read.(json.Number)
		if !ok {
			return false
		}
		back, err := number.Float64()
		return err == nil && math.Float64bits(back) == math.Float64bits(v)
	}
	return false
}

// isSameText is isSame for a value that became text.
func isSameText(value, read any) bool {
	text, ok := read.(string)
	if !ok {
		return false
	}
	switch v := value.(type) {
	case string:
		return isSame(v, text)
	case bool:
		return text == strconv.FormatBool(v)
	}
	return isSame(value, json.Number(text)) || isSame(value, text)
}

func requireTime(tb testing.TB, want time.Time, read any) {
	tb.Helper()
	switch v := read.(type) {
	case json.Number:
		ns, err := v.Int64()
		require.NoError(tb, err)
		require.GreaterOrEqual(tb, ns, int64(1e6)<<31, "VictoriaLogs would read microseconds")
		require.True(tb, want.Equal(time.Unix(0, ns)), "%s became %d", want, ns)
	case string:
		got, err := time.Parse(time.RFC3339Nano, v)
		require.NoError(tb, err)
		require.True(tb, want.Equal(got), "%s became %s", want, v)
	default:
		require.FailNow(tb, "_time is neither", "%T", read)
	}
}

func FuzzEncode(f *testing.F) {
	for i, text := range awkward {
		other := awkward[(i*7+3)%len(awkward)]
		f.Add(uint8(i), int64(i)*1e18, text, text, other, other, text, text, other, int64(i)<<53+1, math.Float64bits(1/float64(i)))
	}
	f.Add(uint8(0), int64(0), "m", "key", "v", "key", "v", "message", "", int64(-1), uint64(1))
	f.Add(uint8(1), int64(-1), "m", strings.Repeat("n", 200), "v", strings.Repeat("n", 201), "v", "a", strings.Repeat("\x00", 50_000), int64(0), uint64(0))

	f.Fuzz(func(t *testing.T, options uint8, ns int64, name, tagKey, tagValue, otherTag, fieldKey, otherField, text string, n int64, bits uint64) {
		e := newEncoder()
		switch options % 4 {
		case 1:
			e = newEncoder(func(e *encoder) { e.measurementField, e.maxFuture = "", 0 })
		case 2:
			e = newEncoder(withExtra(map[string]string{"site": "x\xff", "a_": ""}))
		case 3:
			e = newEncoder(func(e *encoder) { e.messageFields, e.maxAge = []string{"a", "_msg"}, time.Hour })
		}
		m := metric.New(name, nil, nil, time.Unix(0, ns))
		m.AddTag(tagKey, tagValue)
		m.AddTag(otherTag, text)
		m.AddField(fieldKey, text)
		m.AddField(otherField, n)
		m.AddField(fieldKey+otherField, math.Float64frombits(bits))
		m.AddField(otherField+fieldKey, uint64(n))
		m.AddField(text, tagValue)
		m.AddField(tagKey, n%2 == 0)

		line, err := e.appendLine([]byte("before"), m, time.Unix(0, 1709208000e9))
		if err != nil {
			require.Equal(t, "before", string(line))
			known := false
			for _, reason := range []error{errLineTooLong, errTooManyFields, errTooOld, errTooNew} {
				known = known || errors.Is(err, reason)
			}
			require.True(t, known, "unknown reason: %v", err)
			return
		}
		requireRow(t, e, m, strings.TrimPrefix(string(line), "before"))
		again, err := e.appendLine([]byte("before"), m, time.Unix(0, 1709208000e9))
		require.NoError(t, err)
		require.Equal(t, string(line), string(again), "which the encoder remembers")
	})
}

func typicalMetric() telegraf.Metric {
	return newMetric("plc", map[string]string{"host": "gateway-17", "site": "berlin", "line": "4", "device": "press/01"}, pairs(
		"temperature", 71.25, "count", int64(9007199254740993), "energy", uint64(184467440737), "running", true,
		"state", "idle \"waiting\"\nfor part", "message", "Spindle temperature is above its limit"))
}

func TestAppendLineAllocatesNothing(t *testing.T) {
	e, m := newEncoder(), typicalMetric()
	buffer, err := e.appendLine(nil, m, received2024)
	require.NoError(t, err)
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		buffer, err = e.appendLine(buffer[:0], m, received2024)
	}))
	require.NoError(t, err)
}

// BenchmarkEncode compares with others. side_by_side takes short turns, so that a busy machine slows all of them down
// alike, and tells of each how many times as long as ours it takes, garbage collection included.
func BenchmarkEncode(b *testing.B) {
	metrics := make([]telegraf.Metric, 16) // of as many devices: the encoder remembers what rows have in common
	for i := range metrics {
		metrics[i] = typicalMetric()
		metrics[i].AddTag("device", fmt.Sprintf("press/%02d", i))
		metrics[i].AddField("temperature", 60+float64(i)*1.05)
		metrics[i].AddField("count", int64(9007199254740993+i))
	}
	line := []byte(encode(b, newEncoder(), metrics[0]))
	e, buffer := newEncoder(), make([]byte, 0, 4096)
	n := 0
	next := func() telegraf.Metric {
		n++
		return metrics[n%len(metrics)]
	}
	serializer := &telegrafjson.Serializer{}
	require.NoError(b, serializer.Init())
	ways := []struct {
		name   string
		encode func() error
	}{
		{"ours", func() error {
			_, err := e.appendLine(buffer, next(), received2024)
			return err
		}},
		{"telegraf_json", func() error {
			_, err := serializer.Serialize(next())
			return err
		}},
		{"encoding_json", func() error {
			m := next()
			row := map[string]any{"_time": m.Time().UnixNano(), "measurement": m.Name()}
			for _, tag := range m.TagList() {
				row[tag.Key] = tag.Value
			}
			for _, field := range m.FieldList() {
				row[field.Key] = field.Value
			}
			_, err := json.Marshal(row)
			return err
		}},
		{"copy", func() error {
			buffer = append(buffer[:0], line...)
			return nil
		}},
	}
	for _, way := range ways {
		b.Run(way.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := way.encode(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("side_by_side", func(b *testing.B) {
		total := make([]time.Duration, len(ways))
		for b.Loop() {
			for i, way := range ways {
				begin := time.Now()
				for range 200 {
					if err := way.encode(); err != nil {
						b.Fatal(err)
					}
				}
				total[i] += time.Since(begin)
			}
		}
		for i, way := range ways[1:] {
			b.ReportMetric(float64(total[i+1])/float64(total[0]), way.name+"/ours")
		}
	})
}

// TestTimesInTurn has times of the same second and of others in turn, with all digits and with none behind the second.
func TestTimesInTurn(t *testing.T) {
	e, random := newEncoder(), rand.New(rand.NewPCG(3, 4))
	second := int64(365 * 24 * 3600)
	for range 1000 {
		switch random.IntN(4) {
		case 0:
			second = 365*24*3600 + random.Int64N(8_000_000_000)
		case 1:
			second++
		}
		ns := second*1e9 + []int64{0, 1, 999_999_999, random.Int64N(1e9)}[random.IntN(4)]
		require.Equal(t, strconv.FormatInt(ns, 10), string(e.appendTime(nil, time.Unix(0, ns))))
	}
}

// TestRowsOfDifferentNames has rows whose names and texts are those of the row before at the same places, or others, or not
// plain, since the encoder remembers them.
func TestRowsOfDifferentNames(t *testing.T) {
	e, random := newEncoder(), rand.New(rand.NewPCG(5, 6))
	names := []string{"a", "b", "ab", "_msg", "", `q"`, "ü", "measurement", "message"}
	texts := []string{"t", "u", "tt", "", `"`, `"t`, `":"`, "ü", "\xff", strings.Repeat("l", 64), strings.Repeat("l", 65)}
	one := func(of []string) string { return of[random.IntN(len(of))] }
	for range 20_000 {
		tags, fields := make(map[string]string), []any{}
		for range random.IntN(3) {
			tags[one(names)] = one(texts)
		}
		for range 1 + random.IntN(3) {
			fields = append(fields, one(names), []any{one(texts), int64(1), 2.5}[random.IntN(3)])
		}
		m := newMetric(one([]string{"m", "m", "n", "", `q"`, "\xff"}), tags, pairs(fields...))
		fresh := newEncoder()
		require.Equal(t, encode(t, fresh, m), encode(t, e, m))
		require.Equal(t, fresh.repaired, e.repaired)
		e.takeRepairs(func(repair, int64) {})
	}
}

// TestRowsThatDifferInLength has names at places that the row before did not reach, or that were its message's.
func TestRowsThatDifferInLength(t *testing.T) {
	a, dup := map[string]string{"a": "1"}, map[string]string{"dup": "1"}
	for name, between := range map[string]telegraf.Metric{
		"shorter": newMetric("m", dup, pairs("f", int64(1))),
		"message": newMetric("m", dup, pairs("f", int64(1), "message", "x")),
	} {
		t.Run(name, func(t *testing.T) {
			e := newEncoder()
			for _, m := range []telegraf.Metric{
				newMetric("m", a, pairs("f", int64(1), "dup", int64(2))), between, newMetric("m", dup, pairs("f", int64(1), "dup", int64(2))),
			} {
				require.Equal(t, encode(t, newEncoder(), m), encode(t, e, m))
			}
		})
	}
}

// TestRowsInAnyOrder encodes rows of few names, so that each name is a tag's, a field's and a message's in turn.
func TestRowsInAnyOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	names := []string{"a", "b", "c", "message", "msg", "_msg", ""}
	e := newEncoder()
	for range 20_000 {
		tags, fields := map[string]string{}, []any{}
		for range random.IntN(3) {
			tags[names[random.IntN(len(names))]] = "x"
		}
		order := random.Perm(len(names))
		for _, i := range order[:random.IntN(5)] {
			fields = append(fields, names[i], "y")
		}
		m := newMetric("m", tags, pairs(fields...))
		require.Equal(t, encode(t, newEncoder(), m), encode(t, e, m))
	}
}

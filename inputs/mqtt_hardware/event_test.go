package mqtt_hardware

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

var eventTime = time.Date(2024, 5, 6, 7, 8, 9, 123456789, time.UTC)

type fields = map[string]any

func asText(text string) fields { return fields{"message": text} }

func TestReadEvent(t *testing.T) {
	tests := []struct {
		name    string
		payload string
		want    fields
	}{
		// Objects.
		{"flat", `{"a":1,"b":"two","c":true,"d":false,"e":1.5}`, fields{"a": int64(1), "b": "two", "c": true, "d": false, "e": 1.5}},
		{"nested", `{"a":{"b":{"c":1}},"d":2}`, fields{"a.b.c": int64(1), "d": int64(2)}},
		{"array", `{"a":[1, {"b":2},"x"]}`, fields{"a": `[1, {"b":2},"x"]`}},
		{"empty array", `{"a":[]}`, fields{"a": `[]`}},
		{"nested empty object is no field", `{"a":{},"b":1}`, fields{"b": int64(1)}},
		{"null is left out", `{"a":null,"b":1}`, fields{"b": int64(1)}},
		{"space around", " \t\r\n{ \"a\" : 1 } \n", fields{"a": int64(1)}},
		{"empty string", `{"a":""}`, fields{"a": ""}},
		{"empty name", `{"":1}`, fields{"": int64(1)}},
		{"names that look like paths", `{"@pretty":1,"a|b":2,"#":3,"a*":4,"?":5}`, fields{
			"@pretty": int64(1), "a|b": int64(2), "#": int64(3), "a*": int64(4), "?": int64(5),
		}},

		// Numbers.
		{"2^53+1", `{"a":9007199254740993}`, fields{"a": int64(9007199254740993)}},
		{"int64 max", `{"a":9223372036854775807}`, fields{"a": int64(math.MaxInt64)}},
		{"int64 min", `{"a":-9223372036854775808}`, fields{"a": int64(math.MinInt64)}},
		{"above int64", `{"a":9223372036854775808}`, fields{"a": uint64(1 << 63)}},
		{"uint64 max", `{"a":18446744073709551615}`, fields{"a": uint64(math.MaxUint64)}},
		{"above uint64", `{"a":18446744073709551616}`, fields{"a": "18446744073709551616"}},
		{"below int64", `{"a":-9223372036854775809}`, fields{"a": "-9223372036854775809"}},
		{"minus zero", `{"a":-0}`, fields{"a": int64(0)}},
		{"float of a whole number", `{"a":1.0}`, fields{"a": 1.0}},
		{"exponents", `{"a":1e3,"b":25E-1,"c":-1.5e+2}`, fields{"a": 1000.0, "b": 2.5, "c": -150.0}},
		{"float64 max", `{"a":1.7976931348623157e308}`, fields{"a": math.MaxFloat64}},
		{"beyond float64", `{"a":1e400,"b":-1e400}`, fields{"a": "1e400", "b": "-1e400"}},

		// Names that meet.
		{"duplicates", `{"a":1,"a":2,"a":3}`, fields{"a": int64(1), "a_2": int64(2), "a_3": int64(3)}},
		{"flattened meets flat", `{"a.b":1,"a":{"b":2}}`, fields{"a.b": int64(1), "a.b_2": int64(2)}},
		{"flat meets flattened", `{"a":{"b":2},"a.b":1}`, fields{"a.b": int64(2), "a.b_2": int64(1)}},
		{"the free name is taken, too", `{"a":1,"a":2,"a_2":3}`, fields{"a": int64(1), "a_2": int64(2), "a_2_2": int64(3)}},
		{"the free name was taken before", `{"a_2":1,"a":2,"a":3}`, fields{"a_2": int64(1), "a": int64(2), "a_3": int64(3)}},
		{"a duplicate that is null", `{"a":1,"a":null}`, fields{"a": int64(1)}},

		// Strings.
		{"escapes", `{"a":"line\nline\t\"quoted\" \\ \/ é 😀"}`, fields{"a": "line\nline\t\"quoted\" \\ / é 😀"}},
		{"unicode escapes", `{"a":"\u00e9 \ud83d\ude00 \u0000"}`, fields{"a": "é 😀 \x00"}},
		{"escapes in a name", `{"a\n\"\u00e9":1}`, fields{"a\n\"é": int64(1)}},
		{"high surrogate alone", `{"a":"x\ud800y"}`, fields{"a": "x\ufffdy"}},
		{"low surrogate alone", `{"a":"x\udc00y"}`, fields{"a": "x\ufffdy"}},
		{"surrogates in the wrong order", `{"a":"\udc00\ud800"}`, fields{"a": "\ufffd\ufffd"}},
		{"surrogate before another escape", `{"a":"\ud800\u0041\u0042"}`, fields{"a": "\ufffdAB"}},
		{"surrogate in a name", `{"\ud800":1}`, fields{"\ufffd": int64(1)}},

		// Whatever else is text.
		{"empty object", `{}`, asText(`{}`)},
		{"only null", `{"a":null}`, asText(`{"a":null}`)},
		{"only empty objects", `{"a":{"b":{}}}`, asText(`{"a":{"b":{}}}`)},
		{"number", `42`, asText(`42`)},
		{"string", `"x"`, asText(`"x"`)},
		{"bool", `true`, asText(`true`)},
		{"null", `null`, asText(`null`)},
		{"array at the top", `[{"a":1}]`, asText(`[{"a":1}]`)},
		{"plain text", "temperature is 21 °C\n", asText("temperature is 21 °C\n")},
		{"braces in text", "{not json}", asText("{not json}")},
		{"empty payload", "", asText("")},
		{"spaces", "  ", asText("  ")},
		{"byte order mark", "\ufeff{\"a\":1}", asText("\ufeff{\"a\":1}")},
		{"garbage behind", `{"a":1}x`, asText(`{"a":1}x`)},
		{"two objects", `{"a":1}{"b":2}`, asText(`{"a":1}{"b":2}`)},
		{"cut off", `{"a":1`, asText(`{"a":1`)},
		{"comma at the end", `{"a":1,}`, asText(`{"a":1,}`)},
		{"raw newline in a string", "{\"a\":\"x\ny\"}", asText("{\"a\":\"x\ny\"}")},
		{"leading zero", `{"a":01}`, asText(`{"a":01}`)},
		{"leading plus", `{"a":+1}`, asText(`{"a":+1}`)},
		{"point without digits", `{"a":1.}`, asText(`{"a":1.}`)},
		{"minus alone", `{"a":-}`, asText(`{"a":-}`)},
		{"NaN", `{"a":NaN}`, asText(`{"a":NaN}`)},
		{"single quotes", `{'a':1}`, asText(`{'a':1}`)},
		{"comment", `{"a":1/*x*/}`, asText(`{"a":1/*x*/}`)},
		{"NUL", "\x00", asText("\x00")},

		// No text at all.
		{"no UTF-8", "\xff\x00", fields{"payload_base64": "/wA="}},
		{"no UTF-8 within JSON", "{\"a\":\"\xff\"}", fields{"payload_base64": base64.StdEncoding.EncodeToString([]byte("{\"a\":\"\xff\"}"))}},
		{"surrogate as bytes", "\xed\xa0\x80", fields{"payload_base64": "7aCA"}},
		{"cut in a rune", "caf\xc3", fields{"payload_base64": "Y2Fmww=="}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			payload := []byte(tt.payload)
			m := readEvent(payload, eventTime)
			clear(payload) // the metric must not lean on memory of the MQTT library
			require.Equal(t, tt.want, m.Fields())
			require.Equal(t, "mqtt", m.Name())
			require.Equal(t, eventTime, m.Time())
			require.Empty(t, m.Tags())
		})
	}
}

func TestReadEventDepth(t *testing.T) {
	nested := func(depth int) string {
		return strings.Repeat(`{"a":`, depth) + "1" + strings.Repeat("}", depth)
	}
	name := strings.TrimSuffix(strings.Repeat("a.", maxDepth), ".")
	require.Equal(t, fields{name: int64(1)}, readEvent([]byte(nested(maxDepth)), eventTime).Fields())

	const many = 100_000
	for name, text := range map[string]string{
		"one too deep":        nested(maxDepth + 1),
		"closed objects":      nested(many),
		"open objects":        strings.Repeat(`{"a":`, many),
		"closed arrays":       `{"a":` + strings.Repeat("[", many) + strings.Repeat("]", many) + "}",
		"open arrays":         `{"a":` + strings.Repeat("[", many),
		"behind a quote":      `{"\"` + strings.Repeat("[", many),
		"arrays at the top":   strings.Repeat("[", many),
		"closing beforehand":  "{" + strings.Repeat("]", many) + strings.Repeat("[", 2*many),
		"quotes do not count": `{"a"` + strings.Repeat(`"[`, many),
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, asText(text), readEvent([]byte(text), eventTime).Fields())
		})
	}

	text := `{"a":"` + strings.Repeat("[{", many) + `"}`
	require.Equal(t, fields{"a": strings.Repeat("[{", many)}, readEvent([]byte(text), eventTime).Fields(), "brackets in a string")
}

func TestReadEventManyFields(t *testing.T) {
	object := func(n int) string {
		var b strings.Builder
		b.WriteByte('{')
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, `"f%d":%d`, i, i)
		}
		b.WriteByte('}')
		return b.String()
	}
	most := readEvent([]byte(object(maxFields)), eventTime).Fields()
	require.Len(t, most, maxFields)
	require.EqualValues(t, maxFields-1, most["f"+strconv.Itoa(maxFields-1)])
	for _, text := range []string{object(maxFields + 1), object(50_000), `{"a":` + object(600) + `,"b":` + object(600) + `}`} {
		require.Equal(t, asText(text), readEvent([]byte(text), eventTime).Fields())
	}
}

// A short payload must not become huge: each nested name repeats its prefix.
func TestReadEventNamesStayBounded(t *testing.T) {
	var b strings.Builder
	fmt.Fprintf(&b, `{"%s":{"f":0`, strings.Repeat("n", 64<<10))
	for i := range maxFields - 1 {
		fmt.Fprintf(&b, `,"f%d":0`, i)
	}
	b.WriteString("}}")
	size := 0
	for name := range readEvent([]byte(b.String()), eventTime).Fields() {
		size += len(name)
	}
	require.Less(t, size, 20*b.Len(), "bytes of names made of a payload of %d bytes", b.Len())
}

// A short payload must not take long: looking for a free name is the work that could grow with the square of the fields.
func TestReadEventManyEqualNames(t *testing.T) {
	payload := []byte(`{"a":0` + strings.Repeat(`,"a":0`, maxFields-1) + `}`)
	require.Len(t, readEvent(payload, eventTime).Fields(), maxFields)
	allocations := testing.AllocsPerRun(1, func() { readEvent(payload, eventTime) })
	require.Less(t, allocations, 20.0*maxFields, "allocations for %d fields", maxFields)
}

func FuzzReadEvent(f *testing.F) {
	for _, seed := range []string{
		`{"a":1,"b":{"c":[1,2],"d":null}}`, `{"a":9007199254740993,"a":1e400}`, `{"a":"\ud800\u0041"}`, `{"a.b":1,"a":{"b":2}}`,
		`{"":{"":{}}}`, `{}`, `[]`, ``, "text\n", "\xff", "\ufeff{}", `{"a":1}x`, strings.Repeat(`{"a":`, 70), `{"a":"` + "\x7f" + `"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		m := readEvent(payload, eventTime)
		got := m.Fields()
		require.NotEmpty(t, got)
		require.LessOrEqual(t, len(got), maxFields)
		for name, value := range got {
			require.True(t, utf8.ValidString(name), "name %q", name)
			switch v := value.(type) {
			case string:
				require.True(t, utf8.ValidString(v), "value of %q", name)
				require.LessOrEqual(t, len(v), base64.StdEncoding.EncodedLen(len(payload))+8)
			case int64, uint64, bool:
			case float64:
				require.False(t, math.IsNaN(v) || math.IsInf(v, 0), "value of %q", name)
			default:
				require.Fail(t, "not a type of Telegraf", "%q is a %T", name, value)
			}
		}

		// What is no object stays as it is; what is one has all the strings that encoding/json finds.
		var object map[string]any
		decoder := json.NewDecoder(bytes.NewReader(payload))
		decoder.UseNumber()
		if !utf8.Valid(payload) {
			require.Equal(t, fields{"payload_base64": base64.StdEncoding.EncodeToString(payload)}, got)
		} else if !json.Valid(payload) || decoder.Decode(&object) != nil || object == nil {
			require.Equal(t, asText(string(payload)), got)
		} else if got["message"] != string(payload) {
			values := make(map[any]bool, len(got))
			for _, value := range got {
				values[value] = true
			}
			for name, value := range object {
				if text, ok := value.(string); ok {
					require.True(t, values[text], "the value %q of %q is missing in %v", text, name, got)
				}
			}
		}
	})
}

var benchmarkPayload = []byte(`{"device":"press-7","temperature":71.25,"pressure":1013,"rpm":1480,"ok":true,"pos":{"x":1.5,"y":-2,"z":0},` +
	`"counter":9007199254740993,"message":"cycle \"fast\" done","codes":[1,2,3]}`)

func BenchmarkReadEvent(b *testing.B) {
	b.Run("readEvent", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(benchmarkPayload)))
		for b.Loop() {
			readEvent(benchmarkPayload, eventTime)
		}
	})
	b.Run("encoding_json", func(b *testing.B) { // the decoding alone, without a metric
		b.ReportAllocs()
		b.SetBytes(int64(len(benchmarkPayload)))
		for b.Loop() {
			var into map[string]any
			if err := json.Unmarshal(benchmarkPayload, &into); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("same_name_900_times", func(b *testing.B) { // the worst that a payload of 6 kB can ask for
		payload := []byte(`{"a":0` + strings.Repeat(`,"a":0`, maxFields-1) + `}`)
		b.SetBytes(int64(len(payload)))
		for b.Loop() {
			readEvent(payload, eventTime)
		}
	})
}

package mqtt_hardware

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/selfstat"
	"github.com/influxdata/telegraf/testutil"
)

// requireValid finds what Telegraf or VictoriaLogs would not take.
func requireValid(tb testing.TB, m telegraf.Metric) {
	tb.Helper()
	fields := m.FieldList()
	require.NotEmpty(tb, fields)
	require.LessOrEqual(tb, len(fields)+len(m.TagList()), 1000)
	for _, field := range fields {
		if !utf8.ValidString(field.Key) {
			require.Fail(tb, "name is no UTF-8", "%q", field.Key)
		}
		switch v := field.Value.(type) {
		case string:
			if !utf8.ValidString(v) {
				require.Fail(tb, "value is no UTF-8", "%q", v)
			}
		case int64, uint64, bool:
		case float64:
			require.False(tb, math.IsNaN(v) || math.IsInf(v, 0), field.Key)
		default:
			require.Fail(tb, "not a type of Telegraf", "%q is a %T", field.Key, v)
		}
	}
	for _, tag := range m.TagList() {
		require.True(tb, utf8.ValidString(tag.Value), tag.Key)
	}
	require.True(tb, time.Unix(0, m.Time().UnixNano()).Equal(m.Time()), "the time %v", m.Time())
}

// newPlugin returns one that is ready to read payloads.
func newPlugin(tb testing.TB, change func(p *MQTTHardware)) *MQTTHardware {
	tb.Helper()
	p := New()
	p.Topics, p.Log = []string{"#"}, &testutil.CaptureLogger{}
	p.Statistics = selfstat.NewCollector(map[string]string{"test": tb.Name(), "instance": strconv.FormatInt(instances.Add(1), 10)})
	tb.Cleanup(p.Statistics.UnregisterAll)
	change(p)
	require.NoError(tb, p.Init())
	return p
}

func TestPayloadOptionsWrong(t *testing.T) {
	tests := []struct {
		name   string
		change func(p *MQTTHardware)
		says   []string // key, value, remedy
	}{
		{"payload_format", func(p *MQTTHardware) { p.PayloadFormat = "xml" }, []string{`payload_format = "xml"`, "sparkplug_b"}},
		{"payload_format empty", func(p *MQTTHardware) { p.PayloadFormat = "" }, []string{`payload_format = ""`, "auto"}},
		{"on_malformed", func(p *MQTTHardware) { p.OnMalformed = "log" }, []string{`on_malformed = "log"`, "event or drop"}},
		{"max_payload_size", func(p *MQTTHardware) { p.MaxPayloadSize = -1 }, []string{"max_payload_size = -1", "0", "1MiB"}},
		{"payload_format beside data_format", func(p *MQTTHardware) {
			p.PayloadFormat, p.DataFormat = "json", "influx"
		}, []string{`payload_format = "json"`, `data_format = "influx"`, "one of them"}},
		{"strip_ansi beside data_format", func(p *MQTTHardware) {
			p.StripANSI, p.DataFormat = true, "influx"
		}, []string{"strip_ansi = true", `data_format = "influx"`}},
		{"timestamp_field beside data_format", func(p *MQTTHardware) {
			p.TimestampField, p.TimestampFormat, p.DataFormat = "ts", "unix", "influx"
		}, []string{`timestamp_field = "ts"`, `data_format = "influx"`}},
		{"no timestamp_format", func(p *MQTTHardware) { p.TimestampField = "ts" }, []string{`timestamp_format = ""`, "unix_ms"}},
		{"timestamp_format", func(p *MQTTHardware) {
			p.TimestampField, p.TimestampFormat = "ts", "iso"
		}, []string{`timestamp_format = "iso"`, "rfc3339"}},
		{"timestamp_format alone", func(p *MQTTHardware) { p.TimestampFormat = "unix" }, []string{`timestamp_format = "unix"`, "timestamp_field"}},
		{"timestamp_timezone", func(p *MQTTHardware) { p.TimestampTimezone = "Mars" }, []string{`timestamp_timezone = "Mars"`, "Europe/Berlin"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := New()
			p.Topics, p.Log, p.Statistics = []string{"#"}, &testutil.CaptureLogger{}, statistics(t)
			tt.change(p)
			err := p.Init()
			require.Error(t, err)
			for _, part := range tt.says {
				require.ErrorContains(t, err, part)
			}
			require.NotContains(t, err.Error(), "\n")
		})
	}
}

func TestDetect(t *testing.T) {
	tests := []struct{ topic, contentType, want string }{
		{"a", "", formatAuto},
		{"a", "application/json", formatJSON},
		{"a", "Application/JSON; charset=utf-8", formatJSON},
		{"a", "application/senml+json", formatJSON},
		{"a", "application/cbor", formatCBOR},
		{"a", "application/senml+cbor", formatCBOR},
		{"a", "application/msgpack", formatMsgpack},
		{"a", "application/x-msgpack", formatMsgpack},
		{"a", "application/vnd.msgpack", formatMsgpack},
		{"a", "text/plain", formatText},
		{"a", "TEXT/csv;header=present", formatText},
		{"a", "application/octet-stream", formatAuto},
		{"spBv1.0/G/NDATA/N", "", formatSparkplug},
		{"spBv1.0/G/DDATA/N/D", "application/json", formatSparkplug},
		{"spBv1.0/STATE/H", "", formatSparkplug},
		{"spBv1.0/G/NDATA", "", formatAuto},
		{"spBv1.0/G/NDATA/N/D", "", formatAuto},
		{"spBv1.0/G/NOTE/N", "", formatAuto},
		{"x/spBv1.0/G/NDATA/N", "", formatAuto},
		{"spBv1.0", "text/plain", formatText},
	}
	for _, tt := range tests {
		require.Equal(t, tt.want, detect(tt.topic, tt.contentType), "%s, %s", tt.topic, tt.contentType)
	}
}

// Each payload under each format that says what it must be.
func TestPayloadFormats(t *testing.T) {
	const deep = maxDepth + 1
	tests := []struct {
		format, payload string
		want            []fields // without what error says
		malformed       bool
	}{
		{formatJSON, `{"a":1}`, []fields{{"a": int64(1)}}, false},
		{formatJSON, `[1]`, []fields{{"message": "[1]"}}, false},
		{formatJSON, `42`, []fields{{"message": "42"}}, false},
		{formatJSON, ``, []fields{{"message": ""}}, false},
		{formatJSON, `{"a":`, []fields{{"message": `{"a":`}}, true},
		{formatJSON, "\xff", []fields{{"payload_base64": "/w=="}}, true},
		{formatJSON, strings.Repeat("[", deep) + strings.Repeat("]", deep), []fields{{"message": strings.Repeat("[", deep) + strings.Repeat("]", deep)}}, false},
		{formatText, `{"a":1}`, []fields{{"message": `{"a":1}`}}, false},
		{formatText, ``, []fields{{"message": ""}}, false},
		{formatText, "\xff", []fields{{"payload_base64": "/w=="}}, true},
		{formatBytes, `{"a":1}`, []fields{{"payload_base64": "eyJhIjoxfQ=="}}, false},
		{formatBytes, ``, []fields{{"message": ""}}, false},
		{formatLogfmt, `a=1 b="x y" c`, []fields{{"a": int64(1), "b": "x y", "c": ""}}, false},
		{formatLogfmt, "a=1\n\na=2\n", []fields{{"a": int64(1)}, {"a": int64(2)}}, false},
		{formatLogfmt, `a=1 a=2`, []fields{{"a": int64(1), "a_2": int64(2)}}, false},
		{formatLogfmt, `a=-0.5 b=1e3 c=01 d=+1 e=0x1 f=inf g=NaN h=- i=true j=TRUE k=18446744073709551615`, []fields{{
			"a": -0.5, "b": 1000.0, "c": "01", "d": "+1", "e": "0x1", "f": "inf", "g": "NaN", "h": "-", "i": true, "j": "TRUE",
			"k": uint64(math.MaxUint64),
		}}, false},
		{formatLogfmt, `plain words`, []fields{{"message": "plain words"}}, true},
		{formatLogfmt, " \n", []fields{{"message": " \n"}}, true},
		{formatLogfmt, "a=\"open", []fields{{"message": "a=\"open"}}, true},
		{formatLogfmt, "a=1\n=2", []fields{{"a": int64(1)}, {"message": "a=1\n=2"}}, true},
		{formatLogfmt, "\xff", []fields{{"payload_base64": "/w=="}}, true},
		{formatLogfmt, strings.Repeat("a=1 ", maxFields+1), []fields{{"message": strings.Repeat("a=1 ", maxFields+1)}}, true},
		{formatCBOR, ``, []fields{{"message": ""}}, false},
		{formatCBOR, "\xa1\x61a\x01", []fields{{"a": int64(1)}}, false},
		{formatCBOR, "\xa0", []fields{{"message": "{}"}}, false},
		{formatCBOR, "\xa2\x61a\x01\x61a\x02", []fields{{"payload_base64": "omFhAWFhAg=="}}, true}, // a name twice
		{formatCBOR, "\xa1\x41a\x01", []fields{{"YQ==": int64(1)}}, false},                         // a name of bytes
		{formatCBOR, "\xa1\xf5\x01", []fields{{"true": int64(1)}}, false},
		{formatCBOR, "\xa1\x80\x01", []fields{{"payload_base64": "oYAB"}}, true}, // an array for a name
		{formatCBOR, "\x62\xc3\x28", []fields{{"payload_base64": "YsMo"}}, true}, // text that is no UTF-8
		{formatCBOR, strings.Repeat("\x81", deep) + "\x01", []fields{{
			"payload_base64": base64.StdEncoding.EncodeToString([]byte(strings.Repeat("\x81", deep) + "\x01")),
		}}, true},
		{formatCBOR, "\x9b\x7f\xff\xff\xff\xff\xff\xff\xff", []fields{{"payload_base64": "m3//////////"}}, true}, // 2^63 elements
		{formatCBOR, "\xa1\x61a\xf8\xff", []fields{{"a": int64(255)}}, false},                                    // a simple value
		{formatCBOR, "\xa1\x61a\xc4\x82\x01\x61x", []fields{{"a": `[1,"x"]`}}, false},                            // no decimal fraction
		{formatCBOR, "\xa1\x61a\x61\"", []fields{{"a": `"`}}, false},
		{formatMsgpack, ``, []fields{{"message": ""}}, false},
		{formatMsgpack, "\x81\xa1a\x01", []fields{{"a": int64(1)}}, false},
		{formatMsgpack, "\x80", []fields{{"message": "{}"}}, false},
		{formatMsgpack, "\xa1x", []fields{{"message": "x"}}, false},
		{formatMsgpack, "\xc0", []fields{{"message": "null"}}, false},
		{formatMsgpack, "\xa1\xff", []fields{{"message": "/w=="}}, false}, // text that is bytes
		{formatMsgpack, "\x81\xa1a\xa2\"\\", []fields{{"a": `"\`}}, false},
		{formatMsgpack, "\xc1", []fields{{"payload_base64": "wQ=="}}, true},
		{formatMsgpack, "\xdf\xff\xff\xff\xff", []fields{{"payload_base64": "3/////8="}}, true}, // 2^32-1 members
		{formatMsgpack, "\x01\x02", []fields{{"message": "1"}, {"payload_base64": "AQI="}}, true},
		{formatMsgpack, strings.Repeat("\x91", deep) + "\x01", []fields{{
			"payload_base64": base64.StdEncoding.EncodeToString([]byte(strings.Repeat("\x91", deep) + "\x01")),
		}}, true},
		{formatMsgpack, "\x81\xa1a\xc7\x03\x05\x01\x02\x03", []fields{{"a.type": int64(5), "a.data": "AQID"}}, false},
		{formatMsgpack, "\x81\xa1a\xc7\x03\xff\x01\x02\x03", []fields{{"payload_base64": "gaFhxwP/AQID"}}, true}, // a time of 3 bytes
		{formatMsgpack, "\x81\xa1a\xc7\x0c\xff\x00\x00\x00\x01\xff\xff\xff\xff\xff\xff\xff\xff", []fields{{
			"a": "1969-12-31T23:59:59.000000001Z",
		}}, false},
		{formatMsgpack, "\xd4", []fields{{"payload_base64": "1A=="}}, true},
		{formatSparkplug, ``, []fields{{"message": ""}}, false},
		{formatSparkplug, "\xff", []fields{{"payload_base64": "/w=="}}, true},
	}
	for _, tt := range tests {
		name := tt.payload
		t.Run(tt.format+" "+fmt.Sprintf("%.20q", name), func(t *testing.T) {
			p := newPlugin(t, func(p *MQTTHardware) { p.PayloadFormat = tt.format })
			payload := []byte(tt.payload)
			metrics, malformed := p.parse(payload, "t", "", eventTime)
			clear(payload) // the metric must not lean on memory of the MQTT library
			require.Equal(t, tt.malformed, malformed)
			var got []fields
			said := false
			for _, m := range metrics {
				requireValid(t, m)
				said = said || m.HasField("error")
				m.RemoveField("error")
				got = append(got, m.Fields())
			}
			require.Equal(t, tt.want, got)
			require.Equal(t, malformed, said)
		})
	}
}

// The bounds hold whatever the format: what is beyond is kept as text.
func TestPayloadBounds(t *testing.T) {
	var cborMap, msgpackMap bytes.Buffer
	cborMap.Write([]byte{0xb9, 0x03, 0xe8}) // 1000 members
	msgpackMap.Write([]byte{0xde, 0x03, 0xe8})
	for i := range 1000 {
		fmt.Fprintf(&cborMap, "\x63%03d\x01", i)
		fmt.Fprintf(&msgpackMap, "\xa3%03d\x01", i)
	}
	for format, payload := range map[string][]byte{formatCBOR: cborMap.Bytes(), formatMsgpack: msgpackMap.Bytes()} {
		p := newPlugin(t, func(p *MQTTHardware) { p.PayloadFormat = format })
		metrics, malformed := p.parse(payload, "t", "", eventTime)
		require.False(t, malformed)
		require.Len(t, metrics, 1)
		require.Len(t, metrics[0].FieldList(), 1)
		require.Contains(t, metrics[0].Fields()["message"], `{"000":1,"001":1`)
	}

	p := newPlugin(t, func(p *MQTTHardware) { p.PayloadFormat = formatLogfmt })
	metrics, malformed := p.parse([]byte(strings.Repeat("a=1\n", maxEvents+1)), "t", "", eventTime)
	require.True(t, malformed)
	require.Len(t, metrics, maxEvents+1)
	require.True(t, metrics[maxEvents].HasField("message"), "the whole payload behind what was read")
}

func TestPayloadTooLarge(t *testing.T) {
	p := newPlugin(t, func(p *MQTTHardware) { p.MaxPayloadSize = 10 })
	metrics, malformed := p.parse([]byte("0123456789"), "t", "", eventTime)
	require.False(t, malformed)
	require.Equal(t, asText("0123456789"), metrics[0].Fields())

	metrics, malformed = p.parse([]byte("0123456789x"), "t", "", eventTime)
	require.True(t, malformed)
	require.Equal(t, fields{
		"message": "0123456789", "error": "the payload has 11 bytes, and max_payload_size = 10; these are the first 10",
	}, metrics[0].Fields())

	metrics, _ = p.parse([]byte("012345678é9"), "t", "", eventTime)
	require.Equal(t, "012345678", metrics[0].Fields()["message"], "cut in front of a rune")

	metrics, _ = p.parse(bytes.Repeat([]byte{0xff}, 11), "t", "", eventTime)
	require.Equal(t, toBase64(bytes.Repeat([]byte{0xff}, 10)), metrics[0].Fields()["payload_base64"])

	p = newPlugin(t, func(p *MQTTHardware) { p.MaxPayloadSize = 1 << 20 })
	metrics, malformed = p.parse(bytes.Repeat([]byte("a"), 1<<20+1), "t", "", eventTime)
	require.True(t, malformed)
	require.Len(t, metrics[0].Fields()["message"], keptOfLarge)

	p = newPlugin(t, func(p *MQTTHardware) { p.MaxPayloadSize = 0 })
	metrics, malformed = p.parse(bytes.Repeat([]byte("a"), 1<<20+1), "t", "", eventTime)
	require.False(t, malformed)
	require.Len(t, metrics[0].Fields()["message"], 1<<20+1)

	p = newPlugin(t, func(p *MQTTHardware) { p.PayloadFormat = formatCBOR })
	metrics, malformed = p.parse(make([]byte, maxTakenApart+1), "t", "", eventTime)
	require.True(t, malformed)
	require.Len(t, metrics[0].Fields()["payload_base64"], base64.StdEncoding.EncodedLen(maxTakenApart+1), "whole, but not taken apart")

	p = newPlugin(t, func(p *MQTTHardware) { // before the parser, which it would cost the memory
		p.MaxPayloadSize, p.DataFormat = 10, "influx"
		p.SetParserFunc(func() (telegraf.Parser, error) { return nil, nil }) //nolint:nilnil // it is not asked
	})
	_, malformed = p.parse(bytes.Repeat([]byte("a"), 11), "t", "", eventTime)
	require.True(t, malformed)
}

// What is dropped is acknowledged and counted.
func TestPayloadMalformedDropped(t *testing.T) {
	p := newPlugin(t, func(p *MQTTHardware) {
		p.PayloadFormat, p.OnMalformed = formatJSON, malformedDrop
		p.TopicParsing = []TopicParsing{{Topic: "n/+", Fields: "_/n", Types: map[string]string{"n": "int"}}}
	})
	for topic, payload := range map[string]string{"t": `{"a":`, "n/x": `{"a":1}`} {
		metrics, malformed := p.makeMetrics(plainMessage([]byte(payload), topic))
		require.Empty(t, metrics)
		require.True(t, malformed)
	}
	require.EqualValues(t, 2, p.payloads.dropped.Get())
	metrics, malformed := p.makeMetrics(plainMessage([]byte(`{"a":1}`), "n/1"))
	require.Len(t, metrics, 1)
	require.False(t, malformed)

	synctest.Test(t, func(t *testing.T) {
		r := run(t, 10)
		r.makeMetrics = p.makeMetrics
		m := qos1(1, `{"a":`)
		r.get(m)
		pass(time.Second)
		require.Equal(t, 1, m.acked())
		require.Zero(t, r.out.count())
		require.EqualValues(t, 1, r.stats.malformed.Get())
	})
}

// A device's own field error stays.
func TestPayloadOwnError(t *testing.T) {
	p := newPlugin(t, func(p *MQTTHardware) { p.TimestampField, p.TimestampFormat = "ts", "unix" })
	metrics, malformed := p.makeMetrics(plainMessage([]byte(`{"error":"E7","ts":"soon"}`), "t"))
	require.True(t, malformed)
	require.Equal(t, fields{
		"error": "E7", "ts": "soon", "error_2": `timestamp_field "ts": "soon" is no number of seconds, or is out of range`,
	}, metrics[0].Fields())
	require.Equal(t, eventTime, metrics[0].Time())
}

func TestPayloadTimestamp(t *testing.T) {
	utc := func(text string) time.Time {
		at, err := time.Parse(time.RFC3339Nano, text)
		require.NoError(t, err)
		return at
	}
	tests := []struct {
		format, zone, payload string
		want                  time.Time // zero: malformed
	}{
		{"unix", "", `{"ts":1700000000,"a":1}`, time.Unix(1700000000, 0)},
		{"unix", "", `{"ts":"1700000000","a":1}`, time.Unix(1700000000, 0)},
		{"unix", "", `{"ts":1700000000.123456789,"a":1}`, time.Unix(1700000000, 123456700)}, // 17 digits are what float64 has
		{"unix", "", `{"ts":"1700000000.123456789","a":1}`, time.Unix(1700000000, 123456789)},
		{"unix", "", `{"ts":"1700000000,5","a":1}`, time.Unix(1700000000, 500000000)},
		{"unix", "", `{"ts":1.7e9,"a":1}`, time.Unix(1700000000, 0)},
		{"unix", "", `{"ts":-1.5,"a":1}`, time.Unix(-1, -500000000)},
		{"unix", "", `{"ts":0,"a":1}`, time.Unix(0, 0)},
		{"unix_ms", "", `{"ts":1700000000123,"a":1}`, time.UnixMilli(1700000000123)},
		{"unix_ms", "", `{"ts":1700000000123.25,"a":1}`, time.Unix(1700000000, 123250000)},
		{"unix_us", "", `{"ts":1700000000123456,"a":1}`, time.UnixMicro(1700000000123456)},
		{"unix_ns", "", `{"ts":1700000000123456789,"a":1}`, time.Unix(0, 1700000000123456789)},
		{"unix_ns", "", `{"ts":"1700000000123456789.9","a":1}`, time.Unix(0, 1700000000123456789)},
		{"rfc3339", "", `{"ts":"2024-05-06T09:08:09.5+02:00","a":1}`, utc("2024-05-06T07:08:09.5Z")},
		{"RFC3339Nano", "", `{"ts":"2024-05-06T07:08:09.123456789Z","a":1}`, utc("2024-05-06T07:08:09.123456789Z")},
		{"2006-01-02 15:04:05", "Europe/Berlin", `{"ts":"2024-05-06 09:08:09","a":1}`, utc("2024-05-06T07:08:09Z")},
		{"2006-01-02 15:04:05", "", `{"ts":"2024-05-06 09:08:09","a":1}`, utc("2024-05-06T09:08:09Z")},
		{"20060102", "", `{"ts":20240506,"a":1}`, utc("2024-05-06T00:00:00Z")},
		{"2006-01-02 15:04:05 MST", "", `{"ts":"2024-05-06 09:08:09 CET","a":1}`, utc("2024-05-06T08:08:09Z")}, // as it says, although it is summer
		{"stamp", "", `{"ts":"May  5 01:02:03","a":1}`, utc("2024-05-05T01:02:03Z")},
		{"stamp", "", `{"ts":"Dec 31 23:59:59","a":1}`, utc("2023-12-31T23:59:59Z")}, // not the one to come
		{"unix", "", `{"a":{"ts":1},"ts":1700000000}`, time.Unix(1700000000, 0)},

		{"unix", "", `{"ts":"soon","a":1}`, time.Time{}},
		{"unix", "", `{"ts":"","a":1}`, time.Time{}},
		{"unix", "", `{"ts":"1e9","a":1}`, time.Time{}},
		{"unix", "", `{"ts":"1.2.3","a":1}`, time.Time{}},
		{"unix", "", `{"ts":true,"a":1}`, time.Time{}},
		{"unix", "", `{"ts":1e300,"a":1}`, time.Time{}},
		{"unix", "", `{"ts":10000000000,"a":1}`, time.Time{}}, // milliseconds, perhaps
		{"unix_ns", "", `{"ts":18446744073709551615,"a":1}`, time.Time{}},
		{"rfc3339", "", `{"ts":"9999-05-06T09:08:09Z","a":1}`, time.Time{}},
		{"rfc3339", "", `{"ts":"0001-01-01T00:00:00Z","a":1}`, time.Time{}},
		{"rfc3339", "", `{"ts":1700000000,"a":1}`, time.Time{}},
		{"2006-01-02 15:04:05 MST", "", `{"ts":"2024-05-06 09:08:09 XYZ","a":1}`, time.Time{}},
	}
	for _, tt := range tests {
		t.Run(tt.format+" "+tt.payload, func(t *testing.T) {
			p := newPlugin(t, func(p *MQTTHardware) {
				p.TimestampField, p.TimestampFormat, p.TimestampTimezone = "ts", tt.format, tt.zone
			})
			metrics, malformed := p.parse([]byte(tt.payload), "t", "", eventTime)
			m := metrics[0]
			requireValid(t, m)
			require.Equal(t, tt.want.IsZero(), malformed)
			require.Equal(t, malformed, m.HasField("error"))
			require.Equal(t, malformed, m.HasField("ts"), "it is taken away when it was used")
			if malformed {
				require.Equal(t, eventTime, m.Time())
				return
			}
			require.True(t, tt.want.Equal(m.Time()), "%v", m.Time())
		})
	}

	p := newPlugin(t, func(p *MQTTHardware) { p.TimestampField, p.TimestampFormat = "a.ts", "unix" })
	for payload, want := range map[string]struct {
		fields fields
		at     time.Time
	}{
		`{"a":{"ts":1700000000},"b":1}`: {fields{"b": int64(1)}, time.Unix(1700000000, 0)},
		`{"a":{"ts":1700000000}}`:       {fields{"a.ts": int64(1700000000)}, time.Unix(1700000000, 0)}, // a metric needs a field
		`{"a":{"ts":null},"b":1}`:       {fields{"b": int64(1)}, eventTime},
		`{"b":1}`:                       {fields{"b": int64(1)}, eventTime},
		`text`:                          {asText("text"), eventTime},
	} {
		metrics, malformed := p.parse([]byte(payload), "t", "", eventTime)
		require.False(t, malformed, payload)
		require.Equal(t, want.fields, metrics[0].Fields(), payload)
		require.True(t, want.at.Equal(metrics[0].Time()), payload)
	}
}

func TestStripANSI(t *testing.T) {
	for text, want := range map[string]string{
		"plain":                            "plain",
		"\x1b[0;32m[I][app:102]\x1b[0m":    "[I][app:102]",
		"a\x1b[1;31;40mb\x1b[Kc\x1b[2Jd":   "abcd",
		"\x1b[38;5;208morange\x1b[0m":      "orange",
		"\x1b[38:2::255:0:0mred\x1b[m":     "red",
		"an escape \x1b that is no colour": "an escape \x1b that is no colour",
		"cut off \x1b[0":                   "cut off \x1b[0",
	} {
		require.Equal(t, want, stripANSI(text))
	}
	p := newPlugin(t, func(p *MQTTHardware) { p.StripANSI = true })
	metrics, _ := p.parse([]byte(`{"line":"\u001b[0;36mhello\u001b[0m","n":1}`), "t", "", eventTime)
	require.Equal(t, fields{"line": "hello", "n": int64(1)}, metrics[0].Fields())
}

// fuzzPayload checks whatever comes out of a payload, and what it took to make that.
func fuzzPayload(t *testing.T, p *MQTTHardware, payload []byte, topic string) []telegraf.Metric {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	metrics, malformed := p.parse(payload, topic, "", eventTime)
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20+2000*len(payload)), "bytes for a payload of %d", len(payload))
	require.NotEmpty(t, metrics)
	require.LessOrEqual(t, len(metrics), maxEvents+2)
	names, said := 0, false
	for _, m := range metrics {
		requireValid(t, m)
		said = said || m.HasField("error")
		for _, field := range m.FieldList() {
			names += len(field.Key)
		}
	}
	require.LessOrEqual(t, names, 2*maxNames*len(payload)+128<<10)
	if malformed {
		require.True(t, said)
	}
	return metrics
}

func FuzzReadCBOR(f *testing.F) {
	for _, seed := range []string{
		"\xa1\x61a\x01", "\xbf\x61a\x9f\x01\xff\xff", "\xc2\x49\x01\x00\x00\x00\x00\x00\x00\x00\x00", "\xc1\xfb\x41\xd4\x52\xd9\xe2\x40\x00\x00",
		"\xa1\x61a\xc4\x82\x21\x19\x6a\xb3", "\xd8\x25\x50\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff", "\xf9\x7e\x00",
		"\x9b\x7f\xff\xff\xff\xff\xff\xff\xff", strings.Repeat("\x81", 70), "\xa1\x80\x01", "\x5f\x41a\x41b\xff", "\xa1\xfb\x7f\xf8\x00\x00\x00\x00\x00\x01\x01",
	} {
		f.Add([]byte(seed))
	}
	fuzzFormat(f, formatCBOR)
}

func FuzzReadMsgpack(f *testing.F) {
	for _, seed := range []string{
		"\x81\xa1a\x01", "\xde\x00\x01\xa1a\x91\xc0", "\xd6\xff\x66\x38\x80\x69", "\xc7\x0c\xff\x00\x00\x00\x01\xff\xff\xff\xff\xff\xff\xff\xff",
		"\xdf\xff\xff\xff\xff", strings.Repeat("\x91", 70), "\x81\xa1a\xd4\x03\x01", "\xca\x7f\xc0\x00\x00", "\xc9\x00\x00\x00\x01\x05a", "\x81\x80\x01",
	} {
		f.Add([]byte(seed))
	}
	fuzzFormat(f, formatMsgpack)
}

func FuzzReadLogfmt(f *testing.F) {
	for _, seed := range []string{
		`level=info msg="a b" n=1 f=1.5 ok=true`, "a=1\nb=2", `a="open`, "=1", "a", "\x00", `a="\ud800"`, "a==b", "é=ü", strings.Repeat("a=1 ", 901),
	} {
		f.Add([]byte(seed))
	}
	fuzzFormat(f, formatLogfmt)
}

func FuzzReadJSON(f *testing.F) {
	for _, seed := range []string{`{"a":1}`, `[1]`, `{`, "\xff", `1e400`, strings.Repeat("[", 70)} {
		f.Add([]byte(seed))
	}
	fuzzFormat(f, formatJSON)
}

func fuzzFormat(f *testing.F, format string) {
	f.Helper()
	p := newPlugin(f, func(p *MQTTHardware) { p.PayloadFormat = format })
	f.Fuzz(func(t *testing.T, payload []byte) {
		fuzzPayload(t, p, payload, "t")
	})
}

// Any timestamp, as text and as a number.
func FuzzTimestamp(f *testing.F) {
	formats := []string{"unix", "unix_ms", "unix_us", "unix_ns", "rfc3339", "rfc822", "2006-01-02 15:04:05 MST", "stamp", "15:04"}
	plugins := make([]*MQTTHardware, len(formats))
	for i, format := range formats {
		plugins[i] = newPlugin(f, func(p *MQTTHardware) { p.TimestampField, p.TimestampFormat = "ts", format })
	}
	for _, seed := range []string{"1700000000", "-1.5", "2024-05-06T07:08:09Z", "May  5 01:02:03", "06 May 24 09:08 CET", "1e9", "0", ""} {
		f.Add(uint8(0), seed, 1.5)
	}
	f.Fuzz(func(t *testing.T, which uint8, text string, number float64) {
		reader := plugins[int(which)%len(plugins)].payloads.timestamps
		for _, value := range []any{text, number, int64(number), uint64(math.Abs(number))} {
			if at, err := reader.parse(value, eventTime); err == nil {
				require.True(t, time.Unix(0, at.UnixNano()).Equal(at), "%v of %v", at, value)
			}
		}
	})
}

// The whole way of a payload in the plugin.
func BenchmarkMakeMetrics(b *testing.B) {
	bench := func(name, format string, payload []byte, topic string) {
		b.Run(name, func(b *testing.B) {
			p := newPlugin(b, func(p *MQTTHardware) { p.PayloadFormat = format })
			b.ReportAllocs()
			b.SetBytes(int64(len(payload)))
			for b.Loop() {
				p.makeMetrics(plainMessage(payload, topic))
			}
		})
	}
	bench("json", formatAuto, benchmarkPayload, "plant/press-7")
	bench("text", formatAuto, []byte("21.5"), "plant/press-7/temperature")
	bench("logfmt", formatLogfmt, []byte(`time=2024-05-06T07:08:09Z level=info msg="pump started" pump=3 pressure=4.25 ok=true`), "log/pump")
	bench("cbor", formatCBOR, []byte("\xa3\x61t\xf9\x4d\x60\x61n\x1b\x00\x20\x00\x00\x00\x00\x00\x01\x63pos\xa1\x61x\x20"), "plant/press-7")
	bench("msgpack", formatMsgpack, []byte("\x83\xa1t\xcb\x40\x35\x80\x00\x00\x00\x00\x00\xa1n\xcf\x00\x20\x00\x00\x00\x00\x00\x01\xa3pos\x81\xa1x\xff"), "plant/press-7")
	bench("sparkplug_b", formatAuto, sparkplugPayload(b, `timestamp: 1714979202000 seq: 2
		metrics { name: "Temperature" timestamp: 1714979202000 datatype: 9 float_value: 71.75 }
		metrics { name: "Pressure" timestamp: 1714979202000 datatype: 9 float_value: 4 }
		metrics { name: "Counter" timestamp: 1714979202000 datatype: 8 long_value: 7 }`), "spBv1.0/plant/DDATA/edge-1/press-7")
}

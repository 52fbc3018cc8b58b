package vlreceiver_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
)

const (
	noMsg    = "missing _msg field; see https://docs.victoriametrics.com/victorialogs/keyconcepts/#message-field"
	lokiPath = "/insert/loki/api/v1/push"
	good     = `{"_msg":"g"}` + "\n"
)

// contractCase is one request and what becomes of it. It holds for the stand-in and for VictoriaLogs alike.
type contractCase struct {
	name   string
	method string // POST if empty
	path   string // /insert/jsonline if empty
	query  string
	header map[string]string // Content-Type is application/stream+json unless named
	body   string

	status int    // 200 if 0
	answer string // a part of the body
	count  int
	rows   []fields // as a query answers them, without _stream_id; nil means unchecked, _time only if named
}

type fields = map[string]string

func row(kv ...string) fields {
	f := fields{"_stream": "{}"}
	for i := 0; i < len(kv); i += 2 {
		f[kv[i]] = kv[i+1]
	}
	return f
}

func contractCases(t *testing.T) []contractCase {
	t.Helper()
	now := time.Now().UTC()
	date := func(days int, clock string) string { return now.AddDate(0, 0, days).Format(time.DateOnly) + clock }
	ns := now.UnixNano()
	timed := func(value any) string {
		b, err := json.Marshal(map[string]any{"_msg": "a", "_time": value})
		require.NoError(t, err)
		return string(b)
	}
	at := func(ns int64) []fields {
		return []fields{row("_msg", "a", "_time", time.Unix(0, ns).UTC().Format(time.RFC3339Nano))}
	}
	encoded := func(encoding string) map[string]string { return map[string]string{"Content-Encoding": encoding} }
	a := []fields{row("_msg", "a")}
	g := []fields{row("_msg", "g")}

	cases := []contractCase{
		// Lines.
		{name: "one row", body: `{"_msg":"a","x":"1"}`, count: 1, rows: []fields{row("_msg", "a", "x", "1")}},
		{name: "no body"},
		{name: "empty lines", body: "\n\n\n"},
		{name: "empty object", body: `{}`, count: 1, rows: []fields{row("_msg", noMsg)}},
		{
			name: "crlf and spaces", body: "  {\"_msg\" : \"a\" , \"b\":1 }  \r\n", count: 1,
			rows: []fields{row("_msg", "a", "b", "1")},
		},
		{name: "no newline at the end", body: good + `{"_msg":"g"}`, count: 2},
		{name: "one malformed line among good ones", body: good + "bad\n" + good, count: 2},
		{name: "every line malformed", body: "bad\nworse\n", status: 400, answer: "cannot process jsonline request; error: "},
		{name: "no object", body: "[1]\n\"x\"\n5\n", status: 400, answer: "cannot process jsonline request"},
		{name: "tail after the object", body: `{"_msg":"a"} x`, status: 400},
		{name: "comma before the brace", body: `{"_msg":"a",}`, status: 400},
		{name: "object not closed", body: `{"_msg":"a"`, status: 400},
		{name: "string not closed", body: `{"_msg":"a\"}`, status: 400},
		{name: "nested 300 deep", body: `{"_msg":"a","x":` + strings.Repeat("[", 299) + strings.Repeat("]", 299) + "}", count: 1},
		{name: "nested 301 deep", body: `{"_msg":"a","x":` + strings.Repeat("[", 300) + strings.Repeat("]", 300) + "}", status: 400},

		// Values.
		{
			name:  "numbers and bools are kept as text",
			body:  `{"_msg":"a","n":1.50,"big":12345678901234567890.10,"e":1E+5,"t":true,"f":false,"z":null,"nan":NaN,"i":-inf,"w":1.2.3}`,
			count: 1,
			rows: []fields{row("_msg", "a", "n", "1.50", "big", "12345678901234567890.10", "e", "1E+5", "t", "true",
				"f", "false", "nan", "NaN", "i", "-inf", "w", "1.2.3")},
		},
		{name: "infinity", body: `{"_msg":"a","i":Infinity}`, status: 400},
		{name: "minus infinity among good ones", body: `{"_msg":"a","i":-Infinity}` + "\n" + good, count: 1, rows: g},
		{
			name: "objects are flattened and arrays become text", count: 1,
			body: `{"_msg":"a","o":{"p":{"q":1},"e":{},"s":"x"},"arr":[1, "a\u0041 b", {"b": null}],"em":[]}`,
			rows: []fields{row("_msg", "a", "o.p.q", "1", "o.s", "x", "arr", `[1,"a\u0041 b",{"b":null}]`, "em", "[]")},
		},
		{name: "empty names", body: `{"":"empty","a":{"":"x"}}`, count: 1, rows: []fields{row("_msg", "empty", "a.", "x")}},
		{name: "empty values are no fields", body: `{"_msg":"a","x":""}`, count: 1, rows: a},
		{
			name: "escapes", body: `{"_msg":"\u00e9\ud83d\ude00|\ud83d|\ud83d\u0041|\q|\u12|\n\t<'\"\\\/","k\u0041":"v"}`, count: 1,
			rows: []fields{row("_msg", "é😀|\\ud83d|\ufffd|\\q|\\u12|\n\t<'\"\\/", "kA", "v")},
		},
		{name: "raw tab", body: "{\"_msg\":\"a\tb\"}", count: 1, rows: []fields{row("_msg", "a\tb")}},
		{
			name: "duplicate keys in a row of its own", body: `{"_msg":"a","_msg":"b","x":"1","x":"2"}`, count: 1,
			rows: []fields{row("_msg", "a", "x", "2")},
		},
		{
			name: "an empty first duplicate", body: `{"_msg":"","_msg":"b","x":"1","x":""}`, count: 1,
			rows: []fields{row("_msg", "b", "x", "1")},
		},
		{name: "no message", body: `{"x":"1"}`, count: 1, rows: []fields{row("_msg", noMsg, "x", "1")}},
		{name: "empty message", body: `{"_msg":"","x":"1"}`, count: 1, rows: []fields{row("_msg", noMsg, "x", "1")}},
		{
			name: "own _stream", body: `{"_msg":"a","_stream":"own"}`, count: 1,
			rows: []fields{{"_msg": "a", "_stream": "own"}},
		},
		{
			name: "second _time", body: `{"_msg":"a","_time":"0","_time":"hello"}`, count: 1,
			rows: []fields{row("_msg", "a", "_time", "hello")},
		},

		// Names.
		{
			name: "name of 128 bytes", body: `{"_msg":"a","` + strings.Repeat("k", 128) + `":"v"}`, count: 1,
			rows: []fields{row("_msg", "a", strings.Repeat("k", 128), "v")},
		},
		{
			name: "name of 129 bytes", count: 1,
			body: `{"_time":"2001-01-01T00:00:00Z","a\"b":"\u0041","` + strings.Repeat("k", 129) + `":"v", "q": [1, {"\u0041": 2}]}`,
			rows: []fields{row("_msg", `{"_time":"2001-01-01T00:00:00Z","a\"b":"\u0041","`+strings.Repeat("k", 129)+
				`":"v","q":[1,{"\u0041":2}]}`)},
		},
		{
			name: "nested name of 129 bytes", count: 1,
			body: `{"_msg":"a","o":{"` + strings.Repeat("k", 127) + `":"v","p":{"q":1}}}`,
			rows: []fields{row("_msg", "a", "o", `{"`+strings.Repeat("k", 127)+`":"v","p":{"q":1}}`)},
		},
		{name: "1000 fields", body: manyFields(1000), count: 1},
		{name: "1001 fields", body: manyFields(1001)},
		{name: "1000 fields and a null", body: strings.Replace(manyFields(1000), "{", `{"n":null,`, 1), count: 1},
		{name: "1000 fields and the time", body: strings.Replace(manyFields(1000), "{", `{"_time":"0",`, 1)},

		// Times.
		{
			name: "time with nanoseconds", body: timed(date(0, "T01:02:03.123456789Z")), count: 1,
			rows: []fields{row("_msg", "a", "_time", date(0, "T01:02:03.123456789Z"))},
		},
		{
			name: "time with a zone", body: timed(date(0, "T03:02:03.5+02:00")), count: 1,
			rows: []fields{row("_msg", "a", "_time", date(0, "T01:02:03.5Z"))},
		},
		{
			name: "time with a space", body: timed(date(0, " 01:02:03Z")), count: 1,
			rows: []fields{row("_msg", "a", "_time", date(0, "T01:02:03Z"))},
		},
		{
			name: "time that carries over", body: timed(date(-1, "T25:61:00Z")), count: 1,
			rows: []fields{row("_msg", "a", "_time", date(0, "T02:01:00Z"))},
		},
		{name: "unix s", body: timed(ns / 1e9), count: 1, rows: at(ns / 1e9 * 1e9)},
		{name: "unix ms", body: timed(ns / 1e6), count: 1, rows: at(ns / 1e6 * 1e6)},
		{name: "unix us", body: timed(ns / 1e3), count: 1, rows: at(ns / 1e3 * 1e3)},
		{name: "unix ns", body: timed(ns), count: 1, rows: at(ns)},
		{name: "unix ns as text", body: timed(strconv.FormatInt(ns, 10)), count: 1, rows: at(ns)},
		{name: "unix s with a fraction", body: timed(fmt.Sprintf("%d.25", ns/1e9)), count: 1, rows: at(ns/1e9*1e9 + 25e7)},
		{
			name: "unix s in scientific notation", body: timed(fmt.Sprintf("%d.%09de9", ns/1e18, ns/1e9%1e9)), count: 1,
			rows: at(ns / 1e9 * 1e9),
		},
		{name: "empty time is now", body: timed(""), count: 1, rows: a},
		{name: "dash is now", body: timed("-"), count: 1, rows: a},
		{name: "0 is now", body: timed(0), count: 1, rows: a},
		{name: "null is now", body: timed(nil), count: 1, rows: a},
		{
			name: "time that is an object is no time", body: timed(map[string]int{"a": 1}), count: 1,
			rows: []fields{row("_msg", "a", "_time.a", "1")},
		},
		{name: "first day kept", body: timed(date(-7, "T00:00:00Z")), count: 1},
		{name: "last day expired", body: timed(date(-8, "T23:59:59Z"))},
		{name: "last day of the future", body: timed(date(2, "T23:59:59Z")), count: 1},
		{name: "too far ahead", body: timed(date(3, "T00:00:00Z"))},
		{name: "bad time", body: timed("now"), status: 400, answer: "cannot parse timestamp"},
		{name: "ten digits after the second", body: timed(date(0, "T01:02:03.1234567891Z")), status: 400},
		{name: "date only", body: timed(date(0, "")), status: 400},
		{name: "bool time", body: timed(true), status: 400},

		// Parameters.
		{
			name: "time and message field", query: "_time_field=nope,t&_msg_field=nope,m", count: 1,
			body: fmt.Sprintf(`{"m":"a","_time":"own","t":%d}`, ns), rows: []fields{row("_msg", "a", "_time", "own")},
		},
		{
			name: "stream fields", query: "_stream_fields=z,h,%20g", body: `{"_msg":"a","h":"x\"é","z":"y","g":"v"}`, count: 1,
			rows: []fields{row("_msg", "a", "h", `x"é`, "z", "y", "g", "v", "_stream", `{h="x\"é",z="y"}`)},
		},
		{
			name: "extra fields override", query: "_stream_fields=z,h&extra_fields=h=E,new=N=1,%20c=d", count: 1,
			body: `{"_msg":"a","h":"x","z":"y"}`,
			rows: []fields{row("_msg", "a", "h", "E", "z", "y", "new", "N=1", " c", "d", "_stream", `{h="E",z="y"}`)},
		},
		{
			name: "ignored fields", query: "_stream_fields=z,h&ignore_fields=z*,_m*", body: `{"_msg":"a","h":"x","z":"y","zz":"1"}`,
			count: 1, rows: []fields{row("_msg", "a", "h", "x", "_stream", `{h="x"}`)},
		},
		{
			name: "header", header: map[string]string{"VL-Stream-Fields": "h"}, body: `{"_msg":"a","h":"x"}`, count: 1,
			rows: []fields{row("_msg", "a", "h", "x", "_stream", `{h="x"}`)},
		},
		{
			name: "argument beats header", query: "_stream_fields=i", header: map[string]string{"VL-Stream-Fields": "h"},
			body: `{"_msg":"a","h":"x"}`, count: 1, rows: []fields{row("_msg", "a", "h", "x")},
		},
		{name: "debug", query: "debug=1", body: good},
		{name: "bad debug", query: "debug=maybe", body: good, status: 400, answer: "cannot parse debug"},
		{name: "bad extra fields", query: "extra_fields=a=", body: good, status: 400, answer: "invalid extra_field"},
		{name: "bad tenant", header: map[string]string{"ProjectID": "-1"}, body: good, status: 400, answer: "as uint32"},
		{name: "unsupported path", path: "/insert/jsonlines", body: good, status: 400, answer: "unsupported path"},
		{name: "path with a slash at the end", path: "/insert/jsonline/", body: good, status: 400, answer: "unsupported path"},
		{name: "path with two slashes", path: "/insert//jsonline", body: good, count: 1, rows: g},
		{name: "put", method: http.MethodPut, body: good, status: 405},
		{name: "form", header: map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, body: good},
		{name: "multipart form", header: map[string]string{"Content-Type": "multipart/form-data; boundary=x"}, body: good},

		// Encodings.
		{name: "gzip", header: encoded("gzip"), body: gzipped(t, good), count: 1, rows: g},
		{name: "gzip of two members", header: encoded("gzip"), body: gzipped(t, good) + gzipped(t, good), count: 2},
		{name: "deflate", header: encoded("deflate"), body: deflated(t, good), count: 1, rows: g},
		{name: "zstd", header: encoded("zstd"), body: zstandard(t, good), count: 1, rows: g},
		{name: "zstd of two frames", header: encoded("zstd"), body: zstandard(t, good) + zstandard(t, good), count: 2},
		{name: "snappy", header: encoded("snappy"), body: string(snappy.Encode(nil, []byte(good))), count: 1, rows: g},
		{name: "identity", header: encoded("identity"), body: good, count: 1, rows: g},
		{name: "none", header: encoded("none"), body: good, count: 1, rows: g},
		{name: "br", header: encoded("br"), body: good},
		{name: "GZIP", header: encoded("GZIP"), body: gzipped(t, good)},
		{name: "corrupt gzip header", header: encoded("gzip"), body: good},
		{name: "corrupt zstd header", header: encoded("zstd"), body: good},
		{name: "corrupt deflate header", header: encoded("deflate"), body: good},
		{name: "corrupt snappy", header: encoded("snappy"), body: good},
		{name: "gzip without its checksum", header: encoded("gzip"), body: cutOff(gzipped(t, good, good), 4), count: 2},
		{name: "gzip cut in the middle", header: encoded("gzip"), body: gzipped(t, good, good, good)[:70], count: 2},
		{name: "zstd cut in the middle", header: encoded("zstd"), body: cutOff(zstandard(t, good, good, good), 8), count: 2},
		{
			name: "a single good line in a cut body", header: encoded("gzip"), body: cutOff(gzipped(t, good), 4),
			status: 400, answer: "cannot process jsonline request", count: 1, rows: g,
		},

		// Loki.
		{
			name: "loki", body: push(ns, `"hello"`), status: 204, count: 1,
			rows: []fields{row("_msg", "hello", "a", "b", "job", "j", "_stream", `{a="b",job="j"}`,
				"_time", time.Unix(0, ns).UTC().Format(time.RFC3339Nano))},
		},
		{
			name: "loki metadata", body: push(ns, `"hello",{"m":"1"}`), status: 204, count: 1,
			rows: []fields{row("_msg", "hello", "a", "b", "job", "j", "m", "1", "_stream", `{a="b",job="j"}`)},
		},
		{
			name: "loki metadata that is no string", body: push(ns, `"1"`, `"2",{"m":1}`, `"3"`), status: 400, count: 1,
			rows: []fields{row("_msg", "1", "a", "b", "job", "j", "_stream", `{a="b",job="j"}`)},
		},
		{
			name: "loki message that is an object", query: "_msg_field=m", body: push(ns, `"{\"m\":\"x\",\"n\":{\"o\":1}}"`),
			status: 204, count: 1,
			rows: []fields{row("_msg", "x", "n.o", "1", "a", "b", "job", "j", "_stream", `{a="b",job="j"}`)},
		},
		{
			name: "loki message that shall not be parsed", query: "disable_message_parsing=1", body: push(ns, `"{\"m\":\"x\"}"`),
			status: 204, count: 1, rows: []fields{row("_msg", `{"m":"x"}`, "a", "b", "job", "j", "_stream", `{a="b",job="j"}`)},
		},
		{
			name: "loki with stream fields", query: "_stream_fields=job", body: push(ns, `"x"`), status: 204, count: 1,
			rows: []fields{row("_msg", "x", "a", "b", "job", "j", "_stream", `{job="j"}`)},
		},
		{
			name: "loki with extra fields", query: "extra_fields=a=Z,q=1", body: push(ns, `"x"`), status: 204, count: 1,
			rows: []fields{row("_msg", "x", "a", "Z", "q", "1", "job", "j", "_stream", `{job="j"}`)},
		},
		{name: "loki time is not a string", body: `{"streams":[{"stream":{},"values":[[1,"x"]]}]}`, status: 400},
		{name: "loki without a time", body: `{"streams":[{"stream":{},"values":[["","a"]]}]}`, status: 204, count: 1, rows: a},
		{name: "loki expired", body: push(1, `"x"`), status: 204},
		{
			name: "loki long label", body: `{"streams":[{"stream":{"` + strings.Repeat("k", 129) + `":"v"},"values":[["","a"]]}]}`,
			status: 204,
		},
		{name: "loki too many labels", body: `{"streams":[{"stream":` + manyFields(1000) + `,"values":[["","a"]]}]}`, status: 204},
		{name: "loki long line", body: push(ns, `"`+strings.Repeat("x", 300_000)+`"`), status: 204, count: 1},
		{name: "loki row over 2 MiB", body: push(ns, `"`+strings.Repeat("x", 2<<20)+`"`), status: 204},
		{name: "loki without streams", body: `{}`, status: 400, answer: "streams"},
		{name: "loki no streams", body: `{"streams":[]}`, status: 204},
		{name: "loki cut JSON", body: cutOff(push(ns, `"x"`), 2), status: 400, answer: "cannot read Loki json data"},
		{name: "loki gzip", header: encoded("gzip"), body: gzipped(t, push(ns, `"x"`)), status: 204, count: 1},
		{name: "loki cut gzip", header: encoded("gzip"), body: cutOff(gzipped(t, push(ns, `"x"`)), 4), status: 400},
		{name: "loki cut zstd", header: encoded("zstd"), body: cutOff(zstandard(t, push(ns, `"x"`)), 4), status: 400},
		{name: "loki snappy", header: encoded("snappy"), body: string(snappy.Encode(nil, []byte(push(ns, `"x"`)))), status: 204, count: 1},
		{name: "loki br", header: encoded("br"), body: push(ns, `"x"`), status: 400, answer: "unsupported encoding"},
		{name: "loki debug", query: "debug=1", body: push(ns, `"x"`), status: 204},
		{
			name: "loki with a charset", header: map[string]string{"Content-Type": "application/json; charset=utf-8"},
			body: push(ns, `"x"`), status: 400, answer: "cannot read Loki protobuf data",
		},
		{name: "loki bad extra fields", query: "extra_fields=a", body: push(ns, `"x"`), status: 400, answer: "invalid extra_field"},
	}
	cases = append(cases, longLineCases(t)...)
	for i := range cases {
		c := &cases[i]
		if strings.HasPrefix(c.name, "loki") {
			c.path = lokiPath
			header := map[string]string{"Content-Type": "application/json"}
			maps.Copy(header, c.header)
			c.header = header
		}
	}
	return cases
}

// longLineCases show what else is lost with a line that is too long: whatever came with the read that found the end of
// the line, if that read was the last one too. For compressed bodies it depends on how the compressor ends its stream.
// With zstd it is a race inside VictoriaLogs; the stand-in loses nothing more there.
func longLineCases(t *testing.T) []contractCase {
	t.Helper()
	long := func(size int) string {
		const frame = len(`{"_msg":""}`)
		return `{"_msg":"` + strings.Repeat("x", size-frame) + `"}`
	}
	const limit = 256 * 1024
	var cases []contractCase
	for _, e := range []struct {
		name, encoding string
		encode         func(string) string
		count          int // of the good line before and five behind the long one
	}{
		{"plain", "", strings.Clone, 1},
		{"gzip in one go", "gzip", func(s string) string { return gzipped(t, s) }, 1},
		{"flushed gzip", "gzip", func(s string) string { return gzipped(t, s, "") }, 6},
		{"deflate in one go", "deflate", func(s string) string { return deflated(t, s) }, 1},
		{"flushed deflate", "deflate", func(s string) string { return deflated(t, s, "") }, 6},
		{"snappy", "snappy", func(s string) string { return string(snappy.Encode(nil, []byte(s))) }, 1},
	} {
		header := map[string]string{"Content-Encoding": e.encoding}
		cases = append(cases,
			contractCase{
				name: "line just below the limit, " + e.name, header: header, count: 7,
				body: e.encode(good + long(limit-1) + "\n" + strings.Repeat(good, 5)),
			},
			contractCase{
				name: "line at the limit, " + e.name, header: header, count: e.count,
				body: e.encode(good + long(limit) + "\n" + strings.Repeat(good, 5)),
			},
			contractCase{
				name: "long line, " + e.name, header: header, count: e.count,
				body: e.encode(good + long(300_000) + "\n" + strings.Repeat(good, 5)),
			},
		)
	}
	return append(cases,
		contractCase{
			name: "long line before many", header: map[string]string{"Content-Encoding": "gzip"}, count: 100_003,
			body: gzipped(t, strings.Repeat(good, 3)+long(limit)+"\n"+strings.Repeat(good, 100_000)),
		},
		contractCase{name: "long line alone", body: long(limit) + "\n"},
		contractCase{name: "long line and a bad one before it", body: "bad\n" + long(300_000) + "\n", status: 400},
	)
}

func TestContract(t *testing.T) {
	cases := contractCases(t)
	t.Run("stand-in", func(t *testing.T) {
		runContract(t, start(t, vlreceiver.Config{}).URL(), cases)
	})
	t.Run("victoria-logs", func(t *testing.T) {
		runContract(t, startVictoriaLogs(t), cases)
	})
}

func runContract(t *testing.T, base string, cases []contractCase) {
	t.Helper()
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			// The tenant is the case: nothing has to be cleaned up.
			tenant := map[string]string{"AccountID": strconv.Itoa(i + 1), "ProjectID": "7"}
			header := map[string]string{"Content-Type": "application/stream+json", "AccountID": tenant["AccountID"], "ProjectID": "7"}
			maps.Copy(header, c.header)
			path := orDefault(c.path, "/insert/jsonline") + "?" + c.query
			status, body := do(t, orDefault(c.method, http.MethodPost), base+path, header, c.body)
			require.Equal(t, max(c.status, http.StatusOK), status, body)
			require.Contains(t, body, c.answer)

			status, body = do(t, http.MethodGet, base+"/internal/force_flush", nil, "")
			require.Equal(t, http.StatusOK, status, body)
			status, body = query(t, base, tenant, "* | stats count() n")
			require.Equal(t, http.StatusOK, status, body)
			require.Equal(t, countAnswer(c.count), body)
			if c.rows == nil {
				return
			}
			status, body = query(t, base, tenant, "*")
			require.Equal(t, http.StatusOK, status, body)
			require.Equal(t, c.rows, decodeRows(t, body, c.rows))
		})
	}
}

// decodeRows reads a query answer. It checks what is different each time and takes it out.
func decodeRows(t *testing.T, body string, want []fields) []fields {
	t.Helper()
	var rows []fields
	for line := range strings.Lines(body) {
		var f fields
		require.NoError(t, json.Unmarshal([]byte(line), &f), line)
		require.Len(t, f["_stream_id"], 48)
		delete(f, "_stream_id")
		if len(rows) < len(want) && want[len(rows)]["_time"] == "" {
			at, err := time.Parse(time.RFC3339Nano, f["_time"])
			require.NoError(t, err)
			require.WithinDuration(t, time.Now(), at, time.Minute)
			delete(f, "_time")
		}
		rows = append(rows, f)
	}
	return rows
}

func query(t *testing.T, base string, header map[string]string, q string) (int, string) {
	t.Helper()
	return do(t, http.MethodGet, base+"/select/logsql/query?query="+url.QueryEscape(q), header, "")
}

// countAnswer is what the query for the count answers, byte for byte.
func countAnswer(n int) string { return fmt.Sprintf("{\"n\":\"%d\"}\n", n) }

func do(t *testing.T, method, address string, header map[string]string, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	require.NoError(t, err)
	for name, value := range header {
		req.Header.Set(name, value)
	}
	resp, err := client.Do(req)
	require.NoError(t, err)
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode, string(b)
}

// client keeps no connections, so that goleak sees none.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

func start(tb testing.TB, cfg vlreceiver.Config) *vlreceiver.Server {
	tb.Helper()
	s, err := vlreceiver.Start(cfg)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, s.Close()) })
	return s
}

func orDefault(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

func cutOff(s string, n int) string { return s[:len(s)-n] }

func manyFields(n int) string {
	var b strings.Builder
	b.WriteString(`{"_msg":"a"`)
	for i := range n - 1 {
		fmt.Fprintf(&b, `,"k%d":"v"`, i)
	}
	return b.String() + "}"
}

// push is a Loki request with one stream. An entry is what follows the time.
func push(ns int64, entries ...string) string {
	for i, e := range entries {
		entries[i] = fmt.Sprintf(`["%d",%s]`, ns, e)
	}
	return `{"streams":[{"stream":{"job":"j","a":"b"},"values":[` + strings.Join(entries, ",") + `]}]}`
}

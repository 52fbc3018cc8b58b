package mqtt_hardware

import (
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/metric"
)

const (
	eventName = "mqtt"
	maxDepth  = 64  // of nested JSON; what is deeper is kept as text
	maxFields = 900 // VictoriaLogs drops rows with more than 1000, tags included
	maxNames  = 10  // times the payload's length: nested names repeat their prefix
)

// readEvent makes a metric of any payload. It never fails, since losing an event is worse than an unforeseen shape:
//
//   - a JSON object becomes fields. Nested objects are joined by dots, arrays stay JSON text, null is left out,
//     integers are exact: int64, then uint64, then text. Other numbers are float64. Of equal names the later ones get
//     _2, _3 and so on.
//   - any other text, an object without fields, and one beyond the bounds below, become the field message.
//   - what is no UTF-8 becomes base64 in the field payload_base64.
func readEvent(payload []byte, at time.Time) telegraf.Metric {
	m := metric.New(eventName, nil, nil, at)
	if !utf8.Valid(payload) {
		m.AddField("payload_base64", base64.StdEncoding.EncodeToString(payload))
		return m
	}
	text := string(payload)
	if looksLikeObject(text) && depth(text) <= maxDepth && gjson.Valid(text) {
		r := eventReader{m: m, room: maxNames * len(text)}
		r.object("", gjson.Parse(text))
		if r.fields > 0 && !r.beyond() {
			return m
		}
		m = metric.New(eventName, nil, nil, at)
	}
	m.AddField("message", text)
	return m
}

func looksLikeObject(text string) bool {
	return strings.HasPrefix(strings.TrimLeft(text, " \t\r\n"), "{")
}

// depth is how deeply the JSON text nests; brackets inside strings are none.
func depth(text string) (deepest int) {
	now, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			now++
			deepest = max(deepest, now)
		case c == '}' || c == ']':
			now--
		}
	}
	return deepest
}

type eventReader struct {
	m      telegraf.Metric
	fields int
	room   int            // bytes that names may still take
	equal  map[string]int // how often a name came; nil while all are different
}

// beyond reports that the object is beyond the bounds.
func (r *eventReader) beyond() bool { return r.fields > maxFields || r.room < 0 }

func (r *eventReader) object(prefix string, object gjson.Result) {
	object.ForEach(func(key, value gjson.Result) bool {
		r.value(prefix+unquoted(key), value)
		return !r.beyond()
	})
}

func (r *eventReader) value(name string, value gjson.Result) {
	switch value.Type {
	case gjson.Null:
	case gjson.String:
		r.add(name, unquoted(value))
	case gjson.True, gjson.False:
		r.add(name, value.Type == gjson.True)
	case gjson.Number:
		r.add(name, number(value.Raw))
	case gjson.JSON:
		if value.IsObject() {
			r.object(name+".", value)
			return
		}
		r.add(name, value.Raw)
	}
}

func (r *eventReader) add(name string, value any) {
	r.fields++
	r.room -= len(name)
	if r.beyond() {
		return
	}
	free := name
	for r.m.HasField(free) {
		if r.equal == nil {
			r.equal = make(map[string]int)
		}
		r.equal[name]++
		free = name + "_" + strconv.Itoa(r.equal[name]+1)
	}
	r.m.AddField(free, value)
}

// unquoted returns a JSON string's text. gjson takes what follows a lone surrogate for the other half.
func unquoted(s gjson.Result) string {
	if strings.Contains(s.Raw, `\u`) {
		var text string
		if json.Unmarshal([]byte(s.Raw), &text) == nil {
			return text
		}
	}
	return s.String()
}

// number reads a JSON number (RFC 8259 section 6) without taking an integer through float64.
func number(raw string) any {
	if strings.ContainsAny(raw, ".eE") {
		if f, err := strconv.ParseFloat(raw, 64); err == nil {
			return f
		}
		return raw // beyond float64
	}
	if i, err := strconv.ParseInt(raw, 10, 64); err == nil {
		return i
	}
	if u, err := strconv.ParseUint(raw, 10, 64); err == nil {
		return u
	}
	return raw
}

package mqtt_hardware

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math"
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
	maxDepth  = 64   // of nested objects, maps and templates; what is deeper is kept as text or base64
	maxFields = 900  // VictoriaLogs drops rows with more than 1000, tags included
	maxNames  = 10   // times the payload's length: nested names repeat their prefix
	maxEvents = 1000 // of one payload, where its format holds several
)

// readEvent makes a metric of any payload. It never fails, since losing an event is worse than an unforeseen shape:
//
//   - a JSON object becomes fields. Nested objects are joined by dots, arrays stay JSON text, null is left out,
//     integers are exact: int64, then uint64, then text. Other numbers are float64. Of equal names the later ones get
//     _2, _3 and so on.
//   - any other text, an object without fields, and one beyond the bounds below, become the field message.
//   - what is no UTF-8 becomes base64 in the field payload_base64.
func readEvent(payload []byte, at time.Time) telegraf.Metric {
	if trimmed := bytes.TrimLeft(payload, " \t\r\n"); len(trimmed) > 0 && trimmed[0] == '{' && utf8.Valid(payload) {
		text := string(payload)
		if m := readObject(text, at); m != nil {
			return m
		}
		return newEvent("message", text, at)
	}
	return readRaw(payload, at)
}

// readRaw makes a metric of a payload as it is.
func readRaw(payload []byte, at time.Time) telegraf.Metric {
	if utf8.Valid(payload) {
		return newEvent("message", string(payload), at)
	}
	return newEvent("payload_base64", base64.StdEncoding.EncodeToString(payload), at)
}

func newEvent(field, value string, at time.Time) telegraf.Metric {
	m := metric.New(eventName, nil, nil, at)
	m.AddField(field, value)
	return m
}

// readObject makes a metric of a JSON object's text. It makes none of another text, nor of an object that has no fields
// or is beyond the bounds.
func readObject(text string, at time.Time) telegraf.Metric {
	if depth(text) > maxDepth || !gjson.Valid(text) {
		return nil
	}
	object := gjson.Parse(text)
	if !object.IsObject() {
		return nil
	}
	r := eventReader{m: metric.New(eventName, nil, nil, at), room: maxNames * len(text)}
	r.object("", object)
	if r.fields == 0 || r.beyond() {
		return nil
	}
	return r.m
}

// addError adds the field error, beside one that the payload may have.
func addError(m telegraf.Metric, err error) {
	r := eventReader{m: m, room: math.MaxInt}
	r.add("error", strings.ToValidUTF8(err.Error(), "\ufffd"))
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

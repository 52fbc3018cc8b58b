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
	r := jsonReader{
		eventReader: eventReader{m: metric.New(eventName, nil, nil, at), room: maxNames * len(text)},
		text:        text,
	}
	r.space()
	if !r.take('{') || !r.object("", true) || r.fields == 0 {
		return nil
	}
	if r.space(); r.at < len(text) {
		return nil
	}
	return r.m
}

// addError adds the field error, beside one that the payload may have.
func addError(m telegraf.Metric, err error) {
	r := eventReader{m: m, room: math.MaxInt}
	r.add("error", strings.ToValidUTF8(err.Error(), "\ufffd"))
}

type eventReader struct {
	m      telegraf.Metric
	fields int
	room   int            // bytes that names may still take
	equal  map[string]int // how often a name came; nil while all are different
}

// beyond reports that the object is beyond the bounds.
func (r *eventReader) beyond() bool { return r.fields > maxFields || r.room < 0 }

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
	r.m.AddField(free, true)
	list := r.m.FieldList()
	list[len(list)-1].Value = value // AddField would put a second copy of it on the heap
}

// jsonReader reads JSON text (RFC 8259) in one pass, and makes fields of an object as it goes. Its methods report whether
// the text is as it must be and within the bounds; after the first that is not, the rest has no meaning.
type jsonReader struct {
	eventReader
	text  string // UTF-8
	at    int    // the next byte
	depth int
}

// object reads on behind an object's brace. keep makes fields of its members.
func (r *jsonReader) object(prefix string, keep bool) bool {
	if r.depth++; r.depth > maxDepth {
		return false
	}
	r.space()
	for end := r.take('}'); !end; end = r.take('}') {
		key, ok := r.quoted()
		r.space()
		if !ok || !r.take(':') {
			return false
		}
		r.space()
		if keep {
			ok = r.member(prefix + key)
		} else {
			ok = r.skip()
		}
		if !ok || !r.another('}') {
			return false
		}
	}
	r.depth--
	return true
}

// array reads on behind an array's bracket.
func (r *jsonReader) array() bool {
	if r.depth++; r.depth > maxDepth {
		return false
	}
	r.space()
	for end := r.take(']'); !end; end = r.take(']') {
		if !r.skip() || !r.another(']') {
			return false
		}
	}
	r.depth--
	return true
}

// another goes on to the next item of a list, or to its end.
func (r *jsonReader) another(end byte) bool {
	r.space()
	if !r.take(',') {
		return r.peek() == end
	}
	r.space()
	return r.peek() != end
}

// member reads a value that becomes a field, or several.
func (r *jsonReader) member(name string) bool {
	start := r.at
	switch r.peek() {
	case '{':
		r.at++
		return r.object(name+".", true)
	case '"':
		text, ok := r.quoted()
		r.add(name, text)
		return ok && !r.beyond()
	case 'n':
		return r.word("null")
	}
	if !r.skip() {
		return false
	}
	switch raw := r.text[start:r.at]; raw[0] {
	case '[':
		r.add(name, raw)
	case 't', 'f':
		r.add(name, raw[0] == 't')
	default:
		r.add(name, number(raw))
	}
	return !r.beyond()
}

// skip reads any value.
func (r *jsonReader) skip() bool {
	switch r.peek() {
	case '{':
		r.at++
		return r.object("", false)
	case '[':
		r.at++
		return r.array()
	case '"':
		_, ok := r.quoted()
		return ok
	case 't':
		return r.word("true")
	case 'f':
		return r.word("false")
	case 'n':
		return r.word("null")
	}
	return r.number()
}

// quoted reads a string.
func (r *jsonReader) quoted() (text string, ok bool) {
	if !r.take('"') {
		return "", false
	}
	start, escaped := r.at, false
	for ; r.at < len(r.text); r.at++ {
		switch c := r.text[r.at]; {
		case c == '"':
			text = r.text[start:r.at]
			r.at++
			if escaped {
				return unescaped(text)
			}
			return text, true
		case c == '\\':
			escaped = true
			r.at++
		case c < ' ':
			return "", false
		}
	}
	return "", false
}

// unescaped returns what stands between a string's quotes.
func unescaped(text string) (_ string, ok bool) {
	var b strings.Builder
	b.Grow(len(text))
	for rest := text; ; {
		plain, behind, found := strings.Cut(rest, `\`)
		b.WriteString(plain)
		if !found {
			return b.String(), true
		}
		i := strings.IndexByte(`"\/bfnrt`, behind[0]) // there is one, since the quote behind the text is not escaped
		if i < 0 {
			break
		}
		b.WriteByte("\"\\/\b\f\n\r\t"[i])
		rest = behind[1:]
	}
	ok = json.Unmarshal([]byte(`"`+text+`"`), &text) == nil // which knows surrogates
	return text, ok
}

// number reads one (RFC 8259 section 6).
func (r *jsonReader) number() bool {
	r.take('-')
	if !r.take('0') && !r.digits() {
		return false
	}
	if r.take('.') && !r.digits() {
		return false
	}
	if r.take('e') || r.take('E') {
		if !r.take('-') {
			r.take('+')
		}
		return r.digits()
	}
	return true
}

func (r *jsonReader) digits() bool {
	start := r.at
	for c := r.peek(); '0' <= c && c <= '9'; c = r.peek() {
		r.at++
	}
	return r.at > start
}

func (r *jsonReader) word(w string) bool {
	ok := strings.HasPrefix(r.text[r.at:], w)
	r.at += len(w)
	return ok
}

func (r *jsonReader) space() {
	for r.at < len(r.text) {
		switch r.text[r.at] {
		case ' ', '\t', '\r', '\n':
			r.at++
		default:
			return
		}
	}
}

func (r *jsonReader) take(c byte) bool {
	if r.peek() != c {
		return false
	}
	r.at++
	return true
}

// peek returns the next byte, and 0, which no value begins with, at the end.
func (r *jsonReader) peek() byte {
	if r.at >= len(r.text) {
		return 0
	}
	return r.text[r.at]
}

// isNumber reports whether a text is a JSON number.
func isNumber(text string) bool {
	r := jsonReader{text: text}
	return r.number() && r.at == len(text)
}

// isInteger reports that a JSON number has neither a fraction nor an exponent.
func isInteger(raw string) bool {
	for i := range len(raw) {
		if c := raw[i]; c == '.' || c == 'e' || c == 'E' {
			return false
		}
	}
	return true
}

// number reads a JSON number (RFC 8259 section 6) without taking an integer through float64.
func number(raw string) any {
	if !isInteger(raw) {
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

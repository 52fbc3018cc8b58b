package victorialogs

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/influxdata/telegraf"
)

// What VictoriaLogs takes in one row; past these it answers 200 and stores nothing, or something else.
const (
	maxLineBytes = 256_000 // with the newline; the server's own default is 262,143
	maxFields    = 1000    // counted with _time and _msg
	maxNameBytes = 128

	reservedNames = 4 // of encoder.taken, those that the server uses itself
)

// The server counts time in nanoseconds, as int64; a line with any other time is malformed to it.
var earliest, latest = time.Unix(0, math.MinInt64), time.Unix(0, math.MaxInt64)

// Reasons for which a metric cannot become a row. Each is the value of the tag reason of metrics_rejected.
var (
	errLineTooLong   = errors.New("line_too_long")
	errTooManyFields = errors.New("too_many_fields")
	errTooOld        = errors.New("too_old")
	errTooNew        = errors.New("too_new")
)

// A repair is a change without which the server would lose or mix up a value. Each is counted in fields_repaired under
// the tag reason.
type repair uint8

const (
	repairedUTF8      repair = iota // a byte that is no UTF-8 became U+FFFD
	repairedNonFinite               // NaN and the infinities became text
	repairedReserved                // a name that the server uses itself got a trailing underscore
	repairedDuplicate               // a name that is taken in this row got a trailing underscore
	repairedEmptyName               // an empty name became "unnamed"
	repairedLongName                // a name over 128 bytes was cut and ended with its hash
	repairs
)

func (r repair) String() string {
	return [repairs]string{"invalid_utf8", "non_finite", "reserved_name", "duplicate_name", "empty_name", "long_name"}[r]
}

// encoder turns a metric into one JSON line for /insert/jsonline:
//
//	{"_time":1700000000000000000,"_msg":"…","measurement":"cpu","host":"a","usage_idle":99.5,"site":"berlin"}\n
//
// _time is Unix time in nanoseconds, or RFC 3339 up to 1970. _msg is the first of
// messageFields that the metric has and that is not empty, which then does not appear under its own name; without one
// it is the measurement's name. Tags come before fields, extra fields last. It allocates nothing unless a name must be
// repaired. It is not safe for concurrent use.
type encoder struct {
	measurementField string
	messageFields    []string
	maxAge           time.Duration // 0: any age
	maxFuture        time.Duration // 0: any time ahead

	nameOverride, namePrefix, nameSuffix string

	taken    []string // names that a tag or field must not have
	measured []byte   // `,"measurement":`, or empty
	extra    []byte   // `,"site":"berlin"`…
	extras   int      // how many fields extra holds

	begins [256]bool // first bytes of taken

	named      bool   // the next three are of use: they needed no repair, which each metric counts
	lastName   string // of the metric before
	lastQuoted []byte
	lastIntro  []byte // of such a row without a message: `,"_msg":"cpu","measurement":"cpu"`

	lastSeconds int64 // of the time of the metric before; 0: there was none
	lastDigits  []byte

	places []place

	names    []string       // scratch of rowNames
	repaired [repairs]int64 // since the last takeRepairs
}

// place is what was last written in one place of a row. Most rows have it again.
type place struct {
	key  []byte // of a plain name: `,"host":`
	text []byte // a short value
	pair []byte // both: `,"host":"edge"`; empty: there was none, or it needed a repair, which each row counts
}

// prepare computes what does not change from one metric to the next.
func (e *encoder) prepare(extraFields map[string]string) {
	e.taken = []string{"_time", "_msg", "_stream", "_stream_id"}
	if e.measurementField != "" {
		e.taken = append(e.taken, e.measurementField)
		e.measured = append(e.appendString([]byte{','}, e.measurementField), ':')
	}
	for _, name := range slices.Sorted(maps.Keys(extraFields)) {
		e.taken = append(e.taken, name)
		e.extra = append(e.appendString(append(e.extra, ','), name), ':')
		e.extra = e.appendString(e.extra, extraFields[name])
	}
	e.extras = len(extraFields)
	for _, name := range e.taken {
		e.begins[name[0]] = true
	}
}

// appendLine appends the metric's line to dst. An error is one of the reasons above, and dst is returned as it was.
func (e *encoder) appendLine(dst []byte, m telegraf.Metric, now time.Time) ([]byte, error) {
	start := len(dst)
	t := m.Time()
	if t.Before(earliest) || e.maxAge > 0 && now.Sub(t) > e.maxAge {
		return dst, errTooOld
	}
	if t.After(latest) || e.maxFuture > 0 && t.Sub(now) > e.maxFuture {
		return dst, errTooNew
	}
	message := e.message(m.FieldList())
	if e.count(len(m.TagList())+len(m.FieldList()), message != nil) > maxFields {
		return dst, errTooManyFields
	}
	dst = e.render(dst, m, message)
	if len(dst)-start > maxLineBytes {
		return dst[:start], errLineTooLong
	}
	return dst, nil
}

// render appends the metric's line, whether the server would store it or not; message is the field that becomes _msg.
func (e *encoder) render(dst []byte, m telegraf.Metric, message *telegraf.Field) []byte {
	tags, fields := m.TagList(), m.FieldList()
	dst = append(dst, `{"_time":`...)
	dst = e.appendTime(dst, m.Time())
	e.quoteName(m.Name())
	if message == nil {
		dst = append(dst, e.lastIntro...)
	} else {
		dst = e.appendText(append(dst, `,"_msg":`...), message.Value)
		dst = e.appendMeasurement(dst)
	}
	begin := len(dst)
	dst, plain := e.appendPlain(dst, tags, fields, message)
	if !plain {
		dst = e.appendRenamed(dst[:begin], tags, fields, message)
	}
	dst = append(dst, e.extra...)
	return append(dst, '}', '\n')
}

// count is how many fields the row has.
func (e *encoder) count(tagsAndFields int, message bool) int {
	n := 2 + tagsAndFields + e.extras // with _time and _msg
	if message {
		n--
	}
	if len(e.measured) > 0 {
		n++
	}
	return n
}

// appendPlain appends tags and fields if each name can be written as it is: the server keeps it, nothing else in the row has
// it, and it needs no escaping. Nearly all rows are so. Otherwise what it appended has no meaning.
func (e *encoder) appendPlain(dst []byte, tags []*telegraf.Tag, fields []*telegraf.Field, message *telegraf.Field) (_ []byte, ok bool) {
	before := e.repaired
	for i, tag := range tags {
		p := e.placeOf(i, tag.Key)
		if p == nil {
			e.repaired = before
			return dst, false
		}
		dst = e.appendPair(dst, p, tag.Value)
	}
	for i, field := range fields {
		if field == message {
			continue
		}
		p := e.placeOf(len(tags)+i, field.Key)
		if p == nil || hasTag(tags, field.Key) {
			e.repaired = before
			return dst, false
		}
		if text, ok := field.Value.(string); ok {
			dst = e.appendPair(dst, p, text)
		} else {
			dst = e.appendValue(append(dst, p.key...), field.Value)
		}
	}
	return dst, true
}

// placeOf returns a place of the row with a plain name as its key; nil if the name is not plain.
func (e *encoder) placeOf(i int, name string) *place {
	i = min(i, maxFields) // a row that has more is refused
	if i >= len(e.places) {
		e.places = append(e.places, make([]place, i+1-len(e.places))...)
	}
	p := &e.places[i]
	if len(p.key) == len(name)+len(`,"":`) && string(p.key[2:len(p.key)-2]) == name {
		return p
	}
	if len(name) == 0 || len(name) > maxNameBytes || plainPrefix(name) < len(name) ||
		e.begins[name[0]] && slices.Contains(e.taken, name) {
		return nil
	}
	p.key = append(append(append(p.key[:0], `,"`...), name...), `":`...)
	p.pair = p.pair[:0]
	return p
}

// appendPair appends the key of a place and a text.
func (e *encoder) appendPair(dst []byte, p *place, text string) []byte {
	const most = 64 // bytes; longer ones are seldom the same again
	if len(p.pair) > 0 && string(p.text) == text {
		return append(dst, p.pair...)
	}
	if len(text) > most {
		return e.appendString(append(dst, p.key...), text)
	}
	before := e.repaired[repairedUTF8]
	p.text = append(p.text[:0], text...)
	p.pair = e.appendString(append(p.pair[:0], p.key...), text)
	dst = append(dst, p.pair...)
	if e.repaired[repairedUTF8] != before {
		p.pair = p.pair[:0]
	}
	return dst
}

// appendRenamed appends tags and fields of which a name must be escaped or repaired.
func (e *encoder) appendRenamed(dst []byte, tags []*telegraf.Tag, fields []*telegraf.Field, message *telegraf.Field) []byte {
	names := e.rowNames(tags, fields, message)
	for i, tag := range tags {
		dst = append(e.appendString(append(dst, ','), names[i]), ':')
		dst = e.appendString(dst, tag.Value)
	}
	for i, field := range fields {
		if field != message {
			dst = append(e.appendString(append(dst, ','), names[len(tags)+i]), ':')
			dst = e.appendValue(dst, field.Value)
		}
	}
	return dst
}

// takeRepairs calls f for each kind of repair that was made since the last call.
func (e *encoder) takeRepairs(f func(repair, int64)) {
	for kind, n := range e.repaired {
		if n > 0 {
			f(repair(kind), n)
			e.repaired[kind] = 0
		}
	}
}

func (e *encoder) message(fields []*telegraf.Field) *telegraf.Field {
	for _, name := range e.messageFields {
		for _, field := range fields {
			if field.Key == name && field.Value != "" && field.Value != nil {
				return field
			}
		}
	}
	return nil
}

// quoteName makes lastQuoted the measurement's name, as the naming options make it, as a JSON string, and lastIntro what rows
// of it begin with. Most metrics have the name of the one before.
func (e *encoder) quoteName(name string) {
	if e.nameOverride != "" {
		name = e.nameOverride
	}
	if name == "" && e.namePrefix == "" && e.nameSuffix == "" {
		e.repaired[repairedEmptyName]++
		name = "unnamed"
	}
	if e.named && name == e.lastName {
		return
	}
	before := e.repaired[repairedUTF8]
	quoted := append(e.lastQuoted[:0], '"')
	quoted = e.appendEscaped(quoted, e.namePrefix)
	quoted = e.appendEscaped(quoted, name)
	quoted = e.appendEscaped(quoted, e.nameSuffix)
	e.lastName, e.lastQuoted = name, append(quoted, '"')
	e.lastIntro = e.appendMeasurement(append(append(e.lastIntro[:0], `,"_msg":`...), e.lastQuoted...))
	e.named = e.repaired[repairedUTF8] == before
}

// appendMeasurement appends the field that holds the measurement's name, if there is to be one.
func (e *encoder) appendMeasurement(dst []byte) []byte {
	if len(e.measured) == 0 {
		return dst
	}
	return append(append(dst, e.measured...), e.lastQuoted...)
}

// rowNames returns the names under which the row's tags, then its fields appear; the message's is of no use. The slice
// is valid until the next call.
func (e *encoder) rowNames(tags []*telegraf.Tag, fields []*telegraf.Field, message *telegraf.Field) []string {
	names, clean := e.names[:0], true
	for _, tag := range tags {
		names = append(names, tag.Key)
		clean = clean && e.isClean(tag.Key)
	}
	skip := -1
	for _, field := range fields {
		if field == message {
			skip = len(names)
		} else {
			clean = clean && e.isClean(field.Key) && !hasTag(tags, field.Key)
		}
		names = append(names, field.Key)
	}
	e.names = names
	if !clean {
		e.repairNames(names, skip)
	}
	return names
}

// isClean reports whether the server keeps the name and nothing that the encoder writes itself has it.
func (e *encoder) isClean(name string) bool {
	if len(name) == 0 || len(name) > maxNameBytes || !utf8.ValidString(name) {
		return false
	}
	return !slices.Contains(e.taken, name)
}

func hasTag(tags []*telegraf.Tag, key string) bool {
	for _, tag := range tags {
		if tag.Key == key {
			return true
		}
	}
	return false
}

// repairNames replaces each name that the server would lose or mix up by one that it keeps and that nothing else in
// this row has. A name that is fine stays; of a tag and a field with the same name the tag keeps it. The name at skip
// does not appear in the row.
func (e *encoder) repairNames(names []string, skip int) {
	used := make(map[string]bool, len(names))
	var wrong []int
	for i, name := range names {
		if i == skip {
			continue
		}
		if !e.isClean(name) || used[name] {
			wrong = append(wrong, i)
			continue
		}
		used[name] = true
	}
	slices.SortStableFunc(wrong, func(i, j int) int { return strings.Compare(names[i], names[j]) }) // whatever the fields' order
	for _, i := range wrong {
		name := names[i]
		if !utf8.ValidString(name) {
			e.repaired[repairedUTF8]++
			name = strings.ToValidUTF8(name, "\ufffd")
		}
		if name == "" {
			e.repaired[repairedEmptyName]++
			name = "unnamed"
		}
		if len(name) > maxNameBytes {
			e.repaired[repairedLongName]++
			name = shortened(name)
		}
		if slices.Contains(e.taken[:reservedNames], name) {
			e.repaired[repairedReserved]++
		} else if used[name] || slices.Contains(e.taken, name) {
			e.repaired[repairedDuplicate]++
		}
		for used[name] || slices.Contains(e.taken, name) {
			if name += "_"; len(name) > maxNameBytes {
				name = shortened(name)
			}
		}
		used[name] = true
		names[i] = name
	}
}

// shortened cuts a name to what the server takes, and tells apart two names that begin alike.
func shortened(name string) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails
	sum := binary.BigEndian.AppendUint64(nil, h.Sum64())
	end := maxNameBytes - 1 - 2*len(sum)
	for end > 0 && !utf8.RuneStart(name[end]) {
		end--
	}
	return name[:end] + "~" + hex.EncodeToString(sum)
}

// appendTime appends Unix nanoseconds, which cost a third of RFC 3339 to write; the seconds are most often those of the row
// before. The server tells seconds from nanoseconds by their size, so times up to 1970 are written in full.
func (e *encoder) appendTime(dst []byte, t time.Time) []byte {
	const second, after1970 = int64(time.Second), int64(365 * 24 * time.Hour)
	ns := t.UnixNano()
	if ns < after1970 {
		dst = append(dst, '"')
		dst = t.UTC().AppendFormat(dst, time.RFC3339Nano)
		return append(dst, '"')
	}
	if seconds := ns / second; seconds != e.lastSeconds {
		e.lastSeconds, e.lastDigits = seconds, strconv.AppendInt(e.lastDigits[:0], seconds, 10)
	}
	dst = append(dst, e.lastDigits...)
	last := len(dst) - 1
	digit := dst[last]
	dst = strconv.AppendInt(dst[:last], second+ns%second, 10) // with a 1 before its nine digits
	dst[last] = digit
	return dst
}

// appendText appends a value as a JSON string whatever its type.
func (e *encoder) appendText(dst []byte, value any) []byte {
	if text, ok := value.(string); ok {
		return e.appendString(dst, text)
	}
	start := len(dst)
	dst = append(dst, '"')
	dst = e.appendValue(dst, value)
	if dst[start+1] == '"' {
		return append(dst[:start], dst[start+1:]...)
	}
	return append(dst, '"')
}

// appendValue appends a value as JSON. Integers and floating-point numbers keep every digit that tells them apart.
func (e *encoder) appendValue(dst []byte, value any) []byte {
	switch v := value.(type) {
	case string:
		return e.appendString(dst, v)
	case int64:
		return strconv.AppendInt(dst, v, 10)
	case uint64:
		return strconv.AppendUint(dst, v, 10)
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			e.repaired[repairedNonFinite]++
			dst = append(dst, '"')
			dst = strconv.AppendFloat(dst, v, 'f', -1, 64)
			return append(dst, '"')
		}
		if abs := math.Abs(v); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
			return strconv.AppendFloat(dst, v, 'e', -1, 64)
		}
		return appendDecimal(dst, v)
	case bool:
		return strconv.AppendBool(dst, v)
	case nil:
		return append(dst, "null"...)
	default: // Telegraf's metrics hold no other type, but the interface would allow it
		return e.appendString(dst, fmt.Sprint(v))
	}
}

// appendDecimal appends the shortest decimal that tells v apart, as strconv.AppendFloat does. It does so itself where v is
// the float64 nearest to a decimal with six digits behind the point at most, as most measurements are: if that has fewer than
// 16 digits, no other one of so many has the same nearest float64 (IEEE 754-2019 section 5.12.2), so none is shorter.
func appendDecimal(dst []byte, v float64) []byte {
	const millionth, most = 1_000_000, 1e9
	abs := math.Abs(v)
	if abs >= most {
		return strconv.AppendFloat(dst, v, 'f', -1, 64)
	}
	n := uint64(abs*millionth + 0.5)
	if float64(n)/millionth != abs { // both are exact, so the quotient is the float64 nearest to that decimal
		return strconv.AppendFloat(dst, v, 'f', -1, 64)
	}
	if math.Signbit(v) {
		dst = append(dst, '-')
	}
	dst = strconv.AppendUint(dst, n/millionth, 10)
	rest := n % millionth
	if rest == 0 {
		return dst
	}
	dst = append(dst, '.')
	for ; rest > 0; rest %= millionth {
		rest *= 10
		dst = append(dst, byte('0'+rest/millionth))
	}
	return dst
}

func (e *encoder) appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	dst = e.appendEscaped(dst, s)
	return append(dst, '"')
}

// plain holds the bytes that stand for themselves in a JSON string.
var plain = func() (table [256]bool) {
	for b := ' '; b < utf8.RuneSelf; b++ {
		table[b] = b != '"' && b != '\\'
	}
	return table
}()

// appendEscaped appends s as the inside of a JSON string (RFC 8259 section 7).
func (e *encoder) appendEscaped(dst []byte, s string) []byte {
	n := plainPrefix(s)
	if n == len(s) {
		return append(dst, s...)
	}
	return e.appendUnplain(append(dst, s[:n]...), s[n:])
}

// plainPrefix returns how many bytes at the start of s stand for themselves. It looks at eight at a time.
func plainPrefix(s string) int {
	n := 0
	for n+8 <= len(s) && arePlain(eightBytes(s[n:])) {
		n += 8
	}
	if len(s) >= 8 && n+8 > len(s) && arePlain(eightBytes(s[len(s)-8:])) {
		return len(s)
	}
	for n < len(s) && plain[s[n]] {
		n++
	}
	return n
}

// eightBytes is one load to the compiler.
func eightBytes(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// arePlain reports whether eight bytes stand for themselves. Subtraction borrows into a byte's highest bit where the byte is
// below what is subtracted from it.
func arePlain(x uint64) bool {
	const each, highest = 0x0101010101010101, 0x8080808080808080
	quote, backslash := x^each*'"', x^each*'\\' // zero where it is one
	return (x|(x-each*' ')|(quote-each)|(backslash-each))&highest == 0
}

// appendUnplain is appendEscaped for a string that begins with a byte that may not stand for itself.
func (e *encoder) appendUnplain(dst []byte, s string) []byte {
	const digits = "0123456789abcdef"
	done := 0
	for i := 0; i < len(s); {
		b := s[i]
		if plain[b] {
			i += plainPrefix(s[i:])
			continue
		}
		if b >= utf8.RuneSelf {
			if r, size := utf8.DecodeRuneInString(s[i:]); r != utf8.RuneError || size > 1 {
				i += size
				continue
			}
		}
		dst = append(dst, s[done:i]...)
		switch b {
		case '"', '\\':
			dst = append(dst, '\\', b)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			if b >= utf8.RuneSelf {
				e.repaired[repairedUTF8]++
				dst = utf8.AppendRune(dst, utf8.RuneError)
				break
			}
			dst = append(dst, '\\', 'u', '0', '0', digits[b>>4], digits[b&15])
		}
		i++
		done = i
	}
	return append(dst, s[done:]...)
}

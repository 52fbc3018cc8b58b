package mqtt_hardware

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/metric"
)

// Sparkplug B (https://sparkplug.eclipse.org/specification/version/3.0) is read by its field numbers:
//
//	Payload        1 timestamp, 2 metrics…, 3 seq, 4 uuid, 5 body
//	Metric         1 name, 2 alias, 3 timestamp, 4 datatype, 5 is_historical, 6 is_transient, 7 is_null, 8 MetaData,
//	               9 PropertySet, 10 to 15 a scalar, 16 bytes, 17 DataSet, 18 Template
//	scalar         int, long, float, double, boolean, string, at six numbers in this order
//	DataSet        1 num_of_columns, 2 columns…, 3 types…, 4 rows…        Row  1 elements…        element  1 to 6 a scalar
//	Template       1 version, 2 metrics…, 3 parameters…, 4 template_ref, 5 is_definition
//	Parameter      1 name, 2 type, 3 to 8 a scalar
//	PropertySet    1 keys…, 2 values…                                     PropertySetList  1 sets…
//	PropertyValue  1 type, 2 is_null, 3 to 8 a scalar, 9 PropertySet, 10 PropertySetList
//	MetaData       1 is_multi_part, 2 content_type, 3 size, 4 seq, 5 file_name, 6 file_type, 7 md5, 8 description
//
// There is an event for each timestamp, and for what is historical; one with more fields than fit is followed by another.
// Timestamps of metrics, or else the payload's, are the time of events, but those of NDEATH: it is written when the node
// connects.
const sparkplugNamespace = "spBv1.0"

// Types of values, as far as they say more than the value itself.
const (
	sparkplugInt8          = 1
	sparkplugInt16         = 2
	sparkplugInt32         = 3
	sparkplugInt64         = 4
	sparkplugUInt64        = 8
	sparkplugBoolean       = 11
	sparkplugDateTime      = 13
	sparkplugInt8Array     = 22
	sparkplugInt64Array    = 25
	sparkplugUInt8Array    = 26
	sparkplugUInt64Array   = 29
	sparkplugFloatArray    = 30
	sparkplugDoubleArray   = 31
	sparkplugBooleanArray  = 32
	sparkplugStringArray   = 33
	sparkplugDateTimeArray = 34
)

var errSparkplugBounds = fmt.Errorf("more than fits: %d levels, %d events, or names of %d times the payload", maxDepth, maxEvents,
	maxNames)

// sparkplugTopic is spBv1.0/GROUP/MESSAGE_TYPE/NODE[/DEVICE] or spBv1.0/STATE/HOST. It is zero for any other topic, which
// payload_format may say holds Sparkplug B: without tags and aliases, then.
type sparkplugTopic struct{ group, messageType, node, device, host string }

func parseSparkplugTopic(topic string) sparkplugTopic {
	levels := strings.Split(topic, "/")
	levels = levels[max(0, slices.Index(levels, sparkplugNamespace)):] // a bridge may have put something in front
	switch {
	case levels[0] != sparkplugNamespace:
	case len(levels) == 3 && levels[1] == "STATE":
		return sparkplugTopic{messageType: "STATE", host: levels[2]}
	case len(levels) == 4 && slices.Contains([]string{"NBIRTH", "NDATA", "NDEATH", "NCMD"}, levels[2]):
		return sparkplugTopic{group: levels[1], messageType: levels[2], node: levels[3]}
	case len(levels) == 5 && slices.Contains([]string{"DBIRTH", "DDATA", "DDEATH", "DCMD"}, levels[2]):
		return sparkplugTopic{group: levels[1], messageType: levels[2], node: levels[3], device: levels[4]}
	}
	return sparkplugTopic{}
}

func tagSparkplug(metrics []telegraf.Metric, topic string) {
	t := parseSparkplugTopic(topic)
	for _, m := range metrics {
		for _, tag := range [...]telegraf.Tag{
			{Key: "group", Value: t.group},
			{Key: "message_type", Value: t.messageType},
			{Key: "node", Value: t.node},
			{Key: "device", Value: t.device},
			{Key: "host_id", Value: t.host},
		} {
			if tag.Value != "" {
				m.AddTag(tag.Key, tag.Value)
			}
		}
	}
}

func (r *payloadReader) sparkplug(payload []byte, topic string, at time.Time) ([]telegraf.Metric, error) {
	t := parseSparkplugTopic(topic)
	if t.messageType == "STATE" { // JSON since 3.0, a word before
		return one(readEvent(payload, at)), nil
	}
	s := sparkplugReader{
		at:     at,
		topic:  t,
		births: r.births,
		known:  r.births.find(t),
		byTime: make(map[sparkplugTime]*sparkplugEvents),
		room:   maxNames*len(payload) + 64<<10, // names by alias take no bytes of the payload
	}
	metrics, err := s.read(payload)
	r.unresolved.Incr(int64(s.unresolved))
	return metrics, err
}

// sparkplugReader reads one payload.
type sparkplugReader struct {
	at     time.Time
	topic  sparkplugTopic
	births *births
	known  *birth // what the birth message said; nil without one

	times      []*sparkplugEvents // in the order of the payload
	byTime     map[sparkplugTime]*sparkplugEvents
	now        *sparkplugEvents // of the metric that is being read
	events     int
	room       int // bytes that names may still take
	unresolved int
	failed     error // the first
}

type sparkplugTime struct {
	milliseconds uint64 // 0: none
	historical   bool
}

// sparkplugEvents are those of one time; the last is open.
type sparkplugEvents struct {
	historical bool
	metrics    []telegraf.Metric
	reader     eventReader
	null       []any // names of the metrics that are null
	unresolved int
}

type sparkplugMetric struct {
	name                 string
	alias, timestamp     uint64
	datatype             uint32
	hasAlias             bool
	historical, null     bool
	value                wireField // its number is 0 without a value
	properties, metadata []byte
}

func (s *sparkplugReader) fail(err error) {
	if s.failed == nil {
		s.failed = err
	}
}

// read takes the payload apart. It returns what it could read, and the first thing that it could not.
func (s *sparkplugReader) read(payload []byte) ([]telegraf.Metric, error) {
	var timestamp, seq uint64
	var hasSeq, anything bool
	var uuid, body string
	var metrics [][]byte
	for f, err := range fieldsOf(payload) {
		if err != nil {
			s.fail(err)
			break
		}
		anything = anything || f.number <= 5
		switch f.number {
		case 1:
			timestamp = f.bits
		case 2:
			metrics = append(metrics, f.bytes)
		case 3:
			seq, hasSeq = f.bits, true
		case 4:
			uuid = utf8Or64(f.bytes)
		case 5:
			body = toBase64(f.bytes)
		}
	}
	if !anything && len(payload) > 0 { // an empty one is nothing but its topic
		s.fail(errors.New("no field of a Sparkplug B payload"))
	}
	if s.topic.messageType == "NDEATH" {
		timestamp = 0
	}
	var told *birth // by a birth or a death
	if strings.HasSuffix(s.topic.messageType, "BIRTH") || strings.HasSuffix(s.topic.messageType, "DEATH") {
		told = newBirth()
	}
	for _, raw := range metrics {
		m, err := readSparkplugMetric(raw)
		if err != nil {
			s.fail(err)
			continue
		}
		if s.topic.messageType == "NDEATH" || m.timestamp == 0 {
			m.timestamp = timestamp
		}
		if told != nil {
			told.add(m)
		}
		if !s.full() {
			s.metric(m)
		}
	}
	switch s.topic.messageType {
	case "NBIRTH", "DBIRTH":
		s.births.replace(s.topic, told)
	case "NDEATH", "DDEATH":
		s.births.end(s.topic, told)
	}
	if len(s.times) == 0 && s.failed == nil {
		s.enter(sparkplugTime{milliseconds: timestamp})
	}
	var all []telegraf.Metric
	for i, events := range s.times {
		if uuid != "" && i == 0 {
			events.reader.add("uuid", uuid)
		}
		if body != "" && i == 0 {
			events.reader.add("body", body)
		}
		if len(events.null) > 0 {
			events.reader.add("is_null", string(appendJSON(nil, events.null)))
		}
		if events.unresolved > 0 {
			events.reader.add("unresolved_aliases", int64(events.unresolved))
		}
		for _, m := range events.metrics {
			if len(m.FieldList()) == 0 && s.failed != nil { // all that it should hold is what failed
				continue
			}
			r := eventReader{m: m, room: math.MaxInt}
			if hasSeq {
				r.add("seq", inInt64(seq))
			}
			if events.historical {
				r.add("is_historical", true)
			}
			if len(m.FieldList()) == 0 { // such as a death that is nothing but its topic
				r.add("message", s.topic.messageType)
			}
			all = append(all, m)
		}
	}
	return all, s.failed
}

func (s *sparkplugReader) metric(m sparkplugMetric) {
	s.enter(sparkplugTime{m.timestamp, m.historical})
	name, datatype, resolved := s.known.resolve(m)
	if m.name == "" && (!resolved || s.room < len(name)) {
		name = "alias_" + strconv.FormatUint(m.alias, 10)
		s.now.unresolved++
		s.unresolved++
	}
	s.value(name, datatype, m, maxDepth)
}

// enter opens the events of a time.
func (s *sparkplugReader) enter(t sparkplugTime) {
	if s.now = s.byTime[t]; s.now != nil {
		return
	}
	s.now = &sparkplugEvents{historical: t.historical}
	s.byTime[t] = s.now
	s.times = append(s.times, s.now)
	at := s.at
	if t.milliseconds > 0 {
		var err error
		if at, err = sparkplugDate(t.milliseconds); err != nil {
			s.fail(err)
			at = s.at
		}
	}
	s.open(at)
}

func (s *sparkplugReader) open(at time.Time) {
	m := metric.New(eventName, nil, nil, at)
	s.now.reader = eventReader{m: m, room: math.MaxInt}
	s.now.metrics = append(s.now.metrics, m)
	s.events++
}

// add adds a field to the open event, or to another one behind it.
func (s *sparkplugReader) add(name string, value any) {
	const own = 8 // fields that read adds
	s.room -= len(name)
	if s.full() {
		return
	}
	if s.now.reader.fields >= maxFields-own {
		s.open(s.now.reader.m.Time())
	}
	s.now.reader.add(name, value)
}

// full reports that the payload holds more than fits. Whatever repeats a name's beginning asks first.
func (s *sparkplugReader) full() bool {
	if s.room < 0 || s.events > maxEvents {
		s.fail(errSparkplugBounds)
		return true
	}
	return false
}

// value adds a metric's value. What contains others has their names behind a dot, levels deep at most.
func (s *sparkplugReader) value(name string, datatype uint32, m sparkplugMetric, levels int) {
	if levels == 0 {
		s.fail(errSparkplugBounds)
		return
	}
	switch v := m.value; {
	case m.null || v.number == 0:
		s.now.null = append(s.now.null, name)
		s.room -= len(name)
	case v.number <= 15:
		s.scalar(name, datatype, v, 10)
	case v.wire != protowire.BytesType:
		s.fail(errors.New("a value of the wrong kind"))
	case v.number == 16:
		text := arrayOrBytes(v.bytes, datatype, s.room)
		s.room -= max(0, len(text)-8*len(v.bytes)) // bits became words
		s.add(name, text)
	case v.number == 17:
		text, err := dataSet(v.bytes)
		if err != nil {
			s.fail(err)
			return
		}
		s.add(name, text)
	case v.number == 18:
		s.template(name, v.bytes, levels-1)
	default: // of somebody's extension
		s.add(name, toBase64(v.bytes))
	}
	if m.properties != nil {
		s.properties(name+".properties", m.properties, levels-1)
	}
	if m.metadata != nil {
		s.named(name+".metadata", m.metadata, []string{
			"", "is_multi_part", "content_type", "size", "seq", "file_name", "file_type", "md5", "description",
		})
	}
}

func (s *sparkplugReader) scalar(name string, datatype uint32, f wireField, first protowire.Number) {
	value, err := scalar(f, first, datatype)
	if err != nil {
		s.fail(err)
		return
	}
	s.add(name, value)
}

// named adds the fields of a message that has only booleans, integers and text, by their names; a boolean's begins with
// is_.
func (s *sparkplugReader) named(prefix string, b []byte, names []string) {
	for f, err := range fieldsOf(b) {
		switch {
		case err != nil:
			s.fail(err)
			return
		case s.full():
			return
		case int(f.number) >= len(names) || names[f.number] == "":
		case f.wire == protowire.BytesType:
			s.add(prefix+"."+names[f.number], utf8Or64(f.bytes))
		case strings.HasPrefix(names[f.number], "is_"):
			s.add(prefix+"."+names[f.number], f.bits != 0)
		default:
			s.add(prefix+"."+names[f.number], inInt64(f.bits))
		}
	}
}

func (s *sparkplugReader) template(prefix string, b []byte, levels int) {
	s.named(prefix, b, []string{"", "version", "", "", "template_ref", "is_definition"})
	for f, err := range fieldsOf(b) {
		switch {
		case err != nil || s.full(): // which named said
			return
		case f.number == 2:
			m, err := readSparkplugMetric(f.bytes)
			if err != nil {
				s.fail(err)
				continue
			}
			name, datatype, resolved := s.known.resolve(m)
			if m.name == "" && !resolved {
				name = "alias_" + strconv.FormatUint(m.alias, 10)
			}
			s.value(prefix+"."+name, datatype, m, levels)
		case f.number == 3:
			s.parameter(prefix+".parameters", f.bytes)
		}
	}
}

func (s *sparkplugReader) parameter(prefix string, b []byte) {
	var name string
	var datatype uint32
	var value wireField
	for f, err := range fieldsOf(b) {
		switch {
		case err != nil:
			s.fail(err)
			return
		case f.number == 1:
			name = toUTF8(f.bytes)
		case f.number == 2:
			datatype = uint32(f.bits) //nolint:gosec // as the specification has it
		case f.number <= 8:
			value = f
		}
	}
	if value.number > 0 {
		s.scalar(prefix+"."+name, datatype, value, 3)
	}
}

func (s *sparkplugReader) properties(prefix string, b []byte, levels int) {
	if levels <= 0 {
		s.fail(errSparkplugBounds)
		return
	}
	var keys []string
	var values [][]byte
	for f, err := range fieldsOf(b) {
		switch {
		case err != nil:
			s.fail(err)
			return
		case f.number == 1:
			keys = append(keys, toUTF8(f.bytes))
		case f.number == 2:
			values = append(values, f.bytes)
		}
	}
	if len(keys) != len(values) {
		s.fail(fmt.Errorf("properties with %d keys and %d values", len(keys), len(values)))
	}
	for i := range min(len(keys), len(values)) {
		if s.full() {
			return
		}
		s.property(prefix+"."+keys[i], values[i], levels)
	}
}

func (s *sparkplugReader) property(name string, b []byte, levels int) {
	var datatype uint32
	var null bool
	var value wireField
	for f, err := range fieldsOf(b) {
		switch {
		case err != nil:
			s.fail(err)
			return
		case f.number == 1:
			datatype = uint32(f.bits) //nolint:gosec // as the specification has it
		case f.number == 2:
			null = f.bits != 0
		case f.number <= 10:
			value = f
		}
	}
	switch {
	case null || value.number == 0:
	case value.number <= 8:
		s.scalar(name, datatype, value, 3)
	case value.number == 9:
		s.properties(name, value.bytes, levels-1)
	default:
		i := 0
		for f, err := range fieldsOf(value.bytes) {
			if err != nil {
				s.fail(err)
			}
			if err != nil || s.full() {
				return
			}
			if f.number == 1 {
				s.properties(name+"."+strconv.Itoa(i), f.bytes, levels-1)
				i++
			}
		}
	}
}

func readSparkplugMetric(b []byte) (m sparkplugMetric, err error) {
	for f, err := range fieldsOf(b) {
		if err != nil {
			return m, err
		}
		switch f.number {
		case 1:
			m.name = toUTF8(f.bytes)
		case 2:
			m.alias, m.hasAlias = f.bits, true
		case 3:
			m.timestamp = f.bits
		case 4:
			m.datatype = uint32(f.bits) //nolint:gosec // as the specification has it
		case 5:
			m.historical = f.bits != 0
		case 7:
			m.null = f.bits != 0
		case 8:
			m.metadata = f.bytes
		case 9:
			m.properties = f.bytes
		case 10, 11, 12, 13, 14, 15, 16, 17, 18, 19:
			m.value = f
		}
	}
	return m, nil
}

// scalar reads one of the six fields of a value, the first of which has this number. Signed integers of up to 32 bits
// are in the int field, in two's complement of 32 bits, or, of some devices, of their own width.
func scalar(f wireField, first protowire.Number, datatype uint32) (any, error) {
	kinds := [...]protowire.Type{
		protowire.VarintType, protowire.VarintType, protowire.Fixed32Type, protowire.Fixed64Type, protowire.VarintType, protowire.BytesType,
	}
	which := f.number - first
	if which < 0 || int(which) >= len(kinds) || kinds[which] != f.wire {
		return nil, errors.New("a value of the wrong kind")
	}
	switch which {
	case 0, 1:
		return integer(f.bits, datatype), nil
	case 2:
		return finite(float64(math.Float32frombits(uint32(f.bits)))), nil //nolint:gosec // it has 32 bits
	case 3:
		return finite(math.Float64frombits(f.bits)), nil
	case 4:
		return f.bits != 0, nil
	default:
		return utf8Or64(f.bytes), nil
	}
}

//nolint:gosec // the narrowing is what the types say
func integer(bits uint64, datatype uint32) any {
	switch {
	case datatype == sparkplugInt8:
		return int64(int8(bits))
	case datatype == sparkplugInt16:
		return int64(int16(bits))
	case datatype == sparkplugInt32:
		return int64(int32(bits))
	case datatype == sparkplugInt64:
		return int64(bits)
	case datatype > sparkplugInt64 && datatype <= sparkplugUInt64:
		return bits
	case datatype == sparkplugBoolean:
		return bits != 0
	case datatype == sparkplugDateTime:
		return dateTime(bits)
	}
	return inInt64(bits)
}

func dateTime(milliseconds uint64) any {
	at, err := sparkplugDate(milliseconds)
	if err != nil {
		return inInt64(milliseconds)
	}
	return at.UTC().Format(time.RFC3339Nano)
}

func sparkplugDate(milliseconds uint64) (time.Time, error) {
	if milliseconds > math.MaxInt64 {
		return time.Time{}, fmt.Errorf("the timestamp %d is out of range", milliseconds)
	}
	return inRange(time.UnixMilli(int64(milliseconds)))
}

// inInt64 returns a number in the type that JSON's get.
func inInt64(u uint64) any {
	if u > math.MaxInt64 {
		return u
	}
	return int64(u)
}

// arrayOrBytes reads an array of packed values into JSON text, and takes anything else for bytes.
// An array of bits becomes long text, for which there must be room.
func arrayOrBytes(b []byte, datatype uint32, room int) string {
	var elements []any
	width := 0
	switch {
	case datatype >= sparkplugInt8Array && datatype <= sparkplugInt64Array:
		width = 1 << (datatype - sparkplugInt8Array)
	case datatype >= sparkplugUInt8Array && datatype <= sparkplugUInt64Array:
		width = 1 << (datatype - sparkplugUInt8Array)
	case datatype == sparkplugFloatArray:
		width = 4
	case datatype == sparkplugDoubleArray, datatype == sparkplugDateTimeArray:
		width = 8
	case datatype == sparkplugBooleanArray && len(b) >= 4:
		count := int(littleEndian(b[:4])) //nolint:gosec // 32 bits
		if (count+7)/8 != len(b)-4 || len("false,")*count > room {
			return toBase64(b)
		}
		for i := range count {
			elements = append(elements, b[4+i/8]&(0x80>>(i%8)) != 0)
		}
		return string(appendJSON(nil, elements))
	case datatype == sparkplugStringArray && (len(b) == 0 || b[len(b)-1] == 0):
		for text := range strings.SplitAfterSeq(string(b), "\x00") {
			if text != "" {
				elements = append(elements, strings.TrimSuffix(text, "\x00"))
			}
		}
		return string(appendJSON(nil, elements))
	}
	if width == 0 || len(b)%width != 0 {
		return toBase64(b)
	}
	for element := range slices.Chunk(b, width) {
		elements = append(elements, arrayElement(littleEndian(element), datatype))
	}
	return string(appendJSON(nil, elements))
}

func arrayElement(bits uint64, datatype uint32) any {
	switch datatype {
	case sparkplugFloatArray:
		return float64(math.Float32frombits(uint32(bits))) //nolint:gosec // it has 32 bits
	case sparkplugDoubleArray:
		return math.Float64frombits(bits)
	case sparkplugDateTimeArray:
		return dateTime(bits)
	}
	return integer(bits, datatype-sparkplugInt8Array+sparkplugInt8) // array types are in the order of the others
}

func littleEndian(b []byte) (bits uint64) {
	for i, c := range b {
		bits |= uint64(c) << (8 * i)
	}
	return bits
}

// dataSet reads a table into JSON text: {"columns":[…],"rows":[[…],…]}.
func dataSet(b []byte) (string, error) {
	columns, rows := []any{}, []any{}
	var types []uint32
	for f, err := range fieldsOf(b) {
		if err != nil {
			return "", err
		}
		switch {
		case f.number == 2:
			columns = append(columns, toUTF8(f.bytes))
		case f.number == 3 && f.wire == protowire.VarintType:
			types = append(types, uint32(f.bits)) //nolint:gosec // as the specification has it
		case f.number == 3: // packed
			for packed := f.bytes; len(packed) > 0; {
				bits, n := protowire.ConsumeVarint(packed)
				if n < 0 {
					return "", protowire.ParseError(n)
				}
				types = append(types, uint32(bits)) //nolint:gosec // as the specification has it
				packed = packed[n:]
			}
		case f.number == 4:
			row, err := dataSetRow(f.bytes, types)
			if err != nil {
				return "", err
			}
			rows = append(rows, row)
		}
	}
	return string(appendJSON(nil, map[any]any{"columns": columns, "rows": rows})), nil
}

func dataSetRow(b []byte, types []uint32) ([]any, error) {
	row := []any{}
	for f, err := range fieldsOf(b) {
		if err != nil {
			return nil, err
		}
		if f.number != 1 {
			continue
		}
		var datatype uint32
		if len(row) < len(types) {
			datatype = types[len(row)]
		}
		var value any // null without one
		for f, err := range fieldsOf(f.bytes) {
			if err != nil {
				return nil, err
			}
			if f.number > 6 {
				continue
			}
			if value, err = scalar(f, 1, datatype); err != nil {
				return nil, err
			}
		}
		row = append(row, value)
	}
	return row, nil
}

// wireField is one field of a protobuf message: bits of a number, or bytes.
type wireField struct {
	number protowire.Number
	wire   protowire.Type
	bits   uint64
	bytes  []byte
}

// fieldsOf goes over a message's fields, up to the first error.
func fieldsOf(b []byte) iter.Seq2[wireField, error] {
	return func(yield func(wireField, error) bool) {
		for len(b) > 0 {
			var f wireField
			var n int
			f.number, f.wire, n = protowire.ConsumeTag(b)
			if n >= 0 {
				b = b[n:]
				switch f.wire {
				case protowire.VarintType:
					f.bits, n = protowire.ConsumeVarint(b)
				case protowire.Fixed64Type:
					f.bits, n = protowire.ConsumeFixed64(b)
				case protowire.Fixed32Type:
					var bits uint32
					bits, n = protowire.ConsumeFixed32(b)
					f.bits = uint64(bits)
				case protowire.BytesType:
					f.bytes, n = protowire.ConsumeBytes(b)
				default:
					n = protowire.ConsumeFieldValue(f.number, f.wire, b)
				}
			}
			if n < 0 {
				yield(f, fmt.Errorf("no Sparkplug B: %w", protowire.ParseError(n)))
				return
			}
			b = b[n:]
			if !yield(f, nil) {
				return
			}
		}
	}
}

func toUTF8(b []byte) string { return strings.ToValidUTF8(string(b), "\ufffd") }

func utf8Or64(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	return toBase64(b)
}

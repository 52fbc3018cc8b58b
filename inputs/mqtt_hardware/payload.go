package mqtt_hardware

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-logfmt/logfmt"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/metric"
	"github.com/influxdata/telegraf/selfstat"
)

// The values of payload_format.
const (
	formatAuto      = "auto"
	formatJSON      = "json"
	formatText      = "text"
	formatLogfmt    = "logfmt"
	formatCBOR      = "cbor"
	formatMsgpack   = "msgpack"
	formatSparkplug = "sparkplug_b"
	formatBytes     = "bytes"
)

// The values of on_malformed.
const (
	malformedEvent = "event"
	malformedDrop  = "drop"
)

// maxTakenApart bounds payloads in binary formats, of which each byte can ask for 150 of memory. Larger ones are kept whole.
const maxTakenApart = 4 << 20

// keptOfLarge is how many of its first bytes are kept of a payload beyond max_payload_size.
const keptOfLarge = 4 << 10

// PayloadOptions say how payloads are read.
type PayloadOptions struct {
	PayloadFormat     string      `toml:"payload_format"`
	MaxPayloadSize    config.Size `toml:"max_payload_size"` // 0: no bound
	OnMalformed       string      `toml:"on_malformed"`
	StripANSI         bool        `toml:"strip_ansi"`
	TimestampField    string      `toml:"timestamp_field"` // empty: events have the time of receipt
	TimestampFormat   string      `toml:"timestamp_format"`
	TimestampTimezone string      `toml:"timestamp_timezone"`
}

// newPayloadOptions returns the defaults.
func newPayloadOptions() PayloadOptions {
	return PayloadOptions{
		PayloadFormat: formatAuto,
		// A bound for memory alone: a payload may be a quarter of what the queue holds. VictoriaLogs takes rows of 256 KiB, but
		// its output sets longer ones aside whole, which is better than to cut them here.
		MaxPayloadSize:    maxQueuedBytes / 4,
		OnMalformed:       malformedEvent,
		TimestampTimezone: "UTC",
	}
}

// payloadReader makes metrics of payloads. Malformed are those of which anything could not be read as their format says;
// what could be read becomes metrics, and the whole payload as it came one more, with the field error. Its zero
// value reads as readEvent does. One goroutine at a time may use it.
type payloadReader struct {
	format     string
	maxSize    int // 0: no bound
	drop       bool
	stripANSI  bool
	timestamps *timestampReader // nil: the time of receipt
	births     *births
	dropped    selfstat.Stat
	unresolved selfstat.Stat
}

// newReader checks the options. dataFormat is the name of Telegraf's parser, which reads payloads instead.
func (o *PayloadOptions) newReader(dataFormat string, statistics *selfstat.Collector) (payloadReader, error) {
	formats := []string{
		formatAuto, formatJSON, formatText, formatLogfmt, formatCBOR, formatMsgpack, formatSparkplug, formatBytes,
	}
	if !slices.Contains(formats, o.PayloadFormat) {
		return payloadReader{}, fmt.Errorf("payload_format = %q: must be one of %s", o.PayloadFormat, strings.Join(formats, ", "))
	}
	if o.OnMalformed != malformedEvent && o.OnMalformed != malformedDrop {
		return payloadReader{}, fmt.Errorf("on_malformed = %q: must be %s or %s", o.OnMalformed, malformedEvent, malformedDrop)
	}
	if o.MaxPayloadSize < 0 {
		return payloadReader{}, fmt.Errorf("max_payload_size = %d: must be 0 for no bound, or a size such as \"1MiB\"", o.MaxPayloadSize)
	}
	if dataFormat != "" {
		for _, option := range []struct {
			key string
			set bool
		}{
			{fmt.Sprintf("payload_format = %q", o.PayloadFormat), o.PayloadFormat != formatAuto},
			{"strip_ansi = true", o.StripANSI},
			{fmt.Sprintf("timestamp_field = %q", o.TimestampField), o.TimestampField != ""},
		} {
			if option.set {
				return payloadReader{}, fmt.Errorf("%s has no effect beside data_format = %q, whose parser reads the payloads: leave one of "+
					"them out", option.key, dataFormat)
			}
		}
	}
	timestamps, err := o.newTimestampReader()
	if err != nil {
		return payloadReader{}, err
	}
	return payloadReader{
		format:     o.PayloadFormat,
		maxSize:    int(o.MaxPayloadSize),
		drop:       o.OnMalformed == malformedDrop,
		stripANSI:  o.StripANSI,
		timestamps: timestamps,
		births:     newBirths(maxBirthBytes),
		dropped:    statistics.Register("mqtt_hardware", "messages_dropped", map[string]string{"reason": "malformed"}),
		unresolved: statistics.Register("mqtt_hardware", "sparkplug_unresolved", nil),
	}, nil
}

// read makes one metric at least. contentType is that of MQTT 5, and empty without one.
func (r *payloadReader) read(payload []byte, topic, contentType string, at time.Time) (metrics []telegraf.Metric, malformed bool) {
	format := r.format
	if format == formatAuto {
		format = detect(topic, contentType)
	}
	metrics, err := r.decode(payload, format, topic, at)
	if err != nil {
		malformed = true
		m := readRaw(payload, at)
		if isBinary(format) { // no text, even where it could be
			m = newEvent("payload_base64", toBase64(payload), at)
		}
		addError(m, err)
		metrics = append(metrics, m)
	}
	if format == formatSparkplug {
		tagSparkplug(metrics, topic)
	}
	for _, m := range metrics {
		if r.timestamps != nil {
			if err := r.timestamps.apply(m, at); err != nil {
				malformed = true
				addError(m, err)
			}
		}
		if r.stripANSI {
			for _, field := range m.FieldList() {
				if text, ok := field.Value.(string); ok {
					field.Value = stripANSI(text)
				}
			}
		}
	}
	return metrics, malformed
}

func isBinary(format string) bool {
	return format == formatCBOR || format == formatMsgpack || format == formatSparkplug
}

// decode reads a payload as its format says. An error stands for all that the metrics lack.
func (r *payloadReader) decode(payload []byte, format, topic string, at time.Time) ([]telegraf.Metric, error) {
	if isBinary(format) && len(payload) > maxTakenApart {
		return nil, fmt.Errorf("the payload has %d bytes; in this format it is taken apart up to %d", len(payload), maxTakenApart)
	}
	if format == formatSparkplug {
		return r.sparkplug(payload, topic, at)
	}
	if len(payload) == 0 { // which clears a retained message, whatever the format
		return one(readRaw(payload, at)), nil
	}
	switch format {
	case formatJSON:
		return readJSON(payload, at)
	case formatText:
		if !utf8.Valid(payload) {
			return nil, errors.New("no UTF-8")
		}
		return one(readRaw(payload, at)), nil
	case formatLogfmt:
		return readLogfmt(payload, at)
	case formatCBOR:
		return readTranscoded(payload, cborToJSON, at)
	case formatMsgpack:
		return readTranscoded(payload, msgpackToJSON, at)
	case formatBytes:
		return one(newEvent("payload_base64", toBase64(payload), at)), nil
	default:
		return one(readEvent(payload, at)), nil
	}
}

func one(m telegraf.Metric) []telegraf.Metric { return []telegraf.Metric{m} }

// detect finds the format by topic and content type; formatAuto means by the payload itself.
func detect(topic, contentType string) string {
	if strings.HasPrefix(topic, sparkplugNamespace+"/") && parseSparkplugTopic(topic).messageType != "" {
		return formatSparkplug
	}
	if contentType == "" {
		return formatAuto
	}
	contentType, _, _ = strings.Cut(contentType, ";")
	contentType = strings.ToLower(strings.TrimSpace(contentType))
	switch {
	case contentType == "application/json", strings.HasSuffix(contentType, "+json"):
		return formatJSON
	case contentType == "application/cbor", strings.HasSuffix(contentType, "+cbor"):
		return formatCBOR
	case contentType == "application/msgpack", contentType == "application/x-msgpack", contentType == "application/vnd.msgpack":
		return formatMsgpack
	case strings.HasPrefix(contentType, "text/"):
		return formatText
	}
	return formatAuto
}

// tooLarge returns what stands for a payload that is beyond the bound, and nil for others.
func (r *payloadReader) tooLarge(payload []byte, at time.Time) telegraf.Metric {
	if r.maxSize == 0 || len(payload) <= r.maxSize {
		return nil
	}
	kept := payload[:min(keptOfLarge, r.maxSize)]
	if last, size := utf8.DecodeLastRune(kept); last == utf8.RuneError && size == 1 { // perhaps cut within a rune
		for cut := 1; cut < utf8.UTFMax && cut < len(kept); cut++ {
			if utf8.Valid(kept[:len(kept)-cut]) {
				kept = kept[:len(kept)-cut]
				break
			}
		}
	}
	return unreadable(kept, fmt.Errorf("the payload has %d bytes, and max_payload_size = %d; these are the first %d",
		len(payload), r.maxSize, len(kept)), at)
}

// unreadable makes a metric of a payload as it is and of what is wrong with it.
func unreadable(payload []byte, err error, at time.Time) telegraf.Metric {
	m := readRaw(payload, at)
	addError(m, err)
	return m
}

// readJSON reads what must be JSON. As with readEvent, only an object is taken apart.
func readJSON(payload []byte, at time.Time) ([]telegraf.Metric, error) {
	if !utf8.Valid(payload) {
		return nil, errors.New("no JSON: no UTF-8")
	}
	text := string(payload)
	if m := readObject(text, at); m != nil {
		return one(m), nil
	}
	if !json.Valid(payload) {
		return nil, errors.New("no JSON")
	}
	return one(newEvent("message", text, at)), nil
}

// readLogfmt makes a metric of each line. Values are what they are in JSON: numbers, true, false, or else text.
func readLogfmt(payload []byte, at time.Time) ([]telegraf.Metric, error) {
	if !utf8.Valid(payload) {
		return nil, errors.New("no logfmt: no UTF-8")
	}
	var metrics []telegraf.Metric
	d := logfmt.NewDecoderSize(bytes.NewReader(payload), len(payload)+1)
	for d.ScanRecord() {
		if len(metrics) == maxEvents {
			return metrics, fmt.Errorf("more than %d lines of logfmt", maxEvents)
		}
		r := eventReader{m: metric.New(eventName, nil, nil, at), room: maxNames * len(payload)}
		valued := false
		for d.ScanKeyval() {
			valued = valued || len(d.Value()) > 0
			r.add(string(d.Key()), logfmtValue(string(d.Value())))
		}
		switch {
		case d.Err() != nil: // of which the decoder goes on to the next line
			return metrics, fmt.Errorf("no logfmt: %w", d.Err())
		case r.beyond():
			return metrics, fmt.Errorf("more than %d fields in a line of logfmt", maxFields)
		case valued:
			metrics = append(metrics, r.m)
		case r.fields > 0:
			return metrics, errors.New("no logfmt: a line without key=value")
		}
	}
	if d.Err() != nil {
		return metrics, fmt.Errorf("no logfmt: %w", d.Err())
	}
	if len(metrics) == 0 {
		return nil, errors.New("no logfmt: no key=value")
	}
	return metrics, nil
}

func logfmtValue(text string) any {
	if text == "true" || text == "false" {
		return text == "true"
	}
	if isNumber(text) {
		return number(text)
	}
	return text
}

var ansiSequence = regexp.MustCompile("\x1b\\[[0-?]*[ -/]*[@-~]") // ECMA-48 section 5.4: control sequences

// stripANSI removes what colours text on a terminal.
func stripANSI(text string) string {
	if strings.IndexByte(text, 0x1b) < 0 {
		return text
	}
	return ansiSequence.ReplaceAllString(text, "")
}

// timestampReader takes an event's time from one of its fields.
type timestampReader struct {
	field    string
	digits   int    // behind the point, of a time in seconds since 1970, to make nanoseconds; -1 with a layout
	layout   string // as package time has them
	location *time.Location
}

var unixDigits = map[string]int{"unix": 9, "unix_ms": 6, "unix_us": 3, "unix_ns": 0}

var layouts = map[string]string{ // the names that Telegraf's parsers know
	"ansic": time.ANSIC, "unixdate": time.UnixDate, "rubydate": time.RubyDate, "rfc822": time.RFC822, "rfc822z": time.RFC822Z,
	"rfc850": time.RFC850, "rfc1123": time.RFC1123, "rfc1123z": time.RFC1123Z, "rfc3339": time.RFC3339,
	"rfc3339nano": time.RFC3339Nano, "stamp": time.Stamp, "stampmilli": time.StampMilli, "stampmicro": time.StampMicro,
	"stampnano": time.StampNano,
}

func (o *PayloadOptions) newTimestampReader() (*timestampReader, error) {
	const right = `must be unix, unix_ms, unix_us, unix_ns, rfc3339 or a layout of Go such as "2006-01-02 15:04:05"`
	location, err := time.LoadLocation(o.TimestampTimezone)
	if err != nil {
		return nil, fmt.Errorf("timestamp_timezone = %q: must be a name such as \"Europe/Berlin\", \"Local\" or \"UTC\": %w",
			o.TimestampTimezone, err)
	}
	if o.TimestampField == "" {
		if o.TimestampFormat != "" {
			return nil, fmt.Errorf("timestamp_format = %q has no effect without timestamp_field: set both", o.TimestampFormat)
		}
		return nil, nil //nolint:nilnil // none is wanted
	}
	if o.TimestampFormat == "" {
		return nil, fmt.Errorf("timestamp_format = %q: %s", o.TimestampFormat, right)
	}
	t := &timestampReader{field: o.TimestampField, digits: -1, location: location}
	if digits, ok := unixDigits[o.TimestampFormat]; ok {
		t.digits = digits
		return t, nil
	}
	t.layout = o.TimestampFormat
	if layout, ok := layouts[strings.ToLower(t.layout)]; ok {
		t.layout = layout
	}
	if time.Unix(0, 0).Format(t.layout) == t.layout {
		return nil, fmt.Errorf("timestamp_format = %q: %s", o.TimestampFormat, right)
	}
	return t, nil
}

// apply sets the metric's time. As Telegraf's parsers do, it takes the field away, unless that is the only one. Where the
// field is missing nothing happens; where it is wrong the time stays as it is.
func (t *timestampReader) apply(m telegraf.Metric, received time.Time) error {
	value, ok := m.GetField(t.field)
	if !ok {
		return nil
	}
	at, err := t.parse(value, received)
	if err != nil {
		return fmt.Errorf("timestamp_field %q: %w", t.field, err)
	}
	m.SetTime(at)
	if len(m.FieldList()) > 1 {
		m.RemoveField(t.field)
	}
	return nil
}

func (t *timestampReader) parse(value any, received time.Time) (time.Time, error) {
	var text string
	switch v := value.(type) {
	case string:
		text = v
	case int64:
		text = strconv.FormatInt(v, 10)
	case uint64:
		text = strconv.FormatUint(v, 10)
	case float64:
		text = strconv.FormatFloat(v, 'f', -1, 64) // the digits that the payload had, which float64 has not
	default:
		return time.Time{}, fmt.Errorf("%v is no time", value)
	}
	if t.digits >= 0 {
		return parseUnix(text, t.digits)
	}
	at, err := time.ParseInLocation(t.layout, text, t.location)
	if err != nil {
		return time.Time{}, err
	}
	if zone, offset := at.Zone(); offset == 0 && zone != "UTC" && zone != "" && strings.Contains(t.layout, "MST") {
		location, err := time.LoadLocation(zone) // Go leaves it open which of the zones with this abbreviation is meant
		if err != nil {
			return time.Time{}, fmt.Errorf("%q is no time zone that is known here", zone)
		}
		if at, err = time.ParseInLocation(t.layout, text, location); err != nil {
			return time.Time{}, err
		}
	}
	if at.Year() == 0 { // as in syslog's: the year that brings it next to the present
		at = at.AddDate(received.In(t.location).Year(), 0, 0)
		if at.Sub(received) > 180*24*time.Hour {
			at = at.AddDate(-1, 0, 0)
		}
	}
	return inRange(at)
}

// parseUnix reads a decimal number of which digits more behind the point make nanoseconds. It does not go through
// float64, whose nanoseconds would be wrong.
func parseUnix(text string, digits int) (time.Time, error) {
	whole, fraction, _ := strings.Cut(strings.Replace(text, ",", ".", 1), ".")
	number := strings.TrimPrefix(whole, "-")
	nanoseconds, err := strconv.ParseInt(whole+(fraction + "000000000")[:digits], 10, 64)
	if err != nil || number == "" || strings.Trim(number+fraction, "0123456789") != "" {
		return time.Time{}, fmt.Errorf("%.40q is no number of seconds, or is out of range", text)
	}
	return time.Unix(0, nanoseconds), nil
}

// inRange refuses what Telegraf's outputs cannot express: they count nanoseconds in 64 bits.
func inRange(at time.Time) (time.Time, error) {
	if !time.Unix(0, at.UnixNano()).Equal(at) {
		return time.Time{}, fmt.Errorf("%v is out of range", at)
	}
	return at, nil
}

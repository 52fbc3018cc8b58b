package vlreceiver

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	maxNameBytes = 128
	maxRowBytes  = 2 << 20 // as JSON, estimated
	flushBytes   = 1 << 20 // of records before a long request stores what it has so far
	day          = int64(24 * time.Hour)
)

// defaultMsg is what VictoriaLogs puts where a row has no message.
const defaultMsg = "missing _msg field; see https://docs.victoriametrics.com/victorialogs/keyconcepts/#message-field"

// call is one insert request while it is served. Its counts are read when it is over.
type call struct {
	r       *http.Request
	path    string
	body    countingBody // is r.Body
	wire    []byte       // all of it; nil unless it was buffered
	ahead   []byte       // and decoded; nil unless a fault asked for that
	decoded int64
	lines   int
	stored  int
}

type countingBody struct {
	io.ReadCloser
	n int64
}

func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	return n, err
}

func newCall(r *http.Request, path string) *call {
	c := &call{r: r, path: path, body: countingBody{ReadCloser: r.Body}}
	r.Body = &c.body
	return c
}

// buffer reads the whole body ahead, so that the client may go away. It reports whether the body was complete.
func (c *call) buffer() bool {
	data, err := io.ReadAll(&c.body)
	c.body = countingBody{ReadCloser: io.NopCloser(&blockReader{rest: data})}
	c.wire = data
	return err == nil
}

// readAhead buffers and decodes the body, of a broken one what there is.
func (c *call) readAhead() {
	c.buffer()
	var d decoders
	if src, err := d.open(bytes.NewReader(c.wire), c.r.Header.Get("Content-Encoding")); err == nil {
		c.ahead, _ = io.ReadAll(src)
		d.release()
	}
}

// ingester turns requests into records. It serves one request at a time and is reused.
type ingester struct {
	srv      *Server
	decoders decoders
	lines    lineReader
	parser   parser
	fields   []field
	tags     []field
	stream   []byte
	records  []byte
	rows     int // of records, or counted only

	// Of the request being served:
	call     *call
	params   *params
	counters *counters
	protocol *protocolCounters
	minDay   int64
	maxDay   int64
}

func newIngester(s *Server) *ingester { return &ingester{srv: s} }

func (l *life) withIngester(c *call, p *params, pc *protocolCounters, f func(in *ingester) answer) answer {
	in := l.srv.ingesters.Get().(*ingester) //nolint:errcheck // the pool holds nothing else
	defer l.srv.ingesters.Put(in)
	now := time.Now()
	in.call, in.params, in.counters, in.protocol = c, p, &l.counters, pc
	in.minDay = now.Add(-l.srv.cfg.Retention).UnixNano() / day
	in.maxDay = now.Add(l.srv.cfg.FutureRetention).UnixNano() / day
	a := f(in)
	in.flush()
	in.decoders.release()
	in.lines.src = nil
	in.call, in.params, in.counters, in.protocol = nil, nil, nil, nil
	return a
}

// jsonLine serves /insert/jsonline. It answers 200 unless every line is bad.
func (l *life) jsonLine(c *call) answer {
	if c.r.Method != http.MethodPost {
		return answer{status: http.StatusMethodNotAllowed}
	}
	l.counters.jsonLine.requests.Add(1)
	p, err := parseParams(c.r)
	if err != nil {
		return badRequest("%w", err)
	}
	if l.srv.readOnly.Load() {
		return readOnly
	}
	return l.withIngester(c, p, &l.counters.jsonLine, (*ingester).jsonLines)
}

func (in *ingester) jsonLines() answer {
	ok := answer{status: http.StatusOK, contentType: "application/json"}
	src, err := in.decoders.open(in.call.r.Body, in.call.r.Header.Get("Content-Encoding"))
	if err != nil {
		return ok // and nothing stored: the real server only logs it
	}
	lr := &in.lines
	lr.reset(src, in.srv.cfg.MaxLineBytes)
	bad := 0
	var lastErr error
	for {
		line, more := lr.next()
		if !more {
			break
		}
		if len(line) == 0 {
			continue
		}
		in.call.lines++
		if err := in.jsonLine(line); err != nil {
			bad++
			lastErr = fmt.Errorf("%w; line: %.200q", err, line)
		}
	}
	in.call.decoded = lr.read
	in.counters.tooLong.Add(uint64(lr.skipped)) //nolint:gosec // never negative
	if lr.err != nil {
		// This counts like a bad line, so a broken body with a single good line is a 400 although it is stored.
		bad++
		lastErr = fmt.Errorf("cannot read the next line: %w", lr.err)
	}
	in.protocol.errors.Add(uint64(bad))
	if bad > 0 && bad == in.call.lines {
		return badRequest("cannot process jsonline request; error: %w", lastErr)
	}
	return ok
}

func (in *ingester) jsonLine(line []byte) error {
	in.parser.reset()
	fields, err := in.parser.appendFields(in.fields[:0], line)
	in.fields = fields
	if err != nil {
		return err
	}
	ns, err := takeTime(fields, in.params.timeFields)
	if err != nil {
		return err
	}
	renameMsg(fields, in.params.msgFields)
	in.add(ns, fields, nil)
	return nil
}

// takeTime returns the time of a row and empties the field that says it.
func takeTime(fields []field, names []string) (int64, error) {
	for _, name := range names {
		for i := range fields {
			f := &fields[i]
			if string(f.name) != name {
				continue
			}
			ns, ok := parseTime(f.value)
			if !ok {
				return 0, fmt.Errorf("cannot parse timestamp from field %q: %.80q", name, f.value)
			}
			f.value = nil
			if ns == 0 {
				ns = time.Now().UnixNano()
			}
			return ns, nil
		}
	}
	return time.Now().UnixNano(), nil
}

// renameMsg makes the first field with one of the names the message.
func renameMsg(fields []field, names []string) {
	for _, name := range names {
		for i := range fields {
			if f := &fields[i]; string(f.name) == name && len(f.value) > 0 {
				f.name = []byte("_msg")
				return
			}
		}
	}
}

// add stores a row, or drops it without a word. Labels, if not nil, are the stream; otherwise the request names it.
func (in *ingester) add(ns int64, fields, labels []field) {
	size := len(`{"_time":""}`) + len("\n") + len(time.RFC3339Nano)
	longName := false
	for _, f := range fields {
		longName = longName || len(f.name) > maxNameBytes
		if len(f.value) > 0 {
			size += len(`,"":""`) + len(f.name) + len(f.value)
		}
	}
	in.protocol.rows.Add(1)
	in.protocol.bytes.Add(uint64(size))
	switch rowDay := ns / day; {
	case len(fields) > in.srv.cfg.MaxFields:
		in.counters.droppedFields.Add(1)
	case longName || size > maxRowBytes:
	case in.params.debug:
		in.counters.droppedDebug.Add(1)
	case rowDay < in.minDay:
		in.counters.droppedOld.Add(1)
	case rowDay > in.maxDay:
		in.counters.droppedFuture.Add(1)
	default:
		in.rows++
		if !in.srv.cfg.CountOnly {
			in.record(ns, fields, labels)
		}
	}
}

// record appends the row as store.go draws it.
func (in *ingester) record(ns int64, fields, labels []field) {
	at := len(in.records)
	dst := append(in.records, 0, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(ns)) //nolint:gosec // read back as an int64
	dst = binary.LittleEndian.AppendUint64(dst, uint64(time.Now().UnixNano()))
	dst = binary.AppendUvarint(dst, in.streamNumber(fields, labels))
	hasMsg := false
	put := func(name, value []byte) {
		number := in.srv.store.names.number(nameOrMsg(name))
		hasMsg = hasMsg || number == msgName
		dst = binary.AppendUvarint(dst, number)
		dst = binary.AppendUvarint(dst, uint64(len(value)))
		dst = append(dst, value...)
	}
	for _, f := range fields {
		if len(f.value) > 0 && !in.params.ignores(nameOrMsg(f.name)) {
			put(f.name, f.value)
		}
	}
	for _, f := range in.params.extra {
		put(f.name, f.value)
	}
	if !hasMsg {
		put(nil, []byte(defaultMsg))
	}
	binary.LittleEndian.PutUint32(dst[at:], uint32(len(dst)-at-4)) //nolint:gosec // rows have at most a few MiB
	in.records = dst
	if len(in.records) >= flushBytes {
		in.flush()
	}
}

func (in *ingester) streamNumber(fields, labels []field) uint64 {
	tags := in.tags[:0]
	for _, f := range labels {
		if !in.params.ignores(nameOrMsg(f.name)) {
			tags = append(tags, f)
		}
	}
	if labels == nil {
		for _, f := range fields {
			if in.params.isStreamField(f.name) {
				tags = append(tags, f)
			}
		}
		for _, f := range in.params.extra {
			if f.inStream {
				tags = append(tags, field{name: f.name, value: f.value})
			}
		}
	}
	in.tags = tags
	slices.SortFunc(tags, func(a, b field) int {
		if c := bytes.Compare(a.name, b.name); c != 0 {
			return c
		}
		return bytes.Compare(a.value, b.value)
	})
	dst := append(in.stream[:0], '{')
	for _, t := range tags {
		if len(t.value) == 0 {
			continue
		}
		if len(dst) > 1 {
			dst = append(dst, ',')
		}
		dst = append(append(dst, nameOrMsg(t.name)...), '=')
		dst = strconv.AppendQuote(dst, string(t.value))
	}
	dst = append(dst, '}')
	in.stream = dst
	if len(dst) == len("{}") {
		return emptyStream
	}
	return in.srv.store.streams.number(dst)
}

func (in *ingester) flush() {
	in.srv.store.add(in.params.tenant, in.records, in.rows)
	in.call.stored += in.rows
	in.records, in.rows = in.records[:0], 0
}

// answer is a response before it is written.
type answer struct {
	hangUp      hangUp // not 0: there is none
	status      int
	contentType string
	body        string
	retryAfter  string
	challenge   bool // ask for a user name and password
}

var readOnly = answer{status: http.StatusTooManyRequests, body: "cannot add rows: the storage is in read-only mode"}

func badRequest(format string, args ...any) answer {
	return answer{status: http.StatusBadRequest, body: fmt.Errorf(format, args...).Error()}
}

func (a answer) write(w http.ResponseWriter) {
	if a.hangUp != 0 {
		a.hangUp.do(w)
		return
	}
	h := w.Header()
	if a.retryAfter != "" {
		h.Set("Retry-After", a.retryAfter)
	}
	if a.challenge {
		h.Set("WWW-Authenticate", `Basic realm="VictoriaMetrics"`)
	}
	if a.status >= http.StatusBadRequest && a.status != http.StatusMethodNotAllowed {
		http.Error(w, strings.TrimSuffix(a.body, "\n"), a.status)
		return
	}
	if a.contentType != "" {
		h.Set("Content-Type", a.contentType)
	}
	w.WriteHeader(a.status)
	_, _ = io.WriteString(w, a.body) // a client that is gone has had its answer
}

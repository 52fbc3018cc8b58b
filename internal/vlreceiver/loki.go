package vlreceiver

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const maxLokiBytes = 64 << 20

// loki serves the JSON form of /insert/loki/api/v1/push.
//
// Malformed JSON stores nothing, but an entry of the wrong shape ends the request with a 400 after the entries before
// it are stored.
func (l *life) loki(c *call) answer {
	if c.r.Header.Get("Content-Type") != "application/json" {
		return badRequest("cannot read Loki protobuf data: the stand-in reads application/json only")
	}
	l.counters.lokiJSON.requests.Add(1)
	p, parse, err := parseLokiParams(c.r)
	if err != nil {
		return badRequest("cannot parse common params from request: %w", err)
	}
	if l.srv.readOnly.Load() {
		return readOnly
	}
	return l.withIngester(c, p, &l.counters.lokiJSON, func(in *ingester) answer {
		if err := in.push(parse); err != nil {
			return badRequest("cannot read Loki json data: %w", err)
		}
		return answer{status: http.StatusNoContent}
	})
}

// parseLokiParams also says whether messages that are JSON objects become fields.
func parseLokiParams(r *http.Request) (p *params, parse bool, err error) {
	p, err = parseParams(r)
	if err != nil {
		return nil, false, err
	}
	if org := r.Header.Get("X-Scope-OrgID"); org != "" && p.tenant == (Tenant{}) {
		account, project, _ := strings.Cut(org, ":")
		p.tenant.AccountID, err = parseUint32(account)
		if err == nil {
			p.tenant.ProjectID, err = parseUint32(project)
		}
		if err != nil {
			return nil, false, fmt.Errorf("X-Scope-OrgID: %w", err)
		}
	}
	off := false
	if text := value(r, "disable_message_parsing", "VL-Loki-Disable-Message-Parsing"); text != "" {
		if off, err = strconv.ParseBool(text); err != nil {
			return nil, false, fmt.Errorf("cannot parse disable_message_parsing=%q: %w", text, err)
		}
	}
	return p, !off, nil
}

func (in *ingester) push(parse bool) error {
	src, err := in.decoders.open(in.call.r.Body, in.call.r.Header.Get("Content-Encoding"))
	if err != nil {
		return err
	}
	body, err := io.ReadAll(io.LimitReader(src, maxLokiBytes+1))
	in.call.decoded = int64(len(body))
	if err != nil {
		return err
	}
	if len(body) > maxLokiBytes {
		return fmt.Errorf("the request has more than %d bytes", maxLokiBytes)
	}
	body = skipSpace(body)
	tail, err := skipValue(body, 0)
	if err != nil {
		return err
	}
	if len(skipSpace(tail)) > 0 {
		return malformed("the end", tail)
	}
	in.parser.reset()
	streams := in.parser.get(body, "streams")
	if len(streams) == 0 || streams[0] != '[' {
		return errors.New("missing `streams` array")
	}
	now := time.Now().UnixNano()
	for _, stream := range appendElements(nil, streams) {
		if err := in.pushStream(stream, now, parse); err != nil {
			return err
		}
	}
	return nil
}

// pushStream adds the entries of {"stream":{label:value},"values":[entry]}.
func (in *ingester) pushStream(stream []byte, now int64, parse bool) error {
	in.parser.reset()
	in.fields = in.fields[:0]
	if labels := in.parser.get(stream, "stream"); labels != nil {
		if err := in.appendStrings(labels); err != nil {
			return fmt.Errorf("`stream`: %w", err)
		}
	}
	values := in.parser.get(stream, "values")
	if len(values) == 0 || values[0] != '[' {
		return errors.New("missing `values` array")
	}
	common, scratch := len(in.fields), len(in.parser.scratch)
	for _, entry := range appendElements(nil, values) {
		in.fields = in.fields[:common]
		in.parser.scratch = in.parser.scratch[:scratch]
		in.call.lines++
		if err := in.pushEntry(entry, common, now, parse); err != nil {
			return err
		}
	}
	return nil
}

// pushEntry adds ["unix ns","message"] or ["unix ns","message",{name:value}]. The first common fields are the labels.
func (in *ingester) pushEntry(entry []byte, common int, now int64, parse bool) error {
	if entry[0] != '[' {
		return fmt.Errorf("an entry of `values` is not an array: %.80q", entry)
	}
	parts := appendElements(nil, entry)
	if len(parts) != 2 && len(parts) != 3 {
		return fmt.Errorf("an entry of `values` has %d elements: want 2 or 3", len(parts))
	}
	when, ok := in.parser.text(parts[0])
	if !ok {
		return fmt.Errorf("the time is not a string: %.80q", parts[0])
	}
	ns := int64(0)
	if len(when) > 0 {
		if ns, ok = parseUnix(string(when)); !ok {
			return fmt.Errorf("cannot parse log timestamp %.80q", when)
		}
	}
	if ns == 0 {
		ns = now
	}
	if len(parts) == 3 {
		if err := in.appendStrings(parts[2]); err != nil {
			return fmt.Errorf("structured metadata: %w", err)
		}
	}
	msg, ok := in.parser.text(parts[1])
	if !ok {
		return fmt.Errorf("the message is not a string: %.80q", parts[1])
	}
	in.appendMessage(msg, common, parse)
	var labels []field
	if !in.params.ownStream {
		labels = in.fields[:common:common]
	}
	in.add(ns, in.fields, labels)
	return nil
}

func (in *ingester) appendMessage(msg []byte, common int, parse bool) {
	if parse && len(msg) >= 2 && msg[0] == '{' && msg[len(msg)-1] == '}' {
		fields, err := in.parser.appendFields(in.fields, msg)
		if err == nil {
			in.fields = fields
			renameMsg(in.fields[common:], in.params.msgFields)
			return
		}
	}
	in.fields = append(in.fields, field{name: []byte("_msg"), value: msg})
}

// appendStrings appends the members of an object whose values are all strings.
func (in *ingester) appendStrings(object []byte) error {
	if object[0] != '{' {
		return fmt.Errorf("want an object, got %.80q", object)
	}
	members, _, _ := scanObject(nil, object, 0, true)
	for _, m := range members {
		text, ok := in.parser.text(m.value)
		if !ok {
			return fmt.Errorf("want a string for %q, got %.80q", m.key, m.value)
		}
		in.fields = append(in.fields, field{name: in.parser.unescape(m.key), value: text})
	}
	return nil
}

// get returns the first member of that name of valid JSON, nil if it is missing or there is no object.
func (p *parser) get(object []byte, name string) []byte {
	if object[0] != '{' {
		return nil
	}
	members, _, _ := scanObject(nil, object, 0, true)
	for _, m := range members {
		if string(p.unescape(m.key)) == name {
			return m.value
		}
	}
	return nil
}

// text returns the text of a string.
func (p *parser) text(value []byte) ([]byte, bool) {
	if value[0] != '"' {
		return nil, false
	}
	return p.unescape(value[1 : len(value)-1]), true
}

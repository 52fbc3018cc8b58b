package vlreceiver

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// params is what the query arguments and headers of an insert request ask for. An argument beats its header.
type params struct {
	tenant       Tenant
	timeFields   []string
	msgFields    []string
	streamFields []string // without those that are ignored
	ownStream    bool     // the request names stream fields, ignored ones included
	ignore       []string // names; a trailing * stands for any rest
	extra        []extraField
	debug        bool
}

type extraField struct {
	name, value []byte
	inStream    bool
}

func parseParams(r *http.Request) (*params, error) {
	tenant, err := parseTenant(r.Header)
	if err != nil {
		return nil, err
	}
	p := &params{
		tenant:     tenant,
		timeFields: list(r, "_time_field", "VL-Time-Field"),
		msgFields:  list(r, "_msg_field", "VL-Msg-Field"),
		ignore:     list(r, "ignore_fields", "VL-Ignore-Fields"),
	}
	if len(p.timeFields) == 0 {
		p.timeFields = []string{"_time"}
	}
	streamFields := list(r, "_stream_fields", "VL-Stream-Fields")
	p.ownStream = len(streamFields) > 0
	for _, text := range list(r, "extra_fields", "VL-Extra-Fields") {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" || value == "" {
			return nil, fmt.Errorf("invalid extra_field %q: want name=value", text)
		}
		p.extra = append(p.extra, extraField{
			name: []byte(name), value: []byte(value), inStream: slices.Contains(streamFields, name),
		})
		p.ignore = append(p.ignore, name)
	}
	for _, name := range streamFields {
		if !p.ignores([]byte(name)) {
			p.streamFields = append(p.streamFields, name)
		}
	}
	if text := value(r, "debug", "VL-Debug"); text != "" {
		if p.debug, err = strconv.ParseBool(text); err != nil {
			return nil, fmt.Errorf("cannot parse debug=%q: %w", text, err)
		}
	}
	return p, nil
}

func parseTenant(h http.Header) (Tenant, error) {
	account, err := parseUint32(h.Get("AccountID"))
	if err != nil {
		return Tenant{}, err
	}
	project, err := parseUint32(h.Get("ProjectID"))
	return Tenant{AccountID: account, ProjectID: project}, err
}

func parseUint32(s string) (uint32, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("cannot parse %q as uint32: %w", s, err)
	}
	return uint32(n), nil
}

// value reads arguments from a form body too, which uses the body up: a request of that content type stores nothing.
func value(r *http.Request, argument, header string) string {
	if v := r.FormValue(argument); v != "" {
		return v
	}
	return r.Header.Get(header)
}

// list splits at commas. There is no trimming and no escaping.
func list(r *http.Request, argument, header string) []string {
	v := value(r, argument, header)
	if v == "" {
		return nil
	}
	return strings.Split(v, ",")
}

func (p *params) ignores(name []byte) bool {
	for _, pattern := range p.ignore {
		if string(name) == pattern {
			return true
		}
		prefix, wild := strings.CutSuffix(pattern, "*")
		if !wild {
			continue
		}
		// Inside, the message has no name, so only a bare star covers it.
		if prefix == "" || string(name) != "_msg" && len(name) >= len(prefix) && string(name[:len(prefix)]) == prefix {
			return true
		}
	}
	return false
}

func (p *params) isStreamField(name []byte) bool {
	return slices.Contains(p.streamFields, string(name))
}

package vlreceiver

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

var countQuery = regexp.MustCompile(`^\*\s*\|\s*(?:stats\s+)?count\(\)\s+(?:as\s+)?([A-Za-z_][A-Za-z0-9_]*)$`)

var fieldQuery = regexp.MustCompile(`^_time:\[([^,\]]+), ?([^,\]]+)\] ([A-Za-z_]\w*):="([^"\\]*)"$`)

// query serves /select/logsql/query. It knows `*`, `* | stats count() name` and `_time:[from, to] field:="value"`, and the
// argument limit.
func (l *life) query(w http.ResponseWriter, r *http.Request) {
	tenant, err := parseTenant(r.Header)
	if err != nil {
		badRequest("cannot obtain the tenant: %w", err).write(w)
		return
	}
	text := strings.TrimSpace(r.FormValue("query"))
	for name := range r.Form {
		if name != "query" && name != "limit" {
			badRequest("the stand-in does not support the query argument %q", name).write(w)
			return
		}
	}
	limit := 0
	if v := r.FormValue("limit"); v != "" {
		if limit, err = strconv.Atoi(v); err != nil {
			badRequest("cannot parse integer \"limit\"=%q: %w", v, err).write(w)
			return
		}
	}
	m, field := countQuery.FindStringSubmatch(text), fieldQuery.FindStringSubmatch(text)
	switch {
	case field != nil && !l.srv.cfg.CountOnly:
		l.rowsWith(w, tenant, field[1:])
	case m != nil:
		body := fmt.Sprintf("{%q:\"%d\"}\n", m[1], l.srv.store.count(tenant))
		answer{status: http.StatusOK, contentType: "application/stream+json", body: body}.write(w)
	case text != "*":
		badRequest("cannot parse query [%s]: the stand-in knows `*`, `* | stats count() name` and `_time:[from, to] field:=\"value\"`", text).write(w)
	case l.srv.cfg.CountOnly:
		badRequest("cannot execute query [*]: the stand-in was told to keep no rows").write(w)
	default:
		l.rows(w, tenant, limit)
	}
}

// rowsWith answers with the rows of some time that have this value in a field, in the order of storing.
func (l *life) rowsWith(w http.ResponseWriter, tenant Tenant, args []string) {
	var bounds [2]time.Time
	for i := range bounds {
		var err error
		if bounds[i], err = time.Parse(time.RFC3339Nano, args[i]); err != nil {
			badRequest("cannot parse _time filter: %w", err).write(w)
			return
		}
	}
	w.Header().Set("Content-Type", "application/stream+json")
	var buf []byte
	for rec := range l.srv.store.records(tenant) {
		row := rec.row()
		if row.Fields[args[2]] == args[3] && !row.Time.Before(bounds[0]) && !row.Time.After(bounds[1]) {
			buf = appendJSONRow(buf, tenant, rec)
		}
	}
	_, _ = w.Write(buf) // nothing is left to do for a client that is gone
}

// rows answers in the order of storing, or with the newest rows by time, the oldest of them first.
func (l *life) rows(w http.ResponseWriter, tenant Tenant, limit int) {
	w.Header().Set("Content-Type", "application/stream+json")
	records := l.srv.store.records(tenant)
	if limit > 0 {
		all := slices.SortedStableFunc(records, func(a, b record) int {
			return cmp.Compare(a.unixNano(), b.unixNano())
		})
		records = slices.Values(all[max(0, len(all)-limit):])
	}
	var buf []byte
	for rec := range records {
		if buf = appendJSONRow(buf, tenant, rec); len(buf) > 64<<10 {
			if _, err := w.Write(buf); err != nil {
				return
			}
			buf = buf[:0]
		}
	}
	_, _ = w.Write(buf) // nothing is left to do for a client that is gone
}

// appendJSONRow puts the four special fields first and the others in the order of their names. Fields of the client
// that bear a special name follow, so that most readers take them for the real ones, as with VictoriaLogs.
func appendJSONRow(dst []byte, tenant Tenant, rec record) []byte {
	type pair struct{ name, value string }
	var pairs []pair
	msg, hasMsg := "", false
	for name, value := range rec.fields() {
		switch {
		case name != "_msg":
			pairs = append(pairs, pair{name, value})
		case !hasMsg:
			msg, hasMsg = value, true
		}
	}
	slices.SortStableFunc(pairs, func(a, b pair) int { return cmp.Compare(a.name, b.name) })
	stream := rec.stream()
	dst = append(dst, `{"_time":"`...)
	dst = time.Unix(0, rec.unixNano()).UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, `","_stream_id":"`...)
	dst = appendStreamID(dst, tenant, stream)
	dst = append(dst, `","_stream":`...)
	dst = appendJSONString(dst, stream)
	dst = append(dst, `,"_msg":`...)
	dst = appendJSONString(dst, msg)
	for _, p := range pairs {
		dst = appendJSONString(append(dst, ','), p.name)
		dst = appendJSONString(append(dst, ':'), p.value)
	}
	return append(dst, "}\n"...)
}

func appendStreamID(dst []byte, tenant Tenant, stream string) []byte {
	id := binary.BigEndian.AppendUint32(nil, tenant.AccountID)
	id = binary.BigEndian.AppendUint32(id, tenant.ProjectID)
	h := fnv.New128a()
	_, _ = h.Write([]byte(stream)) // never fails
	return hex.AppendEncode(dst, h.Sum(id))
}

// appendJSONString keeps invalid UTF-8 as it is, so that the answer is invalid JSON too.
func appendJSONString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c < ' ' || c == '<' || c == '\'':
			dst = append(dst, `\u00`...)
			dst = hex.AppendEncode(dst, []byte{c})
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}

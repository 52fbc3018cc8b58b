package vlreceiver

import (
	"net/http"
	"strings"
)

func (l *life) route(w http.ResponseWriter, r *http.Request) {
	cfg := &l.srv.cfg
	rest, ok := strings.CutPrefix(r.URL.Path, strings.TrimSuffix(cfg.PathPrefix, "/")+"/")
	if !ok {
		l.refuse(w, r, badRequest("missing -http.pathPrefix=%q in the path %q", cfg.PathPrefix, r.URL.Path))
		return
	}
	path := "/" + rest
	if path == "/health" {
		answer{status: http.StatusOK, contentType: "text/plain; charset=utf-8", body: "OK"}.write(w)
		return
	}
	if insert := strings.ReplaceAll(path, "//", "/"); strings.HasPrefix(insert, "/insert/") {
		l.serveInsert(w, r, insert)
		return
	}
	if !cfg.Auth.admits(r) {
		l.refuse(w, r, l.unauthorized())
		return
	}
	switch path {
	case "/metrics":
		l.metrics(w)
	case "/internal/force_flush": // rows are visible anyway
		w.WriteHeader(http.StatusOK)
	case "/select/logsql/query":
		l.query(w, r)
	default:
		l.refuse(w, r, l.unsupported(r))
	}
}

// refuse answers a request that was none of VictoriaLogs' business, and remembers it.
func (l *life) refuse(w http.ResponseWriter, r *http.Request, a answer) {
	l.srv.journal.finish(l.srv.journal.begin(r), newCall(r, r.URL.Path), a.status)
	a.write(w)
}

func (l *life) unsupported(r *http.Request) answer {
	l.counters.unsupported.Add(1)
	return badRequest("unsupported path requested: %q", r.URL.Path)
}

func (l *life) unauthorized() answer {
	l.counters.unauthorized.Add(1)
	return answer{status: http.StatusUnauthorized, challenge: true}
}

// serveInsert serves a request below /insert/, with a fault if there is one. Requests without the right to come in
// use no fault up. What happened is on record before the client knows.
func (l *life) serveInsert(w http.ResponseWriter, r *http.Request, path string) {
	c := newCall(r, path)
	req := l.srv.journal.begin(r)
	var a answer
	if !l.srv.cfg.Auth.admits(r) {
		a = l.unauthorized()
	} else if fault, replaced, ok := l.srv.faults.next(c); ok {
		a = l.faulty(c, fault, replaced)
	} else {
		a = l.insert(c)
	}
	l.srv.journal.finish(req, c, a.status)
	a.write(w)
}

// insert stores what the request brings and says what to answer.
func (l *life) insert(c *call) answer {
	if l.srv.cfg.DisableInsert {
		return badRequest("requests to /insert/* are disabled (-insert.disable)")
	}
	switch c.path {
	case "/insert/jsonline":
		return l.jsonLine(c)
	case "/insert/loki/api/v1/push":
		return l.loki(c)
	case "/insert/ready":
		return answer{status: http.StatusOK, contentType: "application/json", body: `{"status":"ok"}`}
	case "/insert/loki/ready":
		return answer{status: http.StatusOK, body: "ready"}
	}
	for _, other := range []string{"elasticsearch", "opentelemetry", "journald", "datadog"} {
		if strings.HasPrefix(c.path, "/insert/"+other) {
			return answer{status: http.StatusNotImplemented, body: "the stand-in does not speak /insert/" + other}
		}
	}
	return l.unsupported(c.r)
}

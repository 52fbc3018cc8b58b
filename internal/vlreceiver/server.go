package vlreceiver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// ErrClosed is returned by calls on a closed [Server].
var ErrClosed = errors.New("vlreceiver: server closed")

// shutdownGrace is how long a graceful stop waits for requests in flight.
const shutdownGrace = 7 * time.Second

// Config describes a [Server]. The zero value is VictoriaLogs with default flags on a free port of 127.0.0.1.
type Config struct {
	Addr string // host:port; the port 0 and the empty address mean a free port of 127.0.0.1

	CountOnly    bool // validate and count rows as always, but keep none of them
	KeepRequests int  // how many of the last requests Requests returns; 0 means 4096, negative none

	Auth          Auth
	PathPrefix    string // as -http.pathPrefix, for example /logs
	DisableInsert bool   // as -insert.disable

	MaxLineBytes    int           // as -insert.maxLineSizeBytes; 0 means 256 KiB
	MaxFields       int           // as -insert.maxFieldsPerLine; 0 means 1000
	Retention       time.Duration // as -retentionPeriod; 0 means 7 days
	FutureRetention time.Duration // as -futureRetention; 0 means 2 days
}

// Auth is what a request must carry. The zero value admits everyone; with both forms set, either one admits.
type Auth struct {
	Username, Password string
	Bearer             string
}

func (a Auth) admits(r *http.Request) bool {
	if a == (Auth{}) {
		return true
	}
	if user, pass, ok := r.BasicAuth(); ok {
		return a.Username != "" && user == a.Username && pass == a.Password
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return ok && a.Bearer != "" && token == a.Bearer
}

func (cfg Config) withDefaults() Config {
	const day = 24 * time.Hour
	cfg.Addr = cmp.Or(cfg.Addr, "127.0.0.1:0")
	cfg.KeepRequests = cmp.Or(cfg.KeepRequests, 4096)
	cfg.MaxLineBytes = cmp.Or(cfg.MaxLineBytes, 256*1024)
	cfg.MaxFields = cmp.Or(cfg.MaxFields, 1000)
	cfg.Retention = max(cmp.Or(cfg.Retention, 7*day), day)
	cfg.FutureRetention = max(cmp.Or(cfg.FutureRetention, 2*day), day)
	return cfg
}

// Server is a running stand-in. [Start] makes one, [Server.Close] ends it.
type Server struct {
	cfg       Config
	addr      string // the address of the first listener, which Up takes again
	store     *store
	journal   *journal
	faults    faults
	readOnly  atomic.Bool
	ingesters sync.Pool // of *ingester

	mu     sync.Mutex // held while going up or down
	life   *life      // nil while down
	closed bool
}

// Start listens and serves. The caller must call [Server.Close].
func Start(cfg Config) (*Server, error) {
	cfg = cfg.withDefaults()
	s := &Server{cfg: cfg, addr: cfg.Addr, store: newStore(), journal: newJournal(cfg.KeepRequests)}
	s.ingesters.New = func() any { return newIngester(s) }
	l, err := s.listen()
	if err != nil {
		return nil, err
	}
	s.life = l
	s.addr = l.listener.Addr().String()
	return s, nil
}

// URL returns the address of the server, http://host:port and the path prefix, without a trailing slash.
func (s *Server) URL() string {
	return "http://" + s.addr + strings.TrimSuffix(s.cfg.PathPrefix, "/")
}

// Addr returns host:port.
func (s *Server) Addr() string { return s.addr }

// Close resets all connections and returns when the last handler has ended, hanging ones included. Rows and requests
// stay readable; calls of WaitCount and WaitRequests end with [ErrClosed].
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	err := s.stop(false)
	s.store.close()
	s.journal.close()
	return err
}

// Down stops listening and resets all connections, as a killed server would. Requests in flight are stored in full,
// in part or not at all; when Down returns, that is decided. Rows are kept.
func (s *Server) Down() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stop(false)
}

// Up listens on the same port again after [Server.Down]. The counters of /metrics start again at zero.
func (s *Server) Up() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.start()
}

// Restart goes down and up. A graceful one first answers the requests in flight, for at most 7 seconds, while
// hanging requests are cut off at once; otherwise it is [Server.Down] followed by [Server.Up].
func (s *Server) Restart(graceful bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.stop(graceful); err != nil {
		return err
	}
	return s.start()
}

// Fail makes the next insert requests fail, the first fault first, each as often as its Times says. It replaces what
// was left of an earlier call and releases the requests held by it. Without faults it heals the server.
func (s *Server) Fail(list ...Fault) { s.faults.set(list) }

// SetReadOnly refuses inserts as a server does whose disk is nearly full: 429, without Retry-After, while /health
// says OK.
func (s *Server) SetReadOnly(on bool) { s.readOnly.Store(on) }

// Count returns how many rows a tenant has.
func (s *Server) Count(tenant Tenant) int { return s.store.count(tenant) }

// Rows returns the rows of a tenant in the order they were stored. For many rows, [Server.All] needs less memory.
func (s *Server) Rows(tenant Tenant) []Row { return slices.Collect(s.All(tenant)) }

// All iterates over the rows that a tenant has now, in the order they were stored.
func (s *Server) All(tenant Tenant) iter.Seq[Row] {
	return func(yield func(Row) bool) {
		for rec := range s.store.records(tenant) {
			if !yield(rec.row()) {
				return
			}
		}
	}
}

// Requests returns the last requests in the order they came, see [Config.KeepRequests]. Health checks, /metrics,
// flushes and queries are not among them.
func (s *Server) Requests() []Request { return s.journal.requests() }

// RequestCount returns how many such requests have come, those included that are still being served.
func (s *Server) RequestCount() int { return s.journal.count() }

// WaitCount returns when a tenant has at least n rows.
func (s *Server) WaitCount(ctx context.Context, tenant Tenant, n int) error {
	if err := s.store.counts.wait(ctx, tenant, n); err != nil {
		return fmt.Errorf("wait for %d rows of tenant %s, have %d: %w", n, tenant, s.Count(tenant), err)
	}
	return nil
}

// WaitRequests returns when at least n requests have come, see [Server.RequestCount].
func (s *Server) WaitRequests(ctx context.Context, n int) error {
	if err := s.journal.counts.wait(ctx, Tenant{}, n); err != nil {
		return fmt.Errorf("wait for %d requests, have %d: %w", n, s.RequestCount(), err)
	}
	return nil
}

func (s *Server) start() error {
	if s.closed {
		return ErrClosed
	}
	if s.life != nil {
		return nil
	}
	l, err := s.listen()
	if err != nil {
		return err
	}
	s.life = l
	return nil
}

func (s *Server) stop(graceful bool) error {
	if s.life == nil {
		return nil
	}
	l := s.life
	s.life = nil
	return l.end(graceful)
}

// life is the server between one listen and its end. The counters live as long, as those of a process do.
type life struct {
	srv      *Server
	listener net.Listener
	http     *http.Server
	started  time.Time
	counters counters
	stop     chan struct{} // closed by end; releases handlers that wait
	served   chan error    // what Serve returned

	mu       sync.Mutex
	ending   bool // no handler may start any more
	conns    map[net.Conn]struct{}
	handlers sync.WaitGroup
}

func (s *Server) listen() (*life, error) {
	ln, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", s.addr)
	if err != nil {
		return nil, fmt.Errorf("vlreceiver: %w", err)
	}
	l := &life{
		srv:      s,
		listener: ln,
		started:  time.Now(),
		stop:     make(chan struct{}),
		served:   make(chan error, 1),
		conns:    make(map[net.Conn]struct{}),
	}
	l.http = &http.Server{
		Handler:           l,
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       time.Minute,
		ConnState:         l.track,
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	go func() { l.served <- l.http.Serve(ln) }()
	return l, nil
}

// ServeHTTP implements [http.Handler].
func (l *life) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	ending := l.ending
	if !ending {
		l.handlers.Add(1)
	}
	l.mu.Unlock()
	if ending {
		panic(http.ErrAbortHandler)
	}
	defer l.handlers.Done()
	l.route(w, r)
}

func (l *life) track(c net.Conn, state http.ConnState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch state {
	case http.StateNew:
		l.conns[c] = struct{}{}
	case http.StateHijacked, http.StateClosed:
		delete(l.conns, c)
	case http.StateActive, http.StateIdle:
	}
}

// end returns after the last handler and the accept loop.
func (l *life) end(graceful bool) error {
	close(l.stop)
	var err error
	if graceful {
		ctx, cancel := context.WithTimeout(context.Background(), shutdownGrace)
		defer cancel()
		if err = l.http.Shutdown(ctx); errors.Is(err, context.DeadlineExceeded) {
			err = nil // the rest is cut off below
		}
	}
	l.mu.Lock()
	l.ending = true
	for c := range l.conns {
		reset(c)
	}
	l.mu.Unlock()
	err = errors.Join(err, l.http.Close())
	l.handlers.Wait()
	if serveErr := <-l.served; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	if err != nil {
		return fmt.Errorf("vlreceiver: stop: %w", err)
	}
	return nil
}

// reset makes the next close of a connection send RST instead of FIN.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // fails only on a connection that is already gone
	}
}

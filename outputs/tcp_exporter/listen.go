package tcp_exporter

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/influxdata/telegraf"
)

// flushTime is how long a close waits for clients to take what is in the stream.
const flushTime = time.Second

// server accepts clients and owns them. Its goroutines end with close.
type server struct {
	log          telegraf.Logger
	stats        *stats
	stream       *stream
	tls          *tls.Config // nil: none
	maxClients   int
	writeTimeout time.Duration
	probe        []byte // what every client passes over; nil: there is nothing such

	listener net.Listener
	ctx      context.Context //nolint:containedctx // the server's own life
	cancel   context.CancelFunc
	running  sync.WaitGroup

	mu      sync.Mutex // guards what follows
	clients map[*client]struct{}
	full    bool // which was logged
}

func (s *server) start(l net.Listener) {
	s.listener = l
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.clients = make(map[*client]struct{})
	s.running.Go(s.accept)
}

// accept takes in clients until close. An error, such as too many open files, is waited out: clients that are there go on,
// and new ones wait in the system's queue.
func (s *server) accept() {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 5*time.Millisecond, time.Second
	failing := false
	for {
		conn, err := s.listener.Accept()
		if s.ctx.Err() != nil {
			if err == nil {
				_ = conn.Close()
			}
			return
		}
		if err != nil {
			if !failing {
				s.log.Errorf("Cannot accept clients: %v; trying on", err)
			}
			failing = true
			select {
			case <-s.ctx.Done():
				return
			case <-time.After(pause.NextBackOff()):
			}
			continue
		}
		if failing {
			s.log.Info("Accepting clients again")
		}
		failing = false
		pause.Reset()
		s.admit(conn)
	}
}

// admit serves a connection, if there is room for another client.
func (s *server) admit(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.clients) >= s.maxClients {
		s.stats.refused[refusedMaxClients].Incr(1)
		if !s.full {
			s.log.Warnf("Refusing %s: there are max_clients = %d clients", conn.RemoteAddr(), s.maxClients)
		}
		s.full = true
		_ = conn.Close()
		return
	}
	c := newClient(s, conn)
	s.clients[c] = struct{}{}
	s.stats.clients.Set(int64(len(s.clients)))
	s.running.Go(func() {
		defer s.forget(c)
		c.serve()
	})
}

func (s *server) forget(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.clients, c)
	s.full = false
	s.stats.clients.Set(int64(len(s.clients)))
}

// close lets clients take what is in the stream, for flushTime, and returns when all goroutines have ended.
func (s *server) close() error {
	s.cancel()
	err := s.listener.Close()
	s.stream.close()
	last := time.AfterFunc(flushTime, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for c := range s.clients {
			c.abort()
		}
	})
	s.running.Wait()
	last.Stop()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

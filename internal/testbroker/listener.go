package testbroker

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"

	"github.com/mochi-mqtt/server/v2/listeners"
)

const listenerID = "tcp"

// listener is mochi's TCP listener with an end one can rely on: Close closes every connection, also those that sent no
// CONNECT yet, and returns after the accept loop and each connection's goroutine have ended.
type listener struct {
	open net.Listener

	mu      sync.Mutex
	closing bool
	conns   map[net.Conn]struct{}
	wg      sync.WaitGroup
}

func listen(addr string) (*listener, error) {
	var lc net.ListenConfig
	open, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for MQTT clients: %w", err)
	}
	return &listener{open: open, conns: make(map[net.Conn]struct{})}, nil
}

// Init does nothing: the socket is open.
func (*listener) Init(*slog.Logger) error { return nil }

// ID names the listener to mochi.
func (*listener) ID() string { return listenerID }

// Protocol is tcp.
func (*listener) Protocol() string { return "tcp" }

// Address is host:port, with the port in use.
func (l *listener) Address() string { return l.open.Addr().String() }

// Serve accepts connections until Close.
func (l *listener) Serve(establish listeners.EstablishFn) {
	for {
		conn, err := l.open.Accept()
		if err != nil {
			return // Close closed it
		}
		if !l.add(conn) {
			_ = conn.Close() // nothing was said on it
			return
		}
		go func() {
			defer l.remove(conn)
			_ = establish(listenerID, conn) // mochi logs why a connection ended
		}()
	}
}

func (l *listener) add(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing {
		return false
	}
	l.conns[conn] = struct{}{}
	l.wg.Add(1)
	return true
}

func (l *listener) remove(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, conn)
	_ = conn.Close() // closed already unless establish failed early
	l.wg.Done()
}

// Close ends everything at once. It does not say DISCONNECT to the clients, which MQTT 3.1.1 does not let a server say,
// and which would wait for a client that does not read.
func (l *listener) Close(listeners.CloseFn) {
	l.mu.Lock()
	l.closing = true
	_ = l.open.Close() // a second Close finds it closed
	for conn := range l.conns {
		_ = conn.Close() // the client's goroutine sees it
	}
	l.mu.Unlock()
	l.wg.Wait()
}

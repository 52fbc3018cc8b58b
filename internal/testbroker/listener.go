package testbroker

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"sync/atomic"

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
	var (
		lc   net.ListenConfig
		open net.Listener
	)
	host, port, err := net.SplitHostPort(addr)
	if err == nil && port == "0" {
		open, err = listenFree(host)
	} else if err == nil {
		open, err = lc.Listen(context.Background(), "tcp", addr)
	}
	if err != nil {
		return nil, fmt.Errorf("listen for MQTT clients: %w", err)
	}
	return &listener{open: open, conns: make(map[net.Conn]struct{})}, nil
}

// Ports of brokers are below those that Linux gives to connections, and to listeners that ask for port 0 (32768 and above,
// ip_local_port_range in ip(7)): a broker that was stopped finds its port free when it comes back. No two of a process
// are the same.
const (
	firstPort = 20000
	ports     = 12000
)

var lastPort atomic.Uint32

func init() { lastPort.Store(rand.Uint32N(ports)) }

// listenFree listens on the next free port.
func listenFree(host string) (open net.Listener, err error) {
	var lc net.ListenConfig
	for range 100 {
		port := firstPort + lastPort.Add(1)%ports
		open, err = lc.Listen(context.Background(), "tcp", net.JoinHostPort(host, strconv.FormatUint(uint64(port), 10)))
		if err == nil {
			return open, nil
		}
	}
	return nil, err
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

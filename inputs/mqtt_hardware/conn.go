package mqtt_hardware

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/net/proxy"
)

// Schemes of a broker's URL, as the MQTT library names them.
var (
	plainSchemes = []string{"tcp", "mqtt"}
	tlsSchemes   = []string{"ssl", "tls", "mqtts", "mqtt+ssl", "tcps"}
	webSchemes   = []string{"ws", "wss"}
)

// dial opens the connection to a broker. It takes the place of the MQTT library's own dialling, so that every kind of
// connection is read and written through a gatheredConn.
func dial(ctx context.Context, broker *url.URL, timeout time.Duration, tlsConfig *tls.Config) (*gatheredConn, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var (
		conn net.Conn
		err  error
	)
	direct := &net.Dialer{Timeout: timeout}
	switch {
	case slices.Contains(webSchemes, broker.Scheme):
		conn, err = dialWebsocket(ctx, broker, tlsConfig)
	case broker.Scheme == "unix":
		conn, err = direct.DialContext(ctx, "unix", broker.Host+broker.Path)
	default:
		conn, err = dialTCP(ctx, direct, broker.Host)
		if err == nil && slices.Contains(tlsSchemes, broker.Scheme) {
			conn, err = handshake(ctx, conn, broker.Hostname(), tlsConfig)
		}
	}
	if err != nil {
		return nil, err
	}
	return newGatheredConn(conn), nil
}

// dialTCP honours the proxy that the environment names, as the MQTT library does.
func dialTCP(ctx context.Context, direct *net.Dialer, address string) (net.Conn, error) {
	dialer := proxy.FromEnvironmentUsing(direct)
	if d, ok := dialer.(proxy.ContextDialer); ok {
		return d.DialContext(ctx, "tcp", address)
	}
	return dialer.Dial("tcp", address)
}

func handshake(ctx context.Context, conn net.Conn, host string, tlsConfig *tls.Config) (net.Conn, error) {
	if tlsConfig == nil {
		tlsConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if tlsConfig.ServerName == "" {
		tlsConfig = tlsConfig.Clone()
		tlsConfig.ServerName = host
	}
	secure := tls.Client(conn, tlsConfig)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("TLS handshake with %s: %w", host, err), conn.Close())
	}
	return secure, nil
}

// dialWebsocket speaks MQTT over websocket (MQTT 3.1.1 section 6). The MQTT library's own dialling cannot be aborted.
func dialWebsocket(ctx context.Context, broker *url.URL, tlsConfig *tls.Config) (net.Conn, error) {
	stop := func() bool { return true }
	defer func() { stop() }()
	dialer := &websocket.Dialer{
		Proxy:           http.ProxyFromEnvironment,
		Subprotocols:    []string{"mqtt"},
		TLSClientConfig: tlsConfig,
		NetDialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
			if err == nil { // gorilla's handshake ends with the context's deadline, but not when it is cancelled
				stop = context.AfterFunc(ctx, func() { _ = conn.Close() })
			}
			return conn, err
		},
	}
	conn, answer, err := dialer.DialContext(ctx, broker.String(), nil)
	if answer != nil {
		_ = answer.Body.Close() // holds the beginning of a refusal's text, which err does not need
	}
	if err != nil && answer != nil {
		return nil, fmt.Errorf("%w: the server answered %s", err, answer.Status)
	}
	if err != nil {
		return nil, err
	}
	return &websocketConn{Conn: conn}, nil
}

// websocketConn makes a stream of binary messages; where one ends and the next begins has no meaning.
type websocketConn struct {
	*websocket.Conn
	message io.Reader // what is left of the one that is being read
}

func (c *websocketConn) Read(p []byte) (int, error) {
	for {
		if c.message == nil {
			_, message, err := c.NextReader()
			if err != nil {
				return 0, err
			}
			c.message = message
		}
		n, err := c.message.Read(p)
		if errors.Is(err, io.EOF) {
			c.message = nil
			if err = nil; n == 0 {
				continue
			}
		}
		return n, err
	}
}

func (c *websocketConn) Write(p []byte) (int, error) {
	if err := c.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (c *websocketConn) SetDeadline(t time.Time) error {
	return c.NetConn().SetDeadline(t) // gorilla's own must not be called beside a Write
}

const (
	readBuffer  = 64 << 10               // bytes; holds some hundred messages
	gatherBytes = 16 << 10               // written at once when so many wait
	gatherTime  = 200 * time.Microsecond // how long the first byte waits for others
	closeTime   = time.Second            // for the last write
	stuckTime   = time.Second            // that a write lasts whose reader does not read
)

// gatheredConn is a connection that saves system calls: reads are buffered, since the MQTT library reads a packet's
// header byte by byte, and small writes that come within gatherTime, or within gather, go out as one.
//
// Write returns before the bytes are on the wire. A failed write closes the connection, so that the reader learns of
// it, and fails every later Write. Close writes what is gathered, for a second at most.
type gatheredConn struct {
	net.Conn
	in *bufio.Reader

	writing sync.Mutex // held for each write onto the wire, and locked before mu

	mu      sync.Mutex
	out     []byte    // gathered
	spare   []byte    // the memory of the last write, for the next but one
	corked  bool      // gather writes
	began   time.Time // of the write that is under way; zero: there is none
	err     error     // of the first failed write, or net.ErrClosed after Close
	closed  bool
	wake    chan struct{}
	closing chan struct{}
	ended   chan struct{} // closed when the writing goroutine has ended
}

func newGatheredConn(conn net.Conn) *gatheredConn {
	c := &gatheredConn{
		Conn:    conn,
		in:      bufio.NewReaderSize(conn, readBuffer),
		wake:    make(chan struct{}, 1),
		closing: make(chan struct{}),
		ended:   make(chan struct{}),
	}
	go c.write()
	return c
}

// Read must not be called concurrently with itself, which the MQTT library does not.
func (c *gatheredConn) Read(p []byte) (int, error) { return c.in.Read(p) }

// Write gathers p, which the caller may change afterwards.
func (c *gatheredConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	c.out = append(c.out, p...)
	if !c.corked && (len(c.out) == len(p) || len(c.out) >= gatherBytes) {
		wake(c.wake)
	}
	return len(p), nil
}

// gather calls f and waits until all that it wrote is on the wire, as one. No timer has to end for that, so that a broker
// that holds a window has its acknowledgements at once.
func (c *gatheredConn) gather(f func()) {
	c.cork(true)
	f()
	c.cork(false)
	c.flush()
}

func (c *gatheredConn) cork(in bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.corked = in
}

// isStuck reports that the peer has not read for so long that a write waits for it.
func (c *gatheredConn) isStuck() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.began.IsZero() && time.Since(c.began) > stuckTime
}

// write is the goroutine that brings gathered bytes onto the wire, until Close.
func (c *gatheredConn) write() {
	defer close(c.ended)
	pause := time.NewTimer(time.Hour)
	defer pause.Stop()
	for {
		select {
		case <-c.wake:
		case <-c.closing:
			c.flush()
			return
		}
		pause.Reset(gatherTime)
		select {
		case <-pause.C:
		case <-c.wake: // enough is there
		case <-c.closing:
		}
		c.flush()
	}
}

func (c *gatheredConn) flush() {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	out := c.out
	c.out, c.spare = c.spare[:0], nil
	if len(out) > 0 {
		c.began = time.Now()
	}
	c.mu.Unlock()
	if len(out) > 0 {
		if _, err := c.Conn.Write(out); err != nil {
			c.fail(err)
			_ = c.Conn.Close() // the error that matters is the one above
		}
	}
	c.mu.Lock()
	c.began = time.Time{}
	if cap(out) <= 4*gatherBytes {
		c.spare = out
	}
	c.mu.Unlock()
}

// fail makes err the answer to later writes; the first one stays.
func (c *gatheredConn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
}

// Close writes what is gathered and closes the connection. Later calls wait for the first and do nothing.
func (c *gatheredConn) Close() error {
	c.mu.Lock()
	first, failed := !c.closed, c.err != nil
	c.closed, c.err = true, net.ErrClosed
	c.mu.Unlock()
	if !first {
		<-c.ended
		return nil
	}
	close(c.closing)
	patience := time.NewTimer(closeTime)
	defer patience.Stop()
	select {
	case <-c.ended:
		if !failed {
			c.lingerOn()
		}
	case <-patience.C: // the peer takes nothing in
	}
	err := c.Conn.Close()
	<-c.ended
	return err
}

// lingerOn ends our half of a TCP connection and reads on until the broker ended its own, for a short while: a socket
// that is closed with unread input resets the connection, and the broker then loses acknowledgements it has not read.
func (c *gatheredConn) lingerOn() {
	const lingerTime = 200 * time.Millisecond
	tcp, ok := c.Conn.(*net.TCPConn)
	if !ok || tcp.CloseWrite() != nil || tcp.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	_, _ = io.Copy(io.Discard, tcp) // its end is what we wait for
}

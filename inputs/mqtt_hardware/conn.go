package mqtt_hardware

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
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
func dial(ctx context.Context, broker *url.URL, timeout time.Duration, tlsConfig *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var (
		conn net.Conn
		err  error
	)
	direct := &net.Dialer{Timeout: timeout}
	switch {
	case slices.Contains(webSchemes, broker.Scheme):
		address := *broker
		address.User = nil // the websocket library takes none
		if broker.Scheme == "ws" {
			tlsConfig = nil
		}
		conn, err = mqtt.NewWebsocket(address.String(), tlsConfig, timeout, nil, &mqtt.WebsocketOptions{})
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

const (
	readBuffer  = 64 << 10               // bytes; holds some hundred messages
	gatherBytes = 16 << 10               // written at once when so many wait
	gatherTime  = 200 * time.Microsecond // how long the first byte waits for others
)

// gatheredConn is a connection that saves system calls: reads are buffered, since the MQTT library reads a packet's
// header byte by byte, and small writes that come within gatherTime, such as acknowledgements, go out as one.
//
// Write returns before the bytes are on the wire. A failed write closes the connection, so that the reader learns of
// it, and fails every later Write. Close writes what is gathered, for a second at most.
type gatheredConn struct {
	net.Conn
	in *bufio.Reader

	mu      sync.Mutex
	out     []byte // gathered
	spare   []byte // the memory of the last write
	err     error  // of the first failed write, or net.ErrClosed
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
	if len(c.out) == len(p) || len(c.out) >= gatherBytes {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
	return len(p), nil
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
	c.mu.Lock()
	out := c.out
	c.out = c.spare[:0]
	c.mu.Unlock()
	if len(out) > 0 {
		if _, err := c.Conn.Write(out); err != nil {
			c.fail(err)
			_ = c.Conn.Close() // the error that matters is the one above
		}
	}
	c.mu.Lock()
	if cap(out) <= 4*gatherBytes {
		c.spare = out
	}
	c.mu.Unlock()
}

// fail makes err the answer to later writes; the first one stays. It reports whether this was the first.
func (c *gatheredConn) fail(err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return false
	}
	c.err = err
	return true
}

// Close writes what is gathered and closes the connection. Later calls wait for the first and do nothing.
func (c *gatheredConn) Close() error {
	c.mu.Lock()
	first := !errors.Is(c.err, net.ErrClosed)
	failed := c.err
	c.err = net.ErrClosed
	c.mu.Unlock()
	if !first {
		<-c.ended
		return nil
	}
	if failed == nil {
		_ = c.SetWriteDeadline(time.Now().Add(time.Second)) // a socket that cannot is closed below all the same
	}
	close(c.closing)
	<-c.ended
	if failed == nil {
		c.lingerOn()
	}
	return c.Conn.Close()
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

package tcp_exporter

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	gather        = 5 * time.Millisecond // between two writes to a client, so that what comes meanwhile shares the second
	handshakeTime = 10 * time.Second
	looks         = 8        // within write_timeout
	sendBuffer    = 64 << 10 // of the kernel. What is there can no longer be dropped, and is old when it is read
)

// client is one connection. serve writes; a goroutine of it watches whether the client is still there.
type client struct {
	server *server
	raw    net.Conn // what was accepted
	conn   net.Conn // what is written to: raw, or TLS on it
	buf    []byte

	halfClosed chan struct{} // closed when nothing more will come from the client, which may be all there is to it
	gone       chan struct{} // closed when the client is
}

func newClient(s *server, raw net.Conn) *client {
	if tcp, ok := raw.(*net.TCPConn); ok {
		_ = tcp.SetWriteBuffer(sendBuffer) // the system's default works as well
	}
	c := &client{server: s, raw: raw, halfClosed: make(chan struct{}), gone: make(chan struct{})}
	c.conn = patient{raw, s.writeTimeout}
	if s.tls != nil {
		c.conn = tls.Server(c.conn, s.tls)
	}
	return c
}

// abort ends the connection at once, whatever is under way on it.
func (c *client) abort() { _ = c.raw.Close() }

func (c *client) serve() {
	s, from := c.server, c.raw.RemoteAddr()
	defer c.abort()
	if err := c.handshake(); err != nil {
		if s.ctx.Err() == nil {
			s.stats.refused[refusedTLS].Incr(1)
			s.log.Debugf("Refusing %s: TLS: %v", from, err)
		}
		return
	}
	p, known, messages := s.stream.join()
	c.buf = known
	s.log.Debugf("%s connected", from)

	var watching sync.WaitGroup
	watching.Go(c.watch)
	reason := c.write(&p, messages)
	switch reason {
	case closedShutdown:
		_ = c.conn.Close() // with TLS's farewell
	case closedWriteTimeout:
		c.reset() // or the kernel would keep on trying
	}
	c.abort()
	watching.Wait()
	s.stats.dropped.Incr(int64(s.stream.leave(&p).dropped)) //nolint:gosec // a count
	s.stats.closed[reason].Incr(1)
	s.log.Debugf("%s disconnected: %s", from, reason)
}

func (c *client) handshake() error {
	conn, ok := c.conn.(*tls.Conn)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(c.server.ctx, handshakeTime)
	defer cancel()
	return conn.HandshakeContext(ctx)
}

// write writes what is in buf, of that many messages, and from then on what the stream has for this client. It returns why
// it ended.
func (c *client) write(p *place, messages uint64) (reason string) {
	s := c.server
	pause := time.NewTimer(0)
	defer pause.Stop()
	halfClosed := c.halfClosed
	for {
		if len(c.buf) > 0 {
			_, err := c.conn.Write(c.buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return closedWriteTimeout
			}
			if err != nil {
				return c.whyNot()
			}
			s.stats.sent.Incr(int64(messages))
			if len(c.buf) < maxTaken {
				pause.Reset(gather)
				select {
				case <-pause.C:
				case <-c.gone:
					return closedLeft
				case <-s.stream.done:
				}
			}
		}
		if cap(c.buf) > 2*maxTaken { // of the start, or of huge messages
			c.buf = nil
		}
		var t taken
		var wait <-chan struct{}
		c.buf, t, wait = s.stream.take(p, c.buf[:0])
		messages = t.messages
		s.stats.dropped.Incr(int64(t.dropped)) //nolint:gosec // a count
		if len(c.buf) > 0 {
			continue
		}
		if wait == nil {
			return closedShutdown
		}
		select {
		case <-wait:
		case <-c.gone:
			return closedLeft
		case <-halfClosed:
			halfClosed = nil
			c.buf, messages = append(c.buf, s.probe...), 0
		}
	}
}

// whyNot says why a write failed: while the server closes, it is the one that ends connections.
func (c *client) whyNot() string {
	if c.server.ctx.Err() != nil {
		return closedShutdown
	}
	return closedLeft
}

// watch sees at once that a client left, though nothing is written. It has nothing to say; what it sends is thrown away.
//
// A client that closes its connection, and one that closes only its own direction, as nc does at the end of its input, look
// alike: the end of what comes. The second still reads, so it is served on. To tell the two apart, something is written
// that clients pass over; the system of one that has closed answers that there is no such connection.
func (c *client) watch() {
	defer close(c.gone)
	nothing := make([]byte, 512)
	for {
		_, err := c.conn.Read(nothing)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			c.abort() // ends a write, too
			return
		}
	}
	close(c.halfClosed)
	if socket, ok := c.raw.(syscall.Conn); ok {
		if raw, err := socket.SyscallConn(); err == nil {
			_ = raw.Read(hungUp) // until it is so, or the connection was closed on this side
		}
	}
	c.abort()
}

func (c *client) reset() {
	if tcp, ok := c.raw.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
}

// patient is a connection on which a write goes on for as long as the other side takes something of it, however little.
type patient struct {
	net.Conn
	timeout time.Duration
}

// Write looks several times within the timeout, so that it can tell when the last byte was taken.
func (p patient) Write(b []byte) (n int, err error) {
	taken := time.Now()
	for {
		if err := p.SetWriteDeadline(time.Now().Add(max(p.timeout/looks, time.Millisecond))); err != nil {
			return n, err
		}
		m, err := p.Conn.Write(b[n:])
		n += m
		if n == len(b) || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		if m > 0 {
			taken = time.Now()
		} else if time.Since(taken) >= p.timeout {
			return n, err
		}
	}
}

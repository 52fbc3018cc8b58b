package mqtt_hardware

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
)

const (
	soon    = 20 * time.Second // the bound of a wait that succeeds
	hanging = 4 * time.Second  // Close gives a stuck peer one second
)

// within fails when f has not returned in time. Then f's goroutine is left behind until the test's cleanup frees it.
func within(t *testing.T, limit time.Duration, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		require.FailNow(t, what+" hangs", "for more than %s", limit)
	}
}

// wire is the connection under a gatheredConn. It notes each write, and each takes place only when the test lets it.
type wire struct {
	net.Conn // for what a test does not expect to be called
	begun    chan struct{}
	proceed  chan error // what Write returns

	mu     sync.Mutex
	writes [][]byte
	closes int
}

func newWire() *wire { return &wire{begun: make(chan struct{}), proceed: make(chan error)} }

func (w *wire) Write(p []byte) (int, error) {
	w.begun <- struct{}{}
	if err := <-w.proceed; err != nil {
		return 0, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writes = append(w.writes, bytes.Clone(p)) // only now: a real connection, too, reads p while Write runs
	return len(p), nil
}

func (w *wire) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closes++
	return nil
}

func (*wire) SetWriteDeadline(time.Time) error { return nil }

// let waits for a write to begin, runs meanwhile, and ends the write with err.
func (w *wire) let(t *testing.T, meanwhile func(), err error) {
	t.Helper()
	within(t, soon, "the write", func() { <-w.begun })
	if meanwhile != nil {
		meanwhile()
	}
	w.proceed <- err
}

func (w *wire) written() (writes []string, closes int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.writes {
		writes = append(writes, string(p))
	}
	return writes, w.closes
}

func write(t *testing.T, c net.Conn, text string) {
	t.Helper()
	p := []byte(text)
	n, err := c.Write(p)
	require.NoError(t, err)
	require.Len(t, text, n)
	clear(p) // its owner may change it
}

func TestGatheredConnGathersWrites(t *testing.T) {
	w := newWire()
	c := newGatheredConn(w)
	write(t, c, "1")
	w.let(t, func() { // what comes while a write is under way is gathered into the next
		for _, text := range []string{"2", "3", "4"} {
			write(t, c, text)
		}
	}, nil)
	w.let(t, nil, nil)
	require.NoError(t, c.Close())
	writes, closes := w.written()
	require.Equal(t, []string{"1", "234"}, writes)
	require.Equal(t, 1, closes)
}

// TestGatheredConnGather has all of a gather on the wire as one write when it returns.
func TestGatheredConnGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		c := newGatheredConn(w)
		began := time.Now()
		gathered := make(chan struct{})
		go func() {
			defer close(gathered)
			c.gather(func() {
				for _, text := range []string{"1", "2", "3"} {
					_, _ = c.Write([]byte(text)) // what came is looked at below
				}
			})
		}()
		w.let(t, func() {
			synctest.Wait()
			select {
			case <-gathered:
				require.Fail(t, "the write has not ended")
			default:
			}
		}, nil)
		<-gathered
		require.Equal(t, began, time.Now(), "no timer was waited for")
		write(t, c, "4") // which nobody gathers
		w.let(t, nil, nil)
		require.NoError(t, c.Close())
		writes, _ := w.written()
		require.Equal(t, []string{"123", "4"}, writes)
	})
}

func TestGatheredConnCloseFlushes(t *testing.T) {
	w := newWire()
	c := newGatheredConn(w)
	write(t, c, "1")
	closed := make(chan error, 1)
	w.let(t, func() {
		write(t, c, "2")
		go func() { closed <- c.Close() }()
		require.Eventually(t, func() bool { // it has begun
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.err != nil
		}, soon, time.Millisecond)
	}, nil)
	w.let(t, nil, nil)
	require.NoError(t, <-closed)
	writes, closes := w.written()
	require.Equal(t, []string{"1", "2"}, writes)
	require.Equal(t, 1, closes)
	_, err := c.Write([]byte("x"))
	require.ErrorIs(t, err, net.ErrClosed)
}

// A burst makes the gathered bytes huge, so that their memory is not kept. What is gathered afterwards must not share
// memory with what is being written.
func TestGatheredConnMemoryAfterABurst(t *testing.T) {
	w := newWire()
	c := newGatheredConn(w)
	huge := strings.Repeat("h", 8*gatherBytes)
	var want string
	step := func(text, meanwhile string) {
		if text != "" {
			write(t, c, text)
		}
		w.let(t, func() {
			if meanwhile != "" {
				write(t, c, meanwhile)
			}
		}, nil)
		want += text + meanwhile
	}
	step("aaaa", "")
	step("bbbb", "")
	step("cccc", "")
	step(huge, "")
	for range 3 {
		step("dddd", "eeee")
		step("", "")
	}
	require.NoError(t, c.Close())
	writes, _ := w.written()
	got := strings.Join(writes, "")
	require.Equal(t, strings.ReplaceAll(want, huge, "(huge)"), strings.ReplaceAll(got, huge, "(huge)"))
}

func TestGatheredConnWriteError(t *testing.T) {
	errWire := errors.New("the wire broke")
	w := newWire()
	c := newGatheredConn(w)
	write(t, c, "1")
	w.let(t, nil, errWire)
	require.Eventually(t, func() bool { _, closes := w.written(); return closes == 1 }, soon, time.Millisecond, "closed")
	for range 2 {
		_, err := c.Write([]byte("2"))
		require.ErrorIs(t, err, errWire)
	}
	within(t, hanging, "Close", func() { _ = c.Close() })
}

// A connection that something below has closed already fails with net.ErrClosed, which is also how gatheredConn knows
// that it was closed itself.
func TestGatheredConnBelowIsClosed(t *testing.T) {
	near, _ := tcpPair(t)
	c := newGatheredConn(near)
	t.Cleanup(func() { // frees a Close that hangs
		select {
		case <-c.ended:
		default:
			close(c.closing)
			<-c.ended
		}
	})
	require.NoError(t, near.Close())
	require.Eventually(t, func() bool { _, err := c.Write([]byte("1")); return err != nil }, soon, time.Millisecond)
	within(t, hanging, "Close", func() { _ = c.Close() })
}

func TestGatheredConnCloseConcurrently(t *testing.T) {
	near, far := tcpPair(t)
	c := newGatheredConn(near)
	var writers, closers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for {
				if _, err := c.Write([]byte("1234")); err != nil {
					return
				}
			}
		})
	}
	read := make(chan int64, 1)
	go func() {
		n, _ := io.Copy(io.Discard, far)
		read <- n
	}()
	for range 4 {
		closers.Go(func() { _ = c.Close() })
	}
	within(t, hanging, "Close", closers.Wait)
	within(t, hanging, "a writer", writers.Wait)
	require.Zero(t, <-read%4, "cut in the middle of a write")
	within(t, hanging, "the second Close", func() { require.NoError(t, c.Close()) })
	<-c.ended
}

func TestGatheredConnReadsBuffered(t *testing.T) {
	near, far := net.Pipe()
	counted := &countedReads{Conn: near}
	c := newGatheredConn(counted)
	t.Cleanup(func() { _ = c.Close(); _ = far.Close() })
	go func() { _, _ = far.Write(make([]byte, 1000)) }()
	one := make([]byte, 1)
	for range 1000 {
		_, err := io.ReadFull(c, one)
		require.NoError(t, err)
	}
	require.LessOrEqual(t, counted.reads, 2)
}

type countedReads struct {
	net.Conn
	reads int
}

func (c *countedReads) Read(p []byte) (int, error) { c.reads++; return c.Conn.Read(p) }

// kinds are the connections that dial makes, each with the address of a peer that serve serves.
var kinds = []struct {
	name   string
	listen func(t *testing.T, serve func(net.Conn)) (address string, config *tls.Config)
}{
	{"tcp", func(t *testing.T, serve func(net.Conn)) (string, *tls.Config) {
		t.Helper()
		return "tcp://" + serveTCP(t, nil, serve), nil
	}},
	{"tls", func(t *testing.T, serve func(net.Conn)) (string, *tls.Config) {
		t.Helper()
		a := newAuthority(t)
		return "ssl://" + serveTCP(t, a.server, serve), a.client
	}},
	{"websocket", func(t *testing.T, serve func(net.Conn)) (string, *tls.Config) {
		t.Helper()
		server := httptest.NewServer(upgrade(serve))
		t.Cleanup(server.Close)
		return "ws" + strings.TrimPrefix(server.URL, "http"), nil
	}},
	{"websocket with tls", func(t *testing.T, serve func(net.Conn)) (string, *tls.Config) {
		t.Helper()
		a := newAuthority(t)
		server := httptest.NewUnstartedServer(upgrade(serve))
		server.TLS = a.server
		server.StartTLS()
		t.Cleanup(server.Close)
		return "wss" + strings.TrimPrefix(server.URL, "https"), a.client
	}},
}

// upgrade serves websockets. The net.Conn it gives to serve reads the messages' bytes and does not write.
func upgrade(serve func(net.Conn)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		up := websocket.Upgrader{Subprotocols: []string{"mqtt"}}
		ws, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		serve(&messages{Conn: ws.UnderlyingConn(), ws: ws})
	})
}

type messages struct {
	net.Conn
	ws      *websocket.Conn
	current io.Reader
}

func (m *messages) Read(p []byte) (int, error) {
	for {
		if m.current == nil {
			_, r, err := m.ws.NextReader()
			if err != nil {
				return 0, io.EOF
			}
			m.current = r
		}
		n, err := m.current.Read(p)
		if err != nil {
			m.current = nil
		}
		if n > 0 {
			return n, nil
		}
	}
}

func serveTCP(t *testing.T, config *tls.Config, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if config != nil {
				conn = tls.Server(conn, config)
			}
			serving.Go(func() { serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		serving.Wait()
	})
	return l.Addr().String()
}

func tcpPair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	accepted := make(chan net.Conn, 1)
	address := serveTCP(t, nil, func(conn net.Conn) { accepted <- conn })
	near, err := net.Dial("tcp", address)
	require.NoError(t, err)
	far = <-accepted
	t.Cleanup(func() { _ = near.Close(); _ = far.Close() })
	return near, far
}

// Writes of many goroutines come whole and, of each goroutine, in order, the last of them by Close.
func TestDialKeepsContentAndOrder(t *testing.T) {
	const writers, each = 8, 5000
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			received := make(chan []byte, 1)
			address, config := kind.listen(t, func(conn net.Conn) {
				all, _ := io.ReadAll(conn)
				received <- all
				_ = conn.Close()
			})
			c := dialTest(t, address, config)
			var wg sync.WaitGroup
			for writer := range uint32(writers) {
				wg.Go(func() {
					for i := range uint32(each) {
						p := binary.BigEndian.AppendUint32(nil, writer<<16|i)
						if _, err := c.Write(p); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			within(t, hanging, "Close", func() { require.NoError(t, c.Close()) })
			var all []byte
			within(t, soon, "the peer", func() { all = <-received })
			require.Len(t, all, 4*writers*each)
			var next [writers]uint32
			for ; len(all) > 0; all = all[4:] {
				n := binary.BigEndian.Uint32(all)
				require.Equal(t, next[n>>16], n&0xffff)
				next[n>>16]++
			}
		})
	}
}

// A peer that takes nothing in must not hold Close up: the MQTT library closes the connection on the way to a new one.
func TestDialCloseWithStuckPeer(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			free := make(chan struct{})
			address, config := kind.listen(t, func(conn net.Conn) {
				if secure, ok := conn.(*tls.Conn); ok {
					_ = secure.Handshake()
				}
				<-free
				_ = conn.Close()
			})
			t.Cleanup(func() { close(free) })
			c := dialTest(t, address, config)
			large := make([]byte, 32<<20) // more than the kernel buffers
			_, err := c.Write(large)
			require.NoError(t, err)
			require.Eventually(t, func() bool { // it is being written
				c.mu.Lock()
				defer c.mu.Unlock()
				return len(c.out) == 0
			}, soon, time.Millisecond)
			<-time.After(200 * time.Millisecond) // nothing tells when the kernel's buffers are full
			within(t, hanging, "Close", func() { _ = c.Close() })
			<-c.ended
		})
	}
}

func dialTest(t *testing.T, address string, config *tls.Config) *gatheredConn {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	conn, err := dial(context.Background(), u, soon, config)
	require.NoError(t, err)
	return conn
}

func BenchmarkGatheredConnWrite(b *testing.B) {
	near, far := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, far) }()
	c := newGatheredConn(near)
	defer func() { _ = c.Close() }()
	ack := []byte{0x40, 2, 0, 1}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(ack); err != nil {
			b.Fatal(err)
		}
	}
}

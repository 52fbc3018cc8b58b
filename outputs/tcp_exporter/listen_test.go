package tcp_exporter

import (
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// memory is a listener whose connections and errors a test makes.
type memory struct {
	accepted chan any // net.Conn or error
	once     sync.Once
	closed   chan struct{}
}

func (m *memory) Accept() (net.Conn, error) {
	select {
	case a := <-m.accepted:
		if conn, ok := a.(net.Conn); ok {
			return conn, nil
		}
		return nil, a.(error) //nolint:errcheck,forcetypeassert // it is nothing else
	case <-m.closed:
		return nil, net.ErrClosed
	}
}

func (m *memory) Close() error {
	m.once.Do(func() { close(m.closed) })
	return nil
}

func (*memory) Addr() net.Addr { return &net.TCPAddr{} }

// inMemory connects the plugin to a listener in memory, for synctest.
func (r *rig) inMemory() (listen func(net.Conn), fail func(error)) {
	m := &memory{accepted: make(chan any), closed: make(chan struct{})}
	r.listener = m
	r.stream.open()
	r.server.start(m)
	return func(c net.Conn) { m.accepted <- c }, func(err error) { m.accepted <- err }
}

// Too many open files, for a while: it is logged once, clients that are there go on, and later ones come in.
func TestAcceptErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := prepare(t)
		listen, fail := r.inMemory()
		defer r.stop()
		first, client := net.Pipe()
		listen(first)
		go func() { _, _ = io.Copy(io.Discard, client) }()
		began := time.Now()
		for range 50 {
			fail(&net.OpError{Op: "accept", Err: syscall.EMFILE})
		}
		require.Greater(t, time.Since(began), 10*time.Second, "it backs off")
		second, other := net.Pipe()
		listen(second)
		go func() { _, _ = io.Copy(io.Discard, other) }()
		synctest.Wait()
		require.Equal(t, int64(2), r.server.stats.clients.Get())
		require.Equal(t, []string{"Cannot accept clients: accept: too many open files; trying on"}, r.logged('E'))
		fail(syscall.ECONNABORTED)
		synctest.Wait()
		require.Len(t, r.logged('E'), 2)
		r.stop() // also while it waits
		require.NoError(t, client.Close())
		require.NoError(t, other.Close())
	})
}

// logged is what was logged at a level.
func (r *rig) logged(level byte) (texts []string) {
	for _, entry := range r.log.Messages() {
		if entry.Level == level {
			texts = append(texts, entry.Text)
		}
	}
	return texts
}

func TestMaxClients(t *testing.T) {
	r := start(t, func(p *TCPExporter) { p.MaxClients = 2 })
	first, second := r.join(), r.join()
	for range 3 {
		require.Empty(t, r.dial().rest())
	}
	require.Equal(t, int64(3), r.server.stats.refused[refusedMaxClients].Get())
	require.Len(t, r.logged('W'), 1)
	require.Contains(t, r.logged('W')[0], "max_clients = 2")

	require.NoError(t, first.Close())
	r.waitClients(1)
	third := r.join()
	r.Add(sample(1))
	require.Equal(t, 1, second.value())
	require.Equal(t, 1, third.value())
}

// At the end clients get what was on its way, and the port is free at once, for the next instance in this process.
func TestClose(t *testing.T) {
	r := start(t)
	v := r.join()
	for n := 1; n <= 1000; n++ {
		r.Add(sample(n))
	}
	address := r.address()
	r.stop()
	require.Equal(t, sequence(1, 1000), values(v.rest()))
	require.Equal(t, int64(1), r.server.stats.closed[closedShutdown].Get())
	require.NoError(t, r.Close(), "again")

	next := start(t, func(p *TCPExporter) { p.Listen = address })
	v = next.join()
	next.Add(sample(1))
	require.Equal(t, 1, v.value())
	next.stop()

	require.NoError(t, r.Connect(), "again")
	defer func() { require.NoError(t, r.Close()) }()
	require.Equal(t, hello, r.dial().next().GetMetadata().GetName())
}

// A client that takes nothing delays the end by a second, and no more.
func TestCloseWithAStuckClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := prepare(t)
		listen, _ := r.inMemory()
		server, client := net.Pipe()
		listen(server)
		synctest.Wait()
		began := time.Now()
		r.stop()
		require.Equal(t, flushTime, time.Since(began))
		require.Equal(t, int64(1), r.server.stats.closed[closedShutdown].Get())
		require.NoError(t, client.Close())
	})
}

func TestPortIsTaken(t *testing.T) {
	r := start(t)
	other := prepare(t, func(p *TCPExporter) { p.Listen = r.address() })
	err := other.Connect()
	require.ErrorIs(t, err, syscall.EADDRINUSE)
	require.ErrorContains(t, err, "listen = ")
	require.NoError(t, other.Close())
	other.Add(sample(1)) // Telegraf would not, but it does no harm
}

func TestWarnsBeyondThisMachine(t *testing.T) {
	for listen, warned := range map[string]bool{"127.0.0.1:0": false, "localhost:0": false, ":0": true, "0.0.0.0:0": true} {
		r := start(t, func(p *TCPExporter) { p.Listen = listen })
		require.Equal(t, warned, len(r.logged('W')) == 1, "%s: %s", listen, r.logged('W'))
	}
}

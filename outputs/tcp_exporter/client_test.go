package tcp_exporter

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/metric"

	"github.com/edgetide/telegraf-victorialogs/outputs/tcp_exporter/wire"
)

// A slow client loses its own oldest events, which are counted. What it gets are whole frames, in order, and all metadata,
// also what came while it did not read.
func TestSlowClient(t *testing.T) {
	r := start(t, func(p *TCPExporter) { p.BufferSize = 1024 })
	slow := r.join()
	const n = 60_000
	for i := 1; i <= n; i++ {
		r.Add(sample(i))
		if i == n/2 {
			r.Add(one("late", nil, "value", -1))
		}
	}
	r.Add(sample(n + 1))
	var got []int
	names := make(map[string]bool)
	for {
		e := slow.next()
		names[e.GetMetadata().GetName()] = true
		if m := e.GetMetric(); m.GetName() == "load_system" {
			got = append(got, int(m.GetSetGauge()))
		}
		if len(got) > 0 && got[len(got)-1] == n+1 {
			break
		}
	}
	require.IsIncreasing(t, got)
	require.Contains(t, names, "late_value")
	dropped := r.server.stats.dropped.Get()
	require.Positive(t, dropped)
	require.InDelta(t, n+1-len(got), dropped, 1) // late's event may be among them
	require.Equal(t, sequence(n+1-r.BufferSize+2, n+1), got[len(got)-r.BufferSize+1:], "the newest ones are there")

	r.Add(sample(n + 2)) // it is in step again
	require.Equal(t, n+2, slow.value())
}

// A gather comes all at once. A client loses nothing of it where the buffer has room for it, though it has no time to read.
func TestBurst(t *testing.T) {
	const n = 50_000
	r := start(t, func(p *TCPExporter) { p.BufferSize = n + 1024 })
	v := r.join()
	for i := 1; i <= n; i++ {
		r.Add(sample(i))
	}
	for i := 1; i <= n; i++ {
		require.Equal(t, i, v.value())
	}
	require.Zero(t, r.server.stats.dropped.Get())
}

// The time begins when the last byte was taken, not when the write it belongs to would have ended.
func TestWriteTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		defer func() { _, _ = here.Close(), there.Close() }()
		go func() {
			taken := make([]byte, 1)
			for range 5 { // slow, but not stuck
				time.Sleep(9 * time.Second) //nolint:forbidigo // in synctest's time
				_, _ = there.Read(taken)
			}
		}()
		began := time.Now()
		n, err := patient{here, 10 * time.Second}.Write(make([]byte, 100))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, 5, n)
		require.GreaterOrEqual(t, time.Since(began), 55*time.Second)
		require.LessOrEqual(t, time.Since(began), 58*time.Second)
	})
}

func TestOneOfTwoLeaves(t *testing.T) {
	for name, leave := range leaves {
		t.Run(name, func(t *testing.T) {
			r := start(t)
			stays, goes := r.join(), r.join()
			r.Add(sample(1))
			require.Equal(t, 1, stays.value())
			require.Equal(t, 1, goes.value())
			leave(t, goes)
			for n := 2; n <= 50; n++ {
				r.Add(sample(n))
				require.Equal(t, n, stays.value())
			}
			r.waitClients(1)
			require.Equal(t, int64(1), r.server.stats.closed[closedLeft].Get())
			r.stop()
			require.Empty(t, stays.rest())
			require.Zero(t, r.server.stats.clients.Get())
			require.Zero(t, r.server.stats.dropped.Get())
			require.Zero(t, r.stream.readers.Load())
		})
	}
}

// leaves are the ways to go.
var leaves = map[string]func(*testing.T, *viewer){
	"close": func(t *testing.T, v *viewer) {
		t.Helper()
		require.NoError(t, v.Close())
	},
	"reset": func(t *testing.T, v *viewer) {
		t.Helper()
		require.NoError(t, v.socket().SetLinger(0))
		require.NoError(t, v.Close())
	},
	"half-close, then close": func(t *testing.T, v *viewer) {
		t.Helper()
		require.NoError(t, v.socket().CloseWrite())
		require.NoError(t, v.Close())
	},
	"close with something said": func(t *testing.T, v *viewer) {
		t.Helper()
		_, err := v.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
		require.NoError(t, err)
		require.NoError(t, v.Close())
	},
}

// A client that leaves is noticed at once, though there is nothing to write to it.
func TestLeavingIsNoticedAtOnce(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere it is noticed at the next write that fails")
	}
	for name, leave := range leaves {
		for _, format := range []string{"protobuf", "influx"} {
			t.Run(name+" "+format, func(t *testing.T) {
				r := start(t, func(p *TCPExporter) { p.Format = format })
				v := r.dial()
				r.waitClients(1)
				leave(t, v)
				r.waitClients(0)
				require.Equal(t, int64(1), r.server.stats.closed[closedLeft].Get())
			})
		}
	}
}

// A client that closed only its own direction, as nc does at the end of its input, is served on.
func TestHalfClosed(t *testing.T) {
	r := start(t)
	v := r.join()
	require.NoError(t, v.socket().CloseWrite())
	require.Nil(t, v.next().GetEvent(), "an event that holds nothing, to see whether the client is there")
	for n := 1; n <= 20; n++ {
		r.Add(sample(n))
		require.Equal(t, n, v.value())
	}
	require.Equal(t, int64(1), r.server.stats.clients.Get())
	r.waitFor("messages", func() bool { return r.server.stats.sent.Get() == 1+1+20 })

	require.NoError(t, v.Close())
	for n := range 3 { // the system tells with the answer to the first
		r.Add(sample(n))
	}
	r.waitClients(0)
}

// A client that never reads is closed when it has taken nothing for write_timeout, and holds up nobody until then.
func TestClientThatNeverReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := prepare(t)
		listen, _ := r.inMemory()
		defer r.stop()
		began := time.Now()
		stuck, client := net.Pipe()
		listen(stuck)
		for n := range 10_000 {
			r.Add(sample(n))
		}
		require.Equal(t, began, time.Now(), "Add waits for nothing")
		synctest.Wait()
		require.Equal(t, int64(1), r.server.stats.clients.Get())
		time.Sleep(time.Duration(r.WriteTimeout)) //nolint:forbidigo // in synctest's time
		synctest.Wait()
		require.Zero(t, r.server.stats.clients.Get())
		require.Equal(t, int64(1), r.server.stats.closed[closedWriteTimeout].Get())
		require.NoError(t, client.Close())
	})
}

// A client that takes a little within each write_timeout stays, however long it takes.
func TestClientThatReadsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := prepare(t)
		listen, _ := r.inMemory()
		defer r.stop()
		server, client := net.Pipe()
		listen(server)
		defer func() { _ = client.Close() }()
		synctest.Wait()
		for n := range 20 {
			r.Add(sample(n))
		}
		var stream bytes.Buffer
		for stream.Len() < 900 {
			_, err := io.CopyN(&stream, client, 1)
			require.NoError(t, err)
			time.Sleep(time.Duration(r.WriteTimeout) - time.Millisecond) //nolint:forbidigo // in synctest's time
		}
		require.Equal(t, int64(1), r.server.stats.clients.Get())
		e := &wire.Event{}
		for stream.Len() > 100 {
			require.NoError(t, protodelim.UnmarshalFrom(&stream, e))
		}
		require.Positive(t, e.GetMetric().GetSetGauge())
	})
}

// A connection takes n bytes at a time, for each n up to the whole: the stream always decodes.
func TestPartialWrites(t *testing.T) {
	var whole int
	for n := 1; whole == 0 || n <= whole; n++ {
		synctest.Test(t, func(t *testing.T) {
			r := prepare(t)
			listen, _ := r.inMemory()
			c := &frugal{most: n, closed: make(chan struct{})}
			listen(c)
			synctest.Wait()
			for i := 1; i <= 8; i++ {
				r.Add(sample(i))
				if i%3 == 0 {
					synctest.Wait() // it is written in several batches
				}
			}
			r.stop()
			whole = c.taken.Len()
			var events []*wire.Event
			for c.taken.Len() > 0 {
				e := &wire.Event{}
				require.NoError(t, protodelim.UnmarshalFrom(&c.taken, e), "%d bytes at a time", n)
				events = append(events, e)
			}
			require.Equal(t, sequence(1, 8), values(events))
		})
	}
	require.Greater(t, whole, 300)
}

// frugal is a connection that takes a few bytes at each write, and then nothing until the deadline.
type frugal struct {
	net.Conn // for what is not expected to be called

	most   int
	taken  bytes.Buffer
	once   sync.Once
	closed chan struct{}
}

func (f *frugal) Write(b []byte) (int, error) {
	if len(b) <= f.most {
		return f.taken.Write(b)
	}
	f.taken.Write(b[:f.most])
	return f.most, os.ErrDeadlineExceeded
}

func (f *frugal) Read([]byte) (int, error) {
	<-f.closed
	return 0, net.ErrClosed
}

func (f *frugal) Close() error {
	f.once.Do(func() { close(f.closed) })
	return nil
}

func (*frugal) SetWriteDeadline(time.Time) error { return nil }
func (*frugal) RemoteAddr() net.Addr             { return &net.TCPAddr{} }

// The same with sockets, which take as much as there is room.
func TestPartialReads(t *testing.T) {
	r := start(t)
	const n = 500
	for _, size := range []int{1, 7, 100, 4096} {
		v := r.join()
		require.NoError(t, v.socket().SetReadBuffer(4096))
		for i := range n {
			r.Add(sample(i))
		}
		v.frames.Reset(pieces{io.MultiReader(bytes.NewReader(v.buffered()), v.Conn), size})
		for i := range n {
			require.Equal(t, i, v.value())
		}
		require.NoError(t, v.Close())
	}
}

func (v *viewer) buffered() []byte {
	b, _ := v.frames.Peek(v.frames.Buffered())
	return bytes.Clone(b)
}

type pieces struct {
	io.Reader

	size int
}

func (p pieces) Read(b []byte) (int, error) { return p.Reader.Read(b[:min(len(b), p.size)]) }

// 1,000 clients come and go under load, in all ways. Afterwards nothing of them is left.
func TestClientsComeAndGo(t *testing.T) {
	r := start(t)
	stays := r.join()
	stop := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
				r.Add(sample(n))
				runtime.Gosched()
			}
		}
	})
	var last atomic.Int64
	work.Go(func() {
		for _, n := range values(stays.rest()) {
			last.Store(int64(n))
		}
	})
	ways := make([]func(*testing.T, *viewer), 0, len(leaves))
	for _, leave := range leaves {
		ways = append(ways, leave)
	}
	var coming sync.WaitGroup
	for worker := range 8 {
		coming.Go(func() {
			for n := range 1000 / 8 {
				v := r.dial()
				for range n % 4 {
					v.next()
				}
				ways[(worker+n)%len(ways)](t, v)
			}
		})
	}
	coming.Wait()
	r.waitClients(1)
	close(stop)
	r.stop()
	work.Wait()
	require.Positive(t, last.Load())
	require.Zero(t, r.server.stats.clients.Get())
	require.Zero(t, r.stream.readers.Load())
	require.Zero(t, r.server.stats.refused[refusedMaxClients].Get())
	require.Empty(t, r.server.clients)
}

// 100 clients at 10,000 metrics a second: each that reads gets every event; the one that never reads loses its own, and takes
// no more memory than there is for a client.
func TestManyClients(t *testing.T) {
	const (
		clients        = 99
		n              = 20_000
		perMillisecond = 10
	)
	r := start(t, func(p *TCPExporter) {
		p.BufferSize, p.MaxClients, p.WriteTimeout = n/4, clients+1, config.Duration(soon)
	})
	stuck := r.join()
	require.NoError(t, stuck.socket().SetReadBuffer(4096))
	var got [clients]atomic.Int64
	var reading sync.WaitGroup
	for i := range clients {
		v := r.join()
		reading.Go(func() {
			for want := 0; want <= n; want++ { // 0 is the metadata
				if frame, err := v.raw(); err != nil || want > 0 && lastFloat(frame) != want {
					got[i].Store(-1)
					return
				}
				got[i].Store(int64(want))
			}
		})
	}
	slowest := func() int64 {
		least := got[0].Load()
		for i := range got {
			least = min(least, got[i].Load())
		}
		return least
	}
	before := heap()
	began := time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for sent := 1; sent <= n; {
		<-tick.C
		// On a machine that is too slow for this, those that read would be slow clients.
		due := min(n, int(time.Since(began).Milliseconds())*perMillisecond) // a tick that came late is made up for
		for sent <= due && sent-int(slowest()) < r.BufferSize {
			r.Add(sample(sent))
			sent++
		}
		require.GreaterOrEqual(t, slowest(), int64(0), "a client that reads lost an event")
	}
	t.Logf("%d metrics a second to %d clients", int(n/time.Since(began).Seconds()), clients+1)
	reading.Wait()
	for i := range got {
		require.Equal(t, int64(n), got[i].Load(), "client %d", i)
	}
	grown := int64(heap()) - int64(before)
	require.Less(t, grown, int64((clients+1)*(2*maxTaken))+int64(r.BufferSize*eventMemory))

	require.Equal(t, int64(clients+1), r.server.stats.clients.Get(), "the one that never reads is still there")
	require.NoError(t, stuck.Close())
	r.waitClients(clients)
	require.Positive(t, r.server.stats.dropped.Get())
	require.Less(t, r.server.stats.dropped.Get(), int64(n), "they are its own")
}

// raw is the next frame without its length. It is faster than decoding it.
func (v *viewer) raw() ([]byte, error) {
	size, err := binary.ReadUvarint(v.frames)
	if err != nil {
		return nil, err
	}
	frame := make([]byte, size)
	_, err = io.ReadFull(v.frames, frame)
	return frame, err
}

// lastFloat is the value of a gauge, which ends the frame.
func lastFloat(frame []byte) int {
	return int(math.Float64frombits(binary.LittleEndian.Uint64(frame[len(frame)-8:])))
}

// eventMemory is what one of the small events in these tests takes at most.
const eventMemory = 512

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Clients that never read take no more memory than there is for a client, however much comes.
func TestMemoryIsBounded(t *testing.T) {
	const clients = 50
	r := start(t, func(p *TCPExporter) { p.BufferSize = 1024 })
	for range clients {
		r.join()
	}
	before := heap()
	for n := range 200_000 { // some 10 MB for each
		r.Add(sample(n))
	}
	require.Less(t, int64(heap())-int64(before), int64(clients*2*maxTaken+r.BufferSize*eventMemory))
}

// A metric is encoded once for all clients, and not at all for none.
func TestEncodedOnce(t *testing.T) {
	r := prepare(t, func(p *TCPExporter) { p.Format = "influx" })
	counting := &countingSerializer{}
	r.encoder = &serialized{serializer: counting, stats: r.server.stats}
	require.NoError(t, r.Connect())
	t.Cleanup(r.stop)
	for n := range 100 {
		r.Add(sample(n))
	}
	require.Zero(t, counting.calls)
	for range 50 {
		r.dial()
	}
	r.waitFor("readers", func() bool { return r.stream.readers.Load() == 50 })
	for n := range 100 {
		r.Add(sample(n))
	}
	require.Equal(t, 100, counting.calls)
	r.waitFor("messages", func() bool { return r.server.stats.sent.Get() == 100*50 })
}

type countingSerializer struct{ calls int }

func (s *countingSerializer) Serialize(telegraf.Metric) ([]byte, error) {
	s.calls++
	return []byte("x\n"), nil
}

func (*countingSerializer) SerializeBatch([]telegraf.Metric) ([]byte, error) { panic("unused") }

// Inputs that wait for acknowledgements do not wait for this output, whether somebody is connected or not.
func TestTrackedMetricsAreAcceptedAtOnce(t *testing.T) {
	r := start(t)
	delivered := 0
	tracked := func() telegraf.Metric {
		m, _ := metric.WithTracking(sample(1), func(d telegraf.DeliveryInfo) {
			require.True(t, d.Delivered())
			delivered++
		})
		return m
	}
	r.Add(tracked())
	require.Equal(t, 1, delivered)
	v := r.join()
	r.Add(tracked())
	require.Equal(t, 2, delivered)
	require.Equal(t, 1, v.value())
	require.NoError(t, r.Write([]telegraf.Metric{tracked()}))
	require.Equal(t, 2, delivered, "the host accepts what it writes")
	require.Equal(t, 1, v.value())
	require.Nil(t, r.Push())
	r.Reset()
	r.stop()
	r.Add(tracked())
	require.Equal(t, 3, delivered)
}

// Write and Add may be called at the same time.
func TestConcurrentCalls(t *testing.T) {
	r := start(t, func(p *TCPExporter) { p.BufferSize = 10_000 })
	v := r.join()
	var adding sync.WaitGroup
	for worker := range 4 {
		adding.Go(func() {
			for n := range 500 {
				m := one("load", map[string]string{"worker": fmt.Sprint(worker)}, "system", n)
				if worker%2 == 0 {
					r.Add(m)
				} else {
					_ = r.Write([]telegraf.Metric{m})
				}
			}
		})
	}
	next := make(map[string]int)
	for range 4 * 500 {
		m := v.metric()
		require.Equal(t, next[m.GetLabels()["worker"]], int(m.GetSetGauge()))
		next[m.GetLabels()["worker"]]++
	}
	adding.Wait()
}

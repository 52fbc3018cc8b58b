package tcp_exporter

import (
	"bufio"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/metric"
	"github.com/influxdata/telegraf/selfstat"
	"github.com/influxdata/telegraf/testutil"

	"github.com/edgetide/telegraf-victorialogs/outputs/tcp_exporter/wire"
)

const soon = 30 * time.Second // the bound of a wait that succeeds

// rig is a plugin that listens on a port of its own.
type rig struct {
	*TCPExporter

	tb   testing.TB
	log  *testutil.CaptureLogger
	once sync.Once
}

// hello is the metadata that each client gets when it joins. Without it nothing would tell that it has.
const hello = "hello"

func start(tb testing.TB, changes ...func(*TCPExporter)) *rig {
	tb.Helper()
	r := prepare(tb, changes...)
	require.NoError(tb, r.Connect())
	tb.Cleanup(r.stop)
	return r
}

// prepare is start without Connect.
func prepare(tb testing.TB, changes ...func(*TCPExporter)) *rig {
	tb.Helper()
	r := &rig{TCPExporter: New(), tb: tb, log: &testutil.CaptureLogger{}}
	r.Listen = "127.0.0.1:0"
	r.Log = r.log
	r.Statistics = selfstat.NewCollector(map[string]string{"test": tb.Name()})
	tb.Cleanup(r.Statistics.UnregisterAll)
	r.Describe = []Description{{Name: hello, Type: "gauge"}}
	for _, change := range changes {
		change(r.TCPExporter)
	}
	require.NoError(tb, r.Init())
	return r
}

func (r *rig) stop() { r.once.Do(func() { require.NoError(r.tb, r.Close()) }) }

func (r *rig) address() string { return r.listener.Addr().String() }

func (r *rig) waitFor(what string, condition func() bool) {
	r.tb.Helper()
	require.Eventually(r.tb, condition, soon, time.Millisecond, what)
}

func (r *rig) waitClients(n int64) {
	r.tb.Helper()
	r.waitFor("clients", func() bool { return r.server.stats.clients.Get() == n })
}

// viewer is a client.
type viewer struct {
	net.Conn

	tb     testing.TB
	frames *bufio.Reader
}

func (r *rig) dial() *viewer {
	r.tb.Helper()
	conn, err := net.Dial("tcp", r.address())
	require.NoError(r.tb, err)
	r.tb.Cleanup(func() { _ = conn.Close() })
	require.NoError(r.tb, conn.SetDeadline(time.Now().Add(2*soon)))
	return &viewer{Conn: conn, tb: r.tb, frames: bufio.NewReader(conn)}
}

// join connects a client and waits until it is in the stream.
func (r *rig) join() *viewer {
	r.tb.Helper()
	v := r.dial()
	require.Equal(r.tb, hello, v.next().GetMetadata().GetName())
	return v
}

// socket is for what only a socket can do.
func (v *viewer) socket() *net.TCPConn {
	v.tb.Helper()
	socket, ok := v.Conn.(*net.TCPConn)
	require.True(v.tb, ok)
	return socket
}

// read reads the next frame.
func (v *viewer) read() (*wire.Event, error) {
	e := &wire.Event{}
	err := protodelim.UnmarshalOptions{MaxSize: wire.MaxMessage}.UnmarshalFrom(v.frames, e)
	return e, err
}

func (v *viewer) next() *wire.Event {
	v.tb.Helper()
	e, err := v.read()
	require.NoError(v.tb, err)
	return e
}

// metric is the next one; metadata is passed over.
func (v *viewer) metric() *wire.Metric {
	v.tb.Helper()
	for {
		if m := v.next().GetMetric(); m != nil {
			return m
		}
	}
}

// value is that of the next metric, a gauge.
func (v *viewer) value() int {
	v.tb.Helper()
	return int(v.metric().GetSetGauge())
}

// rest is all that comes until the server ends the connection, which it must not do within a frame.
func (v *viewer) rest() (events []*wire.Event) {
	v.tb.Helper()
	for {
		e, err := v.read()
		if err != nil {
			require.ErrorIs(v.tb, err, io.EOF)
			return events
		}
		events = append(events, e)
	}
}

// values are those of gauges, in their order.
func values(events []*wire.Event) (numbers []int) {
	for _, e := range events {
		if m := e.GetMetric(); m != nil {
			numbers = append(numbers, int(m.GetSetGauge()))
		}
	}
	return numbers
}

var at = time.Unix(1700000000, 123456789)

// sample is metric n of a gauge.
func sample(n int) telegraf.Metric {
	return metric.New("load", map[string]string{"host": "gateway"}, map[string]any{"system": n}, at)
}

func one(name string, tags map[string]string, field string, value any, kind ...telegraf.ValueType) telegraf.Metric {
	return metric.New(name, tags, map[string]any{field: value}, at, kind...)
}

// sequence is the numbers from first up to last.
func sequence(first, last int) (numbers []int) {
	for n := first; n <= last; n++ {
		numbers = append(numbers, n)
	}
	return numbers
}

package victorialogs

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/metric"
	"github.com/influxdata/telegraf/selfstat"
	"github.com/influxdata/telegraf/testutil"
)

// wire is a network without sockets. It reads each request and keeps what it read.
type wire struct {
	answer func(*sent) (*http.Response, error) // nil: the server takes everything

	mu       sync.Mutex
	sent     []*sent
	inFlight int
	most     int // requests in flight at a time
}

// sent is one request.
type sent struct {
	request *http.Request
	at      time.Time
	number  int    // from 1
	memory  *byte  // where the body lay
	body    []byte // a copy
	lines   []string
	taken   bool // the answer was 200
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	s := &sent{request: r, at: time.Now()}
	body, ok := r.Body.(io.WriterTo)
	if !ok {
		return nil, errors.New("the body is no bytes.Reader")
	}
	if _, err := body.WriteTo(s); err != nil {
		return nil, err
	}
	if err := r.Body.Close(); err != nil {
		return nil, err
	}
	if int64(len(s.body)) != r.ContentLength {
		return nil, errors.New("Content-Length is wrong")
	}
	lines, err := decoded(r.Header.Get("Content-Encoding"), s.body)
	if err != nil {
		return nil, err
	}
	s.lines = strings.SplitAfter(lines, "\n")
	s.lines = s.lines[:len(s.lines)-1] // what follows the last newline

	w.mu.Lock()
	w.sent = append(w.sent, s)
	s.number = len(w.sent)
	w.inFlight++
	w.most = max(w.most, w.inFlight)
	w.mu.Unlock()

	response, err := taken(), error(nil)
	if w.answer != nil {
		response, err = w.answer(s)
	}

	w.mu.Lock()
	defer w.mu.Unlock()
	w.inFlight--
	s.taken = err == nil && response.StatusCode == http.StatusOK
	return response, err
}

func (*wire) CloseIdleConnections() {}

// Write sees the memory itself, since a bytes.Reader hands it over in one piece.
func (s *sent) Write(p []byte) (int, error) {
	s.memory = &p[0]
	s.body = append(s.body, p...)
	return len(p), nil
}

func decoded(encoding string, body []byte) (string, error) {
	var r io.Reader = bytes.NewReader(body)
	switch encoding {
	case "zstd":
		decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return "", err
		}
		defer decoder.Close()
		lines, err := decoder.DecodeAll(body, nil)
		return string(lines), err
	case "gzip":
		decoder, err := gzip.NewReader(r)
		if err != nil {
			return "", err
		}
		r = decoder
	}
	lines, err := io.ReadAll(r)
	return string(lines), err
}

// requests returns what was sent so far.
func (w *wire) requests() []*sent {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.sent)
}

// ids returns the ids of the events that the server took, in the order of the requests.
func (w *wire) ids() (ids []int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.sent {
		if s.taken {
			ids = append(ids, s.ids()...)
		}
	}
	return ids
}

func (s *sent) ids() (ids []int) {
	for _, line := range s.lines {
		_, rest, _ := strings.Cut(line, `"id":`)
		number, _, _ := strings.Cut(strings.TrimRight(rest, "}\n"), ",")
		id, err := strconv.Atoi(number)
		if err != nil {
			panic(err)
		}
		ids = append(ids, id)
	}
	return ids
}

func (w *wire) mostInFlight() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	most := w.most
	w.most = w.inFlight
	return most
}

func taken() *http.Response { return status(http.StatusOK, "") }

func status(code int, text string, header ...string) *http.Response {
	response := &http.Response{StatusCode: code, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(text))}
	for i := 0; i < len(header); i += 2 {
		response.Header.Set(header[i], header[i+1])
	}
	return response
}

// server is what a wire leads to. Its zero value takes everything at once.
type server struct {
	down atomic.Bool
	slow atomic.Int64 // nanoseconds before an answer
}

var errDown = errors.New("the wire is cut")

func (s *server) answer(r *sent) (*http.Response, error) {
	if err := sleep(r.request, time.Duration(s.slow.Load())); err != nil {
		return nil, err
	}
	if s.down.Load() {
		return nil, errDown
	}
	return taken(), nil
}

// sleep returns early with an error when the request is given up.
func sleep(r *http.Request, d time.Duration) error {
	if d == 0 {
		return nil
	}
	select {
	case <-time.After(d):
		return nil
	case <-r.Context().Done():
		return r.Context().Err()
	}
}

func hang(s *sent) (*http.Response, error) {
	<-s.request.Context().Done()
	return nil, s.request.Context().Err()
}

// rig is a plugin that runs.
type rig struct {
	*VictoriaLogs
	log *testutil.CaptureLogger
}

var rigs atomic.Int64

// prepare returns the plugin with self-metrics of its own, before Init.
func prepare(change ...func(*VictoriaLogs)) *rig {
	r := &rig{VictoriaLogs: New(), log: &testutil.CaptureLogger{}}
	r.Log = r.log
	r.Statistics = selfstat.NewCollector(map[string]string{"rig": strconv.FormatInt(rigs.Add(1), 10)})
	for _, f := range change {
		f(r.VictoriaLogs)
	}
	return r
}

// start runs the plugin on the wire, or on real sockets if that is nil, until the end of the test.
func start(tb testing.TB, w *wire, change ...func(*VictoriaLogs)) *rig {
	tb.Helper()
	r := prepare(change...)
	require.NoError(tb, r.Init())
	if w != nil {
		r.delivery.target.transport = w
	}
	require.NoError(tb, r.Connect())
	tb.Cleanup(func() { require.NoError(tb, r.Close()) })
	return r
}

// pass lets time pass in a bubble, and all that then happens happen.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func received(r *rig) int64  { return r.stats.received.Get() }
func delivered(r *rig) int64 { return r.stats.delivered.Get() }
func rejected(r *rig) int64  { return sum(r.stats.rejected) }
func dropped(r *rig) int64   { return sum(r.stats.dropped) }
func pending(r *rig) int64   { return r.stats.pendingMetrics.Get() }

// requireBalance holds the ledger against its promise, and against what is really there. It must be quiet.
func requireBalance(tb testing.TB, r *rig) {
	tb.Helper()
	recovered, onDisk := r.stats.recovered.Get(), r.stats.onDisk.Get()
	require.Equal(tb, received(r)+recovered, delivered(r)+onDisk+rejected(r)+dropped(r)+pending(r),
		"received %d, recovered %d, delivered %d, on disk %d, rejected %d, dropped %d, pending %d", received(r), recovered,
		delivered(r), onDisk, rejected(r), dropped(r), pending(r))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.delivery.mu.Lock()
	defer r.delivery.mu.Unlock()
	held, size := 0, int64(0)
	for _, b := range slices.Concat(r.delivery.queue, r.delivery.refused) {
		if b.home == nil {
			held += b.count
			size += b.size()
		}
	}
	if r.open != nil {
		held += r.open.count
	}
	if r.delivery.inFlight == 0 {
		require.Equal(tb, int64(held), pending(r), "pending_metrics")
		require.Equal(tb, size, r.delivery.bytes, "bytes of closed batches")
	}
}

// pairs makes fields of keys and values, in that order.
func pairs(keysAndValues ...any) (fields []telegraf.Field) {
	for i := 0; i < len(keysAndValues); i += 2 {
		fields = append(fields, telegraf.Field{Key: fmt.Sprint(keysAndValues[i]), Value: keysAndValues[i+1]})
	}
	return fields
}

var received2024 = time.Date(2024, 2, 29, 12, 0, 0, 123456789, time.UTC)

func newMetric(name string, tags map[string]string, fields []telegraf.Field) telegraf.Metric {
	m := metric.New(name, tags, nil, received2024)
	for _, f := range fields {
		m.AddField(f.Key, f.Value)
	}
	return m
}

// event is a row that the wire finds again by its id.
func event(id int) telegraf.Metric {
	return metric.New("event", map[string]string{"host": "a"}, map[string]any{"id": id}, time.Now())
}

// bigEvent is one whose line has about so many bytes.
func bigEvent(id, length int) telegraf.Metric {
	m := event(id)
	m.AddTag("pad", strings.Repeat("x", length))
	return m
}

// watched is a tracked metric that counts what it is told.
type watched struct {
	telegraf.Metric
	accepted, rejected, dropped atomic.Int32
	settled                     func(*watched) // called after each
}

func watch(m telegraf.Metric) *watched { return &watched{Metric: m} }

func (w *watched) Accept() { w.note(&w.accepted) }
func (w *watched) Reject() { w.note(&w.rejected) }
func (w *watched) Drop()   { w.note(&w.dropped) }

func (w *watched) note(count *atomic.Int32) {
	count.Add(1)
	if w.settled != nil {
		w.settled(w)
	}
}

func (*watched) TrackingID() telegraf.TrackingID     { return 1 }
func (*watched) TrackingData() telegraf.TrackingData { return nil }
func (w *watched) Unwrap() telegraf.Metric           { return w.Metric }

// outcome is "accepted", "rejected", "dropped", "" for none yet, or all that it was told if that is more than one.
func (w *watched) outcome() string {
	var told []string
	for what, n := range map[string]int32{"accepted": w.accepted.Load(), "rejected": w.rejected.Load(), "dropped": w.dropped.Load()} {
		for range n {
			told = append(told, what)
		}
	}
	slices.Sort(told)
	return strings.Join(told, "+")
}

// outcomes counts them.
func outcomes(all []*watched) map[string]int {
	counts := make(map[string]int)
	for _, w := range all {
		counts[w.outcome()]++
	}
	return counts
}

// logged returns the lines of a level that hold the text.
func logged(r *rig, level byte, text string) (lines []string) {
	for _, entry := range r.log.Messages() {
		if entry.Level == level && strings.Contains(entry.Text, text) {
			lines = append(lines, entry.Text)
		}
	}
	return lines
}

func duration(d time.Duration) config.Duration { return config.Duration(d) }
func sequence(n int) []int                     { return slices.Collect(func(yield func(int) bool) { count(n, yield) }) }
func sortedKeys(m map[string]any) []string     { return slices.Sorted(maps.Keys(m)) }
func encodedAs(encoding string) func(*VictoriaLogs) {
	return func(v *VictoriaLogs) { v.ContentEncoding = encoding }
}

func count(n int, yield func(int) bool) {
	for i := range n {
		if !yield(i) {
			return
		}
	}
}

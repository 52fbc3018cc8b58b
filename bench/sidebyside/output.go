package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/metric"
	"github.com/influxdata/telegraf/selfstat"
	"github.com/influxdata/telegraf/testutil"

	"github.com/edgetide/telegraf-victorialogs/outputs/victorialogs"
)

// What is measured of the output without an input, and of the receiver.
const (
	rowRate    = "rows/s"
	serverCost = "server CPU us/row"
)

// The ways of the output alone.
const (
	bareClient     = "bare client"
	bareOne        = "bare client, one connection"
	throughVlagent = "bare client, through vlagent"
)

// body is a request's, ready to be sent.
type body struct {
	bytes []byte
	rows  int
}

// event is message n as the metric that mqtt_hardware makes of it.
func event(n int, at time.Time) telegraf.Metric {
	h := scattered(n)
	return metric.New("mqtt", map[string]string{"host": "edge", "topic": "bench/zigbee2mqtt/kitchen"}, map[string]any{
		"temperature": 10 + float64(h>>8%200)/10, "humidity": 30 + float64(h>>4%600)/10,
		"battery_mv": int64(2900 + h>>12%200), "linkquality": int64(100 + h>>24%100), "state": "ON", "seq": int64(firstSeq + n),
	}, at)
}

// mute leaves out what the output says of its configuration.
type mute struct{ testutil.Logger }

// Warn is about dead letters, which these outputs have none of.
func (mute) Warn(...any) {}

// newOutput is outputs.victorialogs with its defaults, in this process.
func newOutput(url string) (*victorialogs.VictoriaLogs, error) {
	o := victorialogs.New()
	o.URL = url
	o.Log = mute{testutil.Logger{Quiet: true}}
	if err := o.Init(); err != nil {
		return nil, err
	}
	return o, o.Connect()
}

// readyBodies has the output itself make the bodies of so many rows, so that others can send the same bytes.
func readyBodies(rows int) (bodies []body, err error) {
	var mu sync.Mutex
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body) // the sum of rows below shows what is missing
		mu.Lock()
		defer mu.Unlock()
		bodies = append(bodies, body{bytes: data})
	}))
	defer server.Close()
	o := victorialogs.New()
	o.URL = server.URL
	o.Log = mute{testutil.Logger{Quiet: true}}
	o.Concurrency = 1 // in their order
	o.IdleGap, o.MaxBatchAge = config.Duration(time.Hour), config.Duration(time.Hour)
	if err := errors.Join(o.Init(), o.Connect()); err != nil {
		return nil, err
	}
	now := time.Now()
	for n := range rows {
		o.Add(event(n, now.Add(time.Duration(n)*time.Microsecond)))
	}
	if err := o.Close(); err != nil {
		return nil, err
	}
	total := 0
	for i := range bodies {
		lines, err := decompress(bodies[i].bytes)
		if err != nil {
			return nil, err
		}
		bodies[i].rows = bytes.Count(lines, []byte{'\n'})
		total += bodies[i].rows
	}
	if total != rows {
		return nil, fmt.Errorf("the output sent %d rows of %d", total, rows)
	}
	return bodies, nil
}

// post sends bodies over so many connections until n rows are sent, beginning again at the first when they are at an end.
// It returns how many rows that were.
func post(ctx context.Context, url string, bodies []body, connections, n int) (rows int, err error) {
	transport := &http.Transport{MaxIdleConnsPerHost: connections, DisableCompression: true}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next, sent atomic.Int64 // bodies, rows
	var sending sync.WaitGroup
	for range connections {
		sending.Go(func() {
			for sent.Load() < int64(n) && ctx.Err() == nil {
				b := bodies[int(next.Add(1)-1)%len(bodies)]
				sent.Add(int64(b.rows))
				if err := postOne(ctx, transport, url, b); err != nil {
					cancel(err)
				}
			}
		})
	}
	sending.Wait()
	return int(sent.Load()), context.Cause(ctx)
}

func postOne(ctx context.Context, transport http.RoundTripper, url string, b body) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/insert/jsonline?_stream_fields=host%2Cmeasurement",
		bytes.NewReader(b.bytes))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/stream+json")
	request.Header.Set("Content-Encoding", "zstd")
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, response.Body)
	if err = errors.Join(err, response.Body.Close()); err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("the receiver answered %s", response.Status)
	}
	return err
}

// What a sender is: our output, or a bare client with so many connections.
const (
	sendOurs = "ours"
	sendTwo  = "2"
	sendOne  = "1"
)

// send is this program as a sender, a process of its own: it sends so many rows as fast as they are taken, and then waits for
// the end of ctx.
func send(ctx context.Context, as, url string, rows int) error {
	runtime.GOMAXPROCS(max(2, runtime.GOMAXPROCS(0))) // one that computes looks at the network every 10 ms only
	if as == sendOurs {
		return feedOutput(ctx, url, rows)
	}
	connections, err := strconv.Atoi(as)
	if err != nil {
		return fmt.Errorf("-send: there is no sender %q", as)
	}
	bodies, err := readyBodies(min(rows, 100_000))
	if err != nil {
		return err
	}
	if _, err := post(context.WithoutCancel(ctx), url, bodies, connections, rows); err != nil { // the last answer is still to come
		return err
	}
	<-ctx.Done()
	return nil
}

// feedOutput adds rows as fast as the output delivers them: what it does not get rid of it would have to drop.
func feedOutput(ctx context.Context, url string, rows int) (err error) {
	const (
		ahead = 150_000 // rows, which are about half of max_pending
		step  = 10_000
	)
	now := time.Now()
	metrics := make([]telegraf.Metric, 20_000)
	for n := range metrics {
		metrics[n] = event(n, now)
	}
	o, err := newOutput(url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.Close()) }()
	for added := 0; added < rows; {
		for range min(step, rows-added) {
			o.Add(metrics[added%len(metrics)])
			added++
		}
		for added < rows && pendingMetrics() > ahead {
			if err := pause(ctx, time.Millisecond); err != nil {
				return err
			}
		}
	}
	<-ctx.Done()
	return nil
}

// pendingMetrics is the output's own count of what it holds.
func pendingMetrics() (n int64) {
	for _, m := range selfstat.Metrics() {
		if pending, ok := m.GetField("pending_metrics"); ok && m.Name() == "internal_victorialogs" {
			count, _ := pending.(int64)
			n += count
		}
	}
	return n
}

// sending runs a sender until all of its rows are stored, and returns their rate from the first one stored on, and the
// sender's CPU time from then on.
func sending(ctx context.Context, logs receiver, as, url string, rows int) (rate, cpuEach float64, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, 0, err
	}
	p, err := run(self, "-send", as, "-to", url, "-rows", strconv.Itoa(rows))
	if err != nil {
		return 0, 0, err
	}
	defer p.kill()
	rate, cpuEach, err = p.storing(ctx, logs, rows, nil)
	if err == nil {
		err = p.stop()
	}
	return rate, cpuEach, err
}

// storing waits until a program has brought all rows to the receiver, and returns their rate from the first one stored on, and
// what the program took of the CPU for each from then on. In between it may be watched.
func (p *process) storing(ctx context.Context, logs receiver, rows int, begun func()) (rate, cpuEach float64, err error) {
	ctx, cancel := p.while(ctx)
	defer cancel()
	if err := logs.wait(ctx, 1); err != nil {
		return 0, 0, p.failed(err)
	}
	if begun != nil {
		begun()
	}
	began := time.Now()
	first, err := logs.count(ctx)
	if err != nil {
		return 0, 0, err
	}
	before, err := p.cpu()
	if err != nil {
		return 0, 0, err
	}
	err = logs.wait(ctx, rows)
	took := time.Since(began)
	if err != nil {
		return 0, 0, p.failed(err)
	}
	after, err := p.cpu()
	n := float64(rows - first)
	return n / took.Seconds(), float64((after - before).Nanoseconds()) / 1e3 / n, err
}

// measureOutput: the output alone, fed from memory, beside a client that sends the bodies which the output would make. The
// receiver has a core of its own, as if it were another machine.
func (s *session) measureOutput(ctx context.Context, round int) (err error) {
	back, err := confine()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, back()) }()
	rows := s.scaled(2_000_000)
	type contender struct {
		name, as string
		vlagent  string
	}
	contenders := []contender{{ours, sendOurs, ""}, {bareClient, sendTwo, ""}, {bareOne, sendOne, ""}}
	if path, err := exec.LookPath("vlagent"); err == nil && !s.short {
		contenders = append(contenders, contender{throughVlagent, sendTwo, path})
	}
	places := []string{standInName}
	if s.real {
		places = append(places, realName)
	}
	return inTurn(places, round, func(place string) error {
		return inTurn(contenders, round, func(c contender) (err error) {
			if c.vlagent != "" && place != realName {
				return nil
			}
			logs, err := s.newReceiver(ctx, place, false)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, logs.Close()) }()
			url, stop := logs.URL(), func() error { return nil }
			if c.vlagent != "" {
				if url, stop, err = s.startVlagent(ctx, c.vlagent, logs); err != nil {
					return err
				}
			}
			rate, cpu, err := sending(ctx, logs, c.as, url, rows)
			if err := errors.Join(err, stop()); err != nil {
				return err
			}
			s.note(point{"output", c.name, place, rowRate}, rate)
			s.note(point{"output", c.name, place, cpuEach}, cpu)
			return nil
		})
	})
}

// startVlagent starts a vlagent that forwards to the receiver.
func (s *session) startVlagent(ctx context.Context, path string, logs receiver) (url string, stop func() error, err error) {
	address, err := freeAddress()
	if err != nil {
		return "", nil, err
	}
	dir, err := os.MkdirTemp(s.dir, "vlagent")
	if err != nil {
		return "", nil, err
	}
	p, err := run(path, "-httpListenAddr="+address, "-remoteWrite.url="+logs.URL()+"/internal/insert", "-remoteWrite.tmpDataPath="+dir)
	if err != nil {
		return "", nil, err
	}
	ctx, cancel := p.while(ctx)
	defer cancel()
	for !listens(ctx, address) {
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			p.kill()
			return "", nil, p.failed(err)
		}
	}
	return "http://" + address, p.stop, nil
}

func listens(ctx context.Context, address string) bool {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	return err == nil && conn.Close() == nil
}

// measureServer: what rows cost a real VictoriaLogs, by how many come in a request.
func (s *session) measureServer(ctx context.Context, _ int) error {
	if !s.real {
		return nil
	}
	lines, err := readyLines(5000)
	if err != nil {
		return err
	}
	for _, each := range []int{1, 10, 100, 1000} {
		if err := s.serverCost(ctx, lines, each); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) serverCost(ctx context.Context, lines [][]byte, each int) (err error) {
	logs, err := newReal(ctx, s.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, logs.Close()) }()
	var bodies []body
	for first := 0; first+each <= len(lines); first += each {
		bodies = append(bodies, body{bytes: compress(bytes.Join(lines[first:first+each], nil)), rows: each})
	}
	n := s.scaled(min(10_000*each, 1_000_000))
	if _, err := post(ctx, logs.URL(), bodies, 2, n/10); err != nil { // to warm up
		return err
	}
	before, err := logs.cpu()
	if err != nil {
		return err
	}
	if n, err = post(ctx, logs.URL(), bodies, 2, n); err != nil {
		return err
	}
	after, err := logs.cpu()
	if err != nil {
		return err
	}
	s.note(point{"server", "", strconv.Itoa(each), serverCost}, float64((after-before).Nanoseconds())/1e3/float64(n))
	return nil
}

// readyLines are rows as the output writes them.
func readyLines(rows int) (lines [][]byte, err error) {
	bodies, err := readyBodies(rows)
	if err != nil {
		return nil, err
	}
	for _, b := range bodies {
		text, err := decompress(b.bytes)
		if err != nil {
			return nil, err
		}
		lines = append(lines, bytes.SplitAfter(bytes.TrimSuffix(text, []byte{'\n'}), []byte{'\n'})...)
	}
	for i := range lines {
		lines[i] = append(bytes.TrimSuffix(lines[i], []byte{'\n'}), '\n')
	}
	return lines, nil
}

// sizeOf sums the files in a directory, in bytes.
func sizeOf(dir string) (total int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if errors.Is(err, os.ErrNotExist) {
			return nil // it was restored meanwhile
		}
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return total, err
}

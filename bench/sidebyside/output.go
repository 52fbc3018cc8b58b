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
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/metric"
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

// measureOutput: the output alone, fed from memory, beside a client that sends the bodies which the output would make.
func (s *session) measureOutput(ctx context.Context, round int) error {
	rows := s.scaled(1_000_000)
	bodies, err := readyBodies(min(rows, 100_000))
	if err != nil {
		return err
	}
	now := time.Now()
	metrics := make([]telegraf.Metric, 20_000)
	for n := range metrics {
		metrics[n] = event(n, now)
	}
	type contender struct {
		name string
		send func(ctx context.Context, logs receiver) (rows int, err error)
		real bool // needs a real server
	}
	bare := func(connections int) func(context.Context, receiver) (int, error) {
		return func(ctx context.Context, logs receiver) (int, error) {
			return post(ctx, logs.URL(), bodies, connections, rows)
		}
	}
	contenders := []contender{
		{name: ours, send: func(ctx context.Context, logs receiver) (int, error) {
			return rows, feedOutput(ctx, logs, metrics, rows)
		}},
		{name: bareClient, send: bare(2)},
		{name: bareOne, send: bare(1)},
	}
	if path, err := exec.LookPath("vlagent"); err == nil && !s.short {
		contenders = append(contenders, contender{name: throughVlagent, real: true, send: func(ctx context.Context, logs receiver) (int, error) {
			return s.throughVlagent(ctx, path, logs, bodies, rows)
		}})
	}
	places := []string{standInName}
	if s.real {
		places = append(places, realName)
	}
	return inTurn(places, round, func(place string) error {
		return inTurn(contenders, round, func(c contender) (err error) {
			if c.real && place != realName {
				return nil
			}
			logs, err := s.newReceiver(ctx, place, false)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, logs.Close()) }()
			began := time.Now()
			n, err := c.send(ctx, logs)
			if err == nil {
				err = logs.wait(ctx, n)
			}
			if err != nil {
				return err
			}
			s.note(point{"output", c.name, place, rowRate}, float64(n)/time.Since(began).Seconds())
			return nil
		})
	})
}

// feedOutput adds rows as fast as the output delivers them: what it does not get rid of it would have to drop.
func feedOutput(ctx context.Context, logs receiver, metrics []telegraf.Metric, rows int) (err error) {
	const ahead = 150_000 // rows, which are about half of max_pending
	o, err := newOutput(logs.URL())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.Close()) }()
	const step = 10_000
	for added := 0; added < rows; {
		for range min(step, rows-added) {
			o.Add(metrics[added%len(metrics)])
			added++
		}
		if added > ahead {
			if err := logs.wait(ctx, added-ahead); err != nil {
				return err
			}
		}
	}
	return nil
}

// throughVlagent sends the bodies to a vlagent, which forwards them.
func (s *session) throughVlagent(ctx context.Context, path string, logs receiver, bodies []body, rows int) (n int, err error) {
	address, err := freeAddress()
	if err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp(s.dir, "vlagent")
	if err != nil {
		return 0, err
	}
	p, err := run(path, "-httpListenAddr="+address, "-remoteWrite.url="+logs.URL()+"/internal/insert", "-remoteWrite.tmpDataPath="+dir)
	if err != nil {
		return 0, err
	}
	defer p.kill()
	ctx, cancel := p.while(ctx)
	defer cancel()
	for !listens(ctx, address) {
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return 0, p.failed(err)
		}
	}
	if n, err = post(ctx, "http://"+address, bodies, 2, rows); err == nil {
		err = logs.wait(ctx, n)
	}
	if err != nil {
		return 0, p.failed(err)
	}
	return n, p.stop()
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
	n := s.scaled(min(20_000*each, 2_000_000))
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

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/edgetide/telegraf-victorialogs/bench/firehose"
	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
)

const patience = 5 * time.Minute // with anything that the slowest way does

// messages are numbered from first on: 100 bytes of JSON each, as a sensor's.
type messages struct {
	topics int // that they go to in turn; 0: one
	first  int // number of the first
	buffer []byte
}

const (
	payloadSize = 100
	firstSeq    = 10_000_000 // so that all numbers have eight digits
)

// message returns number n. The payload is valid until the next call.
func (m *messages) message(n int) (topic string, payload []byte) {
	n += m.first
	m.buffer = appendPayload(m.buffer[:0], n)
	if m.topics > 1 {
		return "bench/zigbee2mqtt/" + strconv.Itoa(n%m.topics), m.buffer
	}
	return "bench/zigbee2mqtt/kitchen", m.buffer
}

// scattered makes of numbers in turn some of no order, whose digits do not compress.
func scattered(n int) uint32 {
	h := uint32(n) * 2654435761 //nolint:gosec // it is to overflow
	h ^= h >> 15
	h *= 2246822519
	h ^= h >> 13
	return h
}

func appendPayload(dst []byte, n int) []byte {
	h := scattered(n)
	dst = append(dst, `{"temperature":`...)
	dst = strconv.AppendUint(dst, uint64(10+h>>8%20), 10)
	dst = append(dst, '.', byte('1'+h>>16%9))
	dst = append(dst, `,"humidity":`...)
	dst = strconv.AppendUint(dst, uint64(30+h>>4%60), 10)
	dst = append(dst, '.', byte('1'+h>>20%9))
	dst = append(dst, `,"battery_mv":`...)
	dst = strconv.AppendUint(dst, uint64(2900+h>>12%200), 10)
	dst = append(dst, `,"linkquality":`...)
	dst = strconv.AppendUint(dst, uint64(100+h>>24%100), 10)
	dst = append(dst, `,"state":"ON","seq":`...)
	dst = strconv.AppendInt(dst, int64(firstSeq+n), 10)
	return append(dst, '}')
}

// feed is where an agent's messages come from.
type feed interface {
	URL() string
	send(ctx context.Context, l firehose.Load) error
	Close() error
}

// hose is a firehose as a feed: the agent's messages cost next to nothing.
type hose struct{ *firehose.Broker }

func newHose() (*hose, error) {
	b, err := firehose.Listen()
	return &hose{b}, err
}

func (h *hose) send(ctx context.Context, l firehose.Load) error {
	if _, err := h.WaitSubscribed(ctx); err != nil {
		return err
	}
	return h.Send(ctx, l)
}

// published is a real broker, and a publisher to it.
type published struct {
	broker    testbroker.Broker
	name      string
	publisher *firehose.Publisher
	dir       string
}

// newBroker starts a Mosquitto, or a mochi where there is none, or where its window is to be held for real.
func (s *session) newBroker(ctx context.Context, window int) (_ *published, err error) {
	p := &published{name: "mochi-mqtt"}
	if p.dir, err = os.MkdirTemp(s.dir, "broker"); err != nil {
		return nil, err
	}
	if _, ok := testbroker.LookMosquitto(); ok && window == 0 {
		p.name = "Mosquitto"
		p.broker, err = testbroker.NewMosquitto(testbroker.MosquittoOptions{Dir: p.dir})
	} else {
		p.broker, err = testbroker.NewMochi(testbroker.MochiOptions{MaxInflight: window})
	}
	if err != nil {
		return nil, err
	}
	if err := p.broker.Start(); err != nil {
		return nil, err
	}
	if p.publisher, err = firehose.Dial(ctx, p.broker.URL(), "bench-publisher"); err != nil {
		return nil, errors.Join(err, p.broker.Stop())
	}
	return p, nil
}

func (p *published) URL() string { return p.broker.URL() }

func (p *published) send(ctx context.Context, l firehose.Load) error {
	return p.publisher.Publish(ctx, l)
}

func (p *published) Close() error {
	return errors.Join(p.publisher.Close(), p.broker.Stop(), os.RemoveAll(p.dir))
}

// direct publishes to an agent that is a broker itself.
type direct struct {
	url       string
	publisher *firehose.Publisher // nil until the first message
}

func (d *direct) URL() string { return d.url }

func (d *direct) send(ctx context.Context, l firehose.Load) (err error) {
	for d.publisher == nil {
		if d.publisher, err = firehose.Dial(ctx, d.url, "bench-publisher"); err != nil {
			if pause(ctx, 50*time.Millisecond) != nil {
				return err
			}
		}
	}
	return d.publisher.Publish(ctx, l)
}

func (d *direct) Close() error {
	if d.publisher == nil {
		return nil
	}
	return d.publisher.Close()
}

func freeAddress() (string, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// agent is a way that runs.
type agent struct {
	*process
	feed   feed
	logs   receiver
	stored int    // rows at the receiver, once all that was sent is there
	sent   int    // messages, which have numbers from 0 on
	dir    string // of its configuration
	pprof  string // host:port; empty: it was not asked for
}

// start starts a way between a feed and a receiver, either of which may be nil, and has it profiled where debug is set.
func (s *session) start(w way, f feed, logs receiver, at site, debug bool) (_ *agent, err error) {
	if f != nil {
		at.broker = f.URL()
	}
	if logs != nil {
		at.logs = logs.URL()
	}
	a := &agent{feed: f, logs: logs}
	if a.dir, err = os.MkdirTemp(s.dir, "agent"); err != nil {
		return nil, err
	}
	if at.dead == "" && w.untested {
		at.dead = a.dir
	}
	if w.listens {
		address, err := freeAddress()
		if err != nil {
			return nil, err
		}
		at.broker = "tcp://" + address
		a.feed = &direct{url: at.broker}
	}
	path := configPath(a.dir, w)
	if err := os.WriteFile(path, []byte(w.configure(at)), 0o600); err != nil {
		return nil, err
	}
	arguments := w.arguments(path)
	if debug {
		if a.pprof, err = freeAddress(); err != nil {
			return nil, err
		}
		arguments = append([]string{"--pprof-addr", a.pprof}, arguments...)
	}
	a.process, err = run(w.program(s.options), arguments...)
	return a, err
}

// between has an agent run between a firehose and a stand-in while it is used.
func (s *session) between(ctx context.Context, w way, debug bool, use func(context.Context, *agent, *hose) error) (err error) {
	f, err := newHose()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	logs, err := newStandIn(false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, logs.Close()) }()
	a, err := s.start(w, f, logs, site{}, debug)
	if err != nil {
		return err
	}
	defer a.kill()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := use(ctx, a, f); err != nil {
		return err
	}
	return a.end()
}

// end stops the agent and removes what it needed.
func (a *agent) end() error { return errors.Join(a.stop(), os.RemoveAll(a.dir)) }

// ready sends single messages until one is stored: an agent says that it is connected before it is subscribed.
func (a *agent) ready(ctx context.Context) error {
	ctx, cancel := a.while(ctx)
	defer cancel()
	for {
		m := messages{first: a.sent}
		if err := a.feed.send(ctx, firehose.Load{N: 1, Message: m.message}); err != nil {
			return a.failed(err)
		}
		a.sent++
		short, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := a.logs.wait(short, a.stored+1)
		cancel()
		if err == nil {
			a.stored, err = a.logs.count(ctx)
			return err
		}
		if ctx.Err() != nil {
			return a.failed(context.Cause(ctx))
		}
		if a.stored, err = a.logs.count(ctx); err != nil {
			return err
		}
	}
}

// usage is what moving messages took.
type usage struct {
	messages int
	cpu      time.Duration // of the agent
	took     time.Duration // from the first message sent to the last one stored
	requests int
	bytes    float64 // of requests
	memory   float64 // MiB, the median while it went on
	peak     float64 // MiB, since the process began
	known    bool    // requests and bytes are
}

func (u usage) cpuEach() float64 { return float64(u.cpu.Nanoseconds()) / 1e3 / float64(u.messages) }
func (u usage) rate() float64    { return float64(u.messages) / u.took.Seconds() }

// move sends the load through the agent and waits until all of it is stored, or, without a receiver, acknowledged.
func (a *agent) move(ctx context.Context, l firehose.Load) (u usage, err error) {
	ctx, cancel := a.while(ctx)
	defer cancel()
	u.messages = l.N
	if a.logs != nil {
		u.requests, u.bytes, u.known = a.logs.traffic()
	}
	before, err := a.cpu()
	if err != nil {
		return u, err
	}
	stop := make(chan struct{})
	memory := make(chan float64)
	go func() { memory <- a.watchMemory(stop) }()

	began := time.Now()
	err = a.feed.send(ctx, l)
	if err == nil && a.logs != nil {
		err = a.logs.wait(ctx, a.stored+l.N)
	}
	u.took = time.Since(began)
	close(stop)
	u.memory = <-memory
	if err != nil {
		return u, a.failed(err)
	}
	a.sent += l.N
	if err := pause(ctx, 20*time.Millisecond); err != nil { // for the last acknowledgements
		return u, err
	}
	after, err := a.cpu()
	if err != nil {
		return u, err
	}
	u.cpu = after - before
	if _, u.peak, err = a.memory(); err != nil {
		return u, err
	}
	if a.logs != nil {
		requests, bytes, _ := a.logs.traffic()
		u.requests, u.bytes = requests-u.requests, bytes-u.bytes
		a.stored, err = a.logs.count(ctx)
	}
	return u, err
}

// watchMemory returns the median until stop.
func (a *agent) watchMemory(stop <-chan struct{}) float64 {
	var seen []float64
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		now, _, err := a.memory()
		if err == nil {
			seen = append(seen, now)
		}
		select {
		case <-tick.C:
		case <-stop:
			return median(slices.Clone(seen))
		}
	}
}

// ask asks the agent's profiler.
func (a *agent) ask(ctx context.Context, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.pprof+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := (&http.Client{Timeout: time.Minute}).Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("the profiler answered %s", response.Status)
	}
	return body, err
}

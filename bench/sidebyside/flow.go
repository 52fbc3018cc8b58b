package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/edgetide/telegraf-victorialogs/bench/firehose"
)

// What is measured of agents while messages flow.
const (
	cpuEach    = "CPU us/message"
	rate       = "messages/s"
	cores      = "cores used"
	requests   = "requests/message"
	wireBytes  = "bytes/message"
	memory     = "MiB resident"
	peakMemory = "MiB resident at most"
	p50        = "p50 ms"
	p99        = "p99 ms"
	allocated  = "allocations/message"
	allocBytes = "bytes allocated/message"
)

// measureFlow: through a real broker, as fast as it takes messages, into the stand-in and into a real server.
func (s *session) measureFlow(ctx context.Context, round int) error {
	places := []string{standInName}
	if s.real {
		places = append(places, realName)
	}
	return inTurn(places, round, func(place string) error {
		return inTurn(s.ways, round, func(w way) (err error) {
			if w.realOnly && place == standInName {
				return nil
			}
			f, err := s.newBroker(ctx, 0)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, f.Close()) }()
			u, err := s.full(ctx, w, f, place, s.count(w, 60_000), 0)
			if err != nil {
				return err
			}
			s.noteUsage("flow", w, place, u)
			return nil
		})
	})
}

// manyUnderWay is so many that no way waits for acknowledgements.
const manyUnderWay = 20_000

// measureSaturation: behind a broker that costs next to nothing, with as many messages under way as Telegraf allows by default,
// and with more, which is where only the agent is the limit.
func (s *session) measureSaturation(ctx context.Context, round int) error {
	return inTurn(s.ways, round, func(w way) (err error) {
		if w.realOnly || w.listens {
			return nil
		}
		f, err := newHose()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		for _, underWay := range []int{0, manyUnderWay} {
			u, err := s.full(ctx, w, f, standInName, s.count(w, 150_000), underWay)
			if err != nil {
				return err
			}
			at := ""
			if underWay > 0 {
				at = strconv.Itoa(underWay)
			}
			s.noteUsage("saturation", w, at, u)
		}
		return nil
	})
}

// count is how many messages a way is given.
func (s *session) count(w way, n int) int {
	if w.slow {
		n /= 15
	}
	return s.scaled(n)
}

// full moves n messages as fast as they are taken, after others that warm the agent up.
func (s *session) full(ctx context.Context, w way, f feed, place string, n, underWay int) (u usage, err error) {
	logs, err := s.newReceiver(ctx, place, false)
	if err != nil {
		return u, err
	}
	defer func() { err = errors.Join(err, logs.Close()) }()
	a, err := s.start(w, f, logs, site{underWay: underWay}, false)
	if err != nil {
		return u, err
	}
	defer a.kill()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := a.ready(ctx); err != nil {
		return u, err
	}
	for _, n := range []int{max(1, n/10), n} {
		m := messages{first: a.sent}
		if u, err = a.move(ctx, firehose.Load{N: n, Message: m.message, Window: underWay}); err != nil {
			return u, err
		}
	}
	return u, a.end()
}

func (s *session) newReceiver(ctx context.Context, place string, keep bool) (receiver, error) {
	if place == realName {
		return newReal(ctx, s.dir)
	}
	return newStandIn(keep)
}

func (s *session) noteUsage(measure string, w way, at string, u usage) {
	s.note(point{measure, w.name, at, cpuEach}, u.cpuEach())
	s.note(point{measure, w.name, at, rate}, u.rate())
	s.note(point{measure, w.name, at, cores}, u.cpu.Seconds()/u.took.Seconds())
	s.note(point{measure, w.name, at, memory}, u.memory)
	s.note(point{measure, w.name, at, peakMemory}, u.peak)
	if u.known {
		s.note(point{measure, w.name, at, requests}, float64(u.requests)/float64(u.messages))
		s.note(point{measure, w.name, at, wireBytes}, u.bytes/float64(u.messages))
	}
}

// measureWindow: a broker that truly holds a window of 20, and a persistent session, so that an acknowledgement means
// "stored".
func (s *session) measureWindow(ctx context.Context, round int) error {
	return inTurn([]way{wayNamed(ours), wayNamed(loki)}, round, func(w way) (err error) {
		f, err := s.newBroker(ctx, 20)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		logs, err := newStandIn(false)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, logs.Close()) }()
		a, err := s.start(w, f, logs, site{persistent: true}, false)
		if err != nil {
			return err
		}
		defer a.kill()
		if err := a.ready(ctx); err != nil {
			return err
		}
		n := s.scaled(5000)
		if w.name != ours {
			n = s.scaled(500)
		}
		m := messages{first: a.sent}
		u, err := a.move(ctx, firehose.Load{N: n, Message: m.message})
		if err != nil {
			return err
		}
		s.note(point{"window", w.name, "", rate}, u.rate())
		s.note(point{"window", w.name, "", cpuEach}, u.cpuEach())
		return a.end()
	})
}

// rates at which latency is measured, and for how long.
var rates = []struct {
	perSecond int
	lasts     time.Duration
}{{10, 6 * time.Second}, {100, 5 * time.Second}, {1000, 4 * time.Second}, {10_000, 4 * time.Second}}

// measureLatency: from the write of a PUBLISH to the moment at which the receiver has stored its row, at steady rates.
func (s *session) measureLatency(ctx context.Context, round int) error {
	return inTurn(s.ways, round, func(w way) (err error) {
		if w.realOnly {
			return nil
		}
		f, err := s.newBroker(ctx, 0)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		logs, err := newStandIn(true)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, logs.Close()) }()
		a, err := s.start(w, f, logs, site{}, false)
		if err != nil {
			return err
		}
		defer a.kill()
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if err := a.ready(ctx); err != nil {
			return err
		}
		for _, r := range rates {
			lasts := r.lasts
			if s.short {
				lasts = 300 * time.Millisecond
			}
			n := max(3, int(float64(r.perSecond)*lasts.Seconds()))
			sent := make([]time.Time, n)
			first := a.sent
			m := messages{first: first}
			u, err := a.move(ctx, firehose.Load{
				N: n, Rate: float64(r.perSecond), Message: m.message, Window: 20_000,
				Sent: func(n int, at time.Time) { sent[n] = at },
			})
			if err != nil {
				return err
			}
			var late []float64
			for seq, at := range logs.stored() {
				if n := seq - firstSeq - first; n >= 0 && n < len(sent) {
					late = append(late, float64(at.Sub(sent[n]).Microseconds())/1e3)
				}
			}
			slices.Sort(late)
			at := strconv.Itoa(r.perSecond)
			s.note(point{"latency", w.name, at, p50}, percentile(late, 0.5))
			s.note(point{"latency", w.name, at, p99}, percentile(late, 0.99))
			s.noteUsage("latency", w, at, u)
		}
		return a.end()
	})
}

// measureAllocations: what the Go runtime of an agent counts.
func (s *session) measureAllocations(ctx context.Context, round int) error {
	return inTurn(telegrafWays(), round, func(w way) error {
		if w.realOnly {
			return nil
		}
		return s.between(ctx, w, true, func(ctx context.Context, a *agent, _ *hose) error {
			if err := a.ready(ctx); err != nil {
				return err
			}
			var before, after heap
			n := s.count(w, 50_000)
			for _, end := range []*heap{&before, &after} { // the first warms up
				m := messages{first: a.sent}
				if _, err := a.move(ctx, firehose.Load{N: n, Message: m.message}); err != nil {
					return err
				}
				h, err := a.heap(ctx)
				if err != nil {
					return err
				}
				*end = h
			}
			s.note(point{"allocations", w.name, "", allocated}, (after.mallocs-before.mallocs)/float64(n))
			s.note(point{"allocations", w.name, "", allocBytes}, (after.bytes-before.bytes)/float64(n))
			if s.profiles != "" {
				if err := s.profile(ctx, a, w); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// profile keeps profiles of an agent under full load: its CPU time, and its heap.
func (s *session) profile(ctx context.Context, a *agent, w way) error {
	ended := make(chan error, 1)
	more := make(chan struct{})
	go func() {
		for {
			m := messages{first: a.sent}
			if _, err := a.move(ctx, firehose.Load{N: 10_000, Message: m.message}); err != nil {
				ended <- err
				return
			}
			select {
			case <-more:
				ended <- nil
				return
			default:
			}
		}
	}()
	errs := []error{os.MkdirAll(s.profiles, 0o755)} //nolint:gosec // to be read by all
	for kind, path := range map[string]string{"cpu": "/debug/pprof/profile?seconds=10", "heap": "/debug/pprof/heap"} {
		profile, err := a.ask(ctx, path)
		file := filepath.Join(s.profiles, fileName(w.name)+"."+kind+".pprof")
		fmt.Fprintf(s.progress, "  %s\n", file)
		errs = append(errs, err, os.WriteFile(file, profile, 0o644)) //nolint:gosec // to be read by all
	}
	close(more)
	return errors.Join(append(errs, <-ended)...)
}

// measureTopics: as they grow in number.
func (s *session) measureTopics(ctx context.Context, round int) error {
	counts := []int{1, 100, 10_000, 100_000}
	if s.short {
		counts = []int{1, 100}
	}
	return inTurn([]way{wayNamed(ours), wayNamed(loki)}, round, func(w way) error {
		for _, topics := range counts {
			if err := s.withTopics(ctx, w, topics); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *session) withTopics(ctx context.Context, w way, topics int) error {
	return s.between(ctx, w, false, func(ctx context.Context, a *agent, _ *hose) error {
		if err := a.ready(ctx); err != nil {
			return err
		}
		var u usage
		n := s.scaled(100_000)
		for range 2 { // the first time all topics are new
			m := messages{topics: topics, first: a.sent}
			var err error
			if u, err = a.move(ctx, firehose.Load{N: n, Message: m.message}); err != nil {
				return err
			}
		}
		at := thousands(int64(topics))
		s.note(point{"topics", w.name, at, cpuEach}, u.cpuEach())
		s.note(point{"topics", w.name, at, memory}, u.memory)
		return nil
	})
}

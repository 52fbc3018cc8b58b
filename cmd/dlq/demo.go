package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/edgetide/telegraf-victorialogs/dlq"
)

// demoOptions are the flags.
type demoOptions struct {
	items   int
	queue   int
	rate    float64
	dir     string
	timeout time.Duration
	json    bool
}

func (a *app) demo() *command {
	var o demoOptions
	c := newCommand("demo", "", "push items through the whole loop: a small queue that leaks, dumps, and back into the queue", 0, 0)
	f := c.flags
	countFlag(f, &o.items, "items", 100_000, "how many")
	countFlag(f, &o.queue, "queue", 1000, "how many fit into the queue in memory")
	rateFlag(f, &o.rate, "rate", 50_000, false, "how many its consumer takes a second")
	f.StringVar(&o.dir, "dir", "", "where the dumps go; they stay there. Without it, into a temporary directory")
	durationFlag(f, &o.timeout, "timeout", 5*time.Minute, 1, "when to give up")
	f.BoolVar(&o.json, "json", false, "print a JSON object")
	c.run = func(ctx context.Context, _ []string) error {
		return a.runDemo(ctx, o)
	}
	return c
}

// demoResult is how the items fared. Its names in JSON are a contract.
type demoResult struct {
	Items       int               `json:"items"`
	Consumed    int               `json:"consumed"` // different ones
	Missing     int               `json:"missing"`
	Twice       uint64            `json:"consumed_again"`
	Straight    uint64            `json:"never_dumped"`
	Leaked      uint64            `json:"leaked"` // from the queue into dumps, some more than once
	Restored    uint64            `json:"restored"`
	Dumps       map[string]uint64 `json:"dumps_sealed"` // by reason
	Quarantined uint64            `json:"quarantined"`
	Dropped     uint64            `json:"dropped"`
	Failures    uint64            `json:"failures"`
	OnDisk      uint64            `json:"left_on_disk"` // items
	Seconds     float64           `json:"seconds"`
}

// loop is the demonstration: whoever pushes an item that does not fit leaks it into the dead letters, and the restorer
// pushes it again.
//
//	produce ─ push ─► queue in memory ─► consume
//	           │  ▲
//	     leaks ▼  │ restorer, while the queue is half empty
//	           dumps
type loop struct {
	queue chan uint64
	dead  *dlq.Queue[uint64]
	seen  []atomic.Uint32 // how often each item was consumed
	left  atomic.Int64    // items that were not consumed
	done  chan struct{}
	bar   *bar

	straight atomic.Uint64
	counters counters
}

func (l *loop) push(ctx context.Context, item uint64) (leaked bool, err error) {
	select {
	case l.queue <- item:
		return false, nil
	default:
		return true, l.dead.Enqueue(ctx, item)
	}
}

// consume takes items off the queue until ctx ends, no faster than the limiter lets it.
func (l *loop) consume(ctx context.Context, limit *rate.Limiter) {
	for {
		select {
		case <-ctx.Done():
			return
		case item := <-l.queue:
			if l.seen[item].Add(1) == 1 {
				l.bar.add(1)
				if l.left.Add(-1) == 0 {
					close(l.done)
				}
			}
		}
		if limit.Wait(ctx) != nil {
			return
		}
	}
}

func (a *app) runDemo(ctx context.Context, o demoOptions) (err error) {
	dir := o.dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "dlq-demo"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	l := &loop{
		queue: make(chan uint64, o.queue), seen: make([]atomic.Uint32, o.items), done: make(chan struct{}),
		counters: counters{sealed: make(map[string]uint64)},
	}
	l.left.Store(int64(o.items))
	start := time.Now()
	if err := a.runLoop(ctx, o, dir, l); err != nil {
		return err
	}
	r := l.result(o, time.Since(start))
	if o.json {
		err = a.printJSON(r)
	} else {
		a.printDemo(r)
	}
	if err == nil && (r.Missing > 0 || r.Dropped > 0 || r.Quarantined > 0) {
		return errFault
	}
	return err
}

// runLoop returns when all items were consumed, or with ctx.
func (a *app) runLoop(ctx context.Context, o demoOptions, dir string, l *loop) (err error) {
	l.bar = a.newBar("demo", uint64(o.items)) //nolint:gosec // not negative
	defer func() { l.bar.end(l.left.Load() == 0) }()
	logger := slog.New(slog.NewTextHandler(l.bar, &slog.HandlerOptions{Level: slog.LevelWarn}))
	disk, err := dlq.OpenDisk(dir, dlq.DiskOptions{Version: "demo", Metrics: &l.counters, Logger: logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	l.dead, err = dlq.NewQueue(disk, encodeNumber, dlq.QueueOptions{
		Capacity: 64 << 10, FlushInterval: 100 * time.Millisecond, Metrics: &l.counters, Logger: logger,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.dead.Close(context.WithoutCancel(ctx))) }()
	restorer, err := dlq.NewRestorer(disk, decodeNumber(o.items), func(ctx context.Context, item uint64) error {
		_, err := l.push(ctx, item)
		return err
	}, dlq.RestorerOptions[uint64]{
		Version: "demo", CheckInterval: 10 * time.Millisecond, AllowRate: 0.5,
		Load:    func() float64 { return float64(len(l.queue)) / float64(cap(l.queue)) },
		Metrics: &l.counters, Logger: logger,
	})
	if err != nil {
		return err
	}
	consuming, stop := context.WithCancel(ctx)
	var consumer sync.WaitGroup
	consumer.Go(func() { l.consume(consuming, rate.NewLimiter(rate.Limit(o.rate), max(1, o.queue/10))) })
	defer func() {
		stop()
		consumer.Wait()
	}()
	restorer.Start()
	defer restorer.Close()
	for item := range uint64(o.items) { //nolint:gosec // not negative
		leaked, err := l.push(ctx, item)
		if err != nil {
			return err
		}
		if !leaked {
			l.straight.Add(1)
		}
	}
	select {
	case <-l.done:
	case <-ctx.Done():
	}
	return nil
}

func encodeNumber(dst []byte, n uint64) ([]byte, error) {
	return binary.LittleEndian.AppendUint64(dst, n), nil
}

func decodeNumber(items int) dlq.Decoder[uint64] {
	return func(data []byte) (uint64, error) {
		if len(data) != 8 || binary.LittleEndian.Uint64(data) >= uint64(items) { //nolint:gosec // not negative
			return 0, errors.New("it is none of this run's items")
		}
		return binary.LittleEndian.Uint64(data), nil
	}
}

func (l *loop) result(o demoOptions, took time.Duration) demoResult {
	c := &l.counters
	r := demoResult{
		Items: o.items, Straight: l.straight.Load(), Leaked: c.enqueued.Load(), Restored: c.restored.Load(), Dumps: c.sealed,
		Quarantined: c.quarantined.Load(), Dropped: c.dropped.Load(), Failures: c.failures.Load(), OnDisk: c.stored.Load(),
		Seconds: took.Seconds(),
	}
	for i := range l.seen {
		switch n := l.seen[i].Load(); n {
		case 0:
			r.Missing++
		default:
			r.Consumed++
			r.Twice += uint64(n - 1)
		}
	}
	return r
}

func (a *app) printDemo(r demoResult) {
	reasons := make([]string, 0, len(r.Dumps))
	for _, reason := range []string{"size", "interval", "forced", "salvaged"} {
		if n := r.Dumps[reason]; n > 0 {
			reasons = append(reasons, fmt.Sprintf("%d %s", n, reason))
		}
	}
	fmt.Fprintf(a.out, "%d items in %.1f s\n", r.Items, r.Seconds)
	fmt.Fprintf(a.out, "  %8d straight through the queue\n", r.Straight)
	fmt.Fprintf(a.out, "  %8d leaked into dumps, some more than once\n", r.Leaked)
	fmt.Fprintf(a.out, "  %8d restored from them\n", r.Restored)
	fmt.Fprintf(a.out, "  dumps sealed by reason: %s\n", strings.Join(reasons, ", "))
	fmt.Fprintf(a.out, "  quarantined %d, dropped %d, failures %d, left on disk %d\n", r.Quarantined, r.Dropped, r.Failures, r.OnDisk)
	verdict := "every item is accounted for"
	if r.Missing > 0 {
		verdict = fmt.Sprintf("%d ITEMS ARE MISSING", r.Missing)
	}
	fmt.Fprintf(a.out, "consumed %d of %d, %d of them again: %s\n", r.Consumed, r.Items, r.Twice, verdict)
}

// counters is dlq.Metrics in memory.
type counters struct {
	enqueued, restored, quarantined, dropped, failures, stored atomic.Uint64

	mu     sync.Mutex
	sealed map[string]uint64 // dumps by reason
}

// Enqueued counts.
func (c *counters) Enqueued(int) { c.enqueued.Add(1) }

// Sealed counts.
func (c *counters) Sealed(reason dlq.Reason, _, _ uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sealed[reason.String()]++
}

// Restored counts.
func (c *counters) Restored(items, _ uint64) { c.restored.Add(items) }

// Dropped counts.
func (c *counters) Dropped(_ string, items, _ uint64) { c.dropped.Add(items) }

// Quarantined counts.
func (c *counters) Quarantined(_ string, items, _ uint64) { c.quarantined.Add(items) }

// Failed counts.
func (c *counters) Failed(error) { c.failures.Add(1) }

// Stored notes what is left.
func (c *counters) Stored(_ int, items, _ uint64, _ int64, _ time.Time) { c.stored.Store(items) }

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

	"github.com/klauspost/compress/zstd"
	"github.com/shirou/gopsutil/v4/disk"

	"github.com/edgetide/telegraf-victorialogs/bench/firehose"
	"github.com/edgetide/telegraf-victorialogs/dlq"
	"github.com/edgetide/telegraf-victorialogs/internal/deadletter"
	"github.com/edgetide/telegraf-victorialogs/outputs/victorialogs"
)

// What is measured of dead letters.
const (
	diskBytes  = "bytes on disk/message"
	restoreRow = "rows/s restored"
)

var (
	writer, _ = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest)) // fails for wrong options alone
	reader, _ = zstd.NewReader(nil)
)

func compress(text []byte) []byte            { return writer.EncodeAll(text, nil) }
func decompress(body []byte) ([]byte, error) { return reader.DecodeAll(body, nil) }

// closedAddress is one where nobody listens: a server that is away.
func closedAddress() (string, error) {
	address, err := freeAddress()
	return "http://" + address, err
}

// fillBacklog writes dead letters as the plugin would, until they take so many bytes on disk, and returns how many rows
// they hold.
func fillBacklog(ctx context.Context, dir string, bodies []body, size int64) (rows int, err error) {
	defaults := victorialogs.New().DLQ
	store, err := dlq.OpenDisk(dir, dlq.DiskOptions{Version: defaults.Version})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	queue, err := dlq.NewQueue(store, deadletter.Append, dlq.QueueOptions{Capacity: int64(defaults.Capacity)})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, queue.Close(ctx)) }()
	now := time.Now().UTC()
	for written, i := int64(0), 0; written < size; i++ {
		b := bodies[i%len(bodies)]
		l := &deadletter.Letter{
			Route: deadletter.Route{Path: "/insert/jsonline", Query: "_stream_fields=host%2Cmeasurement", Encoding: "zstd"},
			Count: b.rows, First: now, Last: now, Reason: "server_away", Run: "bench", Body: b.bytes,
		}
		l.Seal()
		if err := queue.Enqueue(ctx, l); err != nil {
			return 0, err
		}
		rows += b.rows
		written += int64(len(b.bytes))
	}
	return rows, nil
}

// away is an agent of ours whose server is away, with dead letters in a directory.
func (s *session) away(ctx context.Context, dead string, use func(context.Context, *agent) error) (err error) {
	f, err := newHose()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	address, err := closedAddress()
	if err != nil {
		return err
	}
	a, err := s.start(wayNamed(ours), f, nil, site{dead: dead, logs: address}, false)
	if err != nil {
		return err
	}
	defer a.kill()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	m := messages{first: a.sent}
	if _, err := a.move(ctx, firehose.Load{N: 100, Message: m.message}); err != nil { // acknowledged after retry_budget
		return err
	}
	if err := use(ctx, a); err != nil {
		return err
	}
	return a.end()
}

// measureDisk: what a message takes on disk while the server is away, by the rate at which messages come.
func (s *session) measureDisk(ctx context.Context, _ int) (err error) {
	dead, err := os.MkdirTemp(s.dir, "dead")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dead)) }()
	return s.away(ctx, dead, func(ctx context.Context, a *agent) error {
		for _, r := range rates {
			before, err := sizeOf(dead)
			if err != nil {
				return err
			}
			lasts := min(r.lasts, 4*time.Second)
			if s.short {
				lasts = 300 * time.Millisecond
			}
			m := messages{first: a.sent}
			n := max(3, int(float64(r.perSecond)*lasts.Seconds()))
			u, err := a.move(ctx, firehose.Load{N: n, Rate: float64(r.perSecond), Message: m.message, Window: 20_000})
			if err != nil {
				return err
			}
			after, err := sizeOf(dead)
			if err != nil {
				return err
			}
			at := strconv.Itoa(r.perSecond)
			s.note(point{"disk", ours, at, diskBytes}, float64(after-before)/float64(n))
			s.note(point{"disk", ours, at, cpuEach}, u.cpuEach())
		}
		return nil
	})
}

// measureBacklog: the server is away, and so many bytes of dead letters lie there already.
func (s *session) measureBacklog(ctx context.Context, _ int) error {
	bodies, err := readyBodies(s.scaled(100_000))
	if err != nil {
		return err
	}
	for _, size := range s.backlogs() {
		if err := s.withBacklog(ctx, bodies, size); err != nil {
			return err
		}
	}
	return nil
}

// backlogs are the sizes that are measured, in bytes.
func (s *session) backlogs() []int64 {
	sizes := []int64{0, s.backlog / 16, s.backlog / 4, s.backlog}
	if s.short {
		sizes = []int64{0, s.backlog}
	}
	return sizes
}

// hasRoom fails before all is measured, and not after half of it.
func hasRoom(o options) error {
	if len(o.only) > 0 && !slices.Contains(o.only, "backlog") {
		return nil
	}
	usage, err := disk.Usage(os.TempDir())
	if err != nil {
		return err
	}
	const spare = 2 << 30
	if free := usage.Free; free < uint64(o.backlog)+spare { //nolint:gosec // it was checked
		return fmt.Errorf("-backlog %d: needs %d MiB more than that free in %s, where %d are; choose less, or another TMPDIR",
			o.backlog>>20, spare>>20, os.TempDir(), free>>20)
	}
	return nil
}

func (s *session) withBacklog(ctx context.Context, bodies []body, size int64) (err error) {
	dead, err := os.MkdirTemp(s.dir, "dead")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dead)) }()
	if _, err := fillBacklog(ctx, dead, bodies, size); err != nil {
		return err
	}
	return s.away(ctx, dead, func(ctx context.Context, a *agent) error {
		m := messages{first: a.sent}
		u, err := a.move(ctx, firehose.Load{N: s.scaled(40_000), Rate: 10_000, Message: m.message, Window: 20_000})
		if err != nil {
			return err
		}
		s.note(point{"backlog", ours, mebibytes(size), cpuEach}, u.cpuEach())
		s.note(point{"backlog", ours, mebibytes(size), memory}, u.memory)
		s.note(point{"backlog", ours, mebibytes(size), peakMemory}, u.peak)
		return nil
	})
}

// restored is the size of the backlog that is restored, in bytes.
func (o *options) restored() int64 { return min(o.backlog, 1<<30) }

func mebibytes(size int64) string { return thousands(size>>20) + " MiB" }

// measureRestore: a backlog comes back to a server that takes it, when nothing else runs; beside it the bare client. The
// receiver has a core of its own, as if it were another machine.
func (s *session) measureRestore(ctx context.Context, _ int) (err error) {
	bodies, err := readyBodies(s.scaled(100_000))
	if err != nil {
		return err
	}
	dead, err := os.MkdirTemp(s.dir, "dead")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dead)) }()
	rows, err := fillBacklog(ctx, dead, bodies, s.restored())
	if err != nil {
		return err
	}
	back, err := confine()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, back()) }()
	if err := s.restore(ctx, dead, rows); err != nil {
		return err
	}
	logs, err := newStandIn(false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, logs.Close()) }()
	rate, cpu, err := sending(ctx, logs, sendTwo, logs.URL(), rows)
	if err != nil {
		return err
	}
	s.note(point{"restore", bareClient, mebibytes(s.restored()), restoreRow}, rate)
	s.note(point{"restore", bareClient, mebibytes(s.restored()), cpuEach}, cpu)
	return nil
}

func (s *session) restore(ctx context.Context, dead string, rows int) (err error) {
	f, err := newHose() // an input must be there
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	logs, err := newStandIn(false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, logs.Close()) }()
	a, err := s.start(wayNamed(ours), f, logs, site{dead: dead}, false)
	if err != nil {
		return err
	}
	defer a.kill()
	stop := make(chan struct{})
	used := make(chan float64, 1)
	rate, cpu, err := a.storing(ctx, logs, rows, func() { go func() { used <- a.watchMemory(stop) }() })
	close(stop)
	if err != nil {
		return err
	}
	_, peak, err := a.memory()
	if err != nil {
		return err
	}
	at := mebibytes(s.restored())
	s.note(point{"restore", ours, at, restoreRow}, rate)
	s.note(point{"restore", ours, at, cpuEach}, cpu)
	s.note(point{"restore", ours, at, memory}, <-used)
	s.note(point{"restore", ours, at, peakMemory}, peak)
	if err := a.end(); err != nil {
		return err
	}
	left, err := filepath.Glob(filepath.Join(dead, "*"))
	if err == nil && len(left) > 20 {
		err = fmt.Errorf("%d files are left of the backlog", len(left))
	}
	return err
}

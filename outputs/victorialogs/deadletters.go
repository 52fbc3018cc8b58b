package victorialogs

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/config"

	"github.com/edgetide/telegraf-victorialogs/dlq"
	"github.com/edgetide/telegraf-victorialogs/internal/deadletter"
	"github.com/edgetide/telegraf-victorialogs/internal/logbridge"
)

// DeadLetterOptions are the table [outputs.victorialogs.dlq].
type DeadLetterOptions struct {
	Directory         string          `toml:"directory"`
	Capacity          config.Size     `toml:"capacity"`
	FlushInterval     config.Duration `toml:"flush_interval"`
	MaxSize           config.Size     `toml:"max_size"`
	OnFull            string          `toml:"on_full"`
	Version           string          `toml:"version"`
	OnVersionMismatch string          `toml:"on_version_mismatch"`
	CheckInterval     config.Duration `toml:"check_interval"`
	PostponeInterval  config.Duration `toml:"postpone_interval"`
	AllowRate         share           `toml:"allow_rate"`
}

// share is a number that may be written as 1, too.
type share float64

// UnmarshalTOML reads the option as it is written.
func (s *share) UnmarshalTOML(text []byte) error {
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		return fmt.Errorf("dlq: allow_rate = %s: must be a number above 0 and at most 1, such as 0.5", text)
	}
	*s = share(f)
	return nil
}

// letterVersion is the version of dumps of batches. It changes when deadletter.Letter does so that it cannot be read.
const letterVersion = "telegraf-victorialogs/1"

func defaultDeadLetters() DeadLetterOptions {
	return DeadLetterOptions{
		Capacity:          64 << 20,
		FlushInterval:     config.Duration(time.Second),
		MaxSize:           10 << 30,
		OnFull:            string(dlq.Reject),
		Version:           letterVersion,
		OnVersionMismatch: string(dlq.Quarantine),
		CheckInterval:     config.Duration(time.Second),
		PostponeInterval:  config.Duration(time.Second),
		AllowRate:         0.5,
	}
}

func (o *DeadLetterOptions) check() error {
	for _, d := range []struct {
		key   string
		value config.Duration
	}{
		{"flush_interval", o.FlushInterval},
		{"check_interval", o.CheckInterval},
		{"postpone_interval", o.PostponeInterval},
	} {
		if d.value <= 0 {
			return fmt.Errorf(`dlq: %s = %q: must be longer than zero, such as "1s"`, d.key, time.Duration(d.value))
		}
	}
	const leastCapacity, leastSize = 64 << 10, 1 << 20
	switch {
	case o.Capacity < leastCapacity || o.Capacity > 1<<30:
		return fmt.Errorf(`dlq: capacity = %d: must be from "64KiB" to "1GiB"`, o.Capacity)
	case o.MaxSize < leastSize:
		return fmt.Errorf(`dlq: max_size = %d: must be "1MiB" or more`, o.MaxSize)
	case o.OnFull != string(dlq.Reject) && o.OnFull != string(dlq.DropOldest):
		return fmt.Errorf("dlq: on_full = %q: must be %q or %q", o.OnFull, dlq.Reject, dlq.DropOldest)
	case o.OnVersionMismatch != string(dlq.Quarantine) && o.OnVersionMismatch != string(dlq.Remove):
		return fmt.Errorf("dlq: on_version_mismatch = %q: must be %q or %q", o.OnVersionMismatch, dlq.Quarantine, dlq.Remove)
	case o.Version == "" || len(o.Version) > 255:
		return fmt.Errorf("dlq: version = %q: must be a text of 1 to 255 bytes", o.Version)
	case !(o.AllowRate > 0 && o.AllowRate <= 1): // nor NaN
		return fmt.Errorf("dlq: allow_rate = %v: must be above 0 and at most 1, such as 0.5", o.AllowRate)
	}
	return nil
}

// deadLetters is the directory where batches wait that cannot be delivered now, and where rows lie that never can: in
// rejected/, a directory of the same kind that nothing restores from.
type deadLetters struct {
	options DeadLetterOptions
	log     telegraf.Logger
	stats   *stats
	load    func() float64 // the share of max_pending that is in use
	run     string         // tells this life of the process from others

	disk, rejectedDisk *dlq.Disk
	queue, rejected    *dlq.Queue[*deadletter.Letter]
	restorer           *dlq.Restorer[*deadletter.Letter]
	restoring          sync.WaitGroup
}

// runs has the run for each counter of what is on disk. The counters outlive a reload, so their run does, too.
var runs sync.Map

// restoredTogether is how many letters become one request at most: with a broker that has a small window each is small.
const restoredTogether = 256

// open takes the directory. Two agents cannot have the same one.
func (l *deadLetters) open(restore func(context.Context, []*deadletter.Letter) []error) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("dlq: directory = %q: %w", l.options.Directory, err), l.close())
		}
	}()
	run, _ := runs.LoadOrStore(l.stats.onDisk, strconv.FormatInt(time.Now().UnixNano(), 36))
	l.run, _ = run.(string)
	log := logbridge.New(l.log, "Dead letters: ")
	o := dlq.DiskOptions{
		Version: l.options.Version, MaxSize: int64(l.options.MaxSize), OnFull: dlq.OnFull(l.options.OnFull),
		Dropping: l.dropping, Metrics: letterMetrics{l.stats}, Logger: log,
	}
	if l.disk, err = dlq.OpenDisk(l.options.Directory, o); err != nil {
		return err
	}
	l.stats.dlqMaxBytes.Set(int64(l.options.MaxSize))
	l.room()
	// What was refused must not take the room of what can still be delivered: the oldest of it gives way.
	o.MaxSize, o.OnFull, o.Dropping, o.Metrics = max(o.MaxSize/16, 1<<20), dlq.DropOldest, l.droppingRejected, nil
	o.Logger = logbridge.New(l.log, "Rejected rows: ")
	if l.rejectedDisk, err = dlq.OpenDisk(filepath.Join(l.options.Directory, "rejected"), o); err != nil {
		return err
	}
	q := dlq.QueueOptions{
		Capacity: int64(l.options.Capacity), FlushInterval: time.Duration(l.options.FlushInterval), Logger: log,
	}
	if l.queue, err = dlq.NewQueue(l.disk, deadletter.Append, q); err != nil {
		return err
	}
	q.Capacity = min(q.Capacity, o.MaxSize/4)
	if l.rejected, err = dlq.NewQueue(l.rejectedDisk, deadletter.Append, q); err != nil {
		return err
	}
	l.restorer, err = dlq.NewRestorer(l.disk, deadletter.Parse, one(restore), dlq.RestorerOptions[*deadletter.Letter]{
		Version: l.options.Version, OnVersionMismatch: dlq.OnMismatch(l.options.OnVersionMismatch),
		CheckInterval: time.Duration(l.options.CheckInterval), PostponeInterval: time.Duration(l.options.PostponeInterval),
		Load: l.load, AllowRate: float64(l.options.AllowRate), Batch: restore, BatchSize: restoredTogether,
		Metrics: letterMetrics{l.stats}, Logger: log,
	})
	return err
}

// stopRestoring begins to end the restorer; what it waits for must be told.
func (l *deadLetters) stopRestoring() {
	l.restoring.Go(l.restorer.Close)
}

// close seals what is open and gives the directory back.
func (l *deadLetters) close() error {
	l.restoring.Wait()
	var errs []error
	for _, q := range []*dlq.Queue[*deadletter.Letter]{l.queue, l.rejected} {
		if q != nil {
			errs = append(errs, q.Close(context.Background()))
		}
	}
	for _, d := range []*dlq.Disk{l.disk, l.rejectedDisk} {
		if d != nil {
			errs = append(errs, d.Close())
		}
	}
	return errors.Join(errs...)
}

// room brings up to date how much more the disk takes. Without an answer of the disk the last one stands.
func (l *deadLetters) room() {
	if room, err := l.disk.Room(); err == nil {
		l.stats.dlqRoomBytes.Set(room)
	}
}

// dropping counts what on_full = "drop_oldest" costs.
func (l *deadLetters) dropping(item []byte) {
	rows, run := deadletter.Count(item)
	l.stats.offDisk(rows, run == l.run)
	l.stats.dropped[droppedOldest].Incr(int64(rows))
}

// droppingRejected counts rows that were rejected and are not kept any longer.
func (l *deadLetters) droppingRejected(item []byte) {
	rows, _ := deadletter.Count(item)
	l.stats.rejectedGone.Incr(int64(rows))
}

// letterMetrics shows what the disk reports as self-metrics.
type letterMetrics struct{ stats *stats }

func (letterMetrics) Enqueued(int)                      {}
func (letterMetrics) Sealed(dlq.Reason, uint64, uint64) {}
func (letterMetrics) Restored(uint64, uint64)           {}
func (letterMetrics) Failed(error)                      {}
func (m letterMetrics) Dropped(_ string, items, _ uint64) {
	m.stats.dlqDeleted.Incr(int64(items)) //nolint:gosec // a count
}

func (m letterMetrics) Quarantined(_ string, items, _ uint64) {
	m.stats.dlqQuarantined.Incr(int64(items)) //nolint:gosec // a count
}

func (m letterMetrics) Stored(_ int, items, bytes uint64, _ int64, oldest time.Time) {
	m.stats.dlqItems.Set(int64(items)) //nolint:gosec // a count
	m.stats.dlqBytes.Set(int64(bytes)) //nolint:gosec // a count
	var since int64
	if !oldest.IsZero() {
		since = oldest.UnixNano()
	}
	m.stats.oldest.Store(since)
}

// one restores a letter alone.
func one(restore func(context.Context, []*deadletter.Letter) []error) dlq.Target[*deadletter.Letter] {
	return func(ctx context.Context, l *deadletter.Letter) error {
		return restore(ctx, []*deadletter.Letter{l})[0]
	}
}

package dlq

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// ErrPoison marks an item that will never be delivered. A target returns an error that wraps it to have the item set aside
// at once.
var ErrPoison = errors.New("the item can never be delivered")

// Target takes restored items. An item is delivered when it returns nil; with any other error than ErrPoison it is tried
// again later, so that an item may come more than once.
type Target[T any] func(ctx context.Context, item T) error

// OnMismatch says what happens to a dump of another version.
type OnMismatch string

const (
	// Quarantine sets it aside. It is the default.
	Quarantine OnMismatch = "quarantine"
	// Remove deletes it, and counts its items as dropped.
	Remove OnMismatch = "remove"
)

// RestorerOptions are the settings of a Restorer. The zero value is usable.
type RestorerOptions[T any] struct {
	// Version is what dumps must have been written with. Others are migrated if Migrate is set, or go where
	// OnVersionMismatch says.
	Version           string
	OnVersionMismatch OnMismatch
	// Migrate makes an item's bytes of this version of those of an older one. An error sets the item aside.
	Migrate func(version string, data []byte) ([]byte, error)

	// CheckInterval is the time between two looks for dumps; 0 means 1 s. At each, all of them are drained.
	CheckInterval time.Duration
	// PostponeInterval is how long to wait after a failed delivery, and while Load is above AllowRate; 0 means CheckInterval.
	PostponeInterval time.Duration
	// Load says how full the target is, from 0 to 1. While it is above AllowRate nothing is delivered. 0 means 0.95.
	Load      func() float64
	AllowRate float64
	// ItemsPerSecond and BytesPerSecond bound the flow; 0 is no bound.
	ItemsPerSecond, BytesPerSecond float64
	// Batch, unless it is nil, is given BatchSize items at a time, of 1 MiB together at most, in their order, before the
	// target is. It returns an error for each, nil for those that it took; those that it did not the target is given.
	Batch     func(ctx context.Context, items []T) []error
	BatchSize int
	// MaxAttempts is how often an item is tried before others are, and once more when one of those was delivered, before it
	// is taken for poison; 0 means 5. While nothing can be delivered, items are tried forever.
	MaxAttempts int

	// Metrics and Logger may be nil.
	Metrics Metrics
	Logger  *slog.Logger
}

func (o *RestorerOptions[T]) setDefaults() error {
	if o.CheckInterval == 0 {
		o.CheckInterval = time.Second
	}
	if o.PostponeInterval == 0 {
		o.PostponeInterval = o.CheckInterval
	}
	if o.AllowRate == 0 {
		o.AllowRate = 0.95
	}
	if o.MaxAttempts == 0 {
		o.MaxAttempts = 5
	}
	if o.OnVersionMismatch == "" {
		o.OnVersionMismatch = Quarantine
	}
	switch {
	case o.CheckInterval < 0 || o.PostponeInterval < 0:
		return errors.New("dlq: CheckInterval and PostponeInterval must not be negative")
	case o.AllowRate < 0 || o.AllowRate > 1:
		return fmt.Errorf("dlq: AllowRate is %v; it must be from 0 to 1", o.AllowRate)
	case o.ItemsPerSecond < 0 || o.BytesPerSecond < 0:
		return errors.New("dlq: ItemsPerSecond and BytesPerSecond must not be negative")
	case o.BatchSize < 0 || o.Batch != nil && o.BatchSize == 0:
		return fmt.Errorf("dlq: BatchSize is %d; it must say how many items Batch is given", o.BatchSize)
	case o.MaxAttempts < 0:
		return fmt.Errorf("dlq: MaxAttempts is %d; it must not be negative", o.MaxAttempts)
	case o.OnVersionMismatch != Quarantine && o.OnVersionMismatch != Remove:
		return fmt.Errorf("dlq: OnVersionMismatch is %q; it must be %q or %q", o.OnVersionMismatch, Quarantine, Remove)
	}
	if o.Metrics == nil {
		o.Metrics = noMetrics{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Restorer brings dumps back: oldest first, each item until the target took it, each dump removed only after all of it was
// delivered or set aside.
type Restorer[T any] struct {
	store  Store
	decode Decoder[T]
	target Target[T]
	o      RestorerOptions[T]
	items  *rate.Limiter // nil: no bound
	bytes  *rate.Limiter

	later     map[uint64]time.Time // dumps that could not be read, and when to try again
	condemned map[uint64]bool      // dumps whose last item was not taken when others were
	reach     int                  // how many dumps may be stuck before the oldest is tried again

	cancel context.CancelFunc
	ended  sync.WaitGroup
}

// NewRestorer returns a restorer; Start starts it.
func NewRestorer[T any](s Store, decode Decoder[T], target Target[T], o RestorerOptions[T]) (*Restorer[T], error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	r := &Restorer[T]{
		store: s, decode: decode, target: target, o: o, reach: witnesses,
		later: make(map[uint64]time.Time), condemned: make(map[uint64]bool),
	}
	const burst = 10 // of a second
	if o.ItemsPerSecond > 0 {
		r.items = rate.NewLimiter(rate.Limit(o.ItemsPerSecond), max(1, int(o.ItemsPerSecond/burst)))
	}
	if o.BytesPerSecond > 0 {
		r.bytes = rate.NewLimiter(rate.Limit(o.BytesPerSecond), max(1, int(o.BytesPerSecond/burst)))
	}
	return r, nil
}

// Start restores on a goroutine of its own, until Close.
func (r *Restorer[T]) Start() {
	if r.cancel != nil {
		return // it runs
	}
	ctx, cancel := context.WithCancel(context.Background()) //nolint:gosec // Close calls it
	r.cancel = cancel
	r.ended.Go(func() {
		tick := time.NewTicker(r.o.CheckInterval)
		defer tick.Stop()
		for {
			if err := r.Drain(ctx); err != nil && ctx.Err() == nil {
				r.o.Logger.Error("cannot restore dead letters", "error", err)
				r.o.Metrics.Failed(err)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
}

// Close ends Start's goroutine. What the target is just given is the last; its context is cancelled.
func (r *Restorer[T]) Close() {
	if r.cancel != nil {
		r.cancel()
	}
	r.ended.Wait()
}

// Drain restores all dumps that there are, and returns when none is left that can be restored now, or with ctx. It must not
// be called beside Start or itself.
func (r *Restorer[T]) Drain(ctx context.Context) error {
	var errs []error
	for {
		dumps, err := r.store.Dumps()
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		done, stuck := 0, 0
		var suspects []uint64
		r.forget(dumps)
		for _, info := range dumps {
			if time.Now().Before(r.later[info.Sequence]) {
				continue
			}
			delivered, err := r.dump(ctx, info)
			if delivered > 0 || err == nil { // so the target takes items, and what it did not take before is at fault
				for _, sequence := range suspects {
					r.condemned[sequence] = true
				}
				suspects, stuck, r.reach = nil, 0, witnesses
			}
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case err == nil:
				done++
				delete(r.later, info.Sequence)
				delete(r.condemned, info.Sequence)
				continue
			case errors.Is(err, errUndelivered):
				suspects = append(suspects, info.Sequence)
				if stuck++; stuck >= r.reach { // nothing gets through: begin with the oldest again, later, and then go further
					r.reach *= 2
					return errors.Join(append(errs, err)...)
				}
			default:
				r.later[info.Sequence] = time.Now().Add(10 * r.o.PostponeInterval)
			}
			errs = append(errs, fmt.Errorf("dump %d: %w", info.Sequence, err))
		}
		if done == 0 {
			return errors.Join(errs...)
		}
	}
}

// forget drops what is remembered of dumps that are gone.
func (r *Restorer[T]) forget(dumps []Info) {
	if len(r.later)+len(r.condemned) == 0 {
		return
	}
	there := make(map[uint64]bool, len(dumps))
	for _, info := range dumps {
		there[info.Sequence] = true
	}
	maps.DeleteFunc(r.later, func(sequence uint64, _ time.Time) bool { return !there[sequence] })
	maps.DeleteFunc(r.condemned, func(sequence uint64, _ bool) bool { return !there[sequence] })
}

// dump restores one dump, and returns how many items it delivered.
func (r *Restorer[T]) dump(ctx context.Context, info Info) (delivered uint64, err error) {
	if info.Version != r.o.Version && (r.o.Migrate == nil || info.Damaged && info.Version == "") { // "": no header is whole
		return 0, r.mismatch(info)
	}
	reader, err := r.store.Open(info.Sequence)
	if err != nil {
		return 0, err
	}
	d := delivery{reader: reader}
	err = r.deliverAll(ctx, info, &d)
	r.o.Metrics.Restored(d.items, d.bytes)
	if err != nil && d.settled > 0 {
		err = errors.Join(err, reader.Progress(d.settled)) // what was delivered need not be again
	}
	if err == nil {
		if damage := reader.Damage(); damage != nil {
			err = r.store.Quarantine(info.Sequence, fmt.Sprintf("what could be read was restored: %v", damage))
		} else {
			err = r.store.Remove(info.Sequence)
		}
		if err != nil && d.settled > 0 { // it is still there; let nothing of it come again
			err = errors.Join(err, reader.Progress(d.settled))
		}
	}
	return d.items, errors.Join(err, reader.Close())
}

func (r *Restorer[T]) mismatch(info Info) error {
	reason := fmt.Sprintf("version %q instead of %q", info.Version, r.o.Version)
	if r.o.OnVersionMismatch == Quarantine || info.Damaged {
		return r.store.Quarantine(info.Sequence, reason)
	}
	if err := r.store.Remove(info.Sequence); err != nil {
		return err
	}
	r.o.Metrics.Dropped("version", info.Items, info.Bytes)
	r.o.Logger.Error("removed a dump of another version", "sequence", info.Sequence, "reason", reason, "items", info.Items)
	return nil
}

// delivery is how far a dump is.
type delivery struct {
	reader  Reader
	again   []letter // were looked at, and are to be delivered before the others
	ahead   Items
	taken   []letter // the round that is being delivered
	unnoted bool     // its progress could not be written
	items   uint64   // delivered
	bytes   uint64
	settled uint64 // all items below are delivered or set aside
}

// letter is an item and its place in the dump.
type letter struct {
	data  []byte
	place uint64
}

// next takes the next item, or returns io.EOF.
func (d *delivery) next() (l letter, err error) {
	if len(d.again) > 0 {
		l, d.again = d.again[0], d.again[1:]
		return l, nil
	}
	for {
		if data, place, ok := d.ahead.Cut(); ok {
			return letter{data, place}, nil
		}
		if d.ahead, err = d.reader.Next(); err != nil {
			return letter{}, err
		}
	}
}

// round takes the next items, n at most, and 1 MiB. Several are copied, since each is read to where the one before was.
func (d *delivery) round(n int) ([]letter, error) {
	const most = 1 << 20
	d.taken = d.taken[:0]
	for size := 0; len(d.taken) < n && size < most; {
		l, err := d.next()
		if err != nil && len(d.taken) > 0 {
			break // it comes again
		}
		if err != nil {
			return nil, err
		}
		if n > 1 {
			l.data = slices.Clone(l.data)
		}
		d.taken = append(d.taken, l)
		size += len(l.data)
	}
	return d.taken, nil
}

func (d *delivery) count(l letter) {
	d.items++
	d.bytes += uint64(len(l.data))
}

// progressEvery is how much work a crash may have done again.
const progressEvery = 100 * time.Millisecond

// deliverAll delivers what is left of a dump, in its order.
func (r *Restorer[T]) deliverAll(ctx context.Context, info Info, d *delivery) error {
	var due atomic.Bool // cheaper than to look at the clock for each item
	timer := time.AfterFunc(progressEvery, func() { due.Store(true) })
	defer timer.Stop()
	for {
		round, err := d.round(max(r.o.BatchSize, 1))
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, l := range r.together(ctx, info, d, round) {
			if err := r.settle(ctx, info, d, l); err != nil {
				return err
			}
		}
		d.settled = max(d.settled, round[len(round)-1].place+1)
		if due.Load() && len(d.again) == 0 {
			due.Store(false)
			timer.Reset(progressEvery)
			if err := d.reader.Progress(d.settled); err != nil { // a full disk must not keep what is on it from going
				r.o.Metrics.Failed(err)
				if !d.unnoted {
					r.o.Logger.Error("cannot note how much of a dump is delivered", "sequence", info.Sequence, "error", err)
				}
				d.unnoted = true
			}
		}
	}
}

// together gives several items to Batch, and returns those that it did not take. A single one it leaves to settle.
func (r *Restorer[T]) together(ctx context.Context, info Info, d *delivery, round []letter) (left []letter) {
	if len(round) == 1 {
		return round
	}
	taken := make([]bool, len(round))
	var items []T
	var places []int // of the items in the round
	for i, l := range round {
		if item, err := r.prepare(ctx, info, l.data); err == nil { // else settle meets the error again
			items, places = append(items, item), append(places, i)
		}
	}
	if len(items) > 0 {
		for n, err := range r.o.Batch(ctx, items) {
			taken[places[n]] = err == nil
		}
	}
	for i, l := range round {
		if !taken[i] {
			left = append(left, l)
			continue
		}
		d.count(l)
		if len(left) == 0 {
			d.settled = max(d.settled, l.place+1)
		}
	}
	return left
}

// errUndelivered says that the target does not take an item, and that nothing tells whether it takes others.
var errUndelivered = errors.New("the target does not take it")

// witnesses is how many items, or dumps, behind one that is not taken are tried at first to find out whether it is at fault.
// While none of them is taken it is twice as many each time, so that no run of faulty ones stops the others.
const witnesses = 16

// mostHeld bounds the memory for items that are tried ahead of their turn, in bytes.
const mostHeld = 16 << 20

// settle delivers an item, or sets it aside if it is poison: the target says so, or it failed MaxAttempts times and, behind
// it, another was taken. While nothing gets through it goes on trying.
func (r *Restorer[T]) settle(ctx context.Context, info Info, d *delivery, l letter) error {
	for reach := witnesses; ; reach *= 2 {
		failure := r.attempts(ctx, info, l.data)
		switch {
		case failure == nil:
			d.count(l)
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(failure, ErrPoison):
			return r.setAside(info, failure, l.data)
		}
		l.data = bytes.Clone(l.data) // others are read meanwhile
		held, taken, err := r.findWitness(ctx, info, d, reach)
		atEnd := errors.Is(err, io.EOF)
		switch {
		case err != nil && !atEnd:
			return err
		case taken, atEnd && r.condemned[info.Sequence]:
			return r.judge(ctx, info, d, append([]letter{l}, held...))
		case atEnd:
			return fmt.Errorf("%w: %w", errUndelivered, failure)
		}
		d.again = append(held, d.again...) // nothing gets through: they come after this one
	}
}

// findWitness tries the items that follow until one is taken. It returns those that were not, and io.EOF when there are no
// more, or no more can be held.
func (r *Restorer[T]) findWitness(ctx context.Context, info Info, d *delivery, reach int) (held []letter, taken bool, err error) {
	size := 0
	for len(held) < reach {
		if len(held)%witnesses == witnesses-1 && !pause(ctx, r.o.PostponeInterval) { // not all at once
			return nil, false, ctx.Err()
		}
		if size > mostHeld {
			return held, false, io.EOF
		}
		l, err := d.next()
		if err != nil {
			return held, false, err
		}
		err = r.once(ctx, info, l.data)
		switch {
		case err == nil:
			d.count(l)
			return held, true, nil
		case ctx.Err() != nil:
			return nil, false, ctx.Err()
		case errors.Is(err, ErrPoison):
			if err := r.setAside(info, err, l.data); err != nil {
				return nil, false, err
			}
		default:
			held = append(held, letter{bytes.Clone(l.data), l.place})
			size += len(l.data)
		}
	}
	return held, false, nil
}

// judge tries items that were not taken while another was as often once more, since the target may just have come back.
func (r *Restorer[T]) judge(ctx context.Context, info Info, d *delivery, held []letter) error {
	for _, l := range held {
		err := r.attempts(ctx, info, l.data)
		switch {
		case err == nil:
			d.count(l)
		case ctx.Err() != nil:
			return ctx.Err()
		default:
			if err := r.setAside(info, fmt.Errorf("not taken while others were: %w", err), l.data); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Restorer[T]) setAside(info Info, reason error, data []byte) error {
	return r.store.QuarantineItems(info, reason.Error(), [][]byte{data})
}

// attempts tries an item MaxAttempts times, PostponeInterval apart.
func (r *Restorer[T]) attempts(ctx context.Context, info Info, data []byte) (err error) {
	for n := 1; ; n++ {
		err = r.once(ctx, info, data)
		if err == nil || errors.Is(err, ErrPoison) || ctx.Err() != nil || n >= r.o.MaxAttempts {
			return err
		}
		r.o.Metrics.Failed(err)
		if !pause(ctx, r.o.PostponeInterval) {
			return ctx.Err()
		}
	}
}

// once gives an item to the target.
func (r *Restorer[T]) once(ctx context.Context, info Info, data []byte) error {
	item, err := r.prepare(ctx, info, data)
	if err != nil {
		return err
	}
	return r.target(ctx, item)
}

// prepare makes an item of its bytes, when load and rates allow it.
func (r *Restorer[T]) prepare(ctx context.Context, info Info, data []byte) (item T, err error) {
	for r.o.Load != nil && r.o.Load() > r.o.AllowRate {
		if !pause(ctx, r.o.PostponeInterval) {
			return item, ctx.Err()
		}
	}
	if r.items != nil {
		if err := await(ctx, r.items, 1); err != nil {
			return item, err
		}
	}
	if r.bytes != nil { // an item larger than a burst takes several
		for left := len(data); left > 0; left -= r.bytes.Burst() {
			if err := await(ctx, r.bytes, min(left, r.bytes.Burst())); err != nil {
				return item, err
			}
		}
	}
	if info.Version != r.o.Version {
		if data, err = r.o.Migrate(info.Version, bytes.Clone(data)); err != nil {
			return item, fmt.Errorf("%w: migrating it from version %q: %w", ErrPoison, info.Version, err)
		}
	}
	if item, err = r.decode(data); err != nil {
		return item, fmt.Errorf("%w: decoding it: %w", ErrPoison, err)
	}
	return item, nil
}

// await waits until a limiter allows n. One that would need longer than ctx has waits for the end of ctx, since that it was
// in vain is no fault of the item's.
func await(ctx context.Context, l *rate.Limiter, n int) error {
	if err := l.WaitN(ctx, n); err != nil {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

// pause waits, and reports that it was not cut short.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

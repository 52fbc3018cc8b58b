package dlq

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Position counts the items that were appended since the Disk was opened.
type Position uint64

// appender gathers items into blocks and brings them onto the disk, on one goroutine, so that many callers share one
// fdatasync.
//
//	append ─ current block ─ full blocks ─ write ─ unsynced blocks ─ fdatasync ─ durable
//
// Blocks stay in memory until they are durable. When a write or an fdatasync fails, the file is given up, since nothing
// is known of it any more: what was durable in it is sealed, and the blocks that were not are written into a new one. Those
// that somebody waits for are not: they are withdrawn, and who waits is told.
type appender struct {
	disk    *Disk
	encoder *zstd.Encoder // nil without compression

	mu       sync.Mutex
	current  []byte         // 40 bytes for the header, and items
	items    uint32         // in current
	waiters  []chan<- error // for current
	size     uint64         // of those, without their lengths
	blocks   []*openBlock
	waiting  int // bytes that are not durable, in memory
	appended Position
	durable  Position
	wanted   Position // somebody waits until this is durable
	reason   Reason   // of the last seal that was asked for
	asked    uint64   // counts what was asked to be sealed
	sealed   uint64   // how many of those are
	failures uint64   // counts failed commits
	failure  error    // of the last commit; nil when it went well

	loggedFailure time.Time // when it was logged that nothing can be written; zero: it can
	closing       bool      // nothing more is taken
	closed        bool
	changed       chan struct{} // closed and made anew when any of this changes

	wake  chan struct{}
	ended chan struct{}

	next uint64 // sequence number

	// What follows is the goroutine's.
	dump     *openDump
	unsynced []*openBlock
	pool     [][]byte // memory of blocks
}

// openBlock is a block that is not durable.
type openBlock struct {
	bytes []byte // 40 bytes for the header, and items
	items uint32
	size  uint64   // of the items, without their lengths
	last  Position // of its last item

	waiters []chan<- error // one for each item, or none; each takes one error without waiting
}

// openDump is the dump that is being written.
type openDump struct {
	file     file
	sequence uint64
	created  time.Time
	length   int64 // of the file
	begun    int64 // of it, what the disk was told to begin with
	items    uint64
	size     uint64
	durable  footer // of it, what is durable
}

func newAppender(d *Disk, next uint64) *appender {
	a := &appender{
		disk: d, next: next,
		changed: make(chan struct{}), wake: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	if d.o.Compress {
		a.encoder, _ = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
			zstd.WithLowerEncoderMem(true)) // fails for wrong options alone
	}
	go a.run()
	return a
}

func (a *appender) notify() {
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *appender) signal() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// room is how many bytes may wait in memory.
func (a *appender) room() int { return 4 * a.disk.o.SyncSize }

func (a *appender) append(ctx context.Context, item []byte) (Position, error) {
	return a.put(ctx, item, nil)
}

func (a *appender) appendDurable(ctx context.Context, item []byte) error {
	settled := make(chan error, 1)
	if _, err := a.put(ctx, item, settled); err != nil {
		return err
	}
	a.signal()
	select {
	case err := <-settled:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// put takes an item into the current block. Unless waiter is nil it is told what becomes of the item.
func (a *appender) put(ctx context.Context, item []byte, waiter chan<- error) (Position, error) {
	if len(item) > MaxItemSize {
		return 0, fmt.Errorf("dlq: %w: %d bytes", ErrTooLarge, len(item))
	}
	// With its dump's headers and its block's, and those of the footer, which no quota keeps out.
	if most := a.disk.o.MaxSize; most > 0 && int64(len(item))+maxHeaders+blockHeader+binary.MaxVarintLen64 > most {
		return 0, fmt.Errorf("dlq: %w: %d bytes do not fit into MaxSize = %d", ErrTooLarge, len(item), most)
	}
	a.mu.Lock()
	for a.waiting >= a.room() && !a.closing {
		if err := a.failure; err != nil {
			a.mu.Unlock()
			a.signal() // it may be possible again
			return 0, fmt.Errorf("dlq: %w", err)
		}
		changed := a.changed
		a.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		a.mu.Lock()
	}
	defer a.mu.Unlock()
	if a.closing {
		return 0, fmt.Errorf("dlq: %w", ErrClosed)
	}
	tooLarge := len(a.current)+len(item) > 2*a.disk.o.BlockSize // so that no block is larger than its greatest item
	if a.items > 0 && (tooLarge || (waiter != nil) != (len(a.waiters) > 0)) {
		a.closeBlock()
		a.signal()
	}
	if a.current == nil {
		a.current = a.block()
	}
	before := len(a.current)
	a.current = append(binary.AppendUvarint(a.current, uint64(len(item))), item...)
	a.waiting += len(a.current) - before
	a.items++
	a.size += uint64(len(item))
	a.appended++
	if waiter != nil {
		a.waiters = append(a.waiters, waiter)
		a.wanted = a.appended
	}
	if len(a.current) >= a.disk.o.BlockSize {
		a.closeBlock()
		a.signal()
	}
	return a.appended, nil
}

// block returns memory for a block, with room for its header.
func (a *appender) block() []byte {
	if n := len(a.pool); n > 0 {
		b := a.pool[n-1]
		a.pool = a.pool[:n-1]
		return b[:blockHeader]
	}
	return make([]byte, blockHeader, a.disk.o.BlockSize+a.disk.o.BlockSize/8)
}

func (a *appender) closeBlock() {
	if a.items == 0 {
		return
	}
	a.blocks = append(a.blocks, &openBlock{
		bytes: a.current, items: a.items, size: a.size, last: a.appended, waiters: a.waiters,
	})
	a.current, a.items, a.size, a.waiters = nil, 0, 0, nil
}

func (a *appender) sync(ctx context.Context, p Position) error {
	a.mu.Lock()
	if p == 0 {
		p = a.appended
	}
	a.wanted = max(a.wanted, min(p, a.appended))
	return a.await(ctx, func() bool { return a.durable >= p })
}

func (a *appender) seal(ctx context.Context, reason Reason) error {
	a.mu.Lock()
	if a.closing {
		a.mu.Unlock()
		return fmt.Errorf("dlq: %w", ErrClosed)
	}
	return a.askToSeal(ctx, reason)
}

// askToSeal is called with the lock and gives it back. A commit that is under way may have begun without the last items, so
// each call waits for a seal that began after it.
func (a *appender) askToSeal(ctx context.Context, reason Reason) error {
	a.reason = reason
	a.asked++
	asked := a.asked
	return a.await(ctx, func() bool { return a.sealed >= asked })
}

// await is called with the lock and gives it back. It waits until done, or until a commit failed.
func (a *appender) await(ctx context.Context, done func() bool) error {
	failures := a.failures
	a.signal()
	for {
		switch {
		case done():
			a.mu.Unlock()
			return nil
		case a.failures != failures:
			err := a.failure
			a.mu.Unlock()
			return fmt.Errorf("dlq: %w", err)
		case a.closed:
			a.mu.Unlock()
			return fmt.Errorf("dlq: %w", ErrClosed)
		}
		changed := a.changed
		a.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
		a.mu.Lock()
	}
}

// close seals what is there and ends the goroutine. What could not be written is an error.
func (a *appender) close() error {
	a.mu.Lock()
	a.closing = true
	a.notify()
	err := a.askToSeal(context.Background(), ReasonForced)
	a.mu.Lock()
	a.closed = true
	lost := a.appended - a.durable
	a.notify()
	a.mu.Unlock()
	a.signal()
	<-a.ended
	if lost > 0 {
		return errors.Join(err, fmt.Errorf("dlq: %d items that were not durable are lost", lost))
	}
	return err
}

// run is the goroutine. It commits when blocks are full or somebody waits, and tries again for a while after a failure.
func (a *appender) run() {
	defer close(a.ended)
	const retryEvery = time.Second
	retry := time.NewTicker(retryEvery)
	defer retry.Stop()
	for {
		a.mu.Lock()
		failed, closed := a.failure != nil, a.closed
		a.mu.Unlock()
		if closed {
			a.giveUp()
			return
		}
		again := retry.C
		if !failed {
			again = nil
		}
		select {
		case <-a.wake:
		case <-again:
		}
		a.commit()
	}
}

// giveUp leaves the open dump to the next OpenDisk, which salvages it.
func (a *appender) giveUp() {
	if a.dump != nil {
		_ = a.dump.file.Close() // what is durable is so
		a.dump = nil
	}
}

// commit writes what waits, makes it durable where that is wanted, and seals where that is.
func (a *appender) commit() {
	a.mu.Lock()
	asked, reason := a.asked, a.reason
	sealing := asked > a.sealed
	if sealing || a.wanted > a.durable {
		a.closeBlock()
	}
	blocks := a.blocks
	a.blocks = nil
	wanted := a.wanted
	a.mu.Unlock()

	written, err := a.write(blocks)
	if err != nil && a.dump != nil && !errors.Is(err, errNotDurable) { // what the disk had room for is kept
		if err := a.makeDurable(); err != nil {
			a.disk.o.Logger.Debug("nothing of this attempt is durable", "error", err)
		}
	}
	if err == nil && (sealing || a.needsSync(wanted)) {
		err = a.makeDurable()
	}
	if err == nil && sealing {
		err = a.finish(reason)
	}
	if err != nil {
		a.abandon(blocks[written:], err)
		return
	}
	a.mu.Lock()
	a.failure = nil
	a.sealed = max(a.sealed, asked)
	a.notify()
	a.mu.Unlock()
}

func (a *appender) needsSync(wanted Position) bool {
	bytes := 0
	for _, b := range a.unsynced {
		bytes += len(b.bytes)
	}
	return len(a.unsynced) > 0 && (bytes >= a.disk.o.SyncSize || wanted > a.unsynced[0].last-Position(a.unsynced[0].items))
}

// write appends blocks to the dump, which it begins if there is none.
func (a *appender) write(blocks []*openBlock) (written int, err error) {
	for i, b := range blocks {
		if a.dump == nil {
			if err := a.begin(); err != nil {
				return i, err
			}
		}
		stored := a.stored(b)
		err := a.disk.reserve(int64(len(stored)))
		if errors.Is(err, ErrFull) && a.disk.o.OnFull == DropOldest && a.dump.items > 0 {
			// This dump is all that there is: what is in it must give way to what comes.
			err = a.makeDurable()
			if err == nil {
				err = a.finish(ReasonSize)
			}
			if err == nil {
				err = a.begin()
			}
			if err != nil {
				return i, err
			}
			stored = a.stored(b)
			err = a.disk.reserve(int64(len(stored)))
		}
		if err != nil {
			return i, err
		}
		if _, err := a.dump.file.Write(stored); err != nil {
			a.disk.release(int64(len(stored)))
			return i, fmt.Errorf("writing dump %d: %w", a.dump.sequence, err)
		}
		a.dump.length += int64(len(stored))
		a.dump.items += uint64(b.items)
		a.dump.size += b.size
		a.unsynced = append(a.unsynced, b)
		a.writeBack()
		if a.needsSync(0) { // so that a disk which has room for some of them keeps those
			if err := a.makeDurable(); err != nil {
				return i + 1, err
			}
		}
	}
	return len(blocks), nil
}

// writeBack has the disk begin with the first half of what fills SyncSize while the second is written, so that there is less
// to wait for.
func (a *appender) writeBack() {
	const page = 4 << 10 // one that is not full would be written twice
	d := a.dump
	if n := d.length/page*page - d.begun; n >= int64(a.disk.o.SyncSize)/2 {
		d.file.WriteBack(d.begun, n)
		d.begun += n
	}
}

// stored returns the bytes of a block as they are written.
func (a *appender) stored(b *openBlock) []byte {
	raw := len(b.bytes) - blockHeader
	h := block{
		raw: uint32(raw), stored: uint32(raw), items: b.items, //nolint:gosec // bounded by maxRaw
		sequence: a.dump.sequence, first: a.dump.items,
	}
	bytes := b.bytes
	if a.encoder != nil {
		compressed := a.encoder.EncodeAll(b.bytes[blockHeader:], make([]byte, blockHeader, len(b.bytes)))
		if len(compressed) < len(bytes) {
			bytes, h.codec, h.stored = compressed, codecZstd, uint32(len(compressed)-blockHeader) //nolint:gosec // less than raw
		}
	}
	putBlock(bytes, h, a.dump.length)
	return bytes
}

// take returns a sequence number that nothing else has.
func (a *appender) take() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.next++
	return a.next - 1
}

// begin makes the file of a new dump. Its name is durable before anything in it is, or recovery would not find it.
func (a *appender) begin() error {
	d := &openDump{sequence: a.take(), created: time.Now()}
	name := fileName(d.sequence, openSuffix)
	f, err := a.disk.fs.Create(name)
	if err != nil {
		return fmt.Errorf("making dump %d: %w", d.sequence, err)
	}
	h := encodeHeader(a.disk.header(d))
	h = append(h, h...)
	if err = a.disk.reserve(int64(len(h))); err == nil {
		if _, err = f.Write(h); err == nil {
			err = a.disk.fs.SyncDir(".")
		}
		if err != nil {
			a.disk.release(int64(len(h)))
		}
	}
	if err != nil {
		return errors.Join(fmt.Errorf("making dump %d: %w", d.sequence, err), f.Close(), a.disk.fs.Remove(name))
	}
	d.file, d.length = f, int64(len(h))
	d.durable.length = uint64(d.length) //nolint:gosec // a length
	a.dump = d
	return nil
}

func (d *Disk) header(o *openDump) header {
	return header{sequence: o.sequence, created: o.created, version: d.o.Version}
}

var errNotDurable = errors.New("fdatasync failed")

func (a *appender) makeDurable() error {
	if a.dump == nil || len(a.unsynced) == 0 {
		return nil
	}
	if err := a.dump.file.Sync(); err != nil {
		return fmt.Errorf("%w: dump %d: %w", errNotDurable, a.dump.sequence, err)
	}
	a.dump.durable = footer{items: a.dump.items, bytes: a.dump.size, length: uint64(a.dump.length)} //nolint:gosec // a length
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, b := range a.unsynced {
		a.waiting -= len(b.bytes) - blockHeader
		a.durable = b.last
		b.tell(nil)
		if cap(b.bytes) <= 2*a.disk.o.BlockSize {
			a.pool = append(a.pool, b.bytes)
		}
	}
	a.unsynced = a.unsynced[:0]
	if !a.loggedFailure.IsZero() {
		a.disk.o.Logger.Info("dead letters are written again", "after", time.Since(a.loggedFailure).Round(time.Millisecond))
		a.loggedFailure = time.Time{}
	}
	a.notify()
	return nil
}

// finish seals the dump: footer, rename, and both durable.
func (a *appender) finish(reason Reason) error {
	d := a.dump
	if d == nil {
		return nil
	}
	foot := d.durable
	foot.reason = reason
	b := appendTail(nil, a.disk.header(d), foot)
	if _, err := d.file.Write(b); err != nil {
		return fmt.Errorf("sealing dump %d: %w", d.sequence, err)
	}
	if err := d.file.Sync(); err != nil {
		return fmt.Errorf("sealing dump %d: %w", d.sequence, err)
	}
	a.dump = nil
	err := errors.Join(d.file.Close(), a.disk.publishFile(d.sequence, openSuffix))
	if err != nil {
		a.disk.release(d.length) // which the salvage counts again
		a.disk.salvageLater(d.sequence)
		return fmt.Errorf("sealing dump %d: %w", d.sequence, err)
	}
	size := d.length + int64(len(b))
	a.disk.release(-int64(len(b))) // the footer, which no quota keeps out
	a.disk.publish(Info{
		Sequence: d.sequence, Version: a.disk.o.Version, Reason: reason, Created: d.created,
		Items: foot.items, Bytes: foot.bytes, Size: size,
	})
	a.disk.o.Metrics.Sealed(reason, foot.items, foot.bytes)
	return nil
}

// abandon gives the file up after an error, keeps what is not durable for another one, and tells those who wait.
func (a *appender) abandon(left []*openBlock, cause error) {
	if d := a.dump; d != nil {
		a.dump = nil
		a.disk.release(d.length - int64(d.durable.length)) //nolint:gosec // a length
		_ = d.file.Close()                                 // of it nothing is known any more
		a.disk.trim(d)
	}
	a.disk.o.Metrics.Failed(cause)
	a.mu.Lock()
	defer a.mu.Unlock()
	if errors.Is(cause, syscall.ENOSPC) {
		cause = fmt.Errorf("%w: %w", ErrFull, cause)
	}
	if a.loggedFailure.IsZero() {
		a.loggedFailure = time.Now()
		a.disk.o.Logger.Error("cannot write dead letters; trying again until it works", "error", cause)
	}
	blocks := a.withdraw(append(a.unsynced, left...), cause)
	a.unsynced = nil
	a.blocks = append(blocks, a.blocks...)
	a.failure = cause
	a.failures++
	a.notify()
}

// withdraw takes those blocks out that somebody waits for, and tells who does. Nothing waits for their positions any more.
func (a *appender) withdraw(blocks []*openBlock, cause error) (kept []*openBlock) {
	for _, b := range blocks {
		if len(b.waiters) == 0 {
			kept = append(kept, b)
			continue
		}
		b.tell(fmt.Errorf("dlq: %w", cause))
		a.waiting -= len(b.bytes) - blockHeader
		if len(kept) > 0 {
			kept[len(kept)-1].last = b.last
		} else {
			a.durable = b.last
		}
	}
	return kept
}

func (b *openBlock) tell(err error) {
	for _, waiter := range b.waiters {
		waiter <- err
	}
	b.waiters = nil
}

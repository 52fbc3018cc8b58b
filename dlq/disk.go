package dlq

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"
)

// Names in the directory. The state of a dump is in its name, so that ls shows it:
//
//	00000000000000000042.open     being written; salvaged by the next OpenDisk if its process died
//	00000000000000000042.dump     sealed, to be restored
//	00000000000000000042.progress how much of it was delivered
//	quarantine/…                  set aside: dumps with the reason in a .reason file beside them
//	lock                          held while a Disk is open
const (
	openSuffix     = ".open"
	dumpSuffix     = ".dump"
	progressSuffix = ".progress"
	reasonSuffix   = ".reason"
	partSuffix     = ".part" // being written by a salvage; worth nothing yet
	quarantineDir  = "quarantine"
	lockName       = "lock"
)

func fileName(sequence uint64, suffix string) string { return fmt.Sprintf("%020d%s", sequence, suffix) }

// parseName returns the sequence number and the suffix of a name that is ours.
func parseName(name string) (sequence uint64, suffix string, ok bool) {
	number, _, _ := strings.Cut(name, ".")
	if len(number) != 20 {
		return 0, "", false
	}
	sequence, err := strconv.ParseUint(number, 10, 64)
	return sequence, name[len(number):], err == nil
}

var (
	// ErrLocked says that another process, or another Disk of this one, has the directory open.
	ErrLocked = errors.New("the directory is in use")
	// ErrFull says that an item is not durable, or not taken, since MaxSize, MinFree or the disk does not allow it.
	ErrFull = errors.New("no room")
	// ErrClosed says that the call came after Close.
	ErrClosed = errors.New("closed")
	// ErrTooLarge says that an item is larger than MaxItemSize, or than MaxSize allows.
	ErrTooLarge = errors.New("the item is too large")
)

// OnFull says what happens when the quota is used up.
type OnFull string

const (
	// Reject refuses new items with ErrFull. It is the default.
	Reject OnFull = "reject"
	// DropOldest removes the oldest sealed dumps, and counts what was in them as dropped.
	DropOldest OnFull = "drop_oldest"
)

// DiskOptions are the settings of a Disk. The zero value is usable.
type DiskOptions struct {
	// Version is written into each dump; see RestorerOptions.Version. At most 255 bytes.
	Version string
	// MaxSize bounds all dumps together, in bytes on disk, those in quarantine excepted; 0 is no bound. An item that cannot
	// fit is refused with ErrTooLarge.
	MaxSize int64
	// MaxAge is how old a dump may become before it is removed and counted as dropped; 0 is no bound. It is looked at
	// whenever Dumps is called, which a Restorer does at each check.
	MaxAge time.Duration
	// MinFree is how many bytes must stay free on the file system; 0 is no bound.
	MinFree int64
	// OnFull is what happens when MaxSize or MinFree is reached.
	OnFull OnFull
	// Compress stores blocks with zstd where that makes them smaller.
	Compress bool
	// Dropping is told of each item that MaxAge or DropOldest deletes, before it does, as far as it can be read; nil for
	// nobody. It must not call the Disk.
	Dropping func(item []byte)
	// BlockSize is how many bytes of items are written at a time, from 4 KiB to 1 MiB; 0 means 128 KiB. Damage costs a
	// block at most.
	BlockSize int
	// SyncSize is how many bytes may be written before they are made durable, wanted or not; 0 means 1 MiB.
	SyncSize int
	// Metrics and Logger may be nil.
	Metrics Metrics
	Logger  *slog.Logger
}

func (o *DiskOptions) setDefaults() error {
	if len(o.Version) > maxVersion {
		return fmt.Errorf("dlq: Version has %d bytes; it must have %d at most", len(o.Version), maxVersion)
	}
	if o.BlockSize == 0 {
		o.BlockSize = 128 << 10
	}
	if o.SyncSize == 0 {
		o.SyncSize = 1 << 20
	}
	if o.OnFull == "" {
		o.OnFull = Reject
	}
	switch {
	case o.BlockSize < 4<<10 || o.BlockSize > 1<<20:
		return fmt.Errorf("dlq: BlockSize is %d; it must be from 4 KiB to 1 MiB", o.BlockSize)
	case o.SyncSize < o.BlockSize:
		return fmt.Errorf("dlq: SyncSize is %d; it must not be less than BlockSize, %d", o.SyncSize, o.BlockSize)
	case o.OnFull != Reject && o.OnFull != DropOldest:
		return fmt.Errorf("dlq: OnFull is %q; it must be %q or %q", o.OnFull, Reject, DropOldest)
	case o.MaxSize < 0 || o.MaxAge < 0 || o.MinFree < 0:
		return errors.New("dlq: MaxSize, MaxAge and MinFree must not be negative")
	}
	if o.Metrics == nil {
		o.Metrics = noMetrics{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Disk keeps dumps in a directory. It is both a Writer and a Store, and its methods may be called concurrently.
//
// One Disk has a directory at a time, which a lock ensures. Nothing of a dump is deleted but by Remove, MaxAge and
// DropOldest; what cannot be read is set aside in quarantine/.
type Disk struct {
	dir string
	fs  fileSystem
	o   DiskOptions

	appender *appender
	unlock   func() error // nil in tests with a file system of their own

	mu     sync.Mutex
	dumps  []Info // sealed, oldest first
	items  uint64 // in dumps
	bytes  uint64 // of those
	size   int64  // of all dumps, the open one included
	leased map[uint64]bool
	seen   map[uint64]uint64 // how many items a reader has found in a dump
	unread map[uint64]bool   // dumps that could not be opened, which was logged
	closed bool

	closing sync.Once
	noting  sync.RWMutex // held while progress is written, and while Close ends that

	unsalvaged []uint64 // dumps that were not sealed and could not be salvaged when the directory was opened
}

// Info is what is known of a dump without reading its items.
type Info struct {
	Sequence uint64
	Version  string
	Reason   Reason
	Created  time.Time
	Items    uint64
	Bytes    uint64 // of items
	Size     int64  // of the file
	// Damaged says that header and footer could not both be read, or do not fit together; the items may still be there.
	Damaged bool

	unread bool // opening it failed; it may work another time
}

// OpenDisk takes the directory, which is made if it is not there, and salvages what a process left that died.
func OpenDisk(dir string, o DiskOptions) (*Disk, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	if err := makeDir(dir); err != nil {
		return nil, fmt.Errorf("dlq: %w", err)
	}
	unlock, err := Lock(dir)
	if err != nil {
		return nil, err
	}
	d, err := openDisk(dir, osFS{dir}, o)
	if err != nil {
		return nil, errors.Join(err, unlock())
	}
	d.unlock = unlock
	return d, nil
}

// Lock takes a directory as OpenDisk does, but looks at nothing in it: for moving and removing files while no Disk has it,
// also when OpenDisk could not salvage since the disk is full. The error wraps ErrLocked when the directory is in use.
func Lock(dir string) (unlock func() error, err error) {
	lock := flock.New(filepath.Join(dir, lockName), flock.SetPermissions(fileMode))
	held, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("dlq: locking %s: %w", dir, err)
	}
	if !held {
		return nil, fmt.Errorf("dlq: %s: %w by another process", dir, ErrLocked)
	}
	return lock.Unlock, nil
}

// makeDir makes a directory and what is missing above it, each with a durable name.
func makeDir(dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := makeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, dirMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(parent)
}

func openDisk(dir string, fsys fileSystem, o DiskOptions) (*Disk, error) {
	d := &Disk{dir: dir, fs: fsys, o: o, leased: make(map[uint64]bool), seen: make(map[uint64]uint64), unread: make(map[uint64]bool)}
	if err := fsys.Mkdir(quarantineDir); err != nil {
		return nil, fmt.Errorf("dlq: %w", err)
	}
	next, err := d.recover()
	if err != nil {
		return nil, fmt.Errorf("dlq: opening %s: %w", dir, err)
	}
	d.appender = newAppender(d, next)
	d.recount()
	d.report()
	return d, nil
}

// Close makes durable what was appended, seals the open dump, and gives the directory back. It may be called again.
func (d *Disk) Close() (err error) {
	d.closing.Do(func() {
		d.noting.Lock()
		d.mu.Lock()
		d.closed = true
		d.mu.Unlock()
		d.noting.Unlock()
		err = d.appender.close()
		if d.unlock != nil {
			err = errors.Join(err, d.unlock())
		}
	})
	return err
}

// Append takes an item, which is copied, into the open dump. It waits only for room in the write buffer. The position is
// for Sync.
func (d *Disk) Append(ctx context.Context, item []byte) (Position, error) {
	return d.appender.append(ctx, item)
}

// AppendDurable takes an item, which is copied, and returns when it is durable. Callers that come at the same time share one
// fdatasync. With an error the item is not taken: nothing keeps it, and it comes to light only if the disk cannot even be
// told to forget it. When the context ends first nobody knows.
func (d *Disk) AppendDurable(ctx context.Context, item []byte) error {
	return d.appender.appendDurable(ctx, item)
}

// Sync returns when all up to the position is durable; 0 means all that was appended so far. No dump is sealed for it.
func (d *Disk) Sync(ctx context.Context, p Position) error { return d.appender.sync(ctx, p) }

// Seal closes the open dump, if there is one with items, so that it can be restored.
func (d *Disk) Seal(ctx context.Context, reason Reason) error { return d.appender.seal(ctx, reason) }

// Dumps returns the sealed dumps, oldest first.
func (d *Disk) Dumps() ([]Info, error) {
	d.expire()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, fmt.Errorf("dlq: %w", ErrClosed)
	}
	d.salvageAgain()
	for i, info := range d.dumps {
		if info.unread {
			d.dumps[i] = d.inspect(info.Sequence, fileInfo{size: info.Size, changed: info.Created})
			d.recount()
		}
	}
	return slices.DeleteFunc(slices.Clone(d.dumps), func(i Info) bool { return i.unread }), nil
}

// salvageLater leaves a dump that is whole, but could not be published, to salvageAgain.
func (d *Disk) salvageLater(sequence uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unsalvaged = append(d.unsalvaged, sequence)
}

// salvageAgain tries those that could not be salvaged: the disk may have been full.
func (d *Disk) salvageAgain() {
	left := d.unsalvaged[:0]
	for _, sequence := range d.unsalvaged {
		if err := d.salvage(sequence); err != nil {
			left = append(left, sequence)
		}
	}
	if len(left) < len(d.unsalvaged) {
		slices.SortFunc(d.dumps, func(a, b Info) int { return cmp.Compare(a.Sequence, b.Sequence) })
		d.recount()
	}
	d.unsalvaged = left
}

// publish adds a dump that was sealed.
func (d *Disk) publish(i Info) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at, _ := d.find(i.Sequence)
	d.dumps = slices.Insert(d.dumps, at, i)
	d.items += i.Items
	d.bytes += i.Bytes
	d.report()
}

// find returns where a dump is in the list, or belongs.
func (d *Disk) find(sequence uint64) (at int, ok bool) {
	return slices.BinarySearchFunc(d.dumps, sequence, func(i Info, s uint64) int { return cmp.Compare(i.Sequence, s) })
}

// recount adds up what the dumps hold.
func (d *Disk) recount() {
	d.items, d.bytes = 0, 0
	for _, i := range d.dumps {
		d.items += i.Items
		d.bytes += i.Bytes
	}
}

// report tells the metrics how much is stored.
func (d *Disk) report() {
	var oldest time.Time
	if len(d.dumps) > 0 {
		oldest = d.dumps[0].Created
	}
	d.o.Metrics.Stored(len(d.dumps), d.items, d.bytes, d.size, oldest)
}

// reserve makes room for so many bytes, or says why there is none. They count as used from then on.
func (d *Disk) reserve(bytes int64) error {
	for {
		reason, lack, err := d.tryReserve(bytes)
		if err == nil || d.o.OnFull != DropOldest || d.droppable() < lack || !d.dropOldest(reason) {
			return err
		}
	}
}

// droppable is how many bytes dropping all that nobody reads would free.
func (d *Disk) droppable() (size int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, i := range d.dumps {
		if !d.leased[i.Sequence] {
			size += i.Size
		}
	}
	return size
}

// tryReserve says how many bytes are lacking, when some are.
func (d *Disk) tryReserve(bytes int64) (reason string, lack int64, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.o.MaxSize > 0 && d.size+bytes > d.o.MaxSize {
		return "max_size", d.size + bytes - d.o.MaxSize, fmt.Errorf("%w: %d of MaxSize = %d bytes are used", ErrFull, d.size, d.o.MaxSize)
	}
	if d.o.MinFree > 0 {
		free, err := d.fs.Free()
		if err != nil {
			return "", 0, fmt.Errorf("asking for free space: %w", err)
		}
		if free-bytes < d.o.MinFree {
			return "min_free", d.o.MinFree - (free - bytes), fmt.Errorf("%w: %d bytes are free, and MinFree = %d must stay so", ErrFull, free, d.o.MinFree)
		}
	}
	d.size += bytes
	return "", 0, nil
}

// Room is how many bytes can still be written: what MaxSize leaves, or what the file system has if that is less.
func (d *Disk) Room() (int64, error) {
	free, err := d.fs.Free()
	if err != nil {
		return 0, fmt.Errorf("dlq: asking for free space: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	room := free - d.o.MinFree
	if d.o.MaxSize > 0 {
		room = min(room, d.o.MaxSize-d.size)
	}
	return max(room, 0), nil
}

// release gives bytes back that were reserved and are not, or no longer, used.
func (d *Disk) release(bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.size -= bytes
}

// dropOldest removes the oldest dump that nobody reads, and reports whether there was one.
func (d *Disk) dropOldest(reason string) bool {
	oldest, ok := d.claim(func(Info) bool { return true })
	return ok && d.drop(oldest, reason) == nil
}

// expire drops what is older than MaxAge.
func (d *Disk) expire() {
	for d.o.MaxAge > 0 {
		old, ok := d.claim(func(i Info) bool { return time.Since(i.Created) > d.o.MaxAge })
		if !ok || d.drop(old, "max_age") != nil {
			return
		}
	}
}

// claim takes the oldest such dump that nobody else has, so that nobody reads or drops it meanwhile.
func (d *Disk) claim(which func(Info) bool) (Info, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, i := range d.dumps {
		if !d.closed && !d.leased[i.Sequence] && which(i) {
			d.leased[i.Sequence] = true
			return i, true
		}
	}
	return Info{}, false
}

// drop removes a dump that was not restored, and counts what it held.
func (d *Disk) drop(i Info, reason string) error {
	progress, _ := d.progress(i.Sequence) // without it all items count
	left := i.Items - min(i.Items, progress.delivered)
	d.tellDropping(i)
	if err := d.remove(i.Sequence); err != nil {
		d.unlease(i.Sequence)
		d.o.Logger.Error("cannot drop a dump", "sequence", i.Sequence, "reason", reason, "error", err)
		return err
	}
	d.o.Metrics.Dropped(reason, left, i.Bytes)
	d.o.Logger.Error("dropped a dump that was not restored", "sequence", i.Sequence, "reason", reason, "items", left)
	return nil
}

func (d *Disk) tellDropping(i Info) {
	if d.o.Dropping == nil {
		return
	}
	r, err := d.openDump(i)
	if err != nil {
		d.o.Logger.Error("dropping a dump that cannot be read", "sequence", i.Sequence, "error", err)
		return
	}
	for {
		items, err := r.Next()
		if err != nil {
			break
		}
		for item, _, ok := items.Cut(); ok; item, _, ok = items.Cut() {
			d.o.Dropping(item)
		}
	}
	_ = r.scanner.file.Close() // it was read only
}

// Remove deletes a dump, all of which was delivered.
func (d *Disk) Remove(sequence uint64) error {
	if err := d.checkOpen(); err != nil {
		return err
	}
	return d.remove(sequence)
}

func (d *Disk) remove(sequence uint64) error {
	if err := d.fs.Remove(fileName(sequence, dumpSuffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("dlq: removing dump %d: %w", sequence, err)
	}
	d.forget(sequence)
	if err := d.fs.SyncDir("."); err != nil { // first, so that no crash brings back the dump without its progress
		return err
	}
	_ = d.fs.Remove(fileName(sequence, progressSuffix)) // without its dump it says nothing; recovery removes it, too
	return nil
}

func (d *Disk) checkOpen() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fmt.Errorf("dlq: %w", ErrClosed)
	}
	return nil
}

// forget takes a dump out of the list.
func (d *Disk) forget(sequence uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if at, ok := d.find(sequence); ok {
		d.size -= d.dumps[at].Size
		d.items -= d.dumps[at].Items
		d.bytes -= d.dumps[at].Bytes
		if at == 0 {
			d.dumps = d.dumps[1:] // most are removed there, and there may be many behind it
		} else {
			d.dumps = slices.Delete(d.dumps, at, at+1)
		}
	}
	delete(d.leased, sequence)
	delete(d.seen, sequence)
	d.report()
}

// Quarantine sets a dump aside, with the reason beside it.
func (d *Disk) Quarantine(sequence uint64, reason string) error {
	if err := d.checkOpen(); err != nil {
		return err
	}
	var info Info
	d.mu.Lock()
	if at, ok := d.find(sequence); ok {
		info = d.dumps[at]
	}
	left := info.Items - min(info.Items, d.seen[sequence]) // a reader's caller settles what it found before it gives a dump up
	d.mu.Unlock()
	if err := d.setAside(fileName(sequence, dumpSuffix), reason); err != nil {
		return err
	}
	_ = d.fs.Remove(fileName(sequence, progressSuffix)) // what is brought back from quarantine begins anew
	d.forget(sequence)
	d.o.Metrics.Quarantined("dump", left, info.Bytes)
	return nil
}

// QuarantineItems sets items of a dump aside, durably, as a dump of their own in quarantine.
func (d *Disk) QuarantineItems(info Info, reason string, items [][]byte) error {
	if err := d.checkOpen(); err != nil {
		return err
	}
	sequence := d.appender.take()
	head := header{sequence: sequence, created: time.Now(), version: info.Version}
	h := encodeHeader(head)
	content := append(h, h...)
	foot := footer{reason: info.Reason}
	for _, item := range items {
		start := len(content)
		content = append(content, make([]byte, blockHeader)...)
		content = append(binary.AppendUvarint(content, uint64(len(item))), item...)
		raw := uint32(len(content) - start - blockHeader) //nolint:gosec // bounded by maxRaw
		putBlock(content[start:], block{stored: raw, raw: raw, items: 1, sequence: sequence, first: foot.items}, int64(start))
		foot.items++
		foot.bytes += uint64(len(item))
	}
	foot.length = uint64(len(content))
	content = appendTail(content, head, foot)
	name := path.Join(quarantineDir, fileName(sequence, dumpSuffix))
	text := fmt.Sprintf("%s (from dump %d)", reason, info.Sequence)
	err := d.writeWhole(name+reasonSuffix, []byte(text+"\n"))
	if err == nil {
		err = d.writeWhole(name, content)
	}
	if err == nil {
		err = d.fs.SyncDir(quarantineDir)
	}
	if err != nil {
		return fmt.Errorf("dlq: setting items of dump %d aside: %w", info.Sequence, err)
	}
	d.o.Logger.Error("set items aside", "file", name, "reason", text, "items", foot.items)
	d.o.Metrics.Quarantined("item", foot.items, foot.bytes)
	return nil
}

// setAside moves a file to quarantine. The reason is there before the file is, so that none is without.
func (d *Disk) setAside(name, reason string) error {
	there, err := d.fs.List(quarantineDir)
	if err != nil {
		return fmt.Errorf("dlq: setting %s aside: %w", name, err)
	}
	target := path.Join(quarantineDir, name)
	isThere := func(f fileInfo) bool { return path.Join(quarantineDir, f.name) == target }
	for n := 2; slices.ContainsFunc(there, isThere); n++ {
		target = path.Join(quarantineDir, fmt.Sprintf("%s.%d", name, n))
	}
	if err := d.writeWhole(target+reasonSuffix, []byte(reason+"\n")); err != nil {
		return fmt.Errorf("dlq: setting %s aside: %w", name, err)
	}
	if err := d.fs.Rename(name, target); err != nil {
		return fmt.Errorf("dlq: setting %s aside: %w", name, err)
	}
	d.o.Logger.Error("set a file aside", "file", target, "reason", reason)
	if err := d.fs.SyncDir(quarantineDir); err != nil {
		return err
	}
	return d.fs.SyncDir(".")
}

// writeWhole makes a file with this content, durably but for its name.
func (d *Disk) writeWhole(name string, content []byte) error {
	f, err := d.fs.Open(name, true)
	if err != nil {
		return err
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt(content, 0)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// Open opens a dump to be read from the item that its progress says. It cannot be dropped until the reader is closed.
func (d *Disk) Open(sequence uint64) (Reader, error) {
	if err := d.checkOpen(); err != nil {
		return nil, err
	}
	d.mu.Lock()
	at, ok := d.find(sequence)
	if !ok || d.leased[sequence] || d.closed {
		d.mu.Unlock()
		return nil, fmt.Errorf("dlq: dump %d: %w", sequence, fs.ErrNotExist)
	}
	info := d.dumps[at]
	d.leased[sequence] = true
	d.mu.Unlock()
	r, err := d.openDump(info)
	if err != nil {
		d.unlease(sequence)
		return nil, err
	}
	return r, nil
}

func (d *Disk) unlease(sequence uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.leased, sequence)
}

func (d *Disk) openDump(info Info) (*diskReader, error) {
	f, err := d.fs.Open(fileName(info.Sequence, dumpSuffix), false)
	if err != nil {
		return nil, fmt.Errorf("dlq: dump %d: %w", info.Sequence, err)
	}
	begin, end, err := bounds(f, info.Sequence)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	progress, err := d.progress(info.Sequence)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("dlq: progress of dump %d: %w", info.Sequence, err), f.Close())
	}
	return &diskReader{
		disk: d, info: info, progress: progress, skip: progress.delivered,
		scanner: scanner{file: f, sequence: info.Sequence, at: begin, end: end},
	}, nil
}

// diskReader reads a dump on disk.
type diskReader struct {
	disk     *Disk
	info     Info
	scanner  scanner
	progress checkpoint
	named    bool   // the name of the progress file is durable
	skip     uint64 // items that were delivered in an earlier life
	seen     uint64
}

// Next returns the next block of items that were not delivered, or io.EOF.
func (r *diskReader) Next() (items Items, err error) {
	for {
		h, raw, err := r.scanner.next()
		if err != nil {
			return Items{}, err
		}
		r.seen += uint64(h.items)
		r.disk.noteSeen(r.info.Sequence, r.seen)
		last := h.first + uint64(h.items)
		if last <= r.skip {
			continue
		}
		items := Items{raw: raw, first: h.first, left: h.items}
		for items.first < r.skip {
			items.Cut()
		}
		return items, nil
	}
}

func (d *Disk) noteSeen(sequence, items uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seen[sequence] = items
}

// Damage says what could not be read, once Next returned io.EOF.
func (r *diskReader) Damage() error {
	switch {
	case r.scanner.damaged != nil:
		return r.scanner.damaged
	case r.info.Damaged:
		return fmt.Errorf("%w: header or footer", errDamaged)
	case r.seen != r.info.Items:
		return fmt.Errorf("%w: %d of %d items are there", errDamaged, r.seen, r.info.Items)
	}
	return nil
}

// Progress notes that all items below so many were delivered.
func (r *diskReader) Progress(delivered uint64) error {
	r.disk.noting.RLock()
	defer r.disk.noting.RUnlock()
	if err := r.disk.checkOpen(); err != nil {
		return err // another Disk may have the directory
	}
	r.progress = checkpoint{turn: r.progress.turn + 1, delivered: delivered}
	if err := r.disk.writeProgress(r.info.Sequence, r.progress); err != nil {
		return err
	}
	if !r.named { // the file may be new
		if err := r.disk.fs.SyncDir("."); err != nil {
			return fmt.Errorf("dlq: progress of dump %d: %w", r.info.Sequence, err)
		}
		r.named = true
	}
	return nil
}

// Close lets the dump be dropped again.
func (r *diskReader) Close() error {
	r.disk.unlease(r.info.Sequence)
	return r.scanner.file.Close()
}

// progress reads how much of a dump was delivered, which is nothing when nothing says so.
func (d *Disk) progress(sequence uint64) (checkpoint, error) {
	f, err := d.fs.Open(fileName(sequence, progressSuffix), false)
	if errors.Is(err, fs.ErrNotExist) {
		return checkpoint{}, nil
	}
	if err != nil {
		return checkpoint{}, err
	}
	b := make([]byte, 2*checkpointSlot)
	n, err := f.ReadAt(b, 0)
	_ = f.Close()                              // it was read only
	if err != nil && !errors.Is(err, io.EOF) { // a short one has what it has
		return checkpoint{}, err
	}
	return parseCheckpoint(b[:n], sequence), nil
}

func (d *Disk) writeProgress(sequence uint64, c checkpoint) error {
	f, err := d.fs.Open(fileName(sequence, progressSuffix), true)
	if err != nil {
		return fmt.Errorf("dlq: progress of dump %d: %w", sequence, err)
	}
	slot := appendCheckpoint(nil, sequence, c)
	_, err = f.WriteAt(slot, int64(c.turn%2)*checkpointSlot)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("dlq: progress of dump %d: %w", sequence, err)
	}
	return nil
}

// bounds finds where the blocks of a dump lie. A damaged header or footer makes the bounds wider, not the dump unreadable.
func bounds(f file, sequence uint64) (begin, end int64, err error) {
	size, err := f.Size()
	if err != nil {
		return 0, 0, err
	}
	h, begin, err := readHeader(f, size)
	switch {
	case errors.Is(err, errDamaged) || err == nil && h.sequence != sequence:
		begin = 0
	case err != nil:
		return 0, 0, err
	}
	foot, err := readFooter(f, size)
	switch {
	case errors.Is(err, errDamaged):
		return begin, size, nil
	case err != nil:
		return 0, 0, err
	}
	end = int64(foot.length) //nolint:gosec // compared with the file's size
	if _, n, err := readTail(f, end); err == nil {
		end -= int64(n)
	}
	return begin, end, nil
}

// readTail returns the header in front of the footer, which begins at end, and its length.
func readTail(f file, end int64) (h header, n int, err error) {
	const most = headerFixed + maxVersion + 4
	b := make([]byte, min(end, most))
	if _, err := f.ReadAt(b, end-int64(len(b))); err != nil && !errors.Is(err, io.EOF) {
		return h, 0, err
	}
	h, begin, ok := findTail(b)
	if !ok {
		return h, 0, fmt.Errorf("%w: no header before the footer", errDamaged)
	}
	return h, len(b) - begin, nil
}

// readHeader returns the header and where the blocks begin; 0 when both headers at the beginning are damaged.
func readHeader(f file, size int64) (header, int64, error) {
	b := make([]byte, min(size, maxHeaders))
	if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return header{}, 0, err
	}
	h, end, err := findHeader(b)
	if err == nil {
		return h, int64(end), nil
	}
	foot, ferr := readFooter(f, size)
	if ferr != nil {
		return h, 0, err
	}
	h, _, terr := readTail(f, int64(foot.length)) //nolint:gosec // compared with the file's size
	if terr != nil {
		return h, 0, err
	}
	return h, 0, nil
}

func readFooter(f file, size int64) (footer, error) {
	if size < footerSize {
		return footer{}, fmt.Errorf("%w: no footer", errDamaged)
	}
	b := make([]byte, footerSize)
	if _, err := f.ReadAt(b, size-footerSize); err != nil && !errors.Is(err, io.EOF) {
		return footer{}, err
	}
	return parseFooter(b, size)
}

package dlq

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// world is what the callers of a Disk know: what they gave, what they were told, and what came back.
type world struct {
	mu        sync.Mutex
	next      int
	offered   map[string]bool // given to Append
	taken     map[string]bool // Append returned nil
	durable   map[string]bool // Sync returned nil
	fresh     []string        // taken, and not synced yet
	delivered map[string]int
	refused   int // errors
	poison    func(item string) bool

	// What must not come again, for tests in which nothing but a crash goes wrong.
	current  []string        // delivered since a dump was opened
	settled  map[string]bool // delivered before a Progress or a Remove that returned nil; nil: nobody asks
	repeated []string        // settled, and delivered again
	twice    int             // how many items may be delivered twice; 0 is no bound
}

func newWorld() *world {
	return &world{
		offered: make(map[string]bool), taken: make(map[string]bool), durable: make(map[string]bool),
		delivered: make(map[string]int), poison: func(string) bool { return false },
	}
}

func (w *world) clone() *world {
	c := newWorld()
	c.next, c.poison = w.next, w.poison
	c.offered, c.taken, c.durable = maps.Clone(w.offered), maps.Clone(w.taken), maps.Clone(w.durable)
	c.delivered = maps.Clone(w.delivered)
	c.settled, c.repeated, c.twice = maps.Clone(w.settled), slices.Clone(w.repeated), w.twice
	return c
}

// item is a text that says which it is, so that one that nobody gave is known at once.
func item(n int) string {
	size := 20 + n*397%1400
	return fmt.Sprintf("item %06d ", n) + strings.Repeat(fmt.Sprintf("%x", n*7919), size/4)
}

func (w *world) put(ctx context.Context, d *Disk) bool {
	w.next++
	text := item(w.next)
	w.offered[text] = true
	if _, err := d.Append(ctx, []byte(text)); err != nil {
		w.refused++
		return false
	}
	w.taken[text] = true
	w.fresh = append(w.fresh, text)
	return true
}

func (w *world) sync(ctx context.Context, d *Disk) bool {
	if err := d.Sync(ctx, 0); err != nil {
		w.refused++
		return false
	}
	for _, text := range w.fresh {
		w.durable[text] = true
	}
	w.fresh = nil
	return true
}

func (w *world) target(_ context.Context, data []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.poison(string(data)) {
		return ErrPoison
	}
	w.delivered[string(data)]++
	w.current = append(w.current, string(data))
	if w.settled[string(data)] {
		w.repeated = append(w.repeated, string(data[:11]))
	}
	return nil
}

// store is a Disk that is taken at its word: what was delivered before a Progress or a Remove that returned nil must not
// come again, whatever happens then.
type store struct {
	*Disk
	w *world
}

func (s store) Open(sequence uint64) (Reader, error) {
	r, err := s.Disk.Open(sequence)
	if err != nil {
		return nil, err
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.w.current = nil
	return reader{r, s.w}, nil
}

func (s store) Remove(sequence uint64) error { return s.w.settles(s.Disk.Remove(sequence)) }

type reader struct {
	Reader
	w *world
}

func (r reader) Progress(delivered uint64) error { return r.w.settles(r.Reader.Progress(delivered)) }

func (w *world) settles(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil && w.settled != nil {
		for _, text := range w.current {
			w.settled[text] = true
		}
	}
	return err
}

// restore delivers all that is on a disk.
func (w *world) restore(m *memFS, o DiskOptions) error {
	d, err := openDisk("mem", m, o)
	if err != nil {
		return fmt.Errorf("opening: %w", err)
	}
	r, err := NewRestorer(store{d, w}, DecodeBytes, w.target, RestorerOptions[[]byte]{Version: o.Version, CheckInterval: time.Millisecond})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := r.Drain(ctx); err != nil {
		_ = d.Close()
		return fmt.Errorf("draining: %w", err)
	}
	if dumps, _ := d.Dumps(); len(dumps) > 0 {
		_ = d.Close()
		return fmt.Errorf("%d dumps are left", len(dumps))
	}
	if size := used(d); size != 0 {
		_ = d.Close()
		return fmt.Errorf("nothing is left, and %d bytes are accounted for", size)
	}
	return d.Close()
}

// itemsOf returns the items of all whole blocks of a file, from a place in it.
func itemsOf(data []byte, begin int64, sequence uint64) (items []string) {
	m := newMemFS()
	m.put("x", data)
	f, _ := m.Open("x", false)
	scan := scanner{file: f, sequence: sequence, at: begin, end: int64(len(data))}
	for {
		_, raw, err := scan.next()
		if err != nil {
			return items
		}
		for len(raw) > 0 {
			var data []byte
			data, raw, _ = cutItem(raw)
			items = append(items, string(data))
		}
	}
}

// setAside returns the items in quarantine.
func setAside(m *memFS) map[string]int {
	items := make(map[string]int)
	for name, data := range m.files() {
		dir, base := path.Split(name)
		if sequence, suffix, ok := parseName(base); ok && dir == quarantineDir+"/" && !strings.HasSuffix(suffix, reasonSuffix) {
			for _, text := range itemsOf(data, 0, sequence) {
				items[text]++
			}
		}
	}
	return items
}

// check restores what a crash left and returns what is wrong with it. Items in gone may be missing.
func (w *world) check(m *memFS, o DiskOptions, gone map[string]bool) (faults []string) {
	w = w.clone()
	if err := w.restore(m, o); err != nil {
		faults = append(faults, err.Error())
	}
	aside := setAside(m)
	var lost []string
	for text := range w.durable {
		if w.delivered[text] == 0 && aside[text] == 0 && !gone[text] {
			lost = append(lost, text[:11])
		}
	}
	if len(lost) > 0 {
		slices.Sort(lost)
		faults = append(faults, fmt.Sprintf("%d of %d durable items are lost: %s", len(lost), len(w.durable), lost[:min(len(lost), 5)]))
	}
	for text := range w.delivered {
		if !w.offered[text] {
			faults = append(faults, fmt.Sprintf("nobody gave %q", text[:min(len(text), 40)]))
		}
	}
	twice := 0
	for _, times := range w.delivered {
		if times > 1 {
			twice++
		}
	}
	if w.twice > 0 && twice > w.twice {
		faults = append(faults, fmt.Sprintf("%d items came twice", twice))
	}
	if len(w.repeated) > 0 {
		faults = append(faults, fmt.Sprintf("%d items came again after their progress was durable: %s",
			len(w.repeated), w.repeated[:min(len(w.repeated), 5)]))
	}
	return faults
}

// gone returns the items of the dumps that were deleted.
func (m *memFS) gone() map[string]bool {
	m.mu.Lock()
	removed := slices.Clone(m.removed)
	m.mu.Unlock()
	items := make(map[string]bool)
	for _, node := range removed {
		h, _, err := findHeader(node.data[:min(len(node.data), maxHeaders)])
		if err != nil {
			continue
		}
		for _, text := range itemsOf(node.data, 0, h.sequence) {
			items[text] = true
		}
	}
	return items
}

// scenario is work on a disk.
type scenario struct {
	name  string
	o     DiskOptions
	start func(t *testing.T) (*memFS, *world)
	work  func(ctx context.Context, w *world, d *Disk)
	drops bool // what it deletes may be missing
	twice int  // how many items a crash may have delivered twice; 0 is no bound
}

func smallBlocks(o DiskOptions) DiskOptions {
	o.BlockSize, o.SyncSize = 4<<10, 4<<10
	if err := o.setDefaults(); err != nil {
		panic(err)
	}
	return o
}

func emptyDisk(*testing.T) (*memFS, *world) { return newMemFS(), newWorld() }

func writing(ctx context.Context, w *world, d *Disk) {
	for i := range 30 {
		w.put(ctx, d)
		if i%4 == 3 {
			w.sync(ctx, d)
		}
		if i%11 == 10 {
			_ = d.Seal(ctx, ReasonForced) // an error is counted by what arrives
		}
	}
	w.sync(ctx, d)
	w.put(ctx, d)
}

// someDumps is a disk with dumps of two versions and poison, sealed and durable.
func someDumps(t *testing.T) (*memFS, *world) {
	t.Helper()
	m, w := newMemFS(), newWorld()
	w.poison = func(item string) bool {
		return strings.HasPrefix(item, "item 000005 ") || strings.HasPrefix(item, "item 000016 ")
	}
	for _, version := range []string{"1", "old", "1"} {
		d, err := openDisk("mem", m, smallBlocks(DiskOptions{Version: version}))
		require.NoError(t, err)
		for range 2 {
			for range 8 {
				require.True(t, w.put(t.Context(), d))
			}
			require.True(t, w.sync(t.Context(), d))
			require.NoError(t, d.Seal(t.Context(), ReasonSize))
		}
		require.NoError(t, d.Close())
	}
	return m.clone(), w
}

// restoring is cut short again and again, so that progress is noted.
func restoring(ctx context.Context, w *world, d *Disk) {
	for range 30 {
		part, cancel := context.WithCancel(ctx)
		left := 5
		target := func(ctx context.Context, data []byte) error {
			if left--; left == 0 {
				cancel()
			}
			return w.target(ctx, data)
		}
		r, err := NewRestorer(store{d, w}, DecodeBytes, target, RestorerOptions[[]byte]{Version: "1", CheckInterval: time.Microsecond})
		if err != nil {
			panic(err)
		}
		err = r.Drain(part)
		cancel()
		if err == nil {
			return
		}
	}
}

// longDumps is a disk with two dumps that take a slow target several times progressEvery.
func longDumps(t *testing.T) (*memFS, *world) {
	t.Helper()
	m, w := newMemFS(), newWorld()
	d, err := openDisk("mem", m, smallBlocks(DiskOptions{Version: "1"}))
	require.NoError(t, err)
	for range 2 {
		for range 24 {
			require.True(t, w.put(t.Context(), d))
		}
		require.True(t, w.sync(t.Context(), d))
		require.NoError(t, d.Seal(t.Context(), ReasonSize))
	}
	require.NoError(t, d.Close())
	return m.clone(), w
}

const slowly = 30 * time.Millisecond

// restoringSlowly notes progress every fourth item.
func restoringSlowly(ctx context.Context, w *world, d *Disk) {
	m, _ := d.fs.(*memFS)
	target := func(ctx context.Context, data []byte) error {
		pause(ctx, slowly)
		if m.died() {
			return errDead
		}
		return w.target(ctx, data)
	}
	r, err := NewRestorer(store{d, w}, DecodeBytes, target, RestorerOptions[[]byte]{Version: "1"})
	if err != nil {
		panic(err)
	}
	_ = r.Drain(ctx) // an error is counted by what arrives
}

func dropping(ctx context.Context, w *world, d *Disk) {
	for i := range 40 {
		w.put(ctx, d)
		if i%3 == 2 {
			w.sync(ctx, d)
		}
		if i%7 == 6 {
			_ = d.Seal(ctx, ReasonForced)
		}
	}
	w.sync(ctx, d)
}

// openDumps is what processes left that died: torn, damaged in the middle, sealed and not renamed, empty, garbage.
func openDumps(t *testing.T) (*memFS, *world) {
	t.Helper()
	m, w := newMemFS(), newWorld()
	m.dirs[quarantineDir] = newMemDir(true)
	write := func(n int) []byte {
		source := newMemFS()
		d, err := openDisk("mem", source, smallBlocks(DiskOptions{Version: "1"}))
		require.NoError(t, err)
		d.appender.mu.Lock()
		d.appender.next = uint64(n)
		d.appender.mu.Unlock()
		for range 12 {
			require.True(t, w.put(t.Context(), d))
		}
		require.True(t, w.sync(t.Context(), d))
		require.NoError(t, d.Close())
		return source.files()[fileName(uint64(n), dumpSuffix)]
	}
	unsealed := func(b []byte) []byte { return b[:len(b)-footerSize] }
	m.put(fileName(1, openSuffix), append(unsealed(write(1)), "DLQB and what else was being written"...))
	damaged := unsealed(write(2))
	second := bytes.Index(damaged[bytes.Index(damaged, []byte(blockMagic))+4:], []byte(blockMagic)) + bytes.Index(damaged, []byte(blockMagic)) + 4
	before := itemsOf(damaged, 0, 2)
	damaged[second+100] ^= 4
	after := itemsOf(damaged, 0, 2)
	require.Less(t, len(after), len(before))
	require.NotEmpty(t, after)
	for _, text := range before {
		if !slices.Contains(after, text) {
			delete(w.durable, text)
			delete(w.taken, text)
		}
	}
	m.put(fileName(2, openSuffix), damaged)
	m.put(fileName(3, openSuffix), write(3))
	m.put(fileName(4, openSuffix), nil)
	h := encodeHeader(header{sequence: 5, created: time.Now(), version: "1"})
	m.put(fileName(5, openSuffix), append(h, h...))
	m.put(fileName(6, openSuffix), bytes.Repeat([]byte("garbage"), 1000))
	m.put(fileName(7, openSuffix), append(unsealed(write(7)), make([]byte, 3000)...))
	m.put(fileName(8, partSuffix), []byte("half of a salvage"))
	m.put(fileName(9, dumpSuffix), write(9))
	return m, w
}

func scenarios() []scenario {
	return []scenario{
		{name: "writing", o: smallBlocks(DiskOptions{Version: "1"}), start: emptyDisk, work: writing},
		{name: "writing compressed", o: smallBlocks(DiskOptions{Version: "1", Compress: true}), start: emptyDisk, work: writing},
		{name: "restoring", o: smallBlocks(DiskOptions{Version: "1"}), start: someDumps, work: restoring},
		{name: "restoring slowly", o: smallBlocks(DiskOptions{Version: "1"}), start: longDumps, work: restoringSlowly, twice: int(progressEvery/slowly) + 1},
		{name: "dropping", o: smallBlocks(DiskOptions{Version: "1", MaxSize: 14 << 10, OnFull: DropOldest}), start: emptyDisk, work: dropping, drops: true},
		{name: "salvaging", o: smallBlocks(DiskOptions{Version: "1"}), start: openDumps, work: restoring},
	}
}

// run does the work of a scenario on a disk, until the end or until the process dies. Its clock is its own, so that progress
// is noted at the same places each time.
func (s scenario) run(t *testing.T, m *memFS, w *world) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		d, err := openDisk("mem", m, s.o)
		if err != nil {
			w.refused++
			return
		}
		s.work(ctx, w, d)
		if d.Close() == nil {
			w.settle()
		}
	})
}

// settle is told that Close returned nil: all that was taken is durable.
func (w *world) settle() {
	for _, text := range w.fresh {
		w.durable[text] = true
	}
	w.fresh = nil
}

// crashes runs a scenario once for each operation that it could die before, and returns the faults that restoring finds.
func (s scenario) crashes(t *testing.T, set func(*memFS)) (tried int, faults []string) {
	t.Helper()
	start, before := s.start(t)
	for n := 1; ; n++ {
		m, w := start.clone(), before.clone()
		w.settled, w.twice = make(map[string]bool), s.twice
		set(m)
		m.crashAt = n
		s.run(t, m, w)
		for _, k := range allKept {
			tried++
			for _, fault := range w.check(m.after(k), s.o, s.gone(m)) {
				faults = append(faults, fmt.Sprintf("%s, crash before operation %d, %s: %s", s.name, n, k, fault))
			}
		}
		if !m.died() {
			return tried, faults
		}
	}
}

func (s scenario) gone(m *memFS) map[string]bool {
	if s.drops {
		return m.gone()
	}
	return nil
}

func noFaults(t *testing.T, tried int, faults []string) {
	t.Helper()
	t.Logf("%d trials, %d faults", tried, len(faults))
	require.Empty(t, faults[:min(len(faults), 10)], "%d faults in %d trials", len(faults), tried)
}

func TestCrash(t *testing.T) {
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			tried, faults := s.crashes(t, func(*memFS) {})
			noFaults(t, tried, faults)
		})
	}
}

// TestCrashWhereRenameIsTwoOperations is harder than a journaling file system: both names may be there.
func TestCrashWhereRenameIsTwoOperations(t *testing.T) {
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			tried, faults := s.crashes(t, func(m *memFS) { m.splitRename = true })
			noFaults(t, tried, faults)
		})
	}
}

// TestCrashInRecovery dies while it salvages what a crash left, dies again while it salvages what that left, and restores.
func TestCrashInRecovery(t *testing.T) {
	few := []kept{{0, inOrder}, {50, scattered}, {90, lastFirst}, {100, inOrder}}
	tried := 0
	var faults []string
	var again func(trail string, image *memFS, w *world, o DiskOptions, depth int)
	again = func(trail string, image *memFS, w *world, o DiskOptions, depth int) {
		for n := 1; ; n++ {
			m := image.clone()
			m.crashAt = n
			d, err := openDisk("mem", m, o)
			if err == nil && !m.died() {
				m.set(func(m *memFS) { m.dead = true })
				_ = d.Close()
			} else if err == nil {
				_ = d.Close()
			}
			for _, k := range few {
				here := fmt.Sprintf("%s, then in recovery before operation %d, %s", trail, n, k)
				if depth > 0 {
					again(here, m.after(k), w, o, depth-1)
					continue
				}
				tried++
				for _, fault := range w.check(m.after(k), o, nil) {
					faults = append(faults, here+": "+fault)
				}
			}
			if err == nil {
				return
			}
		}
	}
	all := scenarios()
	salvaging := all[len(all)-1]
	image, w := salvaging.start(t)
	again("what processes left", image, w, salvaging.o, 0)

	writing := all[0]
	for n := 1; ; n += 3 {
		m, w := newMemFS(), newWorld()
		m.crashAt = n
		writing.run(t, m, w)
		for _, k := range few[:3] {
			again(fmt.Sprintf("writing, crash before operation %d, %s", n, k), m.after(k), w, writing.o, 1)
		}
		if !m.died() {
			break
		}
	}
	noFaults(t, tried, faults)
}

// failing runs each scenario once for each operation at which something can go wrong.
func failing(t *testing.T, wrong func(m *memFS, n int) (heal func(), hit func() bool), after func(t *testing.T, s scenario, m *memFS, w *world) []string) {
	t.Helper()
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			start, before := s.start(t)
			tried := 0
			var faults []string
			for n := 1; ; n++ {
				m, w := start.clone(), before.clone()
				w.settled = make(map[string]bool)
				heal, hit := wrong(m, n)
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
					defer cancel()
					defer heal()
					d, err := openDisk("mem", m, s.o)
					if err != nil {
						return
					}
					s.work(ctx, w, d)
					heal()
					for range 3 {
						if w.sync(ctx, d) {
							break
						}
					}
					_ = d.Seal(ctx, ReasonForced)
					if err := d.Close(); err != nil {
						faults = append(faults, fmt.Sprintf("%s, operation %d: Close after it was healed: %v", s.name, n, err))
					}
					w.settle()
					maps.Copy(w.durable, w.taken) // what was kept in memory, too
				})
				tried++
				for _, fault := range after(t, s, m, w) {
					faults = append(faults, fmt.Sprintf("%s, operation %d: %s", s.name, n, fault))
				}
				if !hit() {
					break
				}
			}
			noFaults(t, tried, faults)
		})
	}
}

func checkBoth(_ *testing.T, s scenario, m *memFS, w *world) []string {
	gone := s.gone(m)
	faults := w.check(m.after(kept{0, inOrder}), s.o, gone)
	return append(faults, w.check(m.clone(), s.o, gone)...)
}

// TestFullDisk fills the disk at every operation, and makes room again later.
func TestFullDisk(t *testing.T) {
	failing(t, func(m *memFS, n int) (func(), func() bool) {
		var hit, healed atomic.Bool
		m.fail = func(op operation) error {
			if healed.Load() || !op.grows || op.write < n {
				return nil
			}
			hit.Store(true)
			return syscall.ENOSPC
		}
		return func() { healed.Store(true) }, hit.Load
	}, checkBoth)
}

// TestFullDiskIsReported has callers that wait for durability while the disk is full.
func TestFullDiskIsReported(t *testing.T) {
	m := newMemFS()
	d, err := openDisk("mem", m, smallBlocks(DiskOptions{}))
	require.NoError(t, err)
	q, err := NewQueue(d, EncodeString, QueueOptions{Capacity: 1 << 20})
	require.NoError(t, err)
	require.NoError(t, q.EnqueueDurable(t.Context(), "before"))
	full := func(op operation) error {
		if op.grows {
			return syscall.ENOSPC
		}
		return nil
	}
	m.set(func(m *memFS) { m.fail = full })
	require.ErrorIs(t, q.EnqueueDurable(t.Context(), "given back"), syscall.ENOSPC)
	require.NoError(t, q.Enqueue(t.Context(), "kept in memory"))
	require.ErrorIs(t, q.Sync(t.Context()), syscall.ENOSPC)
	enqueued := 1
	for ; ; enqueued++ {
		if err := q.Enqueue(t.Context(), item(enqueued)); err != nil {
			require.ErrorIs(t, err, syscall.ENOSPC)
			break
		}
		require.Less(t, enqueued, 10_000, "memory is not bounded")
	}
	require.ErrorIs(t, q.Flush(t.Context()), syscall.ENOSPC)
	m.set(func(m *memFS) { m.fail = nil })
	require.NoError(t, q.Sync(t.Context()))
	require.NoError(t, q.Close(t.Context()))
	got := make(map[string]int)
	r, err := NewRestorer(d, DecodeString, func(_ context.Context, s string) error { got[s]++; return nil }, RestorerOptions[string]{})
	require.NoError(t, err)
	require.NoError(t, r.Drain(t.Context()))
	require.NoError(t, d.Close())
	d, err = openDisk("mem", m, smallBlocks(DiskOptions{}))
	require.NoError(t, err)
	r, err = NewRestorer(d, DecodeString, func(_ context.Context, s string) error { got[s]++; return nil }, RestorerOptions[string]{})
	require.NoError(t, err)
	require.NoError(t, r.Drain(t.Context()))
	require.NoError(t, d.Close())
	require.Len(t, got, enqueued+1)
	require.Positive(t, got["before"])
	require.Positive(t, got["kept in memory"])
	require.Zero(t, got["given back"])
}

// once lets the n-th operation that is of a kind fail, one time.
func once(m *memFS, n int, err error, is func(operation) bool) (heal func(), hit func() bool) {
	seen, done := 0, false
	m.fail = func(op operation) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		if !is(op) {
			return nil
		}
		if seen++; seen != n {
			return nil
		}
		done = true
		return err
	}
	return func() {}, func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return done
	}
}

func TestShortWriteOnce(t *testing.T) {
	failing(t, func(m *memFS, n int) (func(), func() bool) {
		return once(m, n, errShort, func(op operation) bool { return op.kind == opWrite })
	}, checkBoth)
}

func TestFsyncFailsOnce(t *testing.T) {
	failing(t, func(m *memFS, n int) (func(), func() bool) {
		return once(m, n, syscall.EIO, func(op operation) bool { return op.kind == opSync })
	}, checkBoth)
}

// TestAnyOperationFailsOnce does not spare reading, renaming, removing or listing.
func TestAnyOperationFailsOnce(t *testing.T) {
	failing(t, func(m *memFS, n int) (func(), func() bool) {
		return once(m, n, syscall.EIO, func(operation) bool { return true })
	}, checkBoth)
}

// TestCrashAfterFailure lets an fsync fail, and the process die somewhere behind it.
func TestCrashAfterFailure(t *testing.T) {
	s := scenarios()[0]
	tried := 0
	var faults []string
	for failed := 1; failed < 12; failed += 2 {
		for n := 1; ; n += 2 {
			m, w := newMemFS(), newWorld()
			once(m, failed, syscall.EIO, func(op operation) bool { return op.kind == opSync })
			m.crashAt = n
			s.run(t, m, w)
			for _, k := range allKept {
				tried++
				for _, fault := range w.check(m.after(k), s.o, nil) {
					faults = append(faults, fmt.Sprintf("fsync %d fails, crash before operation %d, %s: %s", failed, n, k, fault))
				}
			}
			if !m.died() {
				break
			}
		}
	}
	noFaults(t, tried, faults)
}

// The negative controls take a safeguard away and see that the sweep notices.
func TestWithoutSyncTheSweepFindsLoss(t *testing.T) {
	s := scenarios()[0]
	tried, faults := s.crashes(t, func(m *memFS) { m.noSync = true })
	t.Logf("%d trials, %d faults", tried, len(faults))
	require.Greater(t, len(faults), tried/10)
	require.Contains(t, strings.Join(faults, "\n"), "durable items are lost")
}

func TestWithoutSyncTheSweepFindsRepetition(t *testing.T) {
	all := scenarios()
	s := all[slices.IndexFunc(all, func(s scenario) bool { return s.name == "restoring slowly" })]
	tried, faults := s.crashes(t, func(m *memFS) { m.noSync = true })
	t.Logf("%d trials, %d faults", tried, len(faults))
	require.Greater(t, len(faults), tried/10)
	require.Contains(t, strings.Join(faults, "\n"), "came again after their progress was durable")
	require.Contains(t, strings.Join(faults, "\n"), "items came twice")
}

func TestWithoutSyncDirTheSweepFindsLoss(t *testing.T) {
	s := scenarios()[0]
	tried, faults := s.crashes(t, func(m *memFS) { m.noSyncDir = true })
	t.Logf("%d trials, %d faults", tried, len(faults))
	require.Greater(t, len(faults), tried/10)
	require.Contains(t, strings.Join(faults, "\n"), "durable items are lost")
}

// TestWithoutSumsTheSweepFindsDamage flips bits and mends the sums, which is what the reader would see without them.
func TestWithoutSumsTheSweepFindsDamage(t *testing.T) {
	image, w := someDumps(t)
	faults := 0
	for name, data := range image.files() {
		for at := bytes.Index(data, []byte(blockMagic)) + blockHeader + 30; at < len(data)-footerSize; at += 97 {
			broken := bytes.Clone(data)
			broken[at] ^= 1
			m := image.clone()
			m.put(name, mendSums(bytes.Clone(broken)))
			if len(w.check(m, smallBlocks(DiskOptions{Version: "1"}), nil)) > 0 {
				faults++
			}
			m = image.clone()
			m.put(name, broken)
			for _, fault := range w.check(m, smallBlocks(DiskOptions{Version: "1"}), nil) {
				require.NotContains(t, fault, "nobody gave")
			}
		}
	}
	require.Positive(t, faults)
}

// mendSums makes the sum of each block right, where a block's lengths allow it.
func mendSums(data []byte) []byte {
	for at := 0; ; {
		i := bytes.Index(data[at:], []byte(blockMagic))
		if i < 0 || at+i+blockHeader > len(data) {
			return data
		}
		at += i
		b := data[at:]
		stored := int(binary.LittleEndian.Uint32(b[8:]))
		if stored <= len(b)-blockHeader {
			binary.LittleEndian.PutUint32(b[36:], blockSum(b[:blockHeader+stored], int64(at)))
			at += blockHeader + stored
			continue
		}
		at += 4
	}
}

package dlq

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// model is a Disk, what its callers know of it, and what may happen to it. It runs on a clock of its own and waits after
// each step until nothing moves, so that the same draws are the same run, but for who of several callers comes first, and a
// failure shrinks.
type model struct {
	m      *memFS
	w      *world
	d      *Disk
	o      DiskOptions
	faults []string

	lives, crashes int
}

// run returns what is wrong at the end: what is delivered must be a superset of what is durable and a subset of what was
// offered, and no bytes may be accounted for when nothing is left.
func (s *model) run(t *rapid.T, set func(*memFS)) []string {
	s.m, s.w, s.faults = newMemFS(), newWorld(), nil
	set(s.m)
	s.o = smallBlocks(DiskOptions{Version: "1", Compress: rapid.Bool().Draw(t, "compress")})
	s.open(t)
	actions := make(map[string]func(*rapid.T))
	for name, step := range map[string]func(*rapid.T){
		"put": s.put, "put durable": s.putDurable, "sync": s.sync, "seal": s.seal, "restore": s.restore, "drain": s.drain,
		"fail": s.fail, "die soon": s.dieSoon, "die": s.crash, "close": s.close, "wait": wait,
	} {
		actions[name] = func(t *rapid.T) {
			step(t)
			synctest.Wait()
			if s.m.died() {
				s.crash(t)
			}
		}
	}
	t.Repeat(actions)
	s.m.set(func(m *memFS) { m.dead = true })
	_ = s.d.Close()
	for _, k := range allKept {
		for _, fault := range s.w.check(s.m.after(k), s.o, nil) {
			s.faults = append(s.faults, fmt.Sprintf("%s: %s", k, fault))
		}
	}
	return s.faults
}

// open starts a process. One operation may fail and one crash may come while it recovers, no more.
func (s *model) open(t *rapid.T) {
	var err error
	for range 3 {
		if s.d, err = openDisk("mem", s.m, s.o); err == nil {
			s.lives++
			return
		}
		if s.m.died() {
			s.m = s.m.after(rapid.SampledFrom(allKept).Draw(t, "kept"))
		}
	}
	t.Fatalf("the directory cannot be opened: %v", err)
}

func (s *model) crash(t *rapid.T) {
	s.crashes++
	s.m.set(func(m *memFS) { m.dead = true })
	_ = s.d.Close()
	s.w.fresh = nil // may come, or not
	s.m = s.m.after(rapid.SampledFrom(allKept).Draw(t, "kept"))
	s.open(t)
}

func (s *model) close(t *rapid.T) {
	if err := s.d.Close(); err == nil {
		s.w.settle()
	}
	s.w.fresh = nil
	if !s.m.died() {
		s.open(t)
	}
}

func (s *model) put(t *rapid.T) {
	for range rapid.IntRange(1, 12).Draw(t, "items") {
		s.w.put(t.Context(), s.d)
		synctest.Wait()
	}
}

func (s *model) sync(t *rapid.T) { s.w.sync(t.Context(), s.d) }

func (s *model) seal(t *rapid.T) {
	_ = s.d.Seal(t.Context(), ReasonForced) // an error is counted by what arrives
}

// putDurable has several callers at a time. What one of them was refused must not come, unless the process died over it.
func (s *model) putDurable(t *rapid.T) {
	errs := make([]error, rapid.IntRange(1, 4).Draw(t, "callers"))
	var callers sync.WaitGroup
	for i := range errs {
		text := item(s.w.next + 1 + i)
		callers.Go(func() { errs[i] = s.d.AppendDurable(t.Context(), []byte(text)) })
	}
	callers.Wait()
	for _, err := range errs {
		s.w.next++
		text := item(s.w.next)
		s.w.offered[text] = err == nil || s.m.died()
		if err == nil {
			s.w.durable[text] = true
		}
	}
}

// wait is long enough for what is tried again each second.
func wait(t *rapid.T) { pause(t.Context(), 1100*time.Millisecond) }

// restore is cut short in the middle of what there is, after a while in which progress is noted.
func (s *model) restore(t *rapid.T) {
	var left atomic.Int64
	left.Store(rapid.Int64Range(1, 12).Draw(t, "items"))
	each := time.Duration(rapid.IntRange(0, 120).Draw(t, "ms")) * time.Millisecond
	batch := rapid.IntRange(1, 4).Draw(t, "batch")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_ = s.restoring(ctx, batch, func(ctx context.Context, data []byte) error {
		pause(ctx, each)
		if left.Add(-1) <= 0 {
			cancel()
		}
		return s.w.target(ctx, data)
	})
}

// drain restores all.
func (s *model) drain(t *rapid.T) {
	if err := s.restoring(t.Context(), 1, s.w.target); err != nil {
		return
	}
	for name := range s.m.files() {
		if strings.HasSuffix(name, openSuffix) || strings.HasSuffix(name, dumpSuffix) {
			return
		}
	}
	if size := used(s.d); size != 0 {
		s.faults = append(s.faults, fmt.Sprintf("nothing is left, and %d bytes are accounted for", size))
	}
}

func (s *model) restoring(ctx context.Context, batch int, target Target[[]byte]) error {
	o := RestorerOptions[[]byte]{Version: "1", CheckInterval: time.Microsecond, BatchSize: batch}
	if batch > 1 {
		o.Batch = func(ctx context.Context, items [][]byte) []error {
			errs := make([]error, len(items))
			for i, item := range items {
				errs[i] = target(ctx, item)
			}
			return errs
		}
	}
	r, err := NewRestorer(s.d, DecodeBytes, target, o)
	if err != nil {
		return err
	}
	return r.Drain(ctx)
}

// fail lets one of the next operations of a kind go wrong.
func (s *model) fail(t *rapid.T) {
	kinds := []opKind{opCreate, opOpen, opWrite, opRead, opTruncate, opSync, opRename, opRemove, opList, opSyncDir, opSize}
	kind := rapid.SampledFrom(kinds).Draw(t, "kind")
	n := rapid.IntRange(1, 8).Draw(t, "n")
	err := error(syscall.EIO)
	if kind == opWrite && rapid.Bool().Draw(t, "short") {
		err = errShort
	}
	s.m.set(func(m *memFS) { once(m, n, err, func(op operation) bool { return op.kind == kind }) })
}

func (s *model) dieSoon(t *rapid.T) {
	n := rapid.IntRange(1, 40).Draw(t, "operations")
	s.m.set(func(m *memFS) { m.crashAt = m.writes + n })
}

// TestModel does many things in any order, with faults and crashes between them. For an hour: -rapid.checks=5000000.
func TestModel(t *testing.T) {
	var s model
	rapid.Check(t, func(t *rapid.T) {
		rapid.SyncTest(t, func(t *rapid.T) {
			if faults := s.run(t, func(*memFS) {}); len(faults) > 0 {
				t.Fatal(strings.Join(faults, "\n"))
			}
		})
	})
	t.Logf("%d lives, %d crashes", s.lives, s.crashes)
}

// TestWithoutSyncTheModelFindsLoss is the negative control.
func TestWithoutSyncTheModelFindsLoss(t *testing.T) {
	const runs = 40
	found := 0
	for seed := range runs {
		synctest.Test(t, func(*testing.T) {
			var s model
			faults := rapid.Custom(func(t *rapid.T) []string {
				return s.run(t, func(m *memFS) { m.noSync = true })
			}).Example(seed)
			if strings.Contains(strings.Join(faults, "\n"), "durable items are lost") {
				found++
			}
		})
	}
	t.Logf("%d of %d runs find loss", found, runs)
	require.Greater(t, found, runs/10)
}

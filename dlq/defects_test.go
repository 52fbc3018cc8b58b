package dlq

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// The tests of this file are the 13 defects that were reproduced against dlqdump.

func Test1PowerCutAfterClose(t *testing.T) {
	m := newMemFS()
	d := openMem(t, m, DiskOptions{})
	q, err := NewQueue(d, EncodeString, QueueOptions{Capacity: 256 << 10})
	require.NoError(t, err)
	const n = 60_000
	for i := range n {
		require.NoError(t, q.Enqueue(t.Context(), fmt.Sprint("item ", i)))
	}
	require.NoError(t, q.Close(t.Context()))
	require.NoError(t, d.Close())
	require.Len(t, drained(t, openMem(t, m.after(kept{0, inOrder}), DiskOptions{}), RestorerOptions[string]{}), n)
}

func Test2KillRecoversWhatWasOpen(t *testing.T) {
	m := newMemFS()
	d := openMem(t, m, DiskOptions{})
	q, err := NewQueue(d, EncodeString, QueueOptions{Capacity: 1 << 30, FlushInterval: time.Hour})
	require.NoError(t, err)
	const n = 100_000
	for i := range n {
		require.NoError(t, q.Enqueue(t.Context(), fmt.Sprint("item ", i)))
	}
	require.NoError(t, q.Sync(t.Context()))
	dumps, err := d.Dumps()
	require.NoError(t, err)
	require.Empty(t, dumps, "a Sync seals nothing")
	m.set(func(m *memFS) { m.dead = true })
	_ = q.Close(t.Context())
	require.Len(t, drained(t, openMem(t, m.after(kept{0, inOrder}), DiskOptions{}), RestorerOptions[string]{}), n)
}

func Test3NamesDoNotCollide(t *testing.T) {
	m := newMemFS()
	want := make([]string, 2000)
	d := openMem(t, m, DiskOptions{})
	for i := range want {
		want[i] = fmt.Sprint("item ", i)
		dumpOf(t, d, want[i])
		if i == 1000 {
			require.NoError(t, d.Close())
			d = openMem(t, m, DiskOptions{})
		}
	}
	require.Equal(t, want, drained(t, d, RestorerOptions[string]{}))
}

func Test4FullDiskDoesNotMixData(t *testing.T) {
	m := newMemFS()
	d := openMem(t, m, smallBlocks(DiskOptions{}))
	var want []string
	for round := range 6 {
		if round%2 == 1 {
			m.set(func(m *memFS) {
				writes := 0
				m.fail = func(op operation) error {
					if op.kind != opWrite {
						return nil
					}
					if writes++; writes%3 == 0 {
						return errShort
					}
					return syscall.ENOSPC
				}
			})
		}
		for i := range 20 {
			text := fmt.Sprintf("item %d of round %d %0300d", i, round, i)
			if _, err := d.Append(t.Context(), []byte(text)); err == nil {
				want = append(want, text)
			} else {
				require.ErrorIs(t, err, syscall.ENOSPC)
			}
		}
		err := d.Sync(t.Context(), 0)
		m.set(func(m *memFS) { m.fail = nil })
		if round%2 == 1 {
			require.ErrorIs(t, err, syscall.ENOSPC)
		} else {
			require.NoError(t, err)
		}
	}
	require.NoError(t, d.Sync(t.Context(), 0))
	require.NoError(t, d.Close())
	items := drained(t, openMem(t, m.after(kept{0, inOrder}), DiskOptions{}), RestorerOptions[string]{})
	require.ElementsMatch(t, want, items)
	require.Empty(t, quarantineOf(m))
}

func Test5EnqueueAndTimerDoNotDeadlock(t *testing.T) {
	for range 6 {
		m := newMemFS()
		d := openMem(t, m, smallBlocks(DiskOptions{}))
		q, err := NewQueue(d, EncodeString, QueueOptions{Capacity: 500, FlushInterval: 50 * time.Microsecond})
		require.NoError(t, err)
		within(t, 30*time.Second, func() {
			var wg sync.WaitGroup
			for g := range 4 {
				wg.Go(func() {
					for i := range 300 {
						var err error
						switch i % 50 {
						case 7:
							err = q.EnqueueDurable(t.Context(), item(g*1000+i))
						case 8:
							err = q.Flush(t.Context())
						default:
							err = q.Enqueue(t.Context(), fmt.Sprint("item ", g, i))
						}
						if err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			if err := errors.Join(q.Close(t.Context()), d.Close()); err != nil {
				t.Error(err)
			}
		})
	}
}

func Test6NoGoroutineForEachInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openMem(t, newMemFS(), DiskOptions{})
		q, err := NewQueue(d, EncodeString, QueueOptions{Capacity: 1 << 20, FlushInterval: time.Second})
		require.NoError(t, err)
		before := 0
		for i := range 101 {
			require.NoError(t, q.Enqueue(t.Context(), fmt.Sprint("item ", i)))
			<-time.After(1100 * time.Millisecond)
			synctest.Wait()
			if i == 0 {
				before = runtime.NumGoroutine()
			}
		}
		require.LessOrEqual(t, runtime.NumGoroutine(), before)
		dumps, err := d.Dumps()
		require.NoError(t, err)
		require.Len(t, dumps, 101)
		require.Equal(t, ReasonInterval, dumps[0].Reason)
		require.NoError(t, q.Close(t.Context()))
	})
}

// Test7NoDataRace is for the race detector: everything that may be called concurrently is.
func Test7NoDataRace(t *testing.T) {
	m := newMemFS()
	metrics := newCounts()
	d := openMem(t, m, smallBlocks(DiskOptions{Metrics: metrics, MaxSize: 1 << 20, MaxAge: time.Hour, OnFull: DropOldest}))
	q, err := NewQueue(d, EncodeString, QueueOptions{Capacity: 8 << 10, FlushInterval: time.Millisecond, Metrics: metrics})
	require.NoError(t, err)
	g := &got{}
	r := restorer(t, d, g.target, RestorerOptions[string]{CheckInterval: time.Millisecond, Metrics: metrics})
	r.Start()
	within(t, time.Minute, func() {
		var wg sync.WaitGroup
		for n := range 4 {
			wg.Go(func() {
				for i := range 500 {
					if err := q.Enqueue(t.Context(), item(n*500+i)); err != nil {
						t.Error(err)
					}
					switch i % 100 {
					case 3:
						_ = q.Sync(t.Context())
					case 4:
						_ = q.Flush(t.Context())
					case 5:
						_, _ = d.Dumps()
					}
				}
			})
		}
		wg.Wait()
		var closers sync.WaitGroup
		for range 3 {
			closers.Go(func() { _ = q.Close(t.Context()) })
			closers.Go(r.Close)
		}
		closers.Wait()
		for range 3 {
			closers.Go(func() { _ = d.Close() })
		}
		closers.Wait()
	})
}

func Test8EnqueueAfterClose(t *testing.T) {
	m := newMemFS()
	d := openMem(t, m, DiskOptions{})
	q, err := NewQueue(d, EncodeString, QueueOptions{Capacity: 1 << 20})
	require.NoError(t, err)
	require.NoError(t, q.Enqueue(t.Context(), "before"))
	within(t, 10*time.Second, func() {
		if err := errors.Join(q.Close(t.Context()), q.Close(t.Context())); err != nil {
			t.Error(err)
		}
	})
	require.ErrorIs(t, q.Enqueue(t.Context(), "after"), ErrClosed)
	require.ErrorIs(t, q.EnqueueDurable(t.Context(), "after"), ErrClosed)
	require.ErrorIs(t, q.Flush(t.Context()), ErrClosed)
	within(t, 10*time.Second, func() {
		if err := errors.Join(d.Close(), d.Close()); err != nil {
			t.Error(err)
		}
	})
	_, err = d.Append(t.Context(), []byte("after"))
	require.ErrorIs(t, err, ErrClosed)
	require.ErrorIs(t, d.Seal(t.Context(), ReasonForced), ErrClosed)
	require.NoError(t, d.Sync(t.Context(), 0), "all is durable")
	require.Equal(t, []string{"before"}, drained(t, openMem(t, m, DiskOptions{}), RestorerOptions[string]{}))
}

func Test9RestoreLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemFS()
		d := openMem(t, m, DiskOptions{Version: "old"})
		dumpOf(t, d, "of another version")
		require.NoError(t, d.Close())
		d = openMem(t, m, DiskOptions{Version: "1"})
		dumpOf(t, d, "a", "cannot be decoded", "fails twice", "b")
		calls := 0
		g := &got{}
		target := func(ctx context.Context, text string) error {
			if text == "fails twice" {
				if calls++; calls <= 2 {
					return errors.New("try again")
				}
			}
			return g.target(ctx, text)
		}
		decode := func(data []byte) (string, error) {
			if string(data) == "cannot be decoded" {
				return "", errors.New("not an item")
			}
			return string(data), nil
		}
		r, err := NewRestorer(d, decode, target, RestorerOptions[string]{Version: "1"})
		require.NoError(t, err)
		require.NoError(t, r.Drain(t.Context()))
		require.Equal(t, []string{"a", "fails twice", "b"}, g.list())
		aside := setAside(m)
		require.Equal(t, map[string]int{"of another version": 1, "cannot be decoded": 1}, aside)
		for name := range quarantineOf(m) {
			if strings.HasSuffix(name, dumpSuffix) {
				require.NotEmpty(t, quarantineOf(m)[name+reasonSuffix])
			}
		}
	})
}

// Test10Damage is here for its number; flip_test.go has every bit of it.
func Test10Damage(t *testing.T) {
	m := newMemFS()
	d := openMem(t, m, smallBlocks(DiskOptions{}))
	var want []string
	for i := range 30 {
		want = append(want, item(i))
	}
	dumpOf(t, d, want...)
	require.NoError(t, d.Close())
	name := fileName(1, dumpSuffix)
	whole := m.files()[name]

	flipped := append([]byte(nil), whole...)
	flipped[len(flipped)/2] ^= 1
	huge := append([]byte(nil), whole...)
	at := strings.Index(string(huge), blockMagic)
	huge[at+8+3] = 0x7f // stored length
	huge[at+12+3] = 0x7f
	for what, data := range map[string][]byte{"bit": flipped, "length": huge, "tail": whole[:len(whole)-100]} {
		t.Run(what, func(t *testing.T) {
			m := newMemFS()
			m.put(name, data)
			d := openMem(t, m, smallBlocks(DiskOptions{}))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			items := drained(t, d, RestorerOptions[string]{})
			runtime.ReadMemStats(&after)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<20))
			require.Subset(t, want, items)
			require.Greater(t, len(items), len(want)/2)
			require.Contains(t, quarantineOf(m), name, "what is damaged is kept")
		})
	}
}

func Test11UnreadableDumpDoesNotBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemFS()
		metrics := newCounts()
		d := openMem(t, m, DiskOptions{Metrics: metrics})
		for _, text := range []string{"a", "b", "c", "d"} {
			dumpOf(t, d, text)
		}
		m.set(func(m *memFS) {
			m.fail = func(op operation) error {
				if op.name == fileName(2, dumpSuffix) && (op.kind == opRead || op.kind == opOpen) {
					return syscall.EIO
				}
				return nil
			}
		})
		g := &got{}
		r := restorer(t, d, g.target, RestorerOptions[string]{Metrics: metrics})
		r.Start()
		<-time.After(20 * time.Millisecond)
		require.Equal(t, []string{"a", "c", "d"}, g.list())
		<-time.After(2 * time.Second)
		metrics.mu.Lock()
		require.LessOrEqual(t, len(metrics.failures), 3, "no hot loop")
		metrics.mu.Unlock()
		m.set(func(m *memFS) { m.fail = nil })
		<-time.After(time.Minute)
		require.Equal(t, []string{"a", "c", "d", "b"}, g.list())
		r.Close()
	})
}

func Test11UnreadableOpenDumpDoesNotBlockOpening(t *testing.T) {
	image, w := openDumps(t)
	image.fail = func(op operation) error {
		if op.name == fileName(1, openSuffix) && op.kind == opRead {
			return syscall.EIO
		}
		return nil
	}
	d, err := openDisk("mem", image, smallBlocks(DiskOptions{Version: "1"}))
	require.NoError(t, err, "one file that cannot be read keeps all dumps from being restored")
	t.Cleanup(func() { _ = d.Close() })
	r, err := NewRestorer(d, DecodeBytes, w.target, RestorerOptions[[]byte]{Version: "1"})
	require.NoError(t, err)
	require.NoError(t, r.Drain(t.Context()))
	require.GreaterOrEqual(t, len(w.delivered), len(w.durable)-12)
}

// Test11UnreadableWhenOpened has a dump whose reading fails just while the directory is opened, as with too many open files.
func Test11UnreadableWhenOpened(t *testing.T) {
	m := newMemFS()
	d := openMem(t, m, DiskOptions{Version: "1"})
	dumpOf(t, d, "a", "b")
	require.NoError(t, d.Close())
	m.fail = func(op operation) error {
		if op.name == fileName(1, dumpSuffix) && op.kind == opOpen {
			return syscall.EMFILE
		}
		return nil
	}
	d = openMem(t, m, DiskOptions{Version: "1"})
	m.set(func(m *memFS) { m.fail = nil })
	require.Equal(t, []string{"a", "b"}, drained(t, d, RestorerOptions[string]{Version: "1"}),
		"a passing failure set a good dump aside")
}

func Test12ItemsDoNotShareMemory(t *testing.T) {
	for _, compress := range []bool{false, true} {
		m := newMemFS()
		d := openMem(t, m, smallBlocks(DiskOptions{Compress: compress}))
		q, err := NewQueue(d, EncodeBytes, QueueOptions{Capacity: 1 << 20})
		require.NoError(t, err)
		reused := make([]byte, 0, 64)
		for i := range 1000 {
			reused = fmt.Appendf(reused[:0], "item %d", i)
			require.NoError(t, q.Enqueue(t.Context(), reused))
		}
		require.NoError(t, q.Close(t.Context()))
		var items [][]byte
		r, err := NewRestorer(d, DecodeBytes, func(_ context.Context, data []byte) error {
			items = append(items, data)
			_ = append(data, "what a target may append"...) //nolint:gocritic // on purpose
			return nil
		}, RestorerOptions[[]byte]{})
		require.NoError(t, err)
		require.NoError(t, r.Drain(t.Context()))
		require.Len(t, items, 1000)
		for i, data := range items {
			require.Equal(t, fmt.Sprintf("item %d", i), string(data))
		}
	}
}

func Test13ManyDumpsAreDrainedPerCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openMem(t, newMemFS(), DiskOptions{})
		var want []string
		for i := range 50 {
			want = append(want, fmt.Sprint("item ", i))
			dumpOf(t, d, want[i])
		}
		g := &got{}
		r := restorer(t, d, g.target, RestorerOptions[string]{CheckInterval: time.Hour})
		r.Start()
		<-time.After(time.Millisecond)
		require.Equal(t, want, g.list())
		dumpOf(t, d, "later")
		<-time.After(time.Hour)
		require.Equal(t, "later", g.list()[50])
		r.Close()
	})
}

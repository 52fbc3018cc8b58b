package dlq

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

var errDown = errors.New("the target is down")

func oldAndNew(t *testing.T, metrics Metrics) (*memFS, *Disk) {
	t.Helper()
	m := newMemFS()
	d := openMem(t, m, DiskOptions{Version: "1", Metrics: metrics})
	dumpOf(t, d, "old a", "old b")
	require.NoError(t, d.Close())
	d = openMem(t, m, DiskOptions{Version: "2", Metrics: metrics})
	dumpOf(t, d, "new")
	return m, d
}

func TestVersionMismatch(t *testing.T) {
	t.Run("quarantine", func(t *testing.T) {
		c := newCounts()
		m, d := oldAndNew(t, c)
		require.Equal(t, []string{"new"}, drained(t, d, RestorerOptions[string]{Version: "2", Metrics: c}))
		require.Equal(t, map[string]int{"old a": 1, "old b": 1}, setAside(m))
		require.Contains(t, quarantineOf(m)[fileName(1, dumpSuffix)+reasonSuffix], `version "1" instead of "2"`)
		require.EqualValues(t, 2, sum(c.quarantined))
		require.Equal(t, c.enqueued, c.balance())
	})
	t.Run("remove", func(t *testing.T) {
		c := newCounts()
		m, d := oldAndNew(t, c)
		o := RestorerOptions[string]{Version: "2", Metrics: c, OnVersionMismatch: Remove}
		require.Equal(t, []string{"new"}, drained(t, d, o))
		require.Empty(t, setAside(m))
		require.Equal(t, map[string]uint64{"version": 2}, c.dropped)
		require.Equal(t, c.enqueued, c.balance())
	})
	t.Run("migrate", func(t *testing.T) {
		c := newCounts()
		m, d := oldAndNew(t, c)
		migrate := func(version string, data []byte) ([]byte, error) {
			if string(data) == "old b" {
				return nil, errors.New("too old")
			}
			return fmt.Appendf(nil, "%s of version %s", data, version), nil
		}
		o := RestorerOptions[string]{Version: "2", Metrics: c, Migrate: migrate}
		require.Equal(t, []string{"old a of version 1", "new"}, drained(t, d, o))
		require.Equal(t, map[string]int{"old b": 1}, setAside(m))
		require.Equal(t, c.enqueued, c.balance())
	})
}

// TestVersionMismatchIsCountedOnce has a removal that fails a few times.
func TestVersionMismatchIsCountedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCounts()
		m, d := oldAndNew(t, c)
		left := 3
		m.set(func(m *memFS) {
			m.fail = func(op operation) error {
				if op.kind == opRemove && op.name == fileName(1, dumpSuffix) && left > 0 {
					left--
					return syscall.EIO
				}
				return nil
			}
		})
		r := restorer(t, d, (&got{}).target, RestorerOptions[string]{Version: "2", Metrics: c, OnVersionMismatch: Remove})
		r.Start()
		<-time.After(time.Hour)
		r.Close()
		require.Equal(t, map[string]uint64{"version": 2}, c.dropped)
	})
}

// TestMigrateADamagedDump has a damaged footer: items and version can be read, so they can be migrated.
func TestMigrateADamagedDump(t *testing.T) {
	m, d := oldAndNew(t, nil)
	require.NoError(t, d.Close())
	data := m.files()[fileName(1, dumpSuffix)]
	data[len(data)-10] ^= 1
	m.put(fileName(1, dumpSuffix), data)
	d = openMem(t, m, DiskOptions{Version: "2"})
	o := RestorerOptions[string]{Version: "2", Migrate: func(_ string, data []byte) ([]byte, error) { return data, nil }}
	require.Equal(t, []string{"old a", "old b", "new"}, drained(t, d, o), "of a damaged dump all but the damage is delivered")
}

func TestPoisonIsSetAsideAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCounts()
		m := newMemFS()
		d := openMem(t, m, DiskOptions{Metrics: c})
		dumpOf(t, d, "a", "poison 1", "poison 2", "b", "poison 3")
		dumpOf(t, d, "poison 4")
		dumpOf(t, d, "c")
		g := &got{}
		calls := 0
		target := func(ctx context.Context, text string) error {
			calls++
			if strings.HasPrefix(text, "poison") {
				return fmt.Errorf("status 400: %w", ErrPoison)
			}
			return g.target(ctx, text)
		}
		start := time.Now()
		require.NoError(t, restorer(t, d, target, RestorerOptions[string]{Metrics: c}).Drain(t.Context()))
		require.Zero(t, time.Since(start))
		require.Equal(t, 7, calls)
		require.Equal(t, []string{"a", "b", "c"}, g.list())
		require.Equal(t, map[string]int{"poison 1": 1, "poison 2": 1, "poison 3": 1, "poison 4": 1}, setAside(m))
		require.Equal(t, c.enqueued, c.balance())
		for name, text := range quarantineOf(m) {
			if strings.HasSuffix(name, reasonSuffix) {
				require.Contains(t, text, "status 400")
			}
		}
		again := openMem(t, m.after(kept{0, inOrder}), DiskOptions{})
		require.Empty(t, drained(t, again, RestorerOptions[string]{}), "what is set aside is durable, and so is the removal")
		require.Len(t, setAside(m.after(kept{0, inOrder})), 4)
	})
}

// TestPoisonByFailure has items that fail without being called poison, wherever they stand: the others are delivered, and
// those are set aside where others tell that the target is well.
func TestPoisonByFailure(t *testing.T) {
	for name, dumps := range map[string][][]string{
		"in the middle":                     {{"a", "bad 1", "b"}},
		"first":                             {{"bad 1", "a", "b"}},
		"several apart":                     {{"bad 1", "a", "bad 2", "b", "bad 3", "c"}},
		"two in a row":                      {{"a", "bad 1", "bad 2", "b", "c"}},
		"five in a row":                     {{"a", "bad 1", "bad 2", "bad 3", "bad 4", "bad 5", "b", "c"}},
		"two at the end":                    {{"a", "bad 1", "bad 2"}, {"b"}},
		"last of a dump":                    {{"a", "bad 1"}, {"b"}, {"c"}},
		"a dump of its own":                 {{"bad 1"}, {"a"}, {"b"}},
		"two dumps of their own":            {{"bad 1"}, {"bad 2"}, {"a"}, {"b"}},
		"five dumps of their own":           {{"bad 1"}, {"bad 2"}, {"bad 3"}, {"bad 4"}, {"bad 5"}, {"a"}},
		"two dumps behind one that is well": {{"a"}, {"bad 1"}, {"bad 2"}, {"b"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemFS()
				d := openMem(t, m, DiskOptions{})
				var good []string
				bad := make(map[string]int)
				for _, items := range dumps {
					dumpOf(t, d, items...)
					for _, text := range items {
						if strings.HasPrefix(text, "bad") {
							bad[text] = 1
						} else {
							good = append(good, text)
						}
					}
				}
				g := &got{}
				r := restorer(t, d, func(ctx context.Context, text string) error {
					if strings.HasPrefix(text, "bad") {
						return errDown
					}
					return g.target(ctx, text)
				}, RestorerOptions[string]{})
				r.Start()
				<-time.After(time.Hour)
				r.Close()
				require.ElementsMatch(t, good, g.list(), "what cannot be delivered blocks what can")
				require.Equal(t, bad, setAside(m))
			})
		})
	}
}

// TestTargetDownForAnHour sets nothing aside and keeps the order.
func TestTargetDownForAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemFS()
		d := openMem(t, m, DiskOptions{})
		dumpOf(t, d, "a", "b", "c")
		dumpOf(t, d, "d", "e")
		dumpOf(t, d, "f")
		g := &got{}
		up := time.Now().Add(time.Hour + 500*time.Millisecond)
		target := func(ctx context.Context, text string) error {
			if time.Now().Before(up) {
				return errDown
			}
			return g.target(ctx, text)
		}
		r := restorer(t, d, target, RestorerOptions[string]{})
		r.Start()
		<-time.After(time.Hour)
		require.Empty(t, g.list())
		<-time.After(time.Minute)
		r.Close()
		require.Equal(t, []string{"a", "b", "c", "d", "e", "f"}, g.list())
		require.Empty(t, quarantineOf(m))
	})
}

// TestTargetComesBackAtAnyCall has a target that fails a number of calls, and none after.
func TestTargetComesBackAtAnyCall(t *testing.T) {
	for fails := range 40 {
		t.Run(fmt.Sprint(fails), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemFS()
				d := openMem(t, m, DiskOptions{})
				dumpOf(t, d, "a", "b", "c")
				dumpOf(t, d, "d")
				dumpOf(t, d, "e", "f")
				g := &got{}
				calls := 0
				target := func(ctx context.Context, text string) error {
					if calls++; calls <= fails {
						return errDown
					}
					return g.target(ctx, text)
				}
				r := restorer(t, d, target, RestorerOptions[string]{})
				r.Start()
				<-time.After(time.Hour)
				r.Close()
				require.Empty(t, setAside(m), "a good item was set aside, since the target came back between two calls")
				require.ElementsMatch(t, []string{"a", "b", "c", "d", "e", "f"}, g.list())
			})
		})
	}
}

func TestLoadHoldsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openMem(t, newMemFS(), DiskOptions{})
		dumpOf(t, d, "a", "b")
		var mu sync.Mutex
		load := 0.96
		set := func(l float64) {
			mu.Lock()
			defer mu.Unlock()
			load = l
		}
		g := &got{}
		r := restorer(t, d, g.target, RestorerOptions[string]{PostponeInterval: time.Minute, Load: func() float64 {
			mu.Lock()
			defer mu.Unlock()
			return load
		}})
		r.Start()
		<-time.After(time.Hour)
		require.Empty(t, g.list())
		set(0.95)
		<-time.After(time.Minute + time.Second)
		require.Equal(t, []string{"a", "b"}, g.list())
		set(1)
		dumpOf(t, d, "c")
		<-time.After(time.Hour)
		require.Len(t, g.list(), 2)
		r.Close()
	})
}

func TestRates(t *testing.T) {
	for name, o := range map[string]RestorerOptions[string]{
		"items": {ItemsPerSecond: 10},
		"bytes": {BytesPerSecond: 1000},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := openMem(t, newMemFS(), DiskOptions{})
				var items []string
				for i := range 101 {
					items = append(items, fmt.Sprintf("%0100d", i))
				}
				dumpOf(t, d, items...)
				start := time.Now()
				require.Equal(t, items, drained(t, d, o))
				require.InDelta(t, 10, time.Since(start).Seconds(), 0.2)
			})
		})
	}
	t.Run("an item larger than a burst", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := openMem(t, newMemFS(), DiskOptions{})
			dumpOf(t, d, strings.Repeat("x", 10_000), "y")
			start := time.Now()
			require.Len(t, drained(t, d, RestorerOptions[string]{BytesPerSecond: 1000}), 2)
			require.InDelta(t, 10, time.Since(start).Seconds(), 0.2)
		})
	})
}

// TestDeadlineIsNoFailure drains with a deadline that the rate does not meet. Nothing is wrong with the items.
func TestDeadlineIsNoFailure(t *testing.T) {
	for name, o := range map[string]RestorerOptions[string]{
		"items": {ItemsPerSecond: 0.1},
		"bytes": {BytesPerSecond: 1000},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCounts()
				m := newMemFS()
				d := openMem(t, m, DiskOptions{})
				dumpOf(t, d, "x", strings.Repeat("y", 5000), "z")
				g := &got{}
				o.Metrics, o.PostponeInterval = c, time.Millisecond
				r := restorer(t, d, g.target, o)
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				require.ErrorIs(t, r.Drain(ctx), context.DeadlineExceeded)
				require.Empty(t, c.failures, "that the deadline came is no failed attempt")
				require.Empty(t, quarantineOf(m))
				require.Equal(t, []string{"x"}, g.list())
				require.NoError(t, r.Drain(t.Context()))
				require.Len(t, g.list(), 3)
			})
		})
	}
}

// TestForgetsDumpsThatAreGone has dumps that a restorer remembers something of and that are dropped, not restored.
func TestForgetsDumpsThatAreGone(t *testing.T) {
	const unreadable, bad = 1, 2
	for name, drop := range map[string]func(t *testing.T, d *Disk){
		"MaxAge": func(*testing.T, *Disk) { <-time.After(2 * time.Hour) },
		"DropOldest": func(t *testing.T, d *Disk) {
			t.Helper()
			for n := range 3 {
				dumpOf(t, d, item(3*n), item(3*n+1), item(3*n+2))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemFS()
				d := openMem(t, m, smallBlocks(DiskOptions{MaxAge: time.Hour, MaxSize: 4 << 10, OnFull: DropOldest}))
				dumpOf(t, d, "unreadable")
				dumpOf(t, d, "bad")
				dumpOf(t, d, "good")
				m.set(func(m *memFS) {
					m.fail = func(op operation) error {
						if op.kind == opRead && op.name == fileName(unreadable, dumpSuffix) {
							return syscall.EIO
						}
						return nil
					}
				})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				r := restorer(t, d, func(_ context.Context, text string) error {
					if text == "bad" {
						return errDown
					}
					cancel() // so that the bad one is not judged at once
					return nil
				}, RestorerOptions[string]{})
				require.ErrorIs(t, r.Drain(ctx), context.Canceled)
				require.Contains(t, r.later, uint64(unreadable))
				require.Contains(t, r.condemned, uint64(bad))

				drop(t, d)
				dumps, err := d.Dumps()
				require.NoError(t, err)
				for _, info := range dumps {
					require.Greater(t, info.Sequence, uint64(bad), "it was not dropped")
				}
				require.NoError(t, r.Drain(t.Context()))
				require.Empty(t, r.later)
				require.Empty(t, r.condemned)
				require.Empty(t, quarantineOf(m))
			})
		})
	}
}

// TestFileThatBecomesShorterIsNotItsEnd has a file whose blocks are shorter, when they are read, than it was said to be.
func TestFileThatBecomesShorterIsNotItsEnd(t *testing.T) {
	for suffix, before := range map[string]int{ // how many reads there are between Size and the blocks
		dumpSuffix: 2, // header and footer
		openSuffix: 1, // header
	} {
		t.Run(suffix, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemFS()
				d := openMem(t, m, smallBlocks(DiskOptions{}))
				var items []string
				for i := range 30 {
					items = append(items, item(i))
				}
				dumpOf(t, d, items...)
				require.NoError(t, d.Close())
				name := fileName(1, suffix)
				whole := m.files()[fileName(1, dumpSuffix)]
				m = newMemFS()
				m.put(name, whole)
				node, err := m.lookup(name)
				require.NoError(t, err)
				reads := 0
				m.hook = func(op operation) {
					switch {
					case op.name != name:
					case op.kind == opSize:
						m.set(func(*memFS) { reads, node.data = 0, whole })
					case op.kind == opRead:
						if reads++; reads > before {
							m.set(func(*memFS) { node.data = whole[:len(whole)/2] })
						}
					}
				}
				d = openMem(t, m, smallBlocks(DiskOptions{}))
				g := &got{}
				r := restorer(t, d, g.target, RestorerOptions[string]{})
				_ = r.Drain(t.Context()) // of a dump that is not sealed the logger is told
				require.Len(t, node.data, len(whole)/2)
				require.Empty(t, g.list())
				require.Contains(t, m.files(), name)
				require.Empty(t, quarantineOf(m))
				require.Empty(t, m.removed)

				m.set(func(m *memFS) { m.hook, node.data = nil, whole })
				<-time.After(time.Minute)
				require.NoError(t, r.Drain(t.Context()))
				require.Equal(t, items, g.list())
			})
		})
	}
}

// TestProgressBoundsDuplicates kills the process while a slow target is at work: what comes again is the work of 100 ms.
func TestProgressBoundsDuplicates(t *testing.T) {
	for _, each := range []time.Duration{time.Microsecond, time.Millisecond, 50 * time.Millisecond, time.Second} {
		t.Run(each.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemFS()
				d := openMem(t, m, DiskOptions{})
				var items []string
				for i := range 2000 {
					items = append(items, fmt.Sprint("item ", i))
				}
				dumpOf(t, d, items...)
				start := time.Now()
				var image *memFS
				n := 0
				target := func(ctx context.Context, _ string) error {
					pause(ctx, each)
					if n++; n == 1900 || time.Since(start) > 2*time.Minute {
						if image == nil {
							image = m.after(kept{100, inOrder}) // a kill
						}
					}
					return nil
				}
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
				defer cancel()
				_ = restorer(t, d, target, RestorerOptions[string]{}).Drain(ctx)
				delivered := min(1900, int(2*time.Minute/each))
				left := len(drained(t, openMem(t, image, DiskOptions{}), RestorerOptions[string]{}))
				again := left - (len(items) - delivered)
				bound := int(120*time.Millisecond/each) + 2
				require.LessOrEqual(t, again, bound, "%d of %d items come again", again, delivered)
			})
		})
	}
}

// TestProgressIsDurable cuts the power right after Progress, which "notes, durably".
func TestProgressIsDurable(t *testing.T) {
	m := newMemFS()
	d := openMem(t, m, DiskOptions{})
	dumpOf(t, d, "a", "b", "c")
	r, err := d.Open(1)
	require.NoError(t, err)
	require.NoError(t, r.Progress(2))
	require.Equal(t, []string{"c"}, drained(t, openMem(t, m.after(kept{0, inOrder}), DiskOptions{}), RestorerOptions[string]{}))
	require.NoError(t, r.Close())
}

// TestProgressOutlivesItsDump cuts the power while a dump is removed: if it comes back, its progress does, too.
func TestProgressOutlivesItsDump(t *testing.T) {
	m := newMemFS()
	d := openMem(t, m, DiskOptions{})
	dumpOf(t, d, "a", "b", "c")
	r, err := d.Open(1)
	require.NoError(t, err)
	require.NoError(t, r.Progress(3))
	require.NoError(t, r.Close())
	require.NoError(t, m.SyncDir("."))
	m.set(func(m *memFS) { m.crashAt = m.writes + 2 }) // removed, not synced
	_ = d.Remove(1)
	image := m.after(kept{0, lastFirst})
	require.Contains(t, image.files(), fileName(1, dumpSuffix))
	require.Empty(t, drained(t, openMem(t, image, DiskOptions{}), RestorerOptions[string]{}))
}

// TestFailedRemovalDeliversNothingAgain has a dump that was delivered and cannot be removed, or set aside, for an hour.
func TestFailedRemovalDeliversNothingAgain(t *testing.T) {
	for _, damaged := range []bool{false, true} {
		t.Run(fmt.Sprint("damaged=", damaged), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemFS()
				d := openMem(t, m, DiskOptions{})
				dumpOf(t, d, "a", "b", "c")
				require.NoError(t, d.Close())
				if damaged {
					data := m.files()[fileName(1, dumpSuffix)]
					data[len(data)-5] ^= 1
					m.put(fileName(1, dumpSuffix), data)
				}
				d = openMem(t, m, DiskOptions{})
				m.set(func(m *memFS) {
					m.fail = func(op operation) error {
						if (op.kind == opRemove || op.kind == opRename) && op.name == fileName(1, dumpSuffix) {
							return syscall.EIO
						}
						return nil
					}
				})
				g := &got{}
				r := restorer(t, d, g.target, RestorerOptions[string]{})
				r.Start()
				<-time.After(time.Hour)
				m.set(func(m *memFS) { m.fail = nil })
				<-time.After(time.Minute)
				r.Close()
				dumps, err := d.Dumps()
				require.NoError(t, err)
				require.Empty(t, dumps)
				require.LessOrEqual(t, len(g.list()), 6, "the same dump is delivered again and again")
			})
		})
	}
}

func TestRestorerCloseIsPrompt(t *testing.T) {
	for name, set := range map[string]func(o *RestorerOptions[string]){
		"idle":      func(*RestorerOptions[string]) {},
		"load":      func(o *RestorerOptions[string]) { o.Load = func() float64 { return 1 } },
		"items":     func(o *RestorerOptions[string]) { o.ItemsPerSecond = 1e-9 },
		"bytes":     func(o *RestorerOptions[string]) { o.BytesPerSecond = 1e-9 },
		"postponed": func(o *RestorerOptions[string]) { o.PostponeInterval = 100 * time.Hour },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := openMem(t, newMemFS(), DiskOptions{})
				if name != "idle" {
					dumpOf(t, d, "a", "b")
				}
				o := RestorerOptions[string]{CheckInterval: 100 * time.Hour}
				set(&o)
				r := restorer(t, d, func(context.Context, string) error { return errDown }, o)
				r.Start()
				<-time.After(time.Hour)
				start := time.Now()
				r.Close()
				r.Close()
				require.Zero(t, time.Since(start))
			})
		})
	}
	t.Run("never started", func(t *testing.T) {
		restorer(t, openMem(t, newMemFS(), DiskOptions{}), (&got{}).target, RestorerOptions[string]{}).Close()
	})
	t.Run("in the target", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := openMem(t, newMemFS(), DiskOptions{})
			dumpOf(t, d, "a", "b", "c")
			g := &got{}
			r := restorer(t, d, func(ctx context.Context, text string) error {
				if text == "b" {
					<-ctx.Done()
					return ctx.Err()
				}
				return g.target(ctx, text)
			}, RestorerOptions[string]{})
			r.Start()
			<-time.After(time.Minute)
			r.Close()
			require.Equal(t, []string{"a"}, g.list())
			require.Equal(t, []string{"b", "c"}, drained(t, d, RestorerOptions[string]{}), "a is not delivered again")
		})
	})
}

func fill(t *testing.T, d *Disk, c *counts, dumps int) (refused int) {
	t.Helper()
	for n := range dumps {
		for i := range 8 {
			if _, err := d.Append(t.Context(), []byte(item(n*8+i))); err != nil {
				refused++
				continue
			}
			c.Enqueued(1)
			if err := d.Sync(t.Context(), 0); err != nil {
				require.ErrorIs(t, err, ErrFull)
				refused++
			}
		}
		_ = d.Seal(t.Context(), ReasonForced) // fails when it is full
	}
	return refused
}

func onDisk(m *memFS) (size int64) {
	for name, data := range m.files() {
		if !strings.HasPrefix(name, quarantineDir) && !strings.HasSuffix(name, progressSuffix) {
			size += int64(len(data))
		}
	}
	return size
}

func TestMaxSize(t *testing.T) {
	const bound = 32 << 10
	t.Run("reject", func(t *testing.T) {
		c := newCounts()
		m := newMemFS()
		d := openMem(t, m, smallBlocks(DiskOptions{MaxSize: bound, Metrics: c}))
		require.Positive(t, fill(t, d, c, 20))
		require.LessOrEqual(t, onDisk(m), int64(bound+10*footerSize))
		require.Empty(t, c.dropped)
		g := &got{}
		r := restorer(t, d, g.target, RestorerOptions[string]{Metrics: c})
		for range 20 { // as room is made, what was kept in memory is written
			require.NoError(t, r.Drain(t.Context()))
			_ = d.Seal(t.Context(), ReasonForced)
		}
		require.NoError(t, r.Drain(t.Context()))
		require.Equal(t, c.enqueued, c.restored, "all that was taken arrives")
		require.Zero(t, used(d))
	})
	t.Run("drop_oldest", func(t *testing.T) {
		c := newCounts()
		m := newMemFS()
		d := openMem(t, m, smallBlocks(DiskOptions{MaxSize: bound, OnFull: DropOldest, Metrics: c}))
		require.Zero(t, fill(t, d, c, 20))
		require.LessOrEqual(t, onDisk(m), int64(bound+10*footerSize))
		require.Equal(t, onDisk(m), used(d))
		require.Positive(t, c.dropped["max_size"])
		require.Equal(t, c.enqueued, c.balance())
		g := &got{}
		require.NoError(t, restorer(t, d, g.target, RestorerOptions[string]{Metrics: c}).Drain(t.Context()))
		require.Equal(t, item(159), g.list()[len(g.list())-1], "the newest are kept")
		require.Equal(t, c.enqueued, c.balance())
		require.Zero(t, used(d))
	})
}

func TestMaxAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCounts()
		m := newMemFS()
		d := openMem(t, m, DiskOptions{MaxAge: time.Hour, Metrics: c})
		dumpOf(t, d, "a", "b")
		<-time.After(50 * time.Minute)
		dumpOf(t, d, "c")
		<-time.After(10*time.Minute + time.Second)
		require.Equal(t, []string{"c"}, drained(t, d, RestorerOptions[string]{Metrics: c}))
		require.Equal(t, map[string]uint64{"max_age": 2}, c.dropped)
		require.Equal(t, c.enqueued, c.balance())
	})
}

// TestMinFree counts under a reason of its own: the operator would turn the wrong screw.
func TestMinFree(t *testing.T) {
	c := newCounts()
	m := newMemFS()
	d := openMem(t, m, smallBlocks(DiskOptions{MinFree: 1 << 20, OnFull: DropOldest, Metrics: c}))
	dumpOf(t, d, "a")
	dumpOf(t, d, "b")
	m.set(func(m *memFS) { m.free = 1 << 20 })
	_, err := d.Append(t.Context(), []byte("c"))
	require.NoError(t, err)
	err = d.Sync(t.Context(), 0)
	require.ErrorIs(t, err, ErrFull)
	require.ErrorContains(t, err, "MinFree")
	require.EqualValues(t, 2, sum(c.dropped))
	require.Zero(t, c.dropped["max_size"], "it was not MaxSize that dropped them")
	m.set(func(m *memFS) { m.free = 2 << 20 })
	require.NoError(t, d.Sync(t.Context(), 0))
	require.NoError(t, d.Seal(t.Context(), ReasonForced))
	require.Equal(t, []string{"c"}, drained(t, d, RestorerOptions[string]{}))
}

// TestDropIsCountedOnce has a dump that is dropped for its age and for its size at the same time.
func TestDropIsCountedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCounts()
		m := newMemFS()
		d := openMem(t, m, smallBlocks(DiskOptions{MaxAge: time.Hour, Metrics: c}))
		dumpOf(t, d, "a", "b")
		<-time.After(2 * time.Hour)
		release := held(m, opOpen)
		var both sync.WaitGroup
		both.Go(func() { d.dropOldest("max_size") })
		both.Go(func() { _, _ = d.Dumps() })
		synctest.Wait()
		release()
		both.Wait()
		require.EqualValues(t, 2, sum(c.dropped))
	})
}

// TestReadDumpIsNotDropped opens a dump while it is about to be dropped: one of the two must give way.
func TestReadDumpIsNotDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCounts()
		m := newMemFS()
		d := openMem(t, m, smallBlocks(DiskOptions{Metrics: c}))
		dumpOf(t, d, "a", "b")
		release := held(m, opOpen)
		var ended sync.WaitGroup
		ended.Go(func() { d.dropOldest("max_size") })
		synctest.Wait()
		m.set(func(m *memFS) { m.hook = nil })
		r, err := d.Open(1)
		release()
		ended.Wait()
		if err == nil {
			require.Empty(t, c.dropped, "it is read and dropped")
			require.NoError(t, r.Close())
		}
	})
}

// TestLedger has a bit of everything: what was enqueued is restored, stored, dropped or set aside.
func TestLedger(t *testing.T) {
	c := newCounts()
	m := newMemFS()
	o := smallBlocks(DiskOptions{Version: "1", Metrics: c})
	d := openMem(t, m, o)
	var many []string
	for i := range 30 {
		many = append(many, item(i))
	}
	dumpOf(t, d, many...) // will be damaged
	dumpOf(t, d, "a", "poison", "b")
	require.NoError(t, d.Close())
	o.Version = "0"
	d = openMem(t, m, o)
	dumpOf(t, d, "of another version")
	require.NoError(t, d.Close())
	data := m.files()[fileName(1, dumpSuffix)]
	data[len(data)/2] ^= 1
	m.put(fileName(1, dumpSuffix), data)
	o.Version = "1"
	d = openMem(t, m, o)
	require.Equal(t, c.enqueued, c.balance())
	g := &got{}
	target := func(ctx context.Context, text string) error {
		if text == "poison" {
			return ErrPoison
		}
		return g.target(ctx, text)
	}
	require.NoError(t, restorer(t, d, target, RestorerOptions[string]{Version: "1", Metrics: c}).Drain(t.Context()))
	require.Zero(t, c.stored)
	require.EqualValues(t, len(g.list()), c.restored)
	require.Equal(t, c.enqueued, c.balance(), "restored %d, quarantined %v", c.restored, c.quarantined)
}

// TestReasonsAreFew has two dumps damaged at two places: a reason is a label of a metric.
func TestReasonsAreFew(t *testing.T) {
	c := newCounts()
	m := newMemFS()
	d := openMem(t, m, smallBlocks(DiskOptions{}))
	for n := range uint64(5) {
		var items []string
		for i := range 30 {
			items = append(items, item(i))
		}
		dumpOf(t, d, items...)
		data := m.files()[fileName(n+1, dumpSuffix)]
		data[len(data)/2+int(n)*3000] ^= 1
		m.put(fileName(n+1, dumpSuffix), data)
	}
	require.NoError(t, d.Close())
	d = openMem(t, m, smallBlocks(DiskOptions{Metrics: c}))
	drained(t, d, RestorerOptions[string]{Metrics: c})
	require.Len(t, c.quarantined, 1)
}

// TestQuarantineIsNotOverwritten has a directory that cannot be listed once, so that the numbers in it are not known.
func TestQuarantineIsNotOverwritten(t *testing.T) {
	m := newMemFS()
	d := openMem(t, m, DiskOptions{})
	poison := func(context.Context, string) error { return ErrPoison }
	dumpOf(t, d, "first")
	require.NoError(t, restorer(t, d, poison, RestorerOptions[string]{}).Drain(t.Context()))
	require.NoError(t, d.Close())
	require.Equal(t, map[string]int{"first": 1}, setAside(m))
	m.fail = func(op operation) error {
		if op.kind == opList && op.name == quarantineDir {
			return syscall.EIO
		}
		return nil
	}
	o := DiskOptions{}
	require.NoError(t, o.setDefaults())
	d, err := openDisk("mem", m, o)
	if err != nil {
		return // which is as well
	}
	m.set(func(m *memFS) { m.fail = nil })
	dumpOf(t, d, "second")
	_ = restorer(t, d, poison, RestorerOptions[string]{}).Drain(t.Context())
	_ = restorer(t, d, poison, RestorerOptions[string]{}).Drain(t.Context())
	require.NoError(t, d.Close())
	require.Contains(t, setAside(m), "first", "what was set aside is overwritten")
}

// TestUnreadableDumpIsKept has a place in a dump that can never be read.
func TestUnreadableDumpIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemFS()
		d := openMem(t, m, smallBlocks(DiskOptions{}))
		dumpOf(t, d, "a")
		dumpOf(t, d, "b")
		m.set(func(m *memFS) {
			m.fail = func(op operation) error {
				if op.kind == opRead && op.name == fileName(1, dumpSuffix) {
					return syscall.EIO
				}
				return nil
			}
		})
		g := &got{}
		r := restorer(t, d, g.target, RestorerOptions[string]{})
		r.Start()
		<-time.After(24 * time.Hour)
		r.Close()
		require.Equal(t, []string{"b"}, g.list())
		require.True(t, bytes.Contains(m.files()[fileName(1, dumpSuffix)], []byte("a")), "what cannot be read now may be readable once")
	})
}

// TestOpensOnAFullDisk starts on a full disk after a crash: restoring is what would make room.
func TestOpensOnAFullDisk(t *testing.T) {
	image, w := openDumps(t)
	image.fail = func(op operation) error {
		if op.grows {
			return syscall.ENOSPC
		}
		return nil
	}
	d, err := openDisk("mem", image, smallBlocks(DiskOptions{Version: "1"}))
	require.NoError(t, err, "nothing can be restored, so the disk stays full")
	r, err := NewRestorer(d, DecodeBytes, w.target, RestorerOptions[[]byte]{Version: "1"})
	require.NoError(t, err)
	_ = r.Drain(t.Context()) // what needs room cannot be done
	require.NoError(t, d.Close())
	image.set(func(m *memFS) { m.fail = nil })
	require.Empty(t, w.check(image, smallBlocks(DiskOptions{Version: "1"}), nil))
}

// TestClosedDiskLeavesTheDirectoryAlone uses a Disk after Close, when another may have the directory.
func TestClosedDiskLeavesTheDirectoryAlone(t *testing.T) {
	m := newMemFS()
	d := openMem(t, m, DiskOptions{})
	dumpOf(t, d, "a")
	require.NoError(t, d.Close())
	before := m.files()
	_, err := d.Open(1)
	require.ErrorIs(t, err, ErrClosed)
	require.ErrorIs(t, d.Remove(1), ErrClosed)
	require.ErrorIs(t, d.Quarantine(1, "reason"), ErrClosed)
	require.Equal(t, before, m.files())
}

// TestBatch gives four items at a time, in order; of those that are not taken the target is given each.
func TestBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemFS()
		d := openMem(t, m, DiskOptions{})
		var want []string
		for i := range 10 {
			want = append(want, fmt.Sprint("item ", i))
		}
		dumpOf(t, d, want...)
		var got []string
		var batches []int
		alone := 0
		r, err := NewRestorer(d, DecodeString, func(_ context.Context, item string) error {
			alone++
			if alone < 3 {
				return errors.New("not now")
			}
			got = append(got, item)
			return nil
		}, RestorerOptions[string]{BatchSize: 4, Batch: func(_ context.Context, items []string) []error {
			batches = append(batches, len(items))
			errs := make([]error, len(items))
			for i, item := range items {
				if item == "item 5" {
					errs[i] = errors.New("not now")
				} else {
					got = append(got, item)
				}
			}
			return errs
		}})
		require.NoError(t, err)
		require.NoError(t, r.Drain(t.Context()))
		require.ElementsMatch(t, want, got)
		require.Equal(t, []int{4, 4, 2}, batches)
		require.Equal(t, 3, alone)
		require.Empty(t, m.files()[fileName(1, dumpSuffix)])
	})
}

// TestDroppingIsTold counts what DropOldest deletes.
func TestDroppingIsTold(t *testing.T) {
	var dropped []string
	m := newMemFS()
	d := openMem(t, m, DiskOptions{
		MaxSize: 4 << 10, OnFull: DropOldest,
		Dropping: func(item []byte) { dropped = append(dropped, string(item[:3])) },
	})
	for i := range 3 {
		dumpOf(t, d, fmt.Sprintf("%03d%s", i, make([]byte, 1500)))
	}
	require.Equal(t, []string{"000"}, dropped)
	require.NoError(t, d.Close())
}

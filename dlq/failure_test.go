package dlq

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestProgressIsDurableAfterAFailure fails the first progress: the second one's file is no less new.
func TestProgressIsDurableAfterAFailure(t *testing.T) {
	m := newMemFS()
	d := openMem(t, m, DiskOptions{})
	dumpOf(t, d, "a", "b", "c")
	r, err := d.Open(1)
	require.NoError(t, err)
	m.set(func(m *memFS) { once(m, 1, syscall.EIO, func(op operation) bool { return op.kind == opSync }) })
	require.ErrorIs(t, r.Progress(1), syscall.EIO)
	require.NoError(t, r.Progress(2))
	require.Equal(t, []string{"c"}, drained(t, openMem(t, m.after(kept{0, inOrder}), DiskOptions{}), RestorerOptions[string]{}))
	require.NoError(t, r.Close())
}

// TestUnreadableProgressIsNoProgress has a disk that cannot read a progress once: the dump must not begin anew.
func TestUnreadableProgressIsNoProgress(t *testing.T) {
	for _, kind := range []opKind{opOpen, opRead} {
		t.Run(string(kind), func(t *testing.T) {
			m := newMemFS()
			d := openMem(t, m, DiskOptions{})
			dumpOf(t, d, "a", "b", "c")
			r, err := d.Open(1)
			require.NoError(t, err)
			require.NoError(t, r.Progress(2))
			require.NoError(t, r.Close())
			m.set(func(m *memFS) {
				once(m, 1, syscall.EIO, func(op operation) bool { return op.kind == kind && op.name == fileName(1, progressSuffix) })
			})
			g := &got{}
			_ = restorer(t, d, g.target, RestorerOptions[string]{}).Drain(t.Context())
			require.NotContains(t, g.list(), "a", "what was delivered, durably noted, comes again")
		})
	}
}

// TestSalvagedDumpComesOnce fails to set a damaged dump aside of which the rest was salvaged.
func TestSalvagedDumpComesOnce(t *testing.T) {
	image, w := openDumps(t)
	w.settled = make(map[string]bool)
	image.fail = func(op operation) error {
		if op.name == quarantineDir+"/"+fileName(2, openSuffix)+reasonSuffix && op.grows {
			return syscall.EIO
		}
		return nil
	}
	require.NoError(t, w.restore(image, smallBlocks(DiskOptions{Version: "1"})))
	image.set(func(m *memFS) { m.fail = nil })
	require.NoError(t, w.restore(image, smallBlocks(DiskOptions{Version: "1"})))
	require.Empty(t, w.repeated)
}

// TestFailedRenameIsAccountedOnce counts the bytes of a dump that could not be published at once.
func TestFailedRenameIsAccountedOnce(t *testing.T) {
	m := newMemFS()
	d := openMem(t, m, DiskOptions{})
	m.set(func(m *memFS) { once(m, 1, syscall.EIO, func(op operation) bool { return op.kind == opRename }) })
	_, err := d.Append(t.Context(), []byte("a"))
	require.NoError(t, err)
	require.ErrorIs(t, d.Seal(t.Context(), ReasonForced), syscall.EIO)
	require.Equal(t, []string{"a"}, drained(t, d, RestorerOptions[string]{}))
	require.Zero(t, used(d))
}

// TestProgressOutlivesItsDumpWhenSyncDirFails has a dump that a crash may bring back: then with its progress.
func TestProgressOutlivesItsDumpWhenSyncDirFails(t *testing.T) {
	m := newMemFS()
	d := openMem(t, m, DiskOptions{})
	dumpOf(t, d, "a", "b", "c")
	r, err := d.Open(1)
	require.NoError(t, err)
	require.NoError(t, r.Progress(3))
	require.NoError(t, r.Close())
	m.set(func(m *memFS) { once(m, 1, syscall.EIO, func(op operation) bool { return op.kind == opSyncDir }) })
	require.ErrorIs(t, d.Remove(1), syscall.EIO)
	for _, k := range allKept {
		require.Empty(t, drained(t, openMem(t, m.after(k), DiskOptions{}), RestorerOptions[string]{}), "%v", k)
	}
}

// TestOpensOnAFullDiskAfterACrashInSalvage must open, since only restoring makes room.
func TestOpensOnAFullDiskAfterACrashInSalvage(t *testing.T) {
	start, _ := openDumps(t)
	o := smallBlocks(DiskOptions{Version: "1"})
	m := start.clone()
	m.fail = func(op operation) error { // dies between the publishing of what was salvaged and the setting aside of the rest
		if op.name == quarantineDir+"/"+fileName(2, openSuffix)+reasonSuffix {
			m.set(func(m *memFS) { m.dead = true })
			return errDead
		}
		return nil
	}
	_, err := openDisk("mem", m, o)
	require.ErrorIs(t, err, errDead)
	image := m.clone()
	image.fail = func(op operation) error {
		if op.grows {
			return syscall.ENOSPC
		}
		return nil
	}
	d, err := openDisk("mem", image, o)
	require.NoError(t, err, "nothing can be restored, so the disk stays full")
	require.NoError(t, d.Close())
}

// TestTornSealIsNoDamage cuts a dump off within what seals it, as a full disk does and a crash may: nobody is to look at that.
func TestTornSealIsNoDamage(t *testing.T) {
	sealed := t.TempDir()
	d, err := OpenDisk(sealed, DiskOptions{})
	require.NoError(t, err)
	dumpOf(t, d, "a", "b")
	require.NoError(t, d.Close())
	whole, err := os.ReadFile(filepath.Join(sealed, fileName(1, dumpSuffix)))
	require.NoError(t, err)
	seal := bytes.LastIndex(whole, []byte(headerMagic))

	salvaged := func(b []byte) (*Disk, []os.DirEntry) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, fileName(1, openSuffix)), b, fileMode))
		d, err := OpenDisk(dir, DiskOptions{})
		require.NoError(t, err)
		aside, err := os.ReadDir(filepath.Join(dir, quarantineDir))
		require.NoError(t, err)
		return d, aside
	}
	for end := seal; end <= len(whole); end++ {
		for _, zeros := range []int{0, 100} {
			d, aside := salvaged(append(slices.Clone(whole[:end]), make([]byte, zeros)...))
			require.Empty(t, aside, "%d bytes of %d", end-seal, len(whole)-seal)
			require.Equal(t, []string{"a", "b"}, drained(t, d, RestorerOptions[string]{}))
			require.NoError(t, d.Close())
		}
	}
	for at := seal; at < len(whole)-1; at++ {
		torn := slices.Clone(whole[:len(whole)-1])
		torn[at] ^= 1
		d, aside := salvaged(torn)
		require.NotEmpty(t, aside, "byte %d of what seals the dump is another", at-seal)
		require.NoError(t, d.Close())
	}
}

// TestFullDiskDoesNotStopRestoring cannot write progress while it delivers: what is on the disk must go all the same, and
// each item once.
func TestFullDiskDoesNotStopRestoring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemFS()
		d := openMem(t, m, DiskOptions{})
		var items []string
		for i := range 100 {
			items = append(items, fmt.Sprint("item ", i))
		}
		dumpOf(t, d, items...)
		m.set(func(m *memFS) {
			m.fail = func(op operation) error {
				if op.grows {
					return syscall.ENOSPC
				}
				return nil
			}
		})
		g := &got{}
		r := restorer(t, d, func(ctx context.Context, text string) error {
			pause(ctx, 10*time.Millisecond)
			return g.target(ctx, text)
		}, RestorerOptions[string]{})
		require.NoError(t, r.Drain(t.Context()))
		require.Equal(t, items, g.list())
		require.Zero(t, used(d))
	})
}

// TestRunOfFaultyItems has many items in a row, or dumps, that the target does not take, without saying that it never will.
func TestRunOfFaultyItems(t *testing.T) {
	for _, n := range []int{15, 17, 100} {
		for _, each := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d, a dump each: %v", n, each), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newMemFS()
					d := openMem(t, m, DiskOptions{})
					var bad []string
					for i := range n {
						bad = append(bad, fmt.Sprint("bad ", i))
						if each {
							dumpOf(t, d, bad[i])
						}
					}
					if each {
						bad = nil
					}
					dumpOf(t, d, append(bad, "good 1", "good 2")...)
					g := &got{}
					r := restorer(t, d, func(ctx context.Context, text string) error {
						if strings.HasPrefix(text, "bad") {
							return errors.New("no")
						}
						return g.target(ctx, text)
					}, RestorerOptions[string]{})
					r.Start()
					<-time.After(2 * time.Hour)
					r.Close()
					require.Equal(t, []string{"good 1", "good 2"}, g.list())
					dumps, err := d.Dumps()
					require.NoError(t, err)
					require.Empty(t, dumps)
				})
			})
		}
	}
}

// TestFlakyTarget fails half of its calls. Items that it takes at the next try must not be set aside.
func TestFlakyTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openMem(t, newMemFS(), DiskOptions{})
		var items []string
		for i := range 1000 {
			items = append(items, fmt.Sprint("item ", i))
		}
		dumpOf(t, d, items...)
		calls := uint32(1)
		g := &got{}
		r := restorer(t, d, func(ctx context.Context, text string) error {
			if calls = calls*1664525 + 1013904223; calls>>31 == 0 {
				return errors.New("one of two backends")
			}
			return g.target(ctx, text)
		}, RestorerOptions[string]{})
		require.NoError(t, r.Drain(t.Context()))
		require.Greater(t, len(g.list()), 990)
	})
}

// TestItemThatDoesNotFit is refused at once, and costs nothing that is stored.
func TestItemThatDoesNotFit(t *testing.T) {
	for _, onFull := range []OnFull{Reject, DropOldest} {
		d := openMem(t, newMemFS(), DiskOptions{MaxSize: 1 << 20, OnFull: onFull})
		dumpOf(t, d, "before")
		_, err := d.Append(t.Context(), make([]byte, 2<<20))
		require.ErrorIs(t, err, ErrTooLarge)
		require.ErrorContains(t, err, "1048576")
		require.NoError(t, d.AppendDurable(t.Context(), []byte("after")))
		require.NoError(t, d.Seal(t.Context(), ReasonForced))
		require.Equal(t, []string{"before", "after"}, drained(t, d, RestorerOptions[string]{}))
	}
}

// TestDroppingThatWouldNotHelp asks for more free space than there is with all dumps gone.
func TestDroppingThatWouldNotHelp(t *testing.T) {
	m := newMemFS()
	d := openMem(t, m, DiskOptions{})
	dumpOf(t, d, "a")
	require.NoError(t, d.Close())
	m.set(func(m *memFS) { m.free = 1 << 20 })
	d = openMem(t, m, DiskOptions{MinFree: 1 << 30, OnFull: DropOldest})
	require.ErrorIs(t, d.AppendDurable(t.Context(), []byte("b")), ErrFull)
	require.Equal(t, []string{"a"}, drained(t, d, RestorerOptions[string]{}))
}

// TestRoom is what MaxSize leaves, or the file system if that is less.
func TestRoom(t *testing.T) {
	m := newMemFS()
	d := openMem(t, m, DiskOptions{MaxSize: 1 << 20, MinFree: 1 << 10})
	dumpOf(t, d, "a")
	var used int64
	for _, content := range m.files() {
		used += int64(len(content))
	}
	for _, c := range []struct{ free, room int64 }{{1 << 30, 1<<20 - used}, {5 << 10, 4 << 10}, {0, 0}} {
		m.set(func(m *memFS) { m.free = c.free })
		room, err := d.Room()
		require.NoError(t, err)
		require.Equal(t, c.room, room)
	}
}

// TestFirstSectorIsLost overwrites both headers at the beginning of a sealed dump.
func TestFirstSectorIsLost(t *testing.T) {
	m := newMemFS()
	o := DiskOptions{Version: "7", BlockSize: 4 << 10}
	d := openMem(t, m, o)
	var items []string
	for i := range 100 {
		items = append(items, fmt.Sprintf("%0200d", i))
	}
	dumpOf(t, d, items...)
	require.NoError(t, d.Close())
	data := m.files()[fileName(1, dumpSuffix)]
	clear(data[:512])
	m.put(fileName(1, dumpSuffix), data)
	got := drained(t, openMem(t, m, o), RestorerOptions[string]{Version: "7"})
	require.Greater(t, len(got), 70, "all but the first block")
	require.Equal(t, items[100-len(got):], got)
	require.Contains(t, quarantineOf(m), fileName(1, dumpSuffix))
}

// TestProgressAfterClose notes progress when another Disk has the directory, and perhaps a dump of the same number.
func TestProgressAfterClose(t *testing.T) {
	m := newMemFS()
	d := openMem(t, m, DiskOptions{})
	dumpOf(t, d, "a", "b")
	r, err := d.Open(1)
	require.NoError(t, err)
	require.NoError(t, d.Close())
	require.ErrorIs(t, r.Progress(1), ErrClosed)
	require.NotContains(t, m.files(), fileName(1, progressSuffix))
}

// TestCloseThatWasCutShort can be finished by another.
func TestCloseThatWasCutShort(t *testing.T) {
	d := openMem(t, newMemFS(), DiskOptions{})
	q, err := NewQueue(d, EncodeString, QueueOptions{Capacity: 1 << 20})
	require.NoError(t, err)
	require.NoError(t, q.Enqueue(t.Context(), "a"))
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	_ = q.Close(cancelled) // which may have been quick enough
	require.NoError(t, q.Close(t.Context()))
	dumps, err := d.Dumps()
	require.NoError(t, err)
	require.Len(t, dumps, 1)
	require.NoError(t, d.Close())
	require.NoError(t, q.Close(t.Context()))
}

// TestMigrateMayChangeWhatItGets in place, and the item is tried again.
func TestMigrateMayChangeWhatItGets(t *testing.T) {
	d := openMem(t, newMemFS(), DiskOptions{Version: "1"})
	dumpOf(t, d, "1:item")
	g := &got{}
	failed := false
	r := restorer(t, d, func(ctx context.Context, text string) error {
		if !failed {
			failed = true
			return errors.New("not now")
		}
		return g.target(ctx, text)
	}, RestorerOptions[string]{
		Version: "2", CheckInterval: time.Millisecond,
		Migrate: func(_ string, data []byte) ([]byte, error) { data[0]++; return data, nil },
	})
	require.NoError(t, r.Drain(t.Context()))
	require.Equal(t, []string{"2:item"}, g.list())
}

// TestNameThatIsTaken has a directory and a link where the next dump would be.
func TestNameThatIsTaken(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, fileName(1, dumpSuffix)), 0o700))
	require.NoError(t, os.Symlink("nowhere", filepath.Join(dir, fileName(2, dumpSuffix))))
	d, err := OpenDisk(dir, DiskOptions{})
	require.NoError(t, err)
	dumpOf(t, d, "a")
	require.Equal(t, []string{"a"}, drained(t, d, RestorerOptions[string]{}))
	files, err := List(dir)
	require.NoError(t, err)
	require.Empty(t, files)
	require.NoError(t, d.Close())
}

// TestItemsOfAnotherStorage makes Items from outside the package.
func TestItemsOfAnotherStorage(t *testing.T) {
	items := NewItems(3, []byte("a"), nil, bytes.Repeat([]byte("x"), 300))
	for n, want := range []string{"a", "", strings.Repeat("x", 300)} {
		item, place, ok := items.Cut()
		require.True(t, ok)
		require.Equal(t, want, string(item))
		require.Equal(t, uint64(3+n), place)
	}
	_, _, ok := items.Cut()
	require.False(t, ok)
}

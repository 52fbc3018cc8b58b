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

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

func newEncoder() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic(err)
	}
	return e
}

// held stops the appender before its first operation of a kind, until release.
func held(m *memFS, kind opKind) (release func()) {
	gate := make(chan struct{})
	var once sync.Once
	m.set(func(m *memFS) {
		m.hook = func(op operation) {
			if op.kind == kind {
				<-gate
			}
		}
	})
	return func() { once.Do(func() { close(gate) }) }
}

// TestSealWhileSealing appends an item while an earlier seal is being published, and asks for another.
func TestSealWhileSealing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemFS()
		d := openMem(t, m, DiskOptions{})
		_, err := d.Append(t.Context(), []byte("a"))
		require.NoError(t, err)
		release := held(m, opRename)
		var seals sync.WaitGroup
		errs := make([]error, 2)
		seals.Go(func() { errs[0] = d.Seal(t.Context(), ReasonSize) })
		synctest.Wait()
		_, err = d.Append(t.Context(), []byte("b"))
		require.NoError(t, err)
		seals.Go(func() { errs[1] = d.Seal(t.Context(), ReasonForced) })
		synctest.Wait()
		release()
		seals.Wait()
		require.NoError(t, errors.Join(errs...))
		require.Equal(t, []string{"a", "b"}, drained(t, d, RestorerOptions[string]{}), "Seal returned, and an item is not sealed")
	})
}

// TestCloseWhileSealing is the same with Close, which must not lose what was appended before it.
func TestCloseWhileSealing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemFS()
		d := openMem(t, m, DiskOptions{})
		_, err := d.Append(t.Context(), []byte("a"))
		require.NoError(t, err)
		release := held(m, opRename)
		var ended sync.WaitGroup
		errs := make([]error, 2)
		ended.Go(func() { errs[0] = d.Seal(t.Context(), ReasonSize) })
		synctest.Wait()
		_, err = d.Append(t.Context(), []byte("b"))
		require.NoError(t, err)
		ended.Go(func() { errs[1] = d.Close() })
		synctest.Wait()
		release()
		ended.Wait()
		require.NoError(t, errors.Join(errs...))
		require.Equal(t, []string{"a", "b"}, drained(t, openMem(t, m, DiskOptions{}), RestorerOptions[string]{}),
			"Close returned nil, and what was appended before it is lost")
	})
}

// TestCloseAfterAFailedSeal has one caller: a seal fails, and is still being made up for when Close comes.
func TestCloseAfterAFailedSeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemFS()
		d := openMem(t, m, smallBlocks(DiskOptions{}))
		m.set(func(m *memFS) { once(m, 1, syscall.EIO, func(op operation) bool { return op.kind == opCreate }) })
		_, err := d.Append(t.Context(), []byte("a"))
		require.NoError(t, err)
		require.ErrorIs(t, d.Seal(t.Context(), ReasonForced), syscall.EIO)
		release := held(m, opRename)
		full := strings.Repeat("x", 5000)
		_, err = d.Append(t.Context(), []byte(full)) // fills a block, which wakes the appender
		require.NoError(t, err)
		synctest.Wait()
		_, err = d.Append(t.Context(), []byte("b"))
		require.NoError(t, err)
		var ended sync.WaitGroup
		ended.Go(func() { err = d.Close() })
		synctest.Wait()
		release()
		ended.Wait()
		require.NoError(t, err)
		require.Equal(t, []string{"a", full, "b"}, drained(t, openMem(t, m, DiskOptions{}), RestorerOptions[string]{}),
			"Close returned nil, and what was appended before it is lost")
	})
}

// TestAppendWhileClosing has an Append that comes while Close works: it is refused, or durable when Close returns.
func TestAppendWhileClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemFS()
		d := openMem(t, m, DiskOptions{})
		_, err := d.Append(t.Context(), []byte("a"))
		require.NoError(t, err)
		release := held(m, opRename)
		var ended sync.WaitGroup
		var closed error
		ended.Go(func() { closed = d.Close() })
		synctest.Wait()
		want := []string{"a"}
		if _, err := d.Append(t.Context(), []byte("b")); err == nil {
			want = append(want, "b")
		} else {
			require.ErrorIs(t, err, ErrClosed)
		}
		release()
		ended.Wait()
		require.NoError(t, closed)
		require.Equal(t, want, drained(t, openMem(t, m, DiskOptions{}), RestorerOptions[string]{}),
			"Append and Close returned nil, and the item is lost")
	})
}

// TestGreatestItem puts items of MaxItemSize behind small ones.
func TestGreatestItem(t *testing.T) {
	for _, compress := range []bool{false, true} {
		t.Run(fmt.Sprint("compress=", compress), func(t *testing.T) {
			m := newMemFS()
			d := openMem(t, m, DiskOptions{Compress: compress})
			great := make([]byte, MaxItemSize)
			_, err := d.Append(t.Context(), great)
			require.NoError(t, err)
			require.NoError(t, d.Sync(t.Context(), 0))
			_, err = d.Append(t.Context(), []byte("a small item before"))
			require.NoError(t, err)
			_, err = d.Append(t.Context(), great)
			require.NoError(t, err)
			_, err = d.Append(t.Context(), []byte("a small item behind"))
			require.NoError(t, err)
			_, err = d.Append(t.Context(), append(great, 0))
			require.ErrorIs(t, err, ErrTooLarge)
			require.NoError(t, d.Close())
			d = openMem(t, m, DiskOptions{})
			var sizes []int
			r, err := NewRestorer(d, DecodeBytes, func(_ context.Context, data []byte) error {
				sizes = append(sizes, len(data))
				return nil
			}, RestorerOptions[[]byte]{})
			require.NoError(t, err)
			require.NoError(t, r.Drain(t.Context()))
			require.Equal(t, []int{MaxItemSize, 19, MaxItemSize, 19}, sizes)
		})
	}
}

func TestEmptyItems(t *testing.T) {
	d := openMem(t, newMemFS(), DiskOptions{})
	dumpOf(t, d, "", "", "a", "")
	require.Equal(t, []string{"", "", "a", ""}, drained(t, d, RestorerOptions[string]{}))
}

// TestBacklogLargerThanTheRoom fills memory while the disk is full, and then makes room for less than memory holds.
func TestBacklogLargerThanTheRoom(t *testing.T) {
	for _, onFull := range []OnFull{Reject, DropOldest} {
		t.Run(string(onFull), func(t *testing.T) {
			m := newMemFS()
			d := openMem(t, m, smallBlocks(DiskOptions{MaxSize: 12 << 10, OnFull: onFull}))
			m.set(func(m *memFS) {
				m.fail = func(op operation) error {
					if op.grows {
						return syscall.ENOSPC
					}
					return nil
				}
			})
			var want []string
			for i := 0; ; i++ {
				if _, err := d.Append(t.Context(), []byte(item(i))); err != nil {
					break
				}
				want = append(want, item(i))
				_ = d.Sync(t.Context(), 0)
			}
			m.set(func(m *memFS) { m.fail = nil })
			var items []string
			for range 20 { // a restorer empties the disk, and there is always room for 12 KiB
				_ = d.Sync(t.Context(), 0)
				_ = d.Seal(t.Context(), ReasonForced)
				items = append(items, drained(t, d, RestorerOptions[string]{})...)
			}
			require.NoError(t, d.Sync(t.Context(), 0), "what is in memory can never be written")
			if onFull == Reject {
				require.ElementsMatch(t, want, items)
			}
		})
	}
}

// TestManyDurableCallersShareASync has 100 callers wait while the file is made.
func TestManyDurableCallersShareASync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemFS()
		d := openMem(t, m, DiskOptions{})
		q, err := NewQueue(d, EncodeString, QueueOptions{Capacity: 1 << 20})
		require.NoError(t, err)
		release := held(m, opCreate)
		var callers sync.WaitGroup
		for i := range 100 {
			callers.Go(func() {
				if err := q.EnqueueDurable(t.Context(), fmt.Sprint("item ", i)); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		syncs := 0
		m.set(func(m *memFS) {
			m.hook = func(op operation) {
				if op.kind == opSync {
					syncs++
				}
			}
		})
		release()
		callers.Wait()
		require.LessOrEqual(t, syncs, 3)
		require.NoError(t, q.Close(t.Context()))
	})
}

func TestEveryWaitTakesAContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemFS()
		d := openMem(t, m, smallBlocks(DiskOptions{}))
		q, err := NewQueue(d, EncodeString, QueueOptions{Capacity: 1 << 20})
		require.NoError(t, err)
		release := held(m, opCreate)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, q.EnqueueDurable(ctx, "a"), context.DeadlineExceeded)
		require.ErrorIs(t, q.Sync(ctx), context.DeadlineExceeded)
		require.ErrorIs(t, q.Flush(ctx), context.DeadlineExceeded)
		for {
			if err := q.Enqueue(ctx, item(5)); err != nil {
				require.ErrorIs(t, err, context.DeadlineExceeded)
				break
			}
		}
		require.ErrorIs(t, q.Close(ctx), context.DeadlineExceeded)
		release()
	})
}

func TestFlushInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := openMem(t, newMemFS(), DiskOptions{})
		q, err := NewQueue(d, EncodeString, QueueOptions{Capacity: 100, FlushInterval: 10 * time.Second})
		require.NoError(t, err)
		reasons := func() (all []Reason) {
			synctest.Wait()
			dumps, err := d.Dumps()
			require.NoError(t, err)
			for _, i := range dumps {
				all = append(all, i.Reason)
			}
			return all
		}
		<-time.After(time.Minute)
		require.Empty(t, reasons(), "without items no dump")
		require.NoError(t, q.Enqueue(t.Context(), "a"))
		<-time.After(9 * time.Second)
		require.NoError(t, q.Enqueue(t.Context(), "b"))
		require.Empty(t, reasons())
		<-time.After(time.Second)
		require.Equal(t, []Reason{ReasonInterval}, reasons(), "counted from the first item")
		require.NoError(t, q.Enqueue(t.Context(), strings.Repeat("c", 100)))
		require.Equal(t, []Reason{ReasonInterval, ReasonSize}, reasons())
		<-time.After(time.Minute)
		require.Len(t, reasons(), 2)
		require.NoError(t, q.Enqueue(t.Context(), "d"))
		require.NoError(t, q.Close(t.Context()))
		require.Equal(t, []Reason{ReasonInterval, ReasonSize, ReasonForced}, reasons())
	})
}

// TestIntervalWhileTheDiskIsFull keeps trying to seal.
func TestIntervalWhileTheDiskIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemFS()
		d := openMem(t, m, DiskOptions{})
		q, err := NewQueue(d, EncodeString, QueueOptions{Capacity: 1 << 20, FlushInterval: 10 * time.Second})
		require.NoError(t, err)
		m.set(func(m *memFS) { m.fail = func(operation) error { return syscall.ENOSPC } })
		require.NoError(t, q.Enqueue(t.Context(), "a"))
		<-time.After(time.Hour)
		m.set(func(m *memFS) { m.fail = nil })
		<-time.After(time.Minute)
		require.Equal(t, []string{"a"}, drained(t, d, RestorerOptions[string]{}))
		require.NoError(t, q.Close(t.Context()))
	})
}

// TestPublishFailsOnce has a dump whose last step fails once: it is restored without a restart.
func TestPublishFailsOnce(t *testing.T) {
	for _, kind := range []opKind{opRename, opSyncDir} {
		t.Run(string(kind), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemFS()
				d := openMem(t, m, DiskOptions{})
				_, err := d.Append(t.Context(), []byte("a"))
				require.NoError(t, err)
				require.NoError(t, d.Sync(t.Context(), 0))
				m.set(func(m *memFS) {
					once(m, 1, syscall.EIO, func(op operation) bool { return op.kind == kind })
				})
				if err := d.Seal(t.Context(), ReasonForced); kind == opRename { // without the sync, recovery finds the old name
					require.ErrorIs(t, err, syscall.EIO)
				}
				<-time.After(time.Minute)
				require.NoError(t, d.Seal(t.Context(), ReasonForced))
				require.Equal(t, []string{"a"}, drained(t, d, RestorerOptions[string]{}), "a durable item waits for the next start")
			})
		})
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for name, o := range map[string]DiskOptions{
		"Version":   {Version: strings.Repeat("v", 256)},
		"BlockSize": {BlockSize: 1},
		"SyncSize":  {SyncSize: 1},
		"OnFull":    {OnFull: "explode"},
		"MaxSize":   {MaxSize: -1},
		"MaxAge":    {MaxAge: -1},
		"MinFree":   {MinFree: -1},
	} {
		_, err := OpenDisk(t.TempDir(), o)
		require.ErrorContains(t, err, name)
	}
	d := openMem(t, newMemFS(), DiskOptions{})
	for name, o := range map[string]QueueOptions{"Capacity": {}, "FlushInterval": {Capacity: 1, FlushInterval: -1}} {
		_, err := NewQueue(d, EncodeString, o)
		require.ErrorContains(t, err, name)
	}
	for name, o := range map[string]RestorerOptions[string]{
		"CheckInterval":     {CheckInterval: -1},
		"PostponeInterval":  {PostponeInterval: -1},
		"AllowRate":         {AllowRate: 2},
		"ItemsPerSecond":    {ItemsPerSecond: -1},
		"BytesPerSecond":    {BytesPerSecond: -1},
		"MaxAttempts":       {MaxAttempts: -1},
		"OnVersionMismatch": {OnVersionMismatch: "explode"},
	} {
		_, err := NewRestorer(d, DecodeString, (&got{}).target, o)
		require.ErrorContains(t, err, name)
	}
}

func TestCodecs(t *testing.T) {
	prefix := []byte("before ")
	for _, encode := range []func() ([]byte, error){
		func() ([]byte, error) { return EncodeBytes(bytes.Clone(prefix), []byte("item")) },
		func() ([]byte, error) { return EncodeString(bytes.Clone(prefix), "item") },
		func() ([]byte, error) { return EncodeByter(bytes.Clone(prefix), bytes.NewBufferString("item")) },
		func() ([]byte, error) { return EncodeStringer(bytes.Clone(prefix), bytes.NewBufferString("item")) },
	} {
		data, err := encode()
		require.NoError(t, err)
		require.Equal(t, "before item", string(data), "an encoder appends")
	}
	buffer, err := DecodeBuffer([]byte("item"))
	require.NoError(t, err)
	require.Equal(t, "item", buffer.String())
	data, err := DecodeBytes([]byte("item"))
	require.NoError(t, err)
	require.Equal(t, "item", string(data))

	d := openMem(t, newMemFS(), DiskOptions{})
	broken := errors.New("cannot be encoded")
	q, err := NewQueue(d, func([]byte, string) ([]byte, error) { return nil, broken }, QueueOptions{Capacity: 1})
	require.NoError(t, err)
	require.ErrorIs(t, q.Enqueue(t.Context(), "item"), broken)
	require.NoError(t, q.Close(t.Context()))
}

// TestDurableOrGivenBack fails one commit in which both kinds of items are: who waited has the item back and nothing else
// writes it, what was only enqueued is kept, and a Sync afterwards waits for nothing that is gone.
func TestDurableOrGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemFS()
		d := openMem(t, m, DiskOptions{})
		q, err := NewQueue(d, EncodeString, QueueOptions{Capacity: 1 << 20})
		require.NoError(t, err)
		require.NoError(t, q.Enqueue(t.Context(), "kept, first"))
		m.set(func(m *memFS) {
			m.fail = func(op operation) error {
				if op.kind == opSync {
					return syscall.EIO
				}
				return nil
			}
		})
		var waiting sync.WaitGroup
		for range 3 {
			waiting.Go(func() {
				require.ErrorIs(t, q.EnqueueDurable(t.Context(), "given back"), syscall.EIO)
			})
		}
		waiting.Wait()
		require.NoError(t, q.Enqueue(t.Context(), "kept, second"))
		require.ErrorIs(t, q.EnqueueDurable(t.Context(), "given back"), syscall.EIO)
		m.set(func(m *memFS) { m.fail = nil })
		require.NoError(t, q.Sync(t.Context()))
		require.NoError(t, q.EnqueueDurable(t.Context(), "durable"))
		require.NoError(t, q.Close(t.Context()))
		require.Equal(t, []string{"kept, first", "kept, second", "durable"}, drained(t, d, RestorerOptions[string]{}))
	})
}

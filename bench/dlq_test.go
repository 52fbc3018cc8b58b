package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/wal"
	"golang.org/x/sys/unix"

	"github.com/edgetide/telegraf-victorialogs/dlq"
)

const (
	syncEach = 1 << 20  // bytes
	written  = 64 << 20 // bytes of items in one run
)

// contender is a way of doing the same work. It returns how long that took.
type contender struct {
	name string
	run  func(b *testing.B, dir string, size int) time.Duration
}

// sideBySide lets them do their work in turn, in several rounds, and reports the medians in MB/s and what the first, ours, is
// of each other one: the median of the rounds' ratios.
func sideBySide(b *testing.B, size, rounds int, contenders ...contender) {
	b.Helper()
	speeds := make([][]float64, len(contenders))
	for b.Loop() {
		for round := range rounds {
			for i := range contenders {
				i = (i + round) % len(contenders) // nobody always has the others' dirty pages to wait for
				dir := b.TempDir()
				took := contenders[i].run(b, dir, size)
				require.NoError(b, os.RemoveAll(dir))
				unix.Sync() // what one left to be written is not the next one's burden
				speeds[i] = append(speeds[i], written/took.Seconds()/1e6)
			}
		}
	}
	for i, c := range contenders {
		b.ReportMetric(middle(speeds[i]), c.name+"-MB/s")
		if i == 0 {
			continue
		}
		ratios := make([]float64, len(speeds[i]))
		for n := range ratios {
			ratios[n] = speeds[0][n] / speeds[i][n]
		}
		b.ReportMetric(middle(ratios), "of-"+c.name)
	}
	b.ReportMetric(0, "ns/op") // a run, which means nothing
}

func middle(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}

// Durable writing, fdatasync each MiB. Opening and closing are not in it: they come once for each dump.
func BenchmarkDLQWrite(b *testing.B) {
	for _, size := range []int{200, 2000} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			sideBySide(b, size, 15,
				contender{"dlq", writeDisk}, contender{"plain", writePlain}, contender{"wal", writeWAL})
		})
	}
}

// Restoring, from opening until the last item is delivered, while the items are looked at, and with a copy of each that the
// target may keep. Copies are garbage, and of a program that has nothing else in memory the collector runs for each 4 MiB of
// them: so that is also measured with a heap such as an agent's.
func BenchmarkDLQRestore(b *testing.B) {
	b.Run("look", func(b *testing.B) {
		sideBySide(b, 200, 15, contender{"dlq", lookDisk}, contender{"plain", readPlain}, contender{"wal", lookWAL})
	})
	for _, heap := range []int{0, 64} {
		b.Run(fmt.Sprintf("copy/heap=%dMiB", heap), func(b *testing.B) {
			live := make([]byte, heap<<20)
			sideBySide(b, 200, 15, contender{"dlq", copyDisk}, contender{"wal", copyWAL})
			runtime.KeepAlive(live)
		})
	}
}

// The same, and what the others do not do: the dump is removed, durably.
func BenchmarkDLQRestoreAndRemove(b *testing.B) {
	sideBySide(b, 200, 15, contender{"dlq", restoreDisk}, contender{"plain", readPlain}, contender{"wal", lookWAL})
}

// item is what is written, other for each number.
func item(buffer []byte, n int) []byte {
	binary.LittleEndian.PutUint64(buffer, uint64(n))
	return buffer
}

// writeDisk makes durable all that it writes, each MiB: that is what a Disk does by itself.
func writeDisk(b *testing.B, dir string, size int) time.Duration {
	b.Helper()
	ctx := context.Background()
	d, err := dlq.OpenDisk(dir, dlq.DiskOptions{SyncSize: syncEach})
	require.NoError(b, err)
	buffer := make([]byte, size)
	start := begin()
	for n := range written / size {
		if _, err := d.Append(ctx, item(buffer, n)); err != nil {
			b.Fatal(err)
		}
	}
	require.NoError(b, d.Sync(ctx, 0))
	took := time.Since(start)
	require.NoError(b, d.Close())
	return took
}

// writePlain is the limit: items with their lengths, no sums, into one file.
func writePlain(b *testing.B, dir string, size int) time.Duration {
	b.Helper()
	f, err := os.Create(filepath.Join(dir, "plain"))
	require.NoError(b, err)
	buffer := make([]byte, size)
	block := make([]byte, 0, syncEach+size)
	flush := func() {
		if _, err := f.Write(block); err != nil {
			b.Fatal(err)
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
		block = block[:0]
	}
	start := begin()
	for n := range written / size {
		block = binary.AppendUvarint(block, uint64(size))
		block = append(block, item(buffer, n)...)
		if len(block) >= syncEach {
			flush()
		}
	}
	flush()
	took := time.Since(start)
	require.NoError(b, f.Close())
	return took
}

// writeWAL writes batches of 1 MiB, each of which tidwall/wal syncs.
func writeWAL(b *testing.B, dir string, size int) time.Duration {
	b.Helper()
	l, err := wal.Open(dir, nil)
	require.NoError(b, err)
	buffer := make([]byte, size)
	var batch wal.Batch
	bytes := 0
	start := begin()
	for n := range written / size {
		batch.Write(uint64(n+1), item(buffer, n))
		if bytes += size; bytes >= syncEach {
			if err := l.WriteBatch(&batch); err != nil {
				b.Fatal(err)
			}
			bytes = 0
		}
	}
	require.NoError(b, l.WriteBatch(&batch))
	took := time.Since(start)
	require.NoError(b, l.Close())
	return took
}

// begin returns when the work begins, which is after what others left in memory is gone.
func begin() time.Time {
	runtime.GC()
	return time.Now()
}

func lookDisk(b *testing.B, dir string, size int) time.Duration {
	b.Helper()
	delivered, _ := restore(b, dir, size, decodeNumber, func(n uint64) uint64 { return n })
	return delivered
}

func copyDisk(b *testing.B, dir string, size int) time.Duration {
	b.Helper()
	delivered, _ := restore(b, dir, size, dlq.DecodeBytes, binary.LittleEndian.Uint64)
	return delivered
}

func restoreDisk(b *testing.B, dir string, size int) time.Duration {
	b.Helper()
	_, removed := restore(b, dir, size, decodeNumber, func(n uint64) uint64 { return n })
	return removed
}

func decodeNumber(data []byte) (uint64, error) { return binary.LittleEndian.Uint64(data), nil }

// restore says how long it took until all was delivered, and until it was removed.
func restore[T any](b *testing.B, dir string, size int, decode dlq.Decoder[T], number func(T) uint64) (delivered, removed time.Duration) {
	b.Helper()
	writeDisk(b, dir, size)
	start := begin()
	d, err := dlq.OpenDisk(dir, dlq.DiskOptions{})
	require.NoError(b, err)
	count := 0
	r, err := dlq.NewRestorer(d, decode, func(_ context.Context, item T) error {
		if number(item) == uint64(count) {
			if count++; count == written/size {
				delivered = time.Since(start)
			}
		}
		return nil
	}, dlq.RestorerOptions[T]{})
	require.NoError(b, err)
	require.NoError(b, r.Drain(context.Background()))
	require.NoError(b, d.Close())
	removed = time.Since(start)
	require.Equal(b, written/size, count)
	return delivered, removed
}

// readPlain reads what writePlain wrote.
func readPlain(b *testing.B, dir string, size int) time.Duration {
	b.Helper()
	writePlain(b, dir, size)
	start := begin()
	f, err := os.Open(filepath.Join(dir, "plain"))
	require.NoError(b, err)
	in := bufio.NewReaderSize(f, 512<<10)
	count := 0
	for {
		length, err := binary.ReadUvarint(in)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			b.Fatal(err)
		}
		item, err := in.Peek(int(length))
		if err != nil {
			b.Fatal(err)
		}
		if binary.LittleEndian.Uint64(item) == uint64(count) {
			count++
		}
		if _, err := in.Discard(len(item)); err != nil {
			b.Fatal(err)
		}
	}
	require.NoError(b, f.Close())
	took := time.Since(start)
	require.Equal(b, written/size, count)
	return took
}

func lookWAL(b *testing.B, dir string, size int) time.Duration {
	b.Helper()
	return readWAL(b, dir, size, true)
}

func copyWAL(b *testing.B, dir string, size int) time.Duration {
	b.Helper()
	return readWAL(b, dir, size, false)
}

// readWAL reads what writeWAL wrote.
func readWAL(b *testing.B, dir string, size int, noCopy bool) time.Duration {
	b.Helper()
	writeWAL(b, dir, size)
	start := begin()
	options := *wal.DefaultOptions
	options.NoCopy = noCopy
	l, err := wal.Open(dir, &options)
	require.NoError(b, err)
	count := 0
	for n := range written / size {
		item, err := l.Read(uint64(n + 1))
		if err != nil {
			b.Fatal(err)
		}
		if binary.LittleEndian.Uint64(item) == uint64(count) {
			count++
		}
	}
	require.NoError(b, l.Close())
	took := time.Since(start)
	require.Equal(b, written/size, count)
	return took
}

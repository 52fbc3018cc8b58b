package dlq

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLoop(t *testing.T) {
	dir := t.TempDir()
	d, err := OpenDisk(dir, DiskOptions{Version: "1"})
	require.NoError(t, err)
	q, err := NewQueue(d, EncodeString, QueueOptions{Capacity: 64 << 10, FlushInterval: 50 * time.Millisecond})
	require.NoError(t, err)
	const n = 20_000
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range n / 4 {
				err := q.Enqueue(t.Context(), fmt.Sprintf("item %d", g*n/4+i))
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, q.EnqueueDurable(t.Context(), "last"))
	require.NoError(t, q.Close(t.Context()))
	require.NoError(t, q.Close(t.Context()))
	require.ErrorIs(t, q.Enqueue(t.Context(), "x"), ErrClosed)

	_, err = OpenDisk(dir, DiskOptions{})
	require.ErrorIs(t, err, ErrLocked)
	require.NoError(t, d.Close())
	d, err = OpenDisk(dir, DiskOptions{Version: "1"})
	require.NoError(t, err)
	got := map[string]int{}
	r, err := NewRestorer(d, DecodeString, func(_ context.Context, s string) error { got[s]++; return nil }, RestorerOptions[string]{Version: "1"})
	require.NoError(t, err)
	require.NoError(t, r.Drain(t.Context()))
	require.Len(t, got, n+1)
	dumps, err := d.Dumps()
	require.NoError(t, err)
	require.Empty(t, dumps)
	require.NoError(t, d.Close())
}

func TestSalvage(t *testing.T) {
	dir := t.TempDir()
	d, err := OpenDisk(dir, DiskOptions{})
	require.NoError(t, err)
	for i := range 1000 {
		_, err := d.Append(t.Context(), fmt.Appendf(nil, "item %d", i))
		require.NoError(t, err)
	}
	require.NoError(t, d.Sync(t.Context(), 0))
	require.NoError(t, d.lock.Unlock()) // as if the process had died
	e, err := OpenDisk(dir, DiskOptions{})
	require.NoError(t, err)
	dumps, err := e.Dumps()
	require.NoError(t, err)
	require.Len(t, dumps, 1)
	require.EqualValues(t, 1000, dumps[0].Items)
	require.NoError(t, e.Close())
}

func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{200, 2000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			d, err := OpenDisk(b.TempDir(), DiskOptions{})
			require.NoError(b, err)
			item := make([]byte, size)
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, err := d.Append(context.Background(), item); err != nil {
					b.Fatal(err)
				}
			}
			require.NoError(b, d.Sync(context.Background(), 0))
			b.StopTimer()
			require.NoError(b, d.Close())
			got := 0
			d, err = OpenDisk(d.dir, DiskOptions{})
			require.NoError(b, err)
			r, err := NewRestorer(d, DecodeBytes, func(context.Context, []byte) error { got++; return nil }, RestorerOptions[[]byte]{})
			require.NoError(b, err)
			start := time.Now()
			require.NoError(b, r.Drain(context.Background()))
			b.ReportMetric(float64(got*size)/time.Since(start).Seconds()/1e6, "restore-MB/s")
			require.NoError(b, d.Close())
		})
	}
}

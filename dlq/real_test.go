package dlq

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The tests of this file use real files, processes and file systems.

func TestLoop(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "by OpenDisk")
	d, err := OpenDisk(dir, DiskOptions{Version: "1"})
	require.NoError(t, err)
	q, err := NewQueue(d, EncodeString, QueueOptions{Capacity: 64 << 10, FlushInterval: 50 * time.Millisecond})
	require.NoError(t, err)
	const n = 20_000
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range n / 4 {
				if err := q.Enqueue(t.Context(), fmt.Sprintf("item %d", g*n/4+i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, q.EnqueueDurable(t.Context(), "last"))
	require.NoError(t, q.Close(t.Context()))

	_, err = OpenDisk(dir, DiskOptions{})
	require.ErrorIs(t, err, ErrLocked)
	require.NoError(t, d.Close())
	d, err = OpenDisk(dir, DiskOptions{Version: "1"})
	require.NoError(t, err)
	modes(t, dir)
	seen := make(map[string]int)
	for _, text := range drained(t, d, RestorerOptions[string]{Version: "1"}) {
		seen[text]++
	}
	require.Len(t, seen, n+1)
	dumps, err := d.Dumps()
	require.NoError(t, err)
	require.Empty(t, dumps)
	require.NoError(t, d.Close())
}

func modes(t *testing.T, dir string) {
	t.Helper()
	if runtime.GOOS == "windows" {
		return // it has no such modes
	}
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		want := os.FileMode(fileMode)
		if entry.IsDir() {
			want = dirMode
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		return nil
	}))
}

// TestOpenDiskMakesDirectories has more than one directory to make, and one that is there in another that cannot be listed.
func TestOpenDiskMakesDirectories(t *testing.T) {
	base := t.TempDir()
	open := func(t *testing.T, dir string) {
		t.Helper()
		d, err := OpenDisk(dir, DiskOptions{})
		require.NoError(t, err)
		require.NoError(t, d.Close())
	}
	t.Run("nested", func(t *testing.T) {
		open(t, filepath.Join(base, "a", "b", "c"))
		modes(t, filepath.Join(base, "a"))
	})
	t.Run("relative", func(t *testing.T) {
		t.Chdir(base)
		open(t, filepath.Join("d", "e"))
		open(t, "f")
	})
	t.Run("the parent cannot be read", func(t *testing.T) {
		parent := filepath.Join(base, "parent")
		dir := filepath.Join(parent, "dir")
		require.NoError(t, os.MkdirAll(dir, dirMode))
		require.NoError(t, os.Chmod(parent, 0o311))
		t.Cleanup(func() { _ = os.Chmod(parent, dirMode) }) // or TempDir cannot remove it
		if _, err := os.ReadDir(parent); err == nil {
			t.Skip("permissions do not hold for root")
		}
		open(t, dir)
	})
	t.Run("a file is in the way", func(t *testing.T) {
		file := filepath.Join(base, "file")
		require.NoError(t, os.WriteFile(file, nil, fileMode))
		_, err := OpenDisk(filepath.Join(file, "dir"), DiskOptions{})
		require.ErrorContains(t, err, file)
	})
}

func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{200, 2000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			dir := b.TempDir()
			d, err := OpenDisk(dir, DiskOptions{})
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
			d, err = OpenDisk(dir, DiskOptions{})
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

// child enqueues and restores until it is killed, and says what is durable and what was delivered.
func child(dir string) {
	d, err := OpenDisk(dir, DiskOptions{Version: "1", BlockSize: 4 << 10, SyncSize: 16 << 10, Compress: os.Getpid()%2 == 0})
	if err != nil {
		fmt.Fprintln(os.Stdout, "cannot open:", err)
		return
	}
	q, err := NewQueue(d, EncodeString, QueueOptions{Capacity: 20 << 10, FlushInterval: 5 * time.Millisecond})
	if err != nil {
		panic(err)
	}
	var out sync.Mutex
	say := func(kind, id string) {
		out.Lock()
		defer out.Unlock()
		fmt.Fprintf(os.Stdout, "%s %s\n", kind, id)
	}
	r, err := NewRestorer(d, DecodeString, func(_ context.Context, text string) error {
		id, _, _ := strings.Cut(text, " ")
		if text != padded(id) {
			say("corrupt", id)
		}
		say("delivered", id)
		return nil
	}, RestorerOptions[string]{Version: "1", CheckInterval: 3 * time.Millisecond, ItemsPerSecond: 3000})
	if err != nil {
		panic(err)
	}
	fmt.Fprintln(os.Stdout, "ready -")
	r.Start()
	var enqueuers sync.WaitGroup
	for g := range 4 {
		enqueuers.Go(func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%s-%d-%d", os.Getenv("DLQ_TEST_LIFE"), g, i)
				err := q.EnqueueDurable(context.Background(), padded(id))
				if err != nil {
					say("error", err.Error())
					return
				}
				say("durable", id)
			}
		})
	}
	enqueuers.Wait()
}

func padded(id string) string { return id + " " + strings.Repeat(id, 1+len(id)*7%50) }

// TestKill kills processes at random moments, while they enqueue, seal, restore and salvage what the one before left.
func TestKill(t *testing.T) {
	const kills = 100
	dir := t.TempDir()
	random := rand.New(rand.NewPCG(1, 2))
	durable, delivered := make(map[string]bool), make(map[string]int)
	for n := range kills {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "DLQ_TEST_CHILD="+dir, fmt.Sprint("DLQ_TEST_LIFE=", n))
		pipe, err := cmd.StdoutPipe()
		require.NoError(t, err)
		cmd.Stderr = os.Stderr
		require.NoError(t, cmd.Start())
		stop := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		lines := bufio.NewScanner(pipe)
		for lines.Scan() {
			kind, id, _ := strings.Cut(lines.Text(), " ")
			switch kind {
			case "ready":
				time.AfterFunc(time.Duration(random.IntN(int(40*time.Millisecond))), func() { _ = cmd.Process.Kill() })
			case "durable":
				durable[id] = true
			case "delivered":
				delivered[id]++
			default:
				t.Errorf("life %d: %s", n, lines.Text())
			}
		}
		stop.Stop()
		_ = cmd.Wait() // it was killed
	}
	require.Greater(t, len(durable), kills)
	before := len(delivered)
	d, err := OpenDisk(dir, DiskOptions{Version: "1"})
	require.NoError(t, err)
	for _, text := range drained(t, d, RestorerOptions[string]{Version: "1"}) {
		id, _, _ := strings.Cut(text, " ")
		require.Equal(t, padded(id), text)
		delivered[id]++
	}
	require.NoError(t, d.Close())
	lost := 0
	for id := range durable {
		if delivered[id] == 0 {
			lost++
		}
	}
	total := 0
	for _, n := range delivered {
		total += n
	}
	t.Logf("%d kills, %d durable items, %d delivered before the last, %d at the end, %d more than once",
		kills, len(durable), before, len(delivered), total-len(delivered))
	require.Zero(t, lost)
	aside, err := os.ReadDir(filepath.Join(dir, quarantineDir))
	require.NoError(t, err)
	for _, entry := range aside {
		require.Contains(t, entry.Name(), ".tail", "a kill damages nothing")
	}
}

func mounted(t *testing.T, args ...string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root may mount")
	}
	dir := args[len(args)-1]
	if out, err := exec.Command("mount", args...).CombinedOutput(); err != nil {
		t.Skipf("mount is not possible here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
}

// TestReallyFullDisk fills a file system of 1 MiB, with a process that dies then, and gets all durable items back.
func TestReallyFullDisk(t *testing.T) {
	mount := t.TempDir()
	mounted(t, "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount)
	dir := filepath.Join(mount, "dlq")
	d, err := OpenDisk(dir, DiskOptions{BlockSize: 4 << 10, SyncSize: 16 << 10})
	require.NoError(t, err)
	q, err := NewQueue(d, EncodeString, QueueOptions{Capacity: 100 << 10})
	require.NoError(t, err)
	durable := make(map[string]bool)
	var failure error
	for i := 0; failure == nil; i++ {
		text := fmt.Sprintf("%d %s", i, strings.Repeat("x", 1000))
		if failure = q.EnqueueDurable(t.Context(), text); failure == nil {
			durable[text] = true
		}
	}
	require.ErrorContains(t, failure, "no space left")
	require.Greater(t, len(durable), 500)
	t.Logf("%d durable items fit", len(durable))
	for range 5 {
		require.Error(t, q.EnqueueDurable(t.Context(), "more"))
	}
	t.Log("closing:", errors.Join(q.Close(t.Context()), d.Close())) // there may be no room to seal

	d, err = OpenDisk(dir, DiskOptions{BlockSize: 4 << 10, SyncSize: 16 << 10})
	require.NoError(t, err, "the disk is still full, and restoring would make room")
	q, err = NewQueue(d, EncodeString, QueueOptions{Capacity: 100 << 10})
	require.NoError(t, err)
	for _, text := range drained(t, d, RestorerOptions[string]{}) {
		delete(durable, text)
	}
	require.Empty(t, durable)
	require.NoError(t, q.EnqueueDurable(t.Context(), "there is room again"))
	require.NoError(t, q.Close(t.Context()))
	require.Contains(t, drained(t, d, RestorerOptions[string]{}), "there is room again")
	require.NoError(t, d.Close())
}

// TestBurstOntoAFullDisk enqueues more at once than there is room for. What fits is stored; what does not, arrives when the
// restorer has made room.
func TestBurstOntoAFullDisk(t *testing.T) {
	mount := t.TempDir()
	mounted(t, "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount)
	d, err := OpenDisk(filepath.Join(mount, "dlq"), DiskOptions{})
	require.NoError(t, err)
	want := make(map[string]bool)
	for i := range 2500 {
		text := fmt.Sprintf("%d %s", i, strings.Repeat("x", 1000))
		if _, err := d.Append(t.Context(), []byte(text)); err == nil {
			want[text] = true
		}
	}
	for range 20 {
		_ = d.Sync(t.Context(), 0) // the disk is full
		_ = d.Seal(t.Context(), ReasonForced)
		for _, text := range drained(t, d, RestorerOptions[string]{}) {
			delete(want, text)
		}
	}
	err = d.Close()
	if len(want) > 0 {
		t.Logf("%d of 2500 items were never written", len(want))
	}
	require.Empty(t, shortened(want), "items were never written, with room for 1 MiB again and again")
	require.NoError(t, err)
}

func shortened(set map[string]bool) (some []string) {
	for text := range set {
		if some = append(some, text[:min(len(text), 20)]); len(some) == 3 {
			break
		}
	}
	return some
}

// TestPowerCut copies the image of a mounted file system while there is much in it that is not durable.
func TestPowerCut(t *testing.T) {
	base := t.TempDir()
	image := filepath.Join(base, "disk.img")
	mount := filepath.Join(base, "disk")
	if os.Getuid() != 0 {
		t.Skip("only root may mount")
	}
	require.NoError(t, os.Mkdir(mount, 0o700))
	f, err := os.Create(image)
	require.NoError(t, err)
	require.NoError(t, errors.Join(f.Truncate(32<<20), f.Close()))
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", image).CombinedOutput(); err != nil {
		t.Skipf("mkfs.ext4 is not possible here: %v: %s", err, out)
	}
	mounted(t, "-o", "loop", image, mount)
	dir := filepath.Join(mount, "dlq")
	d, err := OpenDisk(dir, DiskOptions{BlockSize: 4 << 10, SyncSize: 64 << 10})
	require.NoError(t, err)
	q, err := NewQueue(d, EncodeString, QueueOptions{Capacity: 30 << 10, FlushInterval: time.Hour})
	require.NoError(t, err)
	durable := make(map[string]bool)
	restored := make(map[string]bool)
	for cut := range 6 {
		for i := range 30 {
			text := fmt.Sprintf("durable %d-%d %s", cut, i, strings.Repeat("x", 700))
			require.NoError(t, q.EnqueueDurable(t.Context(), text))
			durable[text] = true
		}
		for i := range 40 {
			require.NoError(t, q.Enqueue(t.Context(), fmt.Sprintf("not durable %d-%d %s", cut, i, strings.Repeat("y", 700))))
		}
		if cut == 3 {
			for _, text := range drained(t, d, RestorerOptions[string]{}) {
				restored[text] = true
			}
		}
		t.Run(fmt.Sprint("cut ", cut), func(t *testing.T) {
			copied := filepath.Join(base, fmt.Sprintf("copy%d.img", cut))
			data, err := os.ReadFile(image)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(copied, data, 0o600))
			after := filepath.Join(base, fmt.Sprintf("after%d", cut))
			require.NoError(t, os.Mkdir(after, 0o700))
			mounted(t, "-o", "loop", copied, after)
			e, err := OpenDisk(filepath.Join(after, "dlq"), DiskOptions{})
			require.NoError(t, err)
			got := make(map[string]bool)
			for _, text := range drained(t, e, RestorerOptions[string]{}) {
				got[text] = true
				require.Contains(t, text, "durable ")
			}
			require.NoError(t, e.Close())
			lost := 0
			for text := range durable {
				if !got[text] && !restored[text] {
					lost++
				}
			}
			require.Zero(t, lost)
			t.Logf("%d durable items, %d restored", len(durable), len(got))
		})
	}
	require.NoError(t, q.Close(t.Context()))
	require.NoError(t, d.Close())
}

func writeDumps(t *testing.T, dir string, n, itemSize int) {
	t.Helper()
	for i := range n {
		h := encodeHeader(header{sequence: uint64(i + 1), created: time.Now(), version: "1"})
		b := append(h, h...)
		start := len(b)
		b = append(b, make([]byte, blockHeader)...)
		b = append(binary.AppendUvarint(b, uint64(itemSize)), make([]byte, itemSize)...)
		raw := uint32(len(b) - start - blockHeader)
		putBlock(b[start:], block{stored: raw, raw: raw, items: 1, sequence: uint64(i + 1)}, int64(start))
		b = appendFooter(b, footer{reason: ReasonForced, items: 1, bytes: uint64(itemSize), length: uint64(len(b))})
		require.NoError(t, os.WriteFile(filepath.Join(dir, fileName(uint64(i+1), dumpSuffix)), b, 0o600))
	}
}

func TestManyDumpsOpenFast(t *testing.T) {
	opened := func(n, size int) (time.Duration, uint64, *Disk) {
		dir := t.TempDir()
		writeDumps(t, dir, n, size)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		start := time.Now()
		d, err := OpenDisk(dir, DiskOptions{Version: "1"})
		require.NoError(t, err)
		took := time.Since(start)
		runtime.GC()
		runtime.ReadMemStats(&after)
		dumps, err := d.Dumps()
		require.NoError(t, err)
		require.Len(t, dumps, n)
		return took, after.HeapAlloc - min(before.HeapAlloc, after.HeapAlloc), d
	}
	took, heap, d := opened(10_000, 10)
	t.Logf("10,000 dumps: opened in %s, %d bytes of heap", took, heap)
	require.Less(t, took, 10*time.Second) // a second is what the benchmark shows; machines that run tests are slow
	require.Less(t, heap, uint64(10_000*400))
	start := time.Now()
	require.Len(t, drained(t, d, RestorerOptions[string]{Version: "1"}), 10_000)
	t.Logf("restored in %s", time.Since(start))
	require.NoError(t, d.Close())

	_, small, d := opened(500, 10)
	require.NoError(t, d.Close())
	_, large, d := opened(500, 200_000)
	require.NoError(t, d.Close())
	t.Logf("500 dumps of 10 bytes and of 200,000: %d and %d bytes of heap", small, large)
	require.Less(t, large, small+200_000)
}

package dlq

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// inspected makes a directory with a sealed dump, one in quarantine and an open one, and returns what List says of it.
func inspected(t *testing.T) (dir string, d *Disk, files []File) {
	t.Helper()
	dir = t.TempDir()
	d, err := OpenDisk(dir, DiskOptions{Version: "v1"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	for _, item := range []string{"one", "two", "three"} {
		_, err := d.Append(t.Context(), []byte(item))
		require.NoError(t, err)
		require.NoError(t, d.Sync(t.Context(), 0)) // each in a block of its own
	}
	require.NoError(t, d.Seal(t.Context(), ReasonSize))
	_, err = d.Append(t.Context(), []byte("aside"))
	require.NoError(t, err)
	require.NoError(t, d.Seal(t.Context(), ReasonInterval))
	require.NoError(t, d.Quarantine(2, "because"))
	for _, item := range []string{"four", "five"} {
		_, err := d.Append(t.Context(), []byte(item))
		require.NoError(t, err)
		require.NoError(t, d.Sync(t.Context(), 0))
	}
	files, err = List(dir)
	require.NoError(t, err)
	require.Len(t, files, 3)
	return dir, d, files
}

func readItems(t *testing.T, f File) (items []string, faults []error) {
	t.Helper()
	r, err := f.Open()
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close()) }()
	for {
		block, err := r.Next()
		if errors.Is(err, io.EOF) {
			return items, r.Faults()
		}
		require.NoError(t, err)
		for item, _, ok := block.Cut(); ok; item, _, ok = block.Cut() {
			items = append(items, string(item))
		}
	}
}

func TestInspect(t *testing.T) {
	_, d, files := inspected(t)
	type seen struct {
		name    string
		state   State
		reason  Reason
		items   uint64
		why     string
		damaged bool
	}
	var got []seen
	for _, f := range files {
		require.Equal(t, "v1", f.Version)
		got = append(got, seen{f.Name, f.State, f.Reason, f.Items, f.Why, f.Damaged})
	}
	require.Equal(t, []seen{
		{"00000000000000000001.dump", StateSealed, ReasonSize, 3, "", false},
		{"00000000000000000003.open", StateOpen, 0, 0, "", false},
		{"quarantine/00000000000000000002.dump", StateQuarantined, ReasonInterval, 1, "because", false},
	}, got)
	for i, want := range [][]string{{"one", "two", "three"}, {"four", "five"}, {"aside"}} {
		items, faults := readItems(t, files[i])
		require.Equal(t, want, items)
		require.Empty(t, faults)
	}
	report, err := files[1].Verify()
	require.NoError(t, err)
	require.Equal(t, Report{Items: 2, Bytes: 8}, report)

	require.NoError(t, d.Seal(t.Context(), ReasonForced)) // what was listed as open is found sealed
	items, faults := readItems(t, files[1])
	require.Equal(t, []string{"four", "five"}, items)
	require.Empty(t, faults)

	require.NoError(t, d.writeProgress(1, checkpoint{turn: 1, delivered: 2}))
	files, err = List(d.dir)
	require.NoError(t, err)
	require.EqualValues(t, 2, files[0].Delivered)
	require.NoError(t, d.Remove(1))
	_, err = files[0].Verify()
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// Every bit of a sealed dump is looked at: none can flip without a fault, and no item is given that was not written.
func TestInspectBitFlips(t *testing.T) {
	dir, _, files := inspected(t)
	path := filepath.Join(dir, files[0].Name)
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	for bit := range len(whole) * 8 {
		b := append([]byte(nil), whole...)
		b[bit/8] ^= 1 << (bit % 8)
		require.NoError(t, os.WriteFile(path, b, fileMode))
		items, faults := readItems(t, files[0])
		require.NotEmpty(t, faults, "bit %d", bit)
		require.GreaterOrEqual(t, len(items), 2, "bit %d", bit)
		require.Subset(t, []string{"one", "two", "three"}, items, "bit %d", bit)
	}
}

// A dump that is not sealed may end anywhere: that is no fault, and what is whole is given.
func TestInspectTorn(t *testing.T) {
	dir, _, files := inspected(t)
	whole, err := os.ReadFile(filepath.Join(dir, files[1].Name))
	require.NoError(t, err)
	torn := File{Info: Info{Sequence: 3}, Name: "00000000000000000003.open", State: StateOpen, dir: t.TempDir()}
	for end := range len(whole) {
		require.NoError(t, os.WriteFile(filepath.Join(torn.dir, torn.Name), whole[:end], fileMode))
		report, err := torn.Verify()
		require.NoError(t, err)
		begin := 2 * (headerFixed + len("v1") + 4)
		if end >= begin {
			require.Empty(t, report.Faults, "%d bytes", end)
			require.EqualValues(t, (end-begin)%(blockHeader+5), report.Torn, "%d bytes", end)
		}
		require.EqualValues(t, max(0, end-begin)/(blockHeader+5), report.Items, "%d bytes", end)
	}
}

// A dump is read whatever its name is, but the name is told: a Disk does not restore it.
func TestInspectRenamed(t *testing.T) {
	dir, _, files := inspected(t)
	require.NoError(t, os.Rename(filepath.Join(dir, files[0].Name), filepath.Join(dir, "00000000000000000009.dump")))
	files, err := List(dir)
	require.NoError(t, err)
	items, faults := readItems(t, files[1])
	require.Equal(t, []string{"one", "two", "three"}, items)
	require.Len(t, faults, 1)
	require.ErrorContains(t, faults[0], "its header says 1")
	require.True(t, files[1].Damaged)
}

// A dump is listed although another of its name is in quarantine.
func TestInspectSameName(t *testing.T) {
	dir, _, files := inspected(t)
	b, err := os.ReadFile(filepath.Join(dir, files[0].Name))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, quarantineDir, files[0].Name), b, fileMode))
	files, err = List(dir)
	require.NoError(t, err)
	require.Len(t, files, 4)
}

func TestLock(t *testing.T) {
	dir, d, _ := inspected(t)
	_, err := Lock(dir)
	require.ErrorIs(t, err, ErrLocked)
	require.NoError(t, d.Close())
	unlock, err := Lock(dir)
	require.NoError(t, err)
	_, err = OpenDisk(dir, DiskOptions{})
	require.ErrorIs(t, err, ErrLocked)
	require.NoError(t, unlock())
	_, err = Lock(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestInUse(t *testing.T) {
	dir, d, _ := inspected(t)
	used, err := InUse(dir)
	require.NoError(t, err)
	require.True(t, used)
	require.NoError(t, d.Close())
	used, err = InUse(dir)
	require.NoError(t, err)
	require.False(t, used)
	unlock, err := Lock(dir) // which asking did not keep
	require.NoError(t, err)
	require.NoError(t, unlock())

	empty := t.TempDir()
	used, err = InUse(empty)
	require.NoError(t, err)
	require.False(t, used)
	entries, err := os.ReadDir(empty)
	require.NoError(t, err)
	require.Empty(t, entries, "asking leaves nothing")
}

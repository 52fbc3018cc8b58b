package main

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Archives have what they should, and are the same bytes when they are made again from files of another time and mode.
func TestArchivesAreReproducible(t *testing.T) {
	want := map[string]os.FileMode{"x_1_os_arch/a": 0o755, "x_1_os_arch/b": 0o755, "x_1_os_arch/LICENSE": 0o644}
	var made [2][2][]byte
	for i, mode := range []os.FileMode{0o600, 0o755} {
		dir := t.TempDir()
		s := set{name: "x_1_os_arch", time: time.Unix(1_000_000_000, 0).UTC(), texts: []string{filepath.Join(dir, "LICENSE")}}
		for _, name := range []string{"a", "b"} {
			s.binaries = append(s.binaries, filepath.Join(dir, name))
		}
		for _, path := range append(s.binaries, s.texts...) {
			require.NoError(t, os.WriteFile(path, []byte("content"), mode))
			require.NoError(t, os.Chtimes(path, time.Time{}, time.Unix(int64(i), 0)))
		}
		tarball, zipped := filepath.Join(dir, "x.tar.gz"), filepath.Join(dir, "x.zip")
		require.NoError(t, s.writeTar(tarball))
		require.NoError(t, s.writeZip(zipped))
		require.Equal(t, want, tarModes(t, tarball))
		require.Equal(t, want, zipModes(t, zipped))
		for n, path := range []string{tarball, zipped} {
			content, err := os.ReadFile(path)
			require.NoError(t, err)
			made[i][n] = content
		}
	}
	require.Equal(t, made[0], made[1])
}

func TestSums(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "b"), []byte("content"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a"), nil, 0o600))
	for range 2 { // the second time it is there already
		require.NoError(t, writeSums(dir, "sums.txt"))
		content, err := os.ReadFile(filepath.Join(dir, "sums.txt"))
		require.NoError(t, err)
		require.Equal(t, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  a\n"+
			"ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73  b\n", string(content))
	}
}

func tarModes(t *testing.T, path string) map[string]os.FileMode {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	unzipped, err := gzip.NewReader(f)
	require.NoError(t, err)
	modes := map[string]os.FileMode{}
	for r := tar.NewReader(unzipped); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return modes
		}
		require.NoError(t, err)
		modes[h.Name] = h.FileInfo().Mode()
	}
}

func zipModes(t *testing.T, path string) map[string]os.FileMode {
	t.Helper()
	r, err := zip.OpenReader(path)
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close()) }()
	modes := map[string]os.FileMode{}
	for _, f := range r.File {
		modes[f.Name] = f.Mode()
	}
	return modes
}

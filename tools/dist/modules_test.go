package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The bill and the licences of a real binary: this test's own.
func TestBillAndLicences(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	m, err := readModules([]string{self})
	require.NoError(t, err)
	dir := t.TempDir()

	licences := filepath.Join(dir, "licences.txt")
	require.NoError(t, writeLicences(licences, m))
	text, err := os.ReadFile(licences)
	require.NoError(t, err)
	for _, want := range []string{
		"Go's standard library go1.", "golang.org/x/mod@v", "github.com/CycloneDX/cyclonedx-go@v", "THIS SOFTWARE IS PROVIDED",
	} {
		require.Contains(t, string(text), want)
	}

	path := filepath.Join(dir, "x.cdx.json")
	s := set{name: "x", version: "1.2.3", time: time.Unix(0, 0).UTC(), binaries: []string{self}}
	require.NoError(t, s.writeBill(path, m))
	first, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, s.writeBill(path, m))
	second, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, first, second)

	var bill struct {
		BOMFormat  string
		Components []struct{ Name, PURL string }
	}
	require.NoError(t, json.Unmarshal(first, &bill))
	require.Equal(t, "CycloneDX", bill.BOMFormat)
	require.Equal(t, "std", bill.Components[1].Name)
	require.Equal(t, "github.com/CycloneDX/cyclonedx-go", bill.Components[2].Name)
}

// Papers are what an image needs beside its binaries.
func TestPapers(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	bin, out := t.TempDir(), filepath.Join(t.TempDir(), "doc")
	require.NoError(t, os.Symlink(self, filepath.Join(bin, "program")))
	require.NoError(t, run([]string{"-version", "1.2.3", "-platform", "linux/arm64", "-bin", bin, "-papers", "-out", out}))
	made, err := filepath.Glob(filepath.Join(out, "*"))
	require.NoError(t, err)
	require.Equal(t, []string{filepath.Join(out, "THIRD-PARTY-LICENSES.txt"), filepath.Join(out, "sbom.cdx.json")}, made)
}

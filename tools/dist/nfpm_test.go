package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb" // the packagers
	"github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/rpm"
	"github.com/stretchr/testify/require"
)

// packaging/nfpm.yaml is valid, and packs what a distribution expects, with owners and modes.
func TestPackages(t *testing.T) {
	t.Chdir(filepath.Join("..", "..")) // where make runs nfpm
	dir := t.TempDir()
	bill := filepath.Join(dir, "x.cdx.json")
	s := set{time: time.Unix(1, 0), texts: []string{"LICENSE", "README.md", "sample.conf"}}
	for _, name := range []string{"dlq", "telegraf"} {
		s.binaries = append(s.binaries, filepath.Join(dir, name))
	}
	for _, path := range append(s.binaries, bill) {
		require.NoError(t, os.WriteFile(path, []byte(path), 0o600))
	}
	tree := filepath.Join(dir, "usr")
	require.NoError(t, s.layOut(tree, bill))

	environment := map[string]string{"ARCH": "arm6", "VERSION": "1.2.3", "TREE": tree, "SOURCE_DATE_EPOCH": "1"}
	t.Setenv("SOURCE_DATE_EPOCH", "1")
	config, err := nfpm.ParseFileWithEnvMapping(filepath.Join("packaging", "nfpm.yaml"), func(name string) string {
		return environment[name]
	})
	require.NoError(t, err)
	require.NoError(t, config.Validate())

	for _, packager := range []string{"deb", "rpm"} {
		info, err := config.Get(packager)
		require.NoError(t, err)
		require.NoError(t, nfpm.PrepareForPackager(nfpm.WithDefaults(info), packager))
		got := map[string]files.Content{}
		for _, content := range info.Contents {
			if content.Type != files.TypeImplicitDir {
				got[content.Destination] = *content
			}
		}
		for path, want := range map[string]struct {
			kind  string
			mode  os.FileMode
			group string
		}{
			"/etc/telegraf-victorialogs/telegraf.conf":              {files.TypeConfigNoReplace, 0o640, "telegraf-victorialogs"},
			"/etc/telegraf-victorialogs/environment":                {files.TypeConfigNoReplace, 0o640, "telegraf-victorialogs"},
			"/etc/telegraf-victorialogs/telegraf.d/":                {files.TypeDir, 0o750, "telegraf-victorialogs"},
			"/usr/lib/systemd/system/telegraf-victorialogs.service": {files.TypeFile, 0o644, "root"},
			"/usr/lib/telegraf-victorialogs/telegraf":               {files.TypeFile, 0o755, "root"},
			"/usr/lib/telegraf-victorialogs/dlq":                    {files.TypeFile, 0o755, "root"},
			"/usr/bin/dlq":                                          {files.TypeSymlink, 0, "root"},
			"/usr/bin/telegraf-victorialogs":                        {files.TypeSymlink, 0, "root"},
			"/usr/share/doc/telegraf-victorialogs/copyright":        {files.TypeFile, 0o644, "root"},
			"/usr/share/doc/telegraf-victorialogs/sbom.cdx.json":    {files.TypeFile, 0o644, "root"},
		} {
			c, ok := got[path]
			require.True(t, ok, "%s is not in the %s", path, packager)
			require.Equal(t, want.kind, c.Type, path)
			require.Equal(t, "root", c.FileInfo.Owner, path)
			require.Equal(t, want.group, c.FileInfo.Group, path)
			if want.kind != files.TypeSymlink {
				require.Equal(t, want.mode, c.FileInfo.Mode.Perm(), path)
				require.Equal(t, int64(1), c.FileInfo.MTime.Unix(), path)
			}
		}
		require.NotContains(t, got, "/usr/bin/telegraf", "that is InfluxData's")
	}
}

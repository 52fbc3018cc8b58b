package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/dlq"
)

func TestSalvage(t *testing.T) {
	dir := mixed(t)
	require.Equal(t, "salvaged 00000000000000000005.dump with 1 items\n", must(t, "salvage", dir))
	require.Equal(t, "nothing to salvage\n", must(t, "salvage", dir))
	require.Equal(t, "being written\n", must(t, "cat", dir, "5", "--raw"))
}

// killed is the directory of a process that died with an open dump of three blocks.
func killed(t *testing.T) (dir string) {
	t.Helper()
	where := t.TempDir()
	d := openDisk(t, where, "1")
	for _, item := range []string{"first", "second", "third"} {
		_, err := d.Append(t.Context(), []byte(item))
		require.NoError(t, err)
		require.NoError(t, d.Sync(t.Context(), 0))
	}
	dir = copyDir(t, where)
	require.NoError(t, d.Close())
	return dir
}

func TestSalvageDamaged(t *testing.T) {
	dir := killed(t)
	flip(t, filepath.Join(dir, "00000000000000000001.open"), 155) // in the second block
	code, out, _ := dlqRun(t, "salvage", dir)
	require.Equal(t, exitFault, code)
	require.Contains(t, out, "salvaged 00000000000000000001.dump with 2 items\nset aside quarantine/00000000000000000001.open: not sealed, and damaged")
	require.Equal(t, "first\nthird\n", must(t, "cat", dir, "--raw"))
	code, _, stderr := dlqRun(t, "quarantine", "restore", dir, "1")
	require.Equal(t, exitFault, code)
	require.Contains(t, stderr, "it is damaged, and set aside for this")
	require.Contains(t, must(t, "quarantine", "restore", dir, "1", "--again"), " is 00000000000000000002.dump now, to be restored with 2 items\n")
	require.Equal(t, "first\nthird\nfirst\nthird\n", must(t, "replay", dir, "--stdout"))
}

// A process that dies while it writes leaves a torn block, which is no fault.
func TestSalvageTorn(t *testing.T) {
	dir := killed(t)
	f, err := os.OpenFile(filepath.Join(dir, "00000000000000000001.open"), os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString("DLQB and no more")
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.Contains(t, must(t, "verify", dir), "note  00000000000000000001.open: 16 bytes at its end")
	require.Contains(t, must(t, "salvage", dir), "set aside quarantine/00000000000000000001.tail: behind the last whole block")
	require.Contains(t, must(t, "verify", dir), "2 dumps read, 0 with faults; 3 items")
	code, _, stderr := dlqRun(t, "quarantine", "restore", dir, "--all", "--again")
	require.Equal(t, exitFault, code)
	require.Contains(t, stderr, "nothing in it can be read")
}

func TestSalvageEmpty(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "00000000000000000007.open"), nil, 0o600))
	require.Equal(t, "removed 00000000000000000007.open: nothing was in it\n", must(t, "salvage", dir))
}

func TestPurge(t *testing.T) {
	dir := mixed(t)
	require.Equal(t, "removed 0 dumps with 0 undelivered items, 0B on disk\n", must(t, "purge", dir, "--older-than=1h"))
	sealed := onDisk(t, dir, "*.dump")
	require.Contains(t, must(t, "purge", dir, "--older-than=0s"), "\nremoved 3 dumps with 8 undelivered items, "+sealed+" on disk\n")
	require.Contains(t, must(t, "ls", dir), "0 to be restored with 0 items, 1 open, 1 in quarantine")
}

func TestQuarantineRestore(t *testing.T) {
	dir := mixed(t)
	require.Equal(t, aside+" is 00000000000000000003.dump now, to be restored with 1 items\n", must(t, "quarantine", "restore", dir, "3"))
	require.Equal(t, "nothing is in quarantine\n", must(t, "quarantine", "ls", dir))
	require.NoFileExists(t, filepath.Join(dir, aside+".reason"))
	require.Equal(t, "old\n", must(t, "replay", dir, "3", "--stdout"))
}

// A dump whose number is taken, such as one from another machine, comes back under another.
func TestQuarantineRestoreTaken(t *testing.T) {
	dir, other := mixed(t), mixed(t)
	require.NoError(t, os.Rename(filepath.Join(other, second), filepath.Join(dir, "quarantine", first)))
	code, _, _ := dlqRun(t, "verify", dir)
	require.Equal(t, exitFault, code)
	code, _, stderr := dlqRun(t, "quarantine", "restore", dir, "quarantine/"+first)
	require.Equal(t, exitFault, code)
	require.Contains(t, stderr, "it is damaged, and nothing says that it was restored before")
	require.NoError(t, os.Rename(filepath.Join(dir, "quarantine", first), filepath.Join(dir, "quarantine", second)))

	require.Equal(t, "quarantine/"+second+" is 00000000000000000006.dump now, to be restored with 3 items\n",
		must(t, "quarantine", "restore", dir, "quarantine/"+second))
	require.Equal(t, must(t, "cat", dir, "--raw", "2"), must(t, "cat", dir, "--raw", "6"))
	require.Contains(t, must(t, "cat", dir, "6"), `version "2"`)
}

func TestQuarantineRestoreVersion(t *testing.T) {
	dir := mixed(t)
	require.Contains(t, must(t, "quarantine", "restore", dir, "--all", "--version=1"), " is 00000000000000000006.dump now")
	require.Equal(t, "# 00000000000000000006.dump, sealed, version \"1\"\n0\told\n", must(t, "cat", dir, "6"))
	require.Equal(t, "nothing is in quarantine\n", must(t, "quarantine", "ls", dir))
}

func TestQuarantineRm(t *testing.T) {
	dir := mixed(t)
	code, _, stderr := dlqRun(t, "quarantine", "rm", dir, "1") // which is not in quarantine
	require.Equal(t, exitCannotRun, code)
	require.Contains(t, stderr, `there is no dump "1"`)
	require.Equal(t, "removed "+aside+" with 1 items\n", must(t, "quarantine", "rm", dir, "3"))
	entries, err := os.ReadDir(filepath.Join(dir, "quarantine"))
	require.NoError(t, err)
	require.Empty(t, entries)
}

// What somebody else wrote does not reach the terminal as it is.
func TestEscapes(t *testing.T) {
	dir := t.TempDir()
	d := openDisk(t, dir, "\x1b[2J")
	fill(t, d, dlq.ReasonSize, "\x1b[31mred", "tab\there")
	require.NoError(t, d.Quarantine(1, "because\nof \x1b[31m"))
	require.NoError(t, d.Close())
	for _, args := range [][]string{{"ls", dir}, {"cat", dir, "1"}, {"quarantine", "ls", dir}, {"verify", dir}} {
		require.NotContains(t, must(t, args...), "\x1b", args)
	}
	require.True(t, strings.HasSuffix(must(t, "cat", dir, "1"), "0\t\"\\x1b[31mred\"\n1\ttab\there\n"))
}

func TestDemo(t *testing.T) {
	var out, stderr bytes.Buffer
	a := &app{out: &out, err: &stderr, terminal: true}
	require.Zero(t, a.run(t.Context(), []string{"demo", "--items=20000", "--queue=1000", "--rate=200000"}))
	require.Contains(t, out.String(), "consumed 20000 of 20000, 0 of them again: every item is accounted for\n")
	require.NotContains(t, out.String(), "\n         0 leaked")
	require.Contains(t, stderr.String(), "demo ... done!")
}

func TestDemoGivesUp(t *testing.T) {
	var out bytes.Buffer
	a := &app{out: &out, err: io.Discard}
	require.Equal(t, exitFault, a.run(t.Context(), []string{"demo", "--items=1000", "--rate=1", "--timeout=50ms"}))
	require.Contains(t, out.String(), "ITEMS ARE MISSING")
}

// A dump that has lost its header is set aside for the version "", and nothing of it was delivered.
func TestQuarantineRestoreWithoutHeader(t *testing.T) {
	dir, _ := backlog(t, 1, 3)
	b, err := os.ReadFile(filepath.Join(dir, first))
	require.NoError(t, err)
	b = bytes.ReplaceAll(b, []byte("dlqdump1"), []byte("DLQDUMP1")) // wherever the header stands
	require.NoError(t, os.WriteFile(filepath.Join(dir, first), b, 0o600))
	d := openDisk(t, dir, "0")
	restorer, err := dlq.NewRestorer(d, dlq.DecodeString, func(context.Context, string) error { return nil },
		dlq.RestorerOptions[string]{Version: "0"})
	require.NoError(t, err)
	require.NoError(t, restorer.Drain(t.Context()))
	require.NoError(t, d.Close())
	require.Contains(t, must(t, "quarantine", "ls", dir), `version "" instead of "0"`)
	code, out, _ := dlqRun(t, "verify", dir)
	require.Equal(t, exitFault, code)
	require.Contains(t, out, "FAULT quarantine/"+first+": its version is not known")
	require.Contains(t, out, "3 items of 39B are whole")

	code, _, stderr := dlqRun(t, "quarantine", "restore", dir, "1")
	require.Equal(t, exitFault, code)
	require.Contains(t, stderr, "nothing says that it was restored before")
	require.NotContains(t, stderr, "most likely restored before")
	code, _, stderr = dlqRun(t, "quarantine", "restore", dir, "1", "--again")
	require.Equal(t, exitFault, code)
	require.Contains(t, stderr, "say with --version")
	require.Contains(t, must(t, "quarantine", "restore", dir, "1", "--again", "--version", "0"), "is "+second+" now, to be restored with 3 items")
	require.Contains(t, must(t, "cat", dir), `version "0"`)
	require.Contains(t, must(t, "verify", dir), "1 dumps read, 0 with faults; 3 items")
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/edgetide/telegraf-victorialogs/dlq"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// dlqRun runs the command as main does.
func dlqRun(t *testing.T, args ...string) (code int, out, stderr string) {
	t.Helper()
	var o, e bytes.Buffer
	a := &app{out: &o, err: &e}
	code = a.run(t.Context(), args)
	return code, o.String(), e.String()
}

// must runs the command, which must succeed, and returns what it printed.
func must(t *testing.T, args ...string) string {
	t.Helper()
	code, out, stderr := dlqRun(t, args...)
	require.Zero(t, code, "%v: %s%s", args, out, stderr)
	return out
}

func openDisk(t *testing.T, dir, version string) *dlq.Disk {
	t.Helper()
	d, err := dlq.OpenDisk(dir, dlq.DiskOptions{Version: version})
	require.NoError(t, err)
	return d
}

// fill seals a dump with these items.
func fill(t *testing.T, d *dlq.Disk, reason dlq.Reason, items ...string) {
	t.Helper()
	for _, item := range items {
		_, err := d.Append(t.Context(), []byte(item))
		require.NoError(t, err)
	}
	require.NoError(t, d.Seal(t.Context(), reason))
}

// copyDir is what stays of a directory when its process is killed.
func copyDir(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "dlq")
	require.NoError(t, os.CopyFS(to, os.DirFS(from)))
	return to
}

// onDisk is how much such files take.
func onDisk(t *testing.T, dir string, patterns ...string) string {
	t.Helper()
	var sum int64
	for _, pattern := range patterns {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		require.NoError(t, err)
		for _, name := range names {
			info, err := os.Stat(name)
			require.NoError(t, err)
			sum += info.Size()
		}
	}
	return size(sum)
}

// flip changes one bit of a file.
func flip(t *testing.T, path string, at int) {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	b[at] ^= 1
	require.NoError(t, os.WriteFile(path, b, 0o600))
}

const (
	first  = "00000000000000000001.dump"
	second = "00000000000000000002.dump"
	aside  = "quarantine/00000000000000000003.dump"
	broken = "00000000000000000004.dump"
	open   = "00000000000000000005.open"
)

// mixed makes a directory with a dump of each kind, as a killed process leaves it.
func mixed(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "dlq")
	d := openDisk(t, dir, "1")
	fill(t, d, dlq.ReasonSize, "one", "two", "three")
	require.NoError(t, d.Close())
	d = openDisk(t, dir, "2")
	fill(t, d, dlq.ReasonInterval, `{"level":"info","n":12345678901234567890}`, "\xff\x00", "two\nlines")
	fill(t, d, dlq.ReasonSize, "old")
	require.NoError(t, d.Quarantine(3, `version "2" instead of "1"`))
	fill(t, d, dlq.ReasonSize, "lost", "as well")
	_, err := d.Append(t.Context(), []byte("being written"))
	require.NoError(t, err)
	require.NoError(t, d.Sync(t.Context(), 0))
	dir, died := copyDir(t, dir), d
	require.NoError(t, died.Close())
	flip(t, filepath.Join(dir, broken), 110)
	return dir
}

func TestReading(t *testing.T) {
	type test struct {
		name string
		args []string // DIR is replaced
		code int
		out  string
		err  string
	}
	tests := []test{
		{"ls", []string{"ls", "DIR"}, 0, `
NAME                                  STATE        REASON                      VERSION  ITEMS  BYTES    AGE
00000000000000000001.dump             sealed       size                        1            3    11B  1h30m
00000000000000000002.dump             sealed       interval                    2            3    52B  1h30m
00000000000000000004.dump             sealed       size                        2            2    11B  1h30m
00000000000000000005.open             open         -                           2            1    13B  1h30m
quarantine/00000000000000000003.dump  quarantined  version "2" instead of "1"  2            1     3B  1h30m

3 to be restored with 8 items, 1 open, 1 in quarantine; ALL on disk
`, ""},
		{"cat all", []string{"cat", "DIR"}, 1, `
# 00000000000000000001.dump, sealed, version "1"
0	one
1	two
2	three
# 00000000000000000002.dump, sealed, version "2"
0	{"level":"info","n":12345678901234567890}
1	base64:/wA=
2	"two\nlines"
# 00000000000000000004.dump, sealed, version "2"
# 00000000000000000005.open, open, version "2"
0	being written
`, "at byte 66: damaged: a block's sum is wrong\ndlq: 00000000000000000004.dump: 0 items of 0 bytes are whole, of 2 of 11 bytes\n"},
		{"cat by number, hex", []string{"cat", "--hex", "DIR", "2"}, 0, `
# 00000000000000000002.dump, sealed, version "2"
0	{"level":"info","n":12345678901234567890}
1	hex:ff00
2	"two\nlines"
`, ""},
		{"cat raw", []string{"cat", "DIR", first, "--raw", "--limit", "2"}, 0, "\none\ntwo\n", ""},
		{"cat json", []string{"cat", "DIR", second, "--json"}, 0, `
{"dump":"00000000000000000002.dump","item":0,"version":"2","bytes":41,"json":{"level":"info","n":12345678901234567890}}
{"dump":"00000000000000000002.dump","item":1,"version":"2","bytes":2,"base64":"/wA="}
{"dump":"00000000000000000002.dump","item":2,"version":"2","bytes":9,"text":"two\nlines"}
`, ""},
		{"cat quarantine", []string{"cat", "DIR", aside, "--raw"}, 0, "\nold\n", ""},
		{"cat unknown", []string{"cat", "DIR", "77"}, 2, "", `there is no dump "77"`},
		{"verify", []string{"verify", "DIR"}, 1, `
FAULT 00000000000000000004.dump: at byte 66: damaged: a block's sum is wrong
FAULT 00000000000000000004.dump: 0 items of 0 bytes are whole, of 2 of 11 bytes
5 dumps read, 1 with faults; 8 items of 79B are whole
`, ""},
		{"quarantine ls", []string{"quarantine", "ls", "DIR"}, 0, `
NAME                                  STATE        REASON                      VERSION  ITEMS  BYTES    AGE
quarantine/00000000000000000003.dump  quarantined  version "2" instead of "1"  2            1     3B  1h30m
`, ""},
		{"replay dry", []string{"replay", "DIR", "--dry-run", "--rate", "0.1"}, 0, `
NAME                       STATE   REASON    VERSION  ITEMS  BYTES    AGE
00000000000000000001.dump  sealed  size      1            3    11B  1h30m
00000000000000000002.dump  sealed  interval  2            3    52B  1h30m
00000000000000000004.dump  sealed  size      2            2    11B  1h30m
dry run: would deliver 8 items of 3 dumps, up to 74B, in no less than 1m20s
`, ""},
		{"purge dry", []string{"purge", "DIR", "--older-than=1h", "--dry-run"}, 0, `
NAME                       STATE   REASON    VERSION  ITEMS  BYTES    AGE
00000000000000000001.dump  sealed  size      1            3    11B  1h30m
00000000000000000002.dump  sealed  interval  2            3    52B  1h30m
00000000000000000004.dump  sealed  size      2            2    11B  1h30m
dry run: would have removed 3 dumps with 8 undelivered items, SEALED on disk
`, ""},
		{"no directory", []string{"ls", "DIR/none"}, 2, "", "no such file"},
		{"salvage no directory", []string{"salvage", "DIR/none"}, 2, "", "no such file"},
		{"purge no directory", []string{"purge", "DIR/none", "--older-than=1h"}, 2, "", "no such file"},
		{"replay no directory", []string{"replay", "DIR/none", "--stdout"}, 2, "", "no such file"},
		{"purge without age", []string{"purge", "DIR"}, 2, "", "--older-than must say how old"},
		{"replay without target", []string{"replay", "DIR"}, 2, "", "--url URL or --stdout"},
		{"replay with two", []string{"replay", "DIR", "--url", "http://h", "--stdout"}, 2, "", "exclude each other"},
		{"replay wrong url", []string{"replay", "DIR", "--url", "host:80"}, 2, "", "http://"},
		{"replay wrong header", []string{"replay", "DIR", "--url", "http://h", "--header", "x"}, 2, "", `"Name: value"`},
		{"quarantine rm nothing", []string{"quarantine", "rm", "DIR"}, 2, "", "--all"},
		{"unknown flag", []string{"ls", "DIR", "--colour"}, 2, "", "unknown flag"},
		{"too few", []string{"ls"}, 2, "", "usage: dlq ls DIR"},
		{"unknown command", []string{"rm", "DIR"}, 2, "", `there is no command "rm"`},
		{"nothing", nil, 2, "", "say what to do"},
	}
	synctest.Test(t, func(t *testing.T) {
		dir := mixed(t)
		before := content(t, dir)
		<-time.After(90*time.Minute + time.Second)
		for _, tt := range tests {
			args := make([]string, len(tt.args))
			for i, arg := range tt.args {
				args[i] = strings.Replace(arg, "DIR", dir, 1)
			}
			code, out, stderr := dlqRun(t, args...)
			require.Equal(t, tt.code, code, "%s: %s%s", tt.name, out, stderr)
			want := strings.NewReplacer("SEALED", onDisk(t, dir, "*.dump"), "ALL", onDisk(t, dir, "*.dump", "*.open", "quarantine/*.dump"))
			require.Equal(t, want.Replace(strings.TrimPrefix(tt.out, "\n")), out, tt.name)
			require.Contains(t, stderr, tt.err, tt.name)
			if tt.err == "" {
				require.Empty(t, stderr, tt.name)
			}
		}
		require.Equal(t, before, content(t, dir), "reading changed something")
	})
}

// content is all that is in a directory: names, modes, times and bytes.
func content(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	require.NoError(t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		all[path] = info.Mode().String() + info.ModTime().String()
		if info.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			all[path] += string(b)
			return err
		}
		return nil
	}))
	return all
}

func TestHelp(t *testing.T) {
	require.Contains(t, must(t, "--help"), "quarantine restore")
	require.Contains(t, must(t, "replay", "--help"), "--give-up")
	require.Contains(t, must(t, "quarantine", "rm", "-h"), "--all")
}

func TestJSON(t *testing.T) {
	dir := mixed(t)
	for _, args := range [][]string{
		{"ls", dir},
		{"verify", dir},
		{"quarantine", "ls", dir},
		{"replay", dir, "--dry-run"},
		{"purge", dir, "--older-than=1h", "--dry-run"},
		{"salvage", dir},
		{"quarantine", "rm", dir, "--all"},
		{"purge", dir, "--older-than=0s"},
		{"ls", dir},
		{"verify", dir},
		{"salvage", dir},
		{"demo", "--items=2000", "--rate=1e6"},
	} {
		code, out, stderr := dlqRun(t, append(args, "--json")...)
		require.Less(t, code, 2, "%v: %s", args, stderr)
		require.True(t, json.Valid([]byte(out)), "%v: %s", args, out)
		require.NotContains(t, out, "null", "%v", args) // an empty list is []
	}
}

// Reading beside a queue that writes, seals, restores and sets aside.
func TestBesideQueue(t *testing.T) {
	dir := t.TempDir()
	d := openDisk(t, dir, "1")
	_, err := d.Append(t.Context(), []byte("durable, and not sealed"))
	require.NoError(t, err)
	require.NoError(t, d.Sync(t.Context(), 0))
	require.Contains(t, must(t, "cat", dir), "0\tdurable, and not sealed\n")

	stop := make(chan struct{})
	ended := make(chan error)
	go func() {
		defer close(ended)
		restorer, err := dlq.NewRestorer(d, dlq.DecodeString, func(context.Context, string) error { return nil },
			dlq.RestorerOptions[string]{Version: "1"})
		for n := 0; err == nil; n++ {
			select {
			case <-stop:
				ended <- err
				return
			default:
			}
			for range 50 {
				if _, err = d.Append(t.Context(), bytes.Repeat([]byte("x"), 3000)); err != nil {
					break
				}
			}
			if err == nil {
				err = d.Seal(t.Context(), dlq.ReasonSize)
			}
			if err == nil && n%3 == 0 {
				err = restorer.Drain(t.Context())
			}
		}
		ended <- err
	}()
	for range 200 {
		for _, args := range [][]string{{"ls", dir}, {"verify", dir}, {"cat", dir}, {"quarantine", "ls", dir}, {"replay", dir, "--dry-run"}} {
			must(t, args...)
		}
	}
	for _, args := range [][]string{
		{"salvage", dir}, {"purge", dir, "--older-than=0s"}, {"replay", dir, "--stdout"}, {"quarantine", "rm", dir, "--all"},
	} {
		code, out, stderr := dlqRun(t, args...)
		require.Equal(t, exitCannotRun, code, "%v: %s", args, out)
		require.Contains(t, stderr, "the directory is in use by another process; stop it first")
		require.Empty(t, out)
	}
	close(stop)
	require.NoError(t, <-ended)
	require.NoError(t, d.Close())
}

package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/dlq"
	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
)

func openDisk(t *testing.T, dir string) *dlq.Disk {
	t.Helper()
	d, err := dlq.OpenDisk(dir, dlq.DiskOptions{Version: "1"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

func dump(t *testing.T, d *dlq.Disk, items ...string) {
	t.Helper()
	for _, item := range items {
		_, err := d.Append(t.Context(), []byte(item))
		require.NoError(t, err)
	}
	require.NoError(t, d.Seal(t.Context(), dlq.ReasonSize))
}

// inventory is all that is in a directory, with what would change if somebody wrote.
func inventory(t *testing.T, dir string) (names []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := os.Stat(path)
		names = append(names, path+" "+info.Mode().String()+" "+info.ModTime().String()+" "+strconv.FormatInt(info.Size(), 10))
		return err
	}))
	return names
}

// An agent that runs keeps its directory to itself.
func TestDirectoryInUse(t *testing.T) {
	r := receiver(t, vlreceiver.Config{})
	dir := privateDir(t)
	d := openDisk(t, dir)
	dump(t, d, "one", "two")
	dump(t, d, "three")
	_, err := d.Append(t.Context(), []byte("four"))
	require.NoError(t, err)
	require.NoError(t, d.Sync(t.Context(), 0))

	before := inventory(t, dir)
	got := checked(t, output(r.URL(), deadLetters(dir)))
	require.Zero(t, got.code, got.out)
	require.Contains(t, got.step("directory").Text, "an agent has it, so nothing was written")
	require.Contains(t, got.step("directory").Text, "mode 0700")
	require.Regexp(t, `^2 dumps of 3 batches \(.*\) to be sent, the oldest for .*; 1 open`, got.step("backlog").Text)
	require.Contains(t, got.step("room").Text, "of max_size, 1.05MB")
	require.Equal(t, before, inventory(t, dir))
	dump(t, d, "five") // it goes on
}

func TestDirectoryFaults(t *testing.T) {
	r := receiver(t, vlreceiver.Config{})
	with := func(dir string) result { return checked(t, output(r.URL(), deadLetters(dir))) }

	a := file(t, "")
	with(a).failed("directory", "is a file", "name a directory")
	with(a+"/below").failed("directory", "not a directory", "run this as the agent's user")
	with("/proc/telegraf-check-dlq").failed("directory", "is not there and cannot be made", "install -d -m 700 -o USER /proc/telegraf-check-dlq")

	dir := privateDir(t)
	require.NoError(t, os.Chmod(dir, 0o777))
	with(dir).failed("directory", "mode 0777): others may write", "chmod 700 "+dir)

	dir = filepath.Join(privateDir(t), "a", "b")
	got := with(dir)
	require.Zero(t, got.code, got.out)
	require.Contains(t, got.step("directory").Text, "is not there; the agent makes it in")
	require.Equal(t, "nothing waits", got.step("backlog").Text)
	require.NoDirExists(t, filepath.Dir(dir))

	checked(t, output(r.URL(), "[outputs.victorialogs.dlq]\ndirectory = \""+privateDir(t)+"\"\nmax_size = \"1000TiB\"")).
		failed("room", "and max_size allows", "or set max_size to less than")
	require.Equal(t, skipped, checked(t, output(r.URL())).step("directory").Status)
}

func TestDirectoryNotWritable(t *testing.T) {
	dir := privateDir(t)
	if os.Geteuid() == 0 {
		dir = "/proc" // where root cannot make a file either
	} else {
		require.NoError(t, os.Chmod(dir, 0o500))
	}
	got := checked(t, output(receiver(t, vlreceiver.Config{}).URL(), deadLetters(dir)))
	require.Equal(t, failed, got.step("directory").Status)
	require.Contains(t, got.step("directory").Text, "a file cannot be written")
}

// That root can write there says nothing of an agent which has a user of its own.
func TestDirectoryOfRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("root alone may write anywhere")
	}
	r := receiver(t, vlreceiver.Config{})
	dir := privateDir(t)
	for _, path := range []string{dir, filepath.Join(dir, "below")} {
		got := checked(t, output(r.URL(), deadLetters(path)))
		require.Zero(t, got.code, got.out)
		require.Contains(t, got.step("directory").Text, "for root alone: an agent of another user cannot")
	}
	require.NoError(t, os.Chown(dir, 65534, 65534))
	require.Contains(t, checked(t, output(r.URL(), deadLetters(dir))).step("directory").Text, "by root, who may write anywhere: runuser -u ")
}

// Root salvaged a dump, and left it where the agent cannot read it.
func TestFilesOfOthers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("root alone gives files away")
	}
	dir := privateDir(t)
	d := openDisk(t, dir)
	dump(t, d, "one")
	const somebody = 65534
	require.NoError(t, os.Chown(dir, somebody, somebody))
	got := checked(t, output(receiver(t, vlreceiver.Config{}).URL(), deadLetters(dir)))
	got.failed("directory", "in it is of root", "chown -R ")

	// A link is root's, as those in /var/lib are; what counts is what it leads to.
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(dir, link))
	got = checked(t, output(receiver(t, vlreceiver.Config{}).URL(), deadLetters(link)))
	got.failed("directory", filepath.Join(dir, "00000000000000000001.dump")+"\" in it is of root", " "+dir)
	empty := privateDir(t)
	require.NoError(t, os.Chown(empty, somebody, somebody))
	require.NoError(t, os.Remove(link))
	require.NoError(t, os.Symlink(empty, link))
	require.Zero(t, checked(t, output(receiver(t, vlreceiver.Config{}).URL(), deadLetters(link))).code)
}

// What waits for a person is a fault, and the command to look at it stands beside it.
func TestSetAside(t *testing.T) {
	r := receiver(t, vlreceiver.Config{})
	dir := privateDir(t)
	d := openDisk(t, dir)
	dump(t, d, "one")
	dump(t, d, "two", "three")
	require.NoError(t, d.Quarantine(1, "a reason"))
	require.NoError(t, d.Close())
	got := checked(t, output(r.URL(), deadLetters(dir)))
	got.failed("set aside", "1 dump in quarantine", "dlq quarantine ls "+dir)
	require.Contains(t, got.step("backlog").Text, "1 dump of 2 batches")
	require.Contains(t, got.step("directory").Text, "a file was written, synced and removed")

	rejected := openDisk(t, filepath.Join(dir, "rejected"))
	dump(t, rejected, "bad", "worse")
	got = checked(t, output(r.URL(), deadLetters(dir)))
	got.failed("set aside", "1 dump of rows that the server will never take, 2 batches", "dlq cat "+dir+"/rejected")

	path := filepath.Join(dir, "00000000000000000002.dump")
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, b[:len(b)-3], 0o600))
	old := time.Now().Add(-time.Hour)
	require.NoError(t, os.Chtimes(path, old, old))
	got = checked(t, output(r.URL(), deadLetters(dir)))
	require.Equal(t, failed, got.step("backlog").Status, got.out)
	require.True(t, strings.HasPrefix(got.step("backlog").Todo, "dlq verify "))
}

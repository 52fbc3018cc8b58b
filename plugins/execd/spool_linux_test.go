package execd

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
)

// fullDisk is a directory on a file system of its own that takes no more bytes.
func fullDisk(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("a small file system needs rights: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	err := os.WriteFile(filepath.Join(dir, "all"), make([]byte, 1<<20), 0o600)
	require.ErrorIs(t, err, unix.ENOSPC)
	return dir
}

// An heir that was killed has a successor, so that a kill -9 of the process loses nothing after it either.
func TestSpoolReplacesItsHeir(t *testing.T) {
	t.Parallel()
	server := receiver(t, vlreceiver.Config{})
	spool := t.TempDir()
	config := write(t, "[[outputs.victorialogs]]\n  url = %q\n", server.URL())
	h := startHost(t, "--spool", spool, "--config", config)
	h.send(fmt.Sprintf("a message=\"one\" %d\n", now()))
	require.NoError(t, server.WaitCount(within(t, patience), vlreceiver.Tenant{}, 1))
	first := children(t, h.cmd.Process.Pid)
	require.Len(t, first, 1)
	require.NoError(t, syscall.Kill(first[0], syscall.SIGKILL))
	require.Eventually(t, func() bool {
		now := children(t, h.cmd.Process.Pid)
		return len(now) == 1 && now[0] != first[0]
	}, patience, 10*time.Millisecond)
	require.Contains(t, h.logged(), "W! [execd] The spool's heir ended before its time (signal: killed)")
	require.NoError(t, h.cmd.Process.Signal(syscall.SIGSTOP))
	h.send(fmt.Sprintf("a message=\"two\" %d\n", now()))
	require.NoError(t, h.cmd.Process.Kill())
	_ = h.cmd.Wait()
	require.NoError(t, h.stdin.Close())

	code, _ := startHost(t, "--spool", spool, "--config", config).end()
	require.Zero(t, code)
	require.Equal(t, []string{"one", "two"}, messagesIn(server))
}

// What finds no room in the spool is delivered all the same.
func TestSpoolOnAFullDisk(t *testing.T) {
	t.Parallel()
	full := fullDisk(t)
	server := receiver(t, vlreceiver.Config{})
	config := write(t, "[[outputs.victorialogs]]\n  url = %q\n", server.URL())
	h := startHost(t, "--spool", full, "--config", config)
	for i := range 3 {
		h.send(fmt.Sprintf("a message=\"line %d\" %d\n", i, now()))
		require.NoError(t, server.WaitCount(within(t, patience), vlreceiver.Tenant{}, i+1))
	}
	code, _ := h.end()
	require.Zero(t, code)
	require.Equal(t, 1, strings.Count(h.logged(), "E! [execd] The spool cannot be written"))
	require.Equal(t, []string{"line 0", "line 1", "line 2"}, messagesIn(server))
}

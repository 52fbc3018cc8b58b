package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
)

func TestDiskFull(t *testing.T) {
	dir := privateDir(t)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,mode=700"); err != nil {
		t.Skipf("a small disk cannot be mounted here, which root may: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, 0)) })
	require.NoError(t, os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 1<<20-16<<10), 0o600))
	got := checked(t, output(receiver(t, vlreceiver.Config{}).URL(), deadLetters(dir)))
	require.Equal(t, exitFault, got.code)
	require.Contains(t, got.step("directory").Text, "no space left on device")
	require.Contains(t, got.step("directory").Todo, "make room")
	require.Equal(t, failed, got.step("room").Status)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1, "what could not be written is gone")

	// A cure is one that can be done.
	err = os.WriteFile(filepath.Join(dir, "rest"), make([]byte, 1<<20), 0o600)
	require.ErrorIs(t, err, syscall.ENOSPC)
	got = checked(t, output(receiver(t, vlreceiver.Config{}).URL(), deadLetters(dir)))
	require.Equal(t, "make room", got.step("room").Todo)
	inIt := deadLetters(filepath.Join(dir, "below"))
	checked(t, output(receiver(t, vlreceiver.Config{}).URL(), inIt)).failed("directory", "cannot be made", "make room")
	require.NoError(t, syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	checked(t, output(receiver(t, vlreceiver.Config{}).URL(), inIt)).failed("directory", "cannot be made", "mount it for writing")
}

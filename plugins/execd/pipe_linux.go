package execd

import (
	"os"

	"golang.org/x/sys/unix"
)

// unreadIn is how many bytes lie in a pipe that nobody has read; 0 for what is no pipe.
func unreadIn(pipe *os.File) int64 {
	n, err := unix.IoctlGetInt(int(pipe.Fd()), unix.TIOCINQ) // FIONREAD, which is for both ends of a pipe
	if err != nil {
		return 0
	}
	return int64(n)
}

// isAbandoned tells that nobody can read any more what is written to a pipe.
func isAbandoned(pipe *os.File) bool {
	fds := []unix.PollFd{{Fd: int32(pipe.Fd())}} //nolint:gosec // a descriptor
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&unix.POLLERR != 0
}

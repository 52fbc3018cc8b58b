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

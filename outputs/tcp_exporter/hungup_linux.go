package tcp_exporter

import "golang.org/x/sys/unix"

// hungUp reports that the system knows the connection to be over in both directions. It is called again whenever something
// happened to the connection.
func hungUp(fd uintptr) bool {
	state := []unix.PollFd{{Fd: int32(fd)}} //nolint:gosec // a file descriptor
	_, err := unix.Poll(state, 0)
	return err == nil && state[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
}

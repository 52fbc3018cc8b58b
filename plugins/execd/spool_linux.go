package execd

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const canSpool = true

// HeirCommand is, with a path behind it, how the spool starts its heir.
const HeirCommand = "--heir"

// What the heir is given beside standard input.
const (
	heirLife = 3 + iota
	heirLock
)

// startHeir starts this program again, as the heir.
func (s *spool) startHeir() error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	ours, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	s.life = theirs
	s.heir = exec.Command(program, HeirCommand, s.own.path) //nolint:gosec,noctx // it outlives us
	s.heir.Stdin = os.Stdin
	s.heir.ExtraFiles = []*os.File{ours, s.lock}
	s.heir.Env = []string{"GOMAXPROCS=1"}
	s.heir.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a signal to our group is not for it
	return errors.Join(s.heir.Start(), ours.Close())
}

// Inherit is what the heir does: wait for the end of the process that started it, and if that was no good end, save what
// is in the pipe. It holds the lock meanwhile.
func Inherit(path string) error {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	life := os.NewFile(heirLife, "life")
	if n, _ := life.Read(make([]byte, 1)); n > 0 {
		return nil
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, os.Stdin) // ends when Telegraf closes the pipe
	return errors.Join(err, file.Close())
}

// acquire locks the file. The lock is held for as long as any process has this open file.
func acquire(file *os.File, patience time.Duration) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(patience)
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil || time.Now().After(deadline) {
			return err
		}
		<-tick.C
	}
}

// waitReadable returns when there is something in the pipe, or its end.
func waitReadable(pipe *os.File) error {
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(pipe.Fd()), Events: unix.POLLIN}}, -1) //nolint:gosec // a descriptor
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// moveFromPipe moves what is in the pipe to that place in the file, without a moment at which it is in neither. It
// returns io.EOF at the end of the pipe.
func moveFromPipe(pipe, file *os.File, at int64) (int64, error) {
	const most = 1 << 20
	for {
		n, err := unix.Splice(int(pipe.Fd()), nil, int(file.Fd()), &at, most, unix.SPLICE_F_NONBLOCK)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return 0, nil
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		}
		return int64(n), nil //nolint:unconvert // an int on 32 bits
	}
}

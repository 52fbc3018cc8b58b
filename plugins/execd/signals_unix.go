//go:build unix

package execd

import (
	"os"
	"syscall"
)

// gatherSignals are those with which inputs.execd asks for metrics.
var gatherSignals = []os.Signal{syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2}

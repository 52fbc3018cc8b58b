//go:build !unix

package execd

import (
	"os"
	"syscall"
)

// gatherSignals are none that inputs.execd could send: it asks on standard input alone.
var gatherSignals = []os.Signal{syscall.SIGHUP}

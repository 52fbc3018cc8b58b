//go:build !unix

package execd

import "os"

// gatherSignals are none: inputs.execd asks on standard input alone.
var gatherSignals []os.Signal

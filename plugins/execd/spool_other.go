//go:build !linux

package execd

import (
	"errors"
	"io"
	"os"
	"time"
)

const canSpool = false

// HeirCommand is of no use here.
const HeirCommand = "--heir"

var errNoSpool = errors.New("there is no spool on this system")

func (s *spool) startHeir() error                           { return errNoSpool }
func acquire(*os.File, time.Duration) error                 { return errNoSpool }
func waitReadable(*os.File) error                           { return errNoSpool }
func moveFromPipe(*os.File, *os.File, int64) (int64, error) { return 0, io.EOF }

// Inherit does nothing here.
func Inherit(string) error { return errNoSpool }

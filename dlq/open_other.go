//go:build !windows

package dlq

import (
	"io/fs"
	"os"
)

func openShared(name string, flags int, mode fs.FileMode) (*os.File, error) {
	return os.OpenFile(name, flags, mode)
}

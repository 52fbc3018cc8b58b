//go:build unix

package execd

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// lockable tells whether memory can be locked for secrets. Telegraf's library for them does not return from finding out.
func lockable() error {
	memory := make([]byte, 8*os.Getpagesize())
	if err := unix.Mlock(memory); err != nil {
		return fmt.Errorf("memory cannot be locked, which keeps secrets from being swapped out: %w; raise RLIMIT_MEMLOCK "+
			"(systemd: LimitMEMLOCK=8M), or run with --unprotected", err)
	}
	return unix.Munlock(memory)
}

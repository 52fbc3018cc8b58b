//go:build unix && !linux

package execd

import "testing"

func fullDisk(t *testing.T) string {
	t.Helper()
	t.Skip("there is no spool on this system")
	return ""
}

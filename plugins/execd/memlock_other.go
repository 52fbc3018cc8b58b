//go:build !unix

package execd

// lockable does not know.
func lockable() error { return nil }

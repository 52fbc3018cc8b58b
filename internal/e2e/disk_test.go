//go:build linux

package e2e

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/agentproc"
	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
)

// The disk is full while the server is away. What was acknowledged is safe, and what was not is the broker's still; it goes on
// by itself when there is space again, or the server, or after a crash.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	const n, rate = 12_000, 1000
	for _, way := range []struct {
		name string
		end  func(t *testing.T, r *rig, free, serverBack func())
	}{
		{"space again", func(t *testing.T, r *rig, free, serverBack func()) {
			free()
			require.NoError(t, r.agent.WaitFor(within(t, patience), func(a *agentproc.Agent) bool { return a.Self(acked) == n }))
			serverBack()
		}},
		{"server back", func(_ *testing.T, _ *rig, _, serverBack func()) { serverBack() }},
		{"killed then space again", func(_ *testing.T, r *rig, free, serverBack func()) {
			r.agent.Kill()
			free()
			r.start()
			serverBack()
		}},
		{"killed then server back", func(_ *testing.T, r *rig, _, serverBack func()) {
			r.agent.Kill()
			r.start()
			serverBack()
		}},
		{"stopped then server back", func(_ *testing.T, r *rig, _, serverBack func()) {
			r.stop()
			r.start()
			serverBack()
		}},
	} {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
				t.Skipf("a small disk cannot be mounted here, which root may: %v", err)
			}
			t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, 0)) })
			filler := filepath.Join(dir, "filler")
			require.NoError(t, os.WriteFile(filler, make([]byte, 2<<20-160<<10), 0o600))

			broker := brokers["mochi"](t)
			logs := standIn(t)
			letters := filepath.Join(dir, "letters")
			r := newSafeRig(t, broker.URL(), logs.URL(), letters, "  retry_budget = \"500ms\"", "    capacity = \"64KiB\"")
			r.start()
			require.NoError(t, logs.Down())
			published := publishing(t, broker.URL(), testbroker.Opts{QoS: 1, Rate: rate}, events(1, n))
			require.NoError(t, r.agent.WaitFor(within(t, patience), func(*agentproc.Agent) bool {
				return r.logged("Cannot put batches on disk") > 0
			}))
			require.Contains(t, r.agent.Log(), syscall.ENOSPC.Error())
			published()
			t.Logf("the disk was full after %d messages were acknowledged", r.agent.Self(acked))
			require.Less(t, r.agent.Self(acked), int64(n))

			way.end(t, r, func() { require.NoError(t, os.Remove(filler)) }, func() { require.NoError(t, logs.Up()) })
			doubled := requireAll(t, waitStored(t, logs.URL(), n), n)
			l := r.waitLedger(func(l ledger) bool { return l.onDisk == 0 })
			require.Zero(t, l.rejected+l.dropped)
			r.stop()
			// At the crash 20 messages were in flight, which may be on disk and not acknowledged; else nothing is doubled.
			require.LessOrEqual(t, doubled, testbroker.DefaultMaxInflight)
			if l.recovered == 0 {
				require.Zero(t, doubled)
			}
			r.requireClosed()
			requireNoDumps(t, letters)
			requireNothingLeft(t, broker.URL())
		})
	}
}

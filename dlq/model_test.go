package dlq

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// discard is a target that takes everything.
type discard struct{}

func (*discard) target(context.Context, []byte) error { return nil }

// TestModel does many things in a random order, with faults and crashes between them, and compares with a model of it: what
// is delivered is a superset of what is durable, and a subset of what was offered. It is seeded; the seed is the name of the
// subtest.
func TestModel(t *testing.T) {
	lives, crashes := 0, 0
	for seed := range uint64(150) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 7))
			m, w := newMemFS(), newWorld()
			o := smallBlocks(DiskOptions{Version: "1", Compress: random.IntN(2) == 0})
			var trail []string
			do := func(format string, args ...any) { trail = append(trail, fmt.Sprintf(format, args...)) }
			for range 4 {
				lives++
				d, err := openDisk("mem", m, o)
				require.NoError(t, err, "%v", trail)
				do("open")
				if random.IntN(2) == 0 {
					n := 1 + random.IntN(40)
					m.set(func(m *memFS) { m.crashAt = m.writes + n })
					do("crash in %d operations", n)
				}
				for range 30 {
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
					switch n := random.IntN(20); {
					case n < 10:
						do("put %d: %v", w.next+1, w.put(ctx, d))
					case n < 13:
						do("sync: %v", w.sync(ctx, d))
					case n < 15:
						do("seal: %v", d.Seal(ctx, ReasonForced))
					case n < 17:
						part, stop := context.WithCancel(ctx)
						left := 1 + random.IntN(10)
						r, err := NewRestorer(d, DecodeBytes, func(ctx context.Context, data []byte) error {
							if left--; left <= 0 {
								stop()
							}
							return w.target(ctx, data)
						}, RestorerOptions[[]byte]{Version: "1", CheckInterval: time.Microsecond})
						require.NoError(t, err)
						do("restore: %v", r.Drain(part))
						stop()
					case n < 18:
						kind := []opKind{opWrite, opSync, opRename, opCreate, opSyncDir, opRemove, opRead}[random.IntN(7)]
						m.set(func(m *memFS) {
							once(m, 1, []error{syscall.EIO, errShort}[random.IntN(2)], func(op operation) bool { return op.kind == kind })
						})
						do("the next %s fails", kind)
					default:
						dumps, err := d.Dumps()
						do("%d dumps %v", len(dumps), err)
					}
					cancel()
				}
				if random.IntN(2) == 0 {
					err := d.Close()
					do("close: %v", err)
					if err == nil {
						w.settle()
					}
					if !m.died() {
						m.set(func(m *memFS) { m.fail = nil; m.crashAt = 0 })
						continue
					}
				}
				crashes++
				m.set(func(m *memFS) { m.dead = true })
				_ = d.Close()
				w.fresh = nil // may come, or not
				k := allKept[random.IntN(len(allKept))]
				do("%s", k)
				m = m.after(k)
			}
			require.Empty(t, w.check(m, o, nil), "%v", trail)
		})
	}
	t.Logf("%d lives, %d crashes", lives, crashes)
}

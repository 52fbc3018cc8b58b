package dlq

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// counts is a Metrics that remembers.
type counts struct {
	mu          sync.Mutex
	enqueued    uint64
	sealed      map[Reason]uint64 // dumps
	restored    uint64
	dropped     map[string]uint64
	quarantined map[string]uint64
	failures    []error
	dumps       int
	stored      uint64
	size        int64
}

func newCounts() *counts {
	return &counts{sealed: make(map[Reason]uint64), dropped: make(map[string]uint64), quarantined: make(map[string]uint64)}
}

func (c *counts) Enqueued(int) { c.with(func() { c.enqueued++ }) }

func (c *counts) Sealed(reason Reason, _, _ uint64) { c.with(func() { c.sealed[reason]++ }) }

func (c *counts) Restored(items, _ uint64) { c.with(func() { c.restored += items }) }

func (c *counts) Dropped(reason string, items, _ uint64) {
	c.with(func() { c.dropped[reason] += items })
}

func (c *counts) Quarantined(reason string, items, _ uint64) {
	c.with(func() { c.quarantined[reason] += items })
}

func (c *counts) Failed(err error) { c.with(func() { c.failures = append(c.failures, err) }) }

func (c *counts) Stored(dumps int, items, _ uint64, size int64, _ time.Time) {
	c.with(func() { c.dumps, c.stored, c.size = dumps, items, size })
}

func (c *counts) with(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

func sum(m map[string]uint64) (total uint64) {
	for _, n := range m {
		total += n
	}
	return total
}

// balance is what enqueued must be.
func (c *counts) balance() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.restored + c.stored + sum(c.dropped) + sum(c.quarantined)
}

func openMem(t *testing.T, m *memFS, o DiskOptions) *Disk {
	t.Helper()
	require.NoError(t, o.setDefaults())
	d, err := openDisk("mem", m, o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// used is what the Disk counts against MaxSize.
func used(d *Disk) int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.size
}

// dumpOf appends items as one dump.
func dumpOf(t *testing.T, d *Disk, items ...string) {
	t.Helper()
	for _, text := range items {
		_, err := d.Append(t.Context(), []byte(text))
		require.NoError(t, err)
		d.o.Metrics.Enqueued(len(text))
	}
	require.NoError(t, d.Seal(t.Context(), ReasonForced))
}

// got collects what a target is given.
type got struct {
	mu    sync.Mutex
	items []string
}

func (g *got) target(_ context.Context, text string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.items = append(g.items, text)
	return nil
}

func (g *got) list() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]string(nil), g.items...)
}

func restorer(t *testing.T, s Store, target Target[string], o RestorerOptions[string]) *Restorer[string] {
	t.Helper()
	r, err := NewRestorer(s, DecodeString, target, o)
	require.NoError(t, err)
	t.Cleanup(r.Close)
	return r
}

// drained returns what a Drain delivers.
func drained(t *testing.T, d *Disk, o RestorerOptions[string]) []string {
	t.Helper()
	g := &got{}
	require.NoError(t, restorer(t, d, g.target, o).Drain(t.Context()))
	return g.list()
}

// within fails when f hangs.
func within(t *testing.T, bound time.Duration, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(bound):
		t.Fatalf("hangs: not done after %s", bound)
	}
}

// quarantineOf returns the names in quarantine, and their content.
func quarantineOf(m *memFS) map[string]string {
	set := make(map[string]string)
	for name, data := range m.files() {
		if base, ok := bytes.CutPrefix([]byte(name), []byte(quarantineDir+"/")); ok {
			set[string(base)] = string(data)
		}
	}
	return set
}

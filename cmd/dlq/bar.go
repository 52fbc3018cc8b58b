package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/progress"
)

// bar shows on a terminal how far something is, with notes above it. Elsewhere it prints the notes alone. It may be used
// concurrently until end, which the caller owes it.
type bar struct {
	out     io.Writer
	writer  progress.Writer // nil where there is no terminal
	tracker *progress.Tracker
	ended   sync.WaitGroup

	mu sync.Mutex // of out, where there is no terminal
}

func (a *app) newBar(what string, total uint64) *bar {
	b := &bar{out: a.err}
	if !a.terminal {
		return b
	}
	b.writer = progress.NewWriter()
	b.writer.SetOutputWriter(a.err)
	b.writer.SetAutoStop(true)
	b.writer.SetTrackerLength(30)
	b.writer.SetUpdateFrequency(100 * time.Millisecond)
	b.writer.Style().Visibility.ETA = true
	b.writer.Style().Visibility.Speed = true
	b.writer.Style().Options.SpeedSuffix = " items/s"
	b.tracker = &progress.Tracker{Message: what, Total: int64(total)} //nolint:gosec // items that fit on a disk
	b.writer.AppendTracker(b.tracker)
	b.ended.Go(b.writer.Render)
	return b
}

func (b *bar) add(items int64) {
	if b.tracker != nil {
		b.tracker.Increment(items)
	}
}

// note prints a line that stays.
func (b *bar) note(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if b.writer != nil {
		b.writer.Log("%s", line)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	fmt.Fprintln(b.out, line)
}

// Write makes it the writer of a log.
func (b *bar) Write(p []byte) (int, error) {
	b.note("%s", strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

// end leaves the bar as it is.
func (b *bar) end(done bool) {
	switch {
	case b.tracker == nil:
		return
	case done:
		b.tracker.MarkAsDone()
	default:
		b.tracker.MarkAsErrored()
	}
	b.ended.Wait()
}

// total says how many items there are.
func (b *bar) total(items uint64) {
	if b.tracker != nil {
		b.tracker.UpdateTotal(int64(items)) //nolint:gosec // items that fit on a disk
	}
}

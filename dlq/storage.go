package dlq

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"
)

// Reason is why a dump was sealed.
type Reason uint32

// The reasons.
const (
	ReasonSize     Reason = iota + 1 // Capacity was reached
	ReasonInterval                   // FlushInterval was over
	ReasonForced                     // Flush or Close asked for it
	ReasonSalvaged                   // its process died, or its file had to be given up
)

func (r Reason) String() string {
	switch r {
	case ReasonSize:
		return "size"
	case ReasonInterval:
		return "interval"
	case ReasonForced:
		return "forced"
	case ReasonSalvaged:
		return "salvaged"
	default:
		return fmt.Sprintf("unknown (%d)", uint32(r))
	}
}

// Writer is where a Queue puts items. Its methods may be called concurrently. Disk is one.
type Writer interface {
	// Append takes an item, which it copies, into the open dump.
	Append(ctx context.Context, item []byte) (Position, error)
	// AppendDurable takes an item, which it copies, and returns when it is durable. With an error it is not taken; when the
	// context ends first nobody knows.
	AppendDurable(ctx context.Context, item []byte) error
	// Sync returns when all up to the position is durable; 0 means all that was appended so far.
	Sync(ctx context.Context, p Position) error
	// Seal closes the open dump so that it can be restored. Without one it does nothing.
	Seal(ctx context.Context, reason Reason) error
}

// Store is where a Restorer finds dumps. Its methods may be called concurrently. Disk is one.
type Store interface {
	// Dumps returns the sealed dumps, oldest first.
	Dumps() ([]Info, error)
	// Open opens a dump for reading what of it was not delivered.
	Open(sequence uint64) (Reader, error)
	// Remove deletes a dump.
	Remove(sequence uint64) error
	// Quarantine sets a dump aside.
	Quarantine(sequence uint64, reason string) error
	// QuarantineItems sets items of a dump aside, durably.
	QuarantineItems(info Info, reason string, items [][]byte) error
}

// Reader reads one dump. It is not safe for concurrent use.
type Reader interface {
	// Next returns items that follow each other, or io.EOF.
	Next() (Items, error)
	// Progress notes, durably, that all items below so many were delivered.
	Progress(delivered uint64) error
	// Damage says what of the dump could not be read, after Next returned io.EOF.
	Damage() error
	Close() error
}

// Items are some items of a dump that follow each other. They are good until their reader is asked for the next ones.
type Items struct {
	raw   []byte
	first uint64
	left  uint32
}

// NewItems makes Items of what a Reader of your own has read; first is the place of the first in the dump, from 0.
func NewItems(first uint64, items ...[]byte) Items {
	i := Items{first: first, left: uint32(len(items))} //nolint:gosec // so many do not fit into memory
	for _, item := range items {
		i.raw = append(binary.AppendUvarint(i.raw, uint64(len(item))), item...)
	}
	return i
}

// Cut takes the first item off, and tells its place in the dump, counted from 0.
func (i *Items) Cut() (item []byte, place uint64, ok bool) {
	if i.left == 0 {
		return nil, 0, false
	}
	item, rest, ok := cutItem(i.raw)
	if !ok {
		i.left = 0
		return nil, 0, false
	}
	place = i.first
	i.raw = rest
	i.first++
	i.left--
	return item, place, true
}

// Metrics observes; it never decides. Its methods are called from many goroutines and must not wait.
type Metrics interface {
	// Enqueued counts an item that was taken, and its bytes.
	Enqueued(bytes int)
	// Sealed counts a dump that was closed, and what is in it.
	Sealed(reason Reason, items, bytes uint64)
	// Restored counts delivered items, and their bytes.
	Restored(items, bytes uint64)
	// Dropped counts items that are gone without being delivered, and about how many bytes.
	Dropped(reason string, items, bytes uint64)
	// Quarantined counts what was set aside.
	Quarantined(reason string, items, bytes uint64)
	// Failed is told of an error that will be tried again.
	Failed(err error)
	// Stored is told what waits to be restored: dumps, their items and bytes, the size on disk, and when the oldest was made.
	Stored(dumps int, items, bytes uint64, size int64, oldest time.Time)
}

// noMetrics is what a nil Metrics becomes.
type noMetrics struct{}

func (noMetrics) Enqueued(int)                                 {}
func (noMetrics) Sealed(Reason, uint64, uint64)                {}
func (noMetrics) Restored(uint64, uint64)                      {}
func (noMetrics) Dropped(string, uint64, uint64)               {}
func (noMetrics) Quarantined(string, uint64, uint64)           {}
func (noMetrics) Failed(error)                                 {}
func (noMetrics) Stored(int, uint64, uint64, int64, time.Time) {}

// Package dlq keeps dead letters on disk: a [Queue] of last resort dumps items, a [Restorer] brings them back. It knows
// nothing of what the items are.
//
//	queue, in front of something that fails              restorer, when it works again
//
//	item ─ Encoder ─ Append ─► block ─► 42.open ─► 42.dump ─► Decoder ─ Target ─► removed
//	                             fdatasync ▲        rename ▲      │ poison, damage, another version
//	                                                              └────────────► quarantine/
//
// # Promises
//
//   - An item is durable when EnqueueDurable, or a Sync that came after its Enqueue, returned without an error: neither a
//     killed process nor a power cut loses it, if the disk keeps what fdatasync was told it had kept.
//   - An item that was enqueued and is not durable yet is lost with the process, and with it only.
//   - An item for which EnqueueDurable returned an error is given back: nothing writes it later. Only a file system that
//     fails to truncate, too, or a context that ended first, may bring it to light one day. After an error from Sync the
//     items are kept in memory and written when that works again.
//   - Nothing damaged is delivered. Of a damaged dump everything outside the damaged block is.
//   - An item is delivered at least once. It comes twice when the process dies, or a target fails after it had done its
//     work: everything since the last progress, which is noted every 100 ms and at each end.
//   - Oldest first. Items of one dump come in their order but for those that fail while others do not: they are set aside.
//   - A dump is removed only after all of it was delivered or set aside. What is set aside is in quarantine/, with the reason
//     in a file beside it, until somebody removes it. Only MaxAge and [DropOldest] delete what was not delivered; both
//     count and log it.
//   - Nothing that cannot be read or delivered blocks the others.
//   - One Disk has a directory at a time; the second is refused with [ErrLocked].
//
// Not promised: exactly once; order across dumps after a failure; that items which were never durable come back in the
// order in which goroutines enqueued them.
//
// # When the disk fails
//
// A failed write or fdatasync tells nothing about what is on the disk, and asking again would be told a lie. So the file
// is given up: what was durable in it is sealed, and the blocks that were not are kept in memory and written into a new
// file, until that works, but for those of EnqueueDurable. Who waits gets the error; who enqueues gets it once four times
// SyncSize wait in memory.
//
// The file system is taken to be one whose rename is atomic, as that of all that keep a journal, and to make a directory's
// entries durable when the directory is synced.
//
// # Files
//
// The directory is made with mode 0700, files with 0600. A dump is a file; its name says its place in the order and its
// state, see [Disk]. Its bytes are drawn in format.go. Damage costs a block at most, of BlockSize and one item. Sizes: an
// item has at most [MaxItemSize]; a version at most 255 bytes; a Disk holds some 100 bytes of memory for each dump, 4 times
// SyncSize for what is not durable, and 512 KiB, or one block if that is larger, while it restores; what is compressed
// takes a block more.
//
// # Who may call what
//
// All methods of [Queue] and [Disk] may be called concurrently. A [Restorer] has one goroutine. A [Reader] belongs to one.
// A [Target] may enqueue into the queue that feeds the same Disk.
package dlq

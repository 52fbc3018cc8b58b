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
//   - Nothing that cannot be read or delivered blocks the others. A target that fails says nothing of what is at fault, so the
//     items behind are tried, 16 at first and twice as many each time that none is taken; once one is, those that are still not
//     taken are set aside. A target that knows better returns [ErrPoison], which settles it at once.
//   - One Disk has a directory at a time; the second is refused with [ErrLocked].
//   - A disk that is full holds up what comes in, and nothing that goes out.
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
// state, see [Disk]. Damage costs a block at most, of BlockSize and one item. MaxSize does not count what is in quarantine.
//
// Sizes: an item has at most [MaxItemSize], and not more than MaxSize allows; a version at most 255 bytes. A Disk holds some
// 100 bytes of memory for each dump, 4 times SyncSize for what is not durable, and 512 KiB, or one block if that is larger,
// while it restores; what is compressed takes a block more.
//
// The bytes of a dump; all numbers are little-endian, all sums CRC-32C (Castagnoli).
//
//	dump   = header header block* [header footer]    without a footer it is not sealed
//
//	header = "dlqdump1" | u16 version length | u16 zero | u64 sequence | i64 created, Unix ns | version | u32 CRC of all before
//	block  = "DLQB" | u32 codec | u32 stored length | u32 raw length | u32 items | u64 sequence | u64 first item
//	         | u32 CRC of the 36 bytes before, u64 place of the block in the file, and the stored bytes | stored bytes
//	footer = "DLQF" | u32 reason | u64 items | u64 bytes of items | u64 file length before the footer | u32 CRC of all before
//
// The stored bytes of a block are its raw bytes, or those compressed, as codec says. Raw bytes are items, each a uvarint
// length and so many bytes. "First item" counts from the dump's first item, 0. A block's place is in its sum, but not in
// the file, so that an item which holds the bytes of a block is never taken for one. The header stands there three times, so
// that damage to one of them, or to a sector, does not cost the dump its version.
//
// # Who may call what
//
// All methods of [Queue] and [Disk] may be called concurrently. A [Restorer] has one goroutine, on which it calls its
// [Target] and its [Decoder]. A [Reader] belongs to one. A Target may enqueue into the queue that feeds the same
// Disk. Close the Restorer and the Queue before the Disk; what is asked of a closed Disk is refused with [ErrClosed].
package dlq

package dlq

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// The bytes of a dump are drawn in doc.go.
const (
	headerMagic = "dlqdump1"
	blockMagic  = "DLQB"
	footerMagic = "DLQF"

	headerFixed = 28 // without version and CRC
	blockHeader = 40
	footerSize  = 36

	maxVersion = 255 // bytes
)

const (
	codecNone uint32 = iota
	codecZstd
)

// MaxItemSize bounds one encoded item.
const MaxItemSize = 64 << 20 // bytes

// maxRaw bounds a block: one item of the greatest size and its length.
const maxRaw = MaxItemSize + binary.MaxVarintLen64

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errDamaged is the reason of all that the sums or the lengths do not allow.
var errDamaged = errors.New("damaged")

// header is what a dump begins with.
type header struct {
	sequence uint64
	created  time.Time
	version  string
}

func encodeHeader(h header) []byte {
	dst := []byte(headerMagic)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(h.version))) //nolint:gosec // bounded by maxVersion
	dst = binary.LittleEndian.AppendUint16(dst, 0)
	dst = binary.LittleEndian.AppendUint64(dst, h.sequence)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(h.created.UnixNano()))
	dst = append(dst, h.version...)
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst, castagnoli))
}

// parseHeader reads the header at the start of b and returns its length.
func parseHeader(b []byte) (h header, n int, err error) {
	if len(b) < headerFixed || string(b[:8]) != headerMagic {
		return h, 0, fmt.Errorf("%w: no header", errDamaged)
	}
	n = headerFixed + int(binary.LittleEndian.Uint16(b[8:]))
	if len(b) < n+4 || crc32.Checksum(b[:n], castagnoli) != binary.LittleEndian.Uint32(b[n:]) {
		return h, 0, fmt.Errorf("%w: the header's sum is wrong", errDamaged)
	}
	h.sequence = binary.LittleEndian.Uint64(b[12:])
	h.created = time.Unix(0, int64(binary.LittleEndian.Uint64(b[20:]))) //nolint:gosec // two's complement
	h.version = string(b[headerFixed:n])
	return h, n + 4, nil
}

// block is a block's header.
type block struct {
	codec       uint32
	stored, raw uint32 // bytes
	items       uint32
	sequence    uint64
	first       uint64
}

// putBlock writes the header into b, whose first 40 bytes are free for it and whose rest is what is stored. b will stand at
// that place in the file.
func putBlock(b []byte, h block, at int64) {
	copy(b, blockMagic)
	binary.LittleEndian.PutUint32(b[4:], h.codec)
	binary.LittleEndian.PutUint32(b[8:], h.stored)
	binary.LittleEndian.PutUint32(b[12:], h.raw)
	binary.LittleEndian.PutUint32(b[16:], h.items)
	binary.LittleEndian.PutUint64(b[20:], h.sequence)
	binary.LittleEndian.PutUint64(b[28:], h.first)
	binary.LittleEndian.PutUint32(b[36:], blockSum(b, at))
}

// blockSum is the sum of the header and the stored bytes that b holds, at that place.
func blockSum(b []byte, at int64) uint32 {
	place := binary.LittleEndian.AppendUint64(make([]byte, 0, 8), uint64(at)) //nolint:gosec // a place in a file
	sum := crc32.Update(crc32.Checksum(b[:36], castagnoli), castagnoli, place)
	return crc32.Update(sum, castagnoli, b[blockHeader:])
}

// parseBlock reads the header at the start of b; room is how many bytes may be stored behind it.
func parseBlock(b []byte, room int64) (h block, err error) {
	if len(b) < blockHeader || string(b[:4]) != blockMagic {
		return h, fmt.Errorf("%w: no block", errDamaged)
	}
	h = block{
		codec:    binary.LittleEndian.Uint32(b[4:]),
		stored:   binary.LittleEndian.Uint32(b[8:]),
		raw:      binary.LittleEndian.Uint32(b[12:]),
		items:    binary.LittleEndian.Uint32(b[16:]),
		sequence: binary.LittleEndian.Uint64(b[20:]),
		first:    binary.LittleEndian.Uint64(b[28:]),
	}
	switch {
	case int64(h.stored) > room:
		return h, fmt.Errorf("%w: a block of %d bytes does not fit into the %d that are left", errDamaged, h.stored, room)
	case h.raw > maxRaw, h.items > h.raw, h.items == 0, h.codec > codecZstd, h.codec == codecNone && h.raw != h.stored:
		return h, fmt.Errorf("%w: a block's header makes no sense", errDamaged)
	}
	return h, nil
}

// checkBlock compares the sum; b holds header and stored bytes, and was read from that place.
func checkBlock(b []byte, at int64) error {
	if blockSum(b, at) != binary.LittleEndian.Uint32(b[36:]) {
		return fmt.Errorf("%w: a block's sum is wrong", errDamaged)
	}
	return nil
}

// findHeader reads the first of the two headers at the start of a file that is whole, and returns where the second ends.
func findHeader(b []byte) (h header, end int, err error) {
	if h, n, err := parseHeader(b); err == nil {
		return h, 2 * n, nil
	}
	for at := 1; at < len(b); at++ {
		i := bytes.Index(b[at:], []byte(headerMagic))
		if i < 0 {
			break
		}
		at += i
		if h, n, err := parseHeader(b[at:]); err == nil {
			return h, at + n, nil
		}
	}
	return h, 0, fmt.Errorf("%w: no header", errDamaged)
}

// maxHeaders is the length of the longest two headers.
const maxHeaders = 2 * (headerFixed + maxVersion + 4)

// footer is what seals a dump.
type footer struct {
	reason Reason
	items  uint64
	bytes  uint64 // of items, without their lengths
	length uint64 // of the file before the footer
}

// appendTail appends what seals a dump: the header once more, and the footer, whose length is that of the file so far.
func appendTail(dst []byte, h header, f footer) []byte {
	b := encodeHeader(h)
	f.length += uint64(len(b))
	return appendFooter(append(dst, b...), f)
}

// findTail finds the header that ends where b does, in front of the footer.
func findTail(b []byte) (h header, begin int, ok bool) {
	for begin = bytes.LastIndex(b, []byte(headerMagic)); begin >= 0; begin = bytes.LastIndex(b[:begin], []byte(headerMagic)) {
		if h, n, err := parseHeader(b[begin:]); err == nil && begin+n == len(b) {
			return h, begin, true
		}
	}
	return h, 0, false
}

func appendFooter(dst []byte, f footer) []byte {
	start := len(dst)
	dst = append(dst, footerMagic...)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(f.reason))
	for _, n := range []uint64{f.items, f.bytes, f.length} {
		dst = binary.LittleEndian.AppendUint64(dst, n)
	}
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

// parseFooter reads the footer that b is, at the end of a file of size bytes.
func parseFooter(b []byte, size int64) (f footer, err error) {
	if len(b) != footerSize || string(b[:4]) != footerMagic ||
		crc32.Checksum(b[:footerSize-4], castagnoli) != binary.LittleEndian.Uint32(b[footerSize-4:]) {
		return f, fmt.Errorf("%w: no footer", errDamaged)
	}
	f = footer{
		reason: Reason(binary.LittleEndian.Uint32(b[4:])),
		items:  binary.LittleEndian.Uint64(b[8:]),
		bytes:  binary.LittleEndian.Uint64(b[16:]),
		length: binary.LittleEndian.Uint64(b[24:]),
	}
	if f.length+footerSize != uint64(size) { //nolint:gosec // a size is not negative
		return f, fmt.Errorf("%w: the footer belongs to a file of another length", errDamaged)
	}
	return f, nil
}

// A checkpoint says how much of a dump was delivered. Its file has two slots, written in turn, so that one is whole
// whatever happens while the other is written.
//
//	slot = "DLQC" | u32 zero | u64 sequence | u64 turn | u64 items delivered | u32 CRC of all before | 28 bytes zero
const (
	checkpointMagic = "DLQC"
	checkpointSlot  = 64 // bytes
)

type checkpoint struct {
	turn      uint64
	delivered uint64
}

func appendCheckpoint(dst []byte, sequence uint64, c checkpoint) []byte {
	start := len(dst)
	dst = append(dst, checkpointMagic...)
	dst = binary.LittleEndian.AppendUint32(dst, 0)
	for _, n := range []uint64{sequence, c.turn, c.delivered} {
		dst = binary.LittleEndian.AppendUint64(dst, n)
	}
	dst = binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
	return append(dst, make([]byte, checkpointSlot-(len(dst)-start))...)
}

// parseCheckpoint returns the newer of the slots that are whole; the zero value if there is none.
func parseCheckpoint(b []byte, sequence uint64) (newest checkpoint) {
	for ; len(b) >= checkpointSlot; b = b[checkpointSlot:] {
		slot := b[:checkpointSlot]
		if string(slot[:4]) != checkpointMagic || binary.LittleEndian.Uint64(slot[8:]) != sequence ||
			crc32.Checksum(slot[:32], castagnoli) != binary.LittleEndian.Uint32(slot[32:]) {
			continue
		}
		c := checkpoint{turn: binary.LittleEndian.Uint64(slot[16:]), delivered: binary.LittleEndian.Uint64(slot[24:])}
		if c.turn >= newest.turn {
			newest = c
		}
	}
	return newest
}

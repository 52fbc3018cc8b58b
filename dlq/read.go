package dlq

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// scanner reads the blocks of a dump in turn, always into the same memory: what it returns is good until it is asked again.
// Memory is bounded by the file's size and by maxRaw.
type scanner struct {
	file     file
	sequence uint64 // blocks of another dump are none of ours
	at       int64  // of the next block
	end      int64  // of the blocks
	window   []byte // read ahead, at windowAt
	windowAt int64
	raw      []byte // decompressed

	damaged error // the first damage that was passed over; blocks behind it are still found
}

const (
	readAhead  = 512 << 10
	resyncStep = 64 << 10
)

// next returns the next block that is whole, and io.EOF when there is none. What lies between is passed over and noted in
// damaged.
func (s *scanner) next() (h block, items []byte, err error) {
	for s.at < s.end {
		h, items, n, err := s.read(s.at)
		if err == nil {
			s.at += n
			return h, items, nil
		}
		if !errors.Is(err, errDamaged) {
			return h, nil, err
		}
		if s.damaged == nil {
			s.damaged = fmt.Errorf("at byte %d: %w", s.at, err)
		}
		if err := s.resync(); err != nil {
			return h, nil, err
		}
	}
	return h, nil, io.EOF
}

// read reads the block at a place, and returns its length in the file.
func (s *scanner) read(at int64) (h block, items []byte, n int64, err error) {
	head, err := s.view(at, blockHeader)
	if err != nil {
		return h, nil, 0, err
	}
	h, err = parseBlock(head, s.end-at-blockHeader)
	if err != nil {
		return h, nil, 0, err
	}
	if h.sequence != s.sequence {
		return h, nil, 0, fmt.Errorf("%w: a block of dump %d", errDamaged, h.sequence)
	}
	n = blockHeader + int64(h.stored)
	whole, err := s.view(at, n)
	if err != nil {
		return h, nil, 0, err
	}
	if err := checkBlock(whole, at); err != nil {
		return h, nil, 0, err
	}
	if h.codec == codecZstd {
		s.raw, err = decompress(s.raw, whole[blockHeader:], h.raw)
		items = s.raw
	} else {
		items = whole[blockHeader:len(whole):len(whole)]
	}
	if err == nil && !plausible(items, h.items) {
		err = fmt.Errorf("%w: a block's items do not fill it", errDamaged)
	}
	return h, items, n, err
}

// view returns n bytes of the file, until it is called again.
func (s *scanner) view(at, n int64) ([]byte, error) {
	if at+n > s.end {
		return nil, fmt.Errorf("%w: cut off", errDamaged)
	}
	if at < s.windowAt || at+n > s.windowAt+int64(len(s.window)) {
		size := min(max(n, readAhead), s.end-at)
		have := s.slide(at, size)
		if _, err := s.file.ReadAt(s.window[have:], at+have); err != nil {
			s.window = s.window[:0]
			if errors.Is(err, io.EOF) { // which would be taken for the dump's end
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("reading %d bytes at %d: %w", size, at, err)
		}
	}
	return s.window[at-s.windowAt:][:n], nil
}

// slide makes the window size bytes long and begin at a place. It returns how many of them it has already.
func (s *scanner) slide(at, size int64) (have int64) {
	old := s.window
	if int64(cap(old)) < size {
		s.window = make([]byte, size)
	}
	s.window = s.window[:size]
	if begin := at - s.windowAt; begin >= 0 && begin < int64(len(old)) {
		have = int64(copy(s.window, old[begin:]))
	}
	s.windowAt = at
	return have
}

// resync moves to the next place where a block may begin; whether one does is for read to say.
func (s *scanner) resync() error {
	for s.at++; s.at < s.end; {
		b, err := s.view(s.at, min(resyncStep, s.end-s.at))
		if err != nil {
			return err
		}
		if i := bytes.Index(b, []byte(blockMagic)); i >= 0 {
			s.at += int64(i)
			return nil
		}
		if s.at += int64(len(b)); s.at < s.end {
			s.at -= int64(len(blockMagic) - 1) // it may lie across the step
		}
	}
	return nil
}

// plausible reports that the raw bytes are so many items.
func plausible(raw []byte, items uint32) bool {
	for ; items > 0; items-- {
		var ok bool
		if _, raw, ok = cutItem(raw); !ok {
			return false
		}
	}
	return len(raw) == 0
}

// cutItem takes the first item off a block's raw bytes.
func cutItem(raw []byte) (item, rest []byte, ok bool) {
	length, n := binary.Uvarint(raw)
	if n <= 0 || length > maxRaw || int(length) > len(raw)-n {
		return nil, nil, false
	}
	end := n + int(length)
	return raw[n:end:end], raw[end:], true
}

// decoder is shared: it keeps its tables, and DecodeAll may be called concurrently.
var decoder = sync.OnceValue(func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(err) // for wrong options alone
	}
	return d
})

// decompress returns what was stored, in dst if there is room.
func decompress(dst, stored []byte, raw uint32) ([]byte, error) {
	dst = slices.Grow(dst[:0], int(raw))
	items, err := decoder().DecodeAll(stored, dst[:0:raw]) // and no more than that
	if err != nil {
		return nil, fmt.Errorf("%w: a block cannot be decompressed: %w", errDamaged, err)
	}
	if len(items) != int(raw) {
		return nil, fmt.Errorf("%w: a block has %d bytes where its header says %d", errDamaged, len(items), raw)
	}
	return items, nil
}

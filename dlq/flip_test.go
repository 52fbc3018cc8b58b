package dlq

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// handMade is a dump with blocks of our choosing, and which items are in which bytes.
type handMade struct {
	data   []byte
	blocks []placedBlock
}

type placedBlock struct {
	begin, end int
	items      []string
}

func makeDump(compress, sealed bool, blocks ...[]string) handMade {
	h := encodeHeader(header{sequence: 1, created: time.Unix(1_700_000_000, 0), version: "v7"})
	m := handMade{data: append(h, h...)}
	foot := footer{reason: ReasonSize}
	a := &appender{disk: &Disk{}, dump: &openDump{sequence: 1, length: int64(len(m.data))}}
	if compress {
		a.encoder = newEncoder()
	}
	for _, items := range blocks {
		b := &openBlock{bytes: make([]byte, blockHeader)}
		for _, text := range items {
			b.bytes = append(binary.AppendUvarint(b.bytes, uint64(len(text))), text...)
			b.items++
			foot.bytes += uint64(len(text))
		}
		stored := a.stored(b)
		m.blocks = append(m.blocks, placedBlock{len(m.data), len(m.data) + len(stored), items})
		m.data = append(m.data, stored...)
		a.dump.items += uint64(len(items))
		a.dump.length += int64(len(stored))
	}
	foot.items, foot.length = a.dump.items, uint64(len(m.data))
	if sealed {
		m.data = appendFooter(m.data, foot)
	}
	return m
}

func smallDump(compress, sealed bool) handMade {
	var blocks [][]string
	for b := range 4 {
		var items []string
		for i := range 3 {
			items = append(items, fmt.Sprintf("block %d item %d %s", b, i, bytes.Repeat([]byte("ab"), 4+b)))
		}
		blocks = append(blocks, items)
	}
	return makeDump(compress, sealed, blocks...)
}

// outside returns the items of the blocks that a change of the bytes from begin to end leaves whole.
func (h handMade) outside(begin, end int) (items []string) {
	for _, b := range h.blocks {
		if end <= b.begin || begin >= b.end {
			items = append(items, b.items...)
		}
	}
	return items
}

func (h handMade) all() []string { return h.outside(-1, -1) }

// recovered opens a directory with these bytes as its dump, and returns what is restored of it.
func recovered(t *testing.T, data []byte, suffix string, o RestorerOptions[string]) (items []string, m *memFS) {
	t.Helper()
	m = newMemFS()
	m.put(fileName(1, suffix), data)
	d, err := openDisk("mem", m, smallBlocks(DiskOptions{Version: "v7"}))
	require.NoError(t, err)
	g := &got{}
	r := restorer(t, d, g.target, o)
	require.NoError(t, r.Drain(t.Context()))
	dumps, err := d.Dumps()
	require.NoError(t, err)
	require.Empty(t, dumps)
	require.NoError(t, d.Close())
	return g.list(), m
}

func variants(t *testing.T, test func(t *testing.T, h handMade, suffix string)) {
	t.Helper()
	for _, compress := range []bool{false, true} {
		for _, sealed := range []bool{false, true} {
			for _, suffix := range []string{openSuffix, dumpSuffix} {
				if suffix == dumpSuffix && !sealed {
					continue
				}
				t.Run(fmt.Sprintf("compress=%v sealed=%v %s", compress, sealed, suffix), func(t *testing.T) {
					test(t, smallDump(compress, sealed), suffix)
				})
			}
		}
	}
}

// TestEveryBitFlip flips each bit of a dump: what is delivered is exactly what stands outside the damaged block, and the
// damaged bytes are still somewhere.
func TestEveryBitFlip(t *testing.T) {
	variants(t, func(t *testing.T, h handMade, suffix string) {
		t.Helper()
		for bit := range 8 * len(h.data) {
			data := bytes.Clone(h.data)
			data[bit/8] ^= 1 << (bit % 8)
			items, m := recovered(t, data, suffix, RestorerOptions[string]{Version: "v7"})
			want := h.outside(bit/8, bit/8+1)
			if !slices.Equal(want, items) {
				require.Equal(t, want, items, "bit %d", bit)
			}
			if len(want) < len(h.all()) && len(setAsideFiles(m)) == 0 {
				require.Fail(t, "nothing of the damaged block was set aside", "bit %d", bit)
			}
		}
		t.Logf("%d bits", 8*len(h.data))
	})
}

func setAsideFiles(m *memFS) (names []string) {
	for name := range quarantineOf(m) {
		names = append(names, name)
	}
	return names
}

func TestEveryTruncation(t *testing.T) {
	variants(t, func(t *testing.T, h handMade, suffix string) {
		t.Helper()
		for size := range h.data {
			items, _ := recovered(t, h.data[:size], suffix, RestorerOptions[string]{Version: "v7"})
			want := h.outside(size, len(h.data))
			if size < len(h.data)-footerSize && size < 2*34 {
				want = nil
			}
			if !slices.Equal(want, items) {
				require.Equal(t, want, items, "cut at %d", size)
			}
		}
	})
}

// TestHugeLengths writes great numbers where lengths are.
func TestHugeLengths(t *testing.T) {
	variants(t, func(t *testing.T, h handMade, suffix string) {
		t.Helper()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		tries := 0
		for _, b := range h.blocks {
			for at := b.begin + 4; at < b.begin+blockHeader; at += 4 {
				for _, n := range []uint32{0xffffffff, 0x7fffffff, 0x40000000, maxRaw, maxRaw + 1, uint32(len(h.data))} {
					tries++
					data := bytes.Clone(h.data)
					binary.LittleEndian.PutUint32(data[at:], n)
					items, _ := recovered(t, data, suffix, RestorerOptions[string]{Version: "v7"})
					require.Equal(t, h.outside(at, at+4), items)
					items, _ = recovered(t, mendSums(data), suffix, RestorerOptions[string]{Version: "v7"})
					require.Subset(t, h.all(), items)
				}
			}
		}
		runtime.ReadMemStats(&after)
		require.Less(t, (after.TotalAlloc-before.TotalAlloc)/uint64(tries), uint64(8<<20), "most is the codec's")
	})
}

// TestEveryBitFlipOfProgress may cost a delivery more than once, but no item.
func TestEveryBitFlipOfProgress(t *testing.T) {
	h := smallDump(false, true)
	var whole []byte
	{
		m := newMemFS()
		m.put(fileName(1, dumpSuffix), h.data)
		d := openMem(t, m, DiskOptions{})
		r, err := d.Open(1)
		require.NoError(t, err)
		require.NoError(t, r.Progress(3))
		require.NoError(t, r.Progress(7))
		require.NoError(t, r.Close())
		require.NoError(t, d.Close())
		whole = m.files()[fileName(1, progressSuffix)]
	}
	for bit := range 8 * len(whole) {
		data := bytes.Clone(whole)
		data[bit/8] ^= 1 << (bit % 8)
		m := newMemFS()
		m.put(fileName(1, dumpSuffix), h.data)
		m.put(fileName(1, progressSuffix), data)
		d, err := openDisk("mem", m, smallBlocks(DiskOptions{}))
		require.NoError(t, err)
		items := drained(t, d, RestorerOptions[string]{Version: "v7"})
		require.NoError(t, d.Close())
		require.Contains(t, [][]string{h.all()[7:], h.all()[3:]}, items, "bit %d", bit)
	}
}

// TestTinyDamagedDumpIsSetAside has one small block, which was durable, in a file not longer than two headers may be.
func TestTinyDamagedDumpIsSetAside(t *testing.T) {
	h := makeDump(false, false, []string{"the only item"})
	for at := h.blocks[0].begin; at < len(h.data); at++ {
		data := bytes.Clone(h.data)
		data[at] ^= 1
		items, m := recovered(t, data, openSuffix, RestorerOptions[string]{Version: "v7"})
		require.Empty(t, items)
		require.NotEmpty(t, quarantineOf(m), "byte %d: a damaged block was deleted", at)
	}
}

// TestVersionThatLooksLikeAHeader has the magic of a header in the version, and damage in the first header.
func TestVersionThatLooksLikeAHeader(t *testing.T) {
	m := newMemFS()
	d := openMem(t, m, DiskOptions{Version: headerMagic})
	dumpOf(t, d, "a")
	require.NoError(t, d.Close())
	data := m.files()[fileName(1, dumpSuffix)]
	data[12] ^= 1
	m.put(fileName(1, dumpSuffix), data)
	d = openMem(t, m, DiskOptions{Version: headerMagic})
	require.Equal(t, []string{"a"}, drained(t, d, RestorerOptions[string]{Version: headerMagic}))
}

// TestManyFalseBlocks is a damaged file in which a block seems to begin every 40 bytes, each as long as the rest, as an item
// could hold them. Looking for the next whole block must not read the rest each time.
func TestManyFalseBlocks(t *testing.T) {
	const size = 1 << 20
	h := makeDump(false, true, []string{"before"})
	data := bytes.Clone(h.data[:len(h.data)-footerSize])
	for len(data)+blockHeader < size {
		b := make([]byte, blockHeader)
		stored := uint32(size - len(data) - blockHeader)
		putBlock(b, block{stored: stored, raw: stored, items: 1, sequence: 1, first: 1}, 0) // no sum is right
		data = append(data, b...)
	}
	data = append(data, make([]byte, size-len(data))...)
	m := newMemFS()
	m.put(fileName(1, dumpSuffix), data)
	reads := 0
	m.hook = func(op operation) {
		if op.kind == opRead {
			reads++
		}
	}
	d := openMem(t, m, DiskOptions{Version: "v7"})
	require.Equal(t, []string{"before"}, drained(t, d, RestorerOptions[string]{Version: "v7"}))
	require.Less(t, reads, 200, "each false block is read to its end")
}

// TestItemThatHoldsABlock enqueues the bytes of a block, as a queue of dumps would: when the block around it is damaged, what
// is inside is not an item of this dump.
func TestItemThatHoldsABlock(t *testing.T) {
	inner := makeDump(false, false, []string{"never enqueued"})
	outer := makeDump(false, true, []string{"before"}, []string{string(inner.data[inner.blocks[0].begin:])}, []string{"after"})
	data := bytes.Clone(outer.data)
	data[outer.blocks[1].begin+36] ^= 1
	items, _ := recovered(t, data, dumpSuffix, RestorerOptions[string]{Version: "v7"})
	require.Equal(t, []string{"before", "after"}, items)
}

// TestBlockThatExpands has a right sum, says that it holds a byte, and holds 32 MiB.
func TestBlockThatExpands(t *testing.T) {
	h := makeDump(false, false, []string{"before"})
	bomb := newEncoder().EncodeAll(make([]byte, 32<<20), make([]byte, blockHeader))
	putBlock(bomb, block{codec: codecZstd, stored: uint32(len(bomb) - blockHeader), raw: 1, items: 1, sequence: 1, first: 1}, int64(len(h.data)))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	items, _ := recovered(t, append(h.data, bomb...), dumpSuffix, RestorerOptions[string]{Version: "v7"})
	runtime.ReadMemStats(&after)
	require.Equal(t, []string{"before"}, items)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(16<<20))
}

// TestDumpThatCannotBeADump opens a directory with things in it that nobody expects.
func TestDumpThatCannotBeADump(t *testing.T) {
	m := newMemFS()
	for _, name := range []string{ // none is ours
		"99999999999999999999.dump", "00000000000000000001.dump.bak", "1.dump", "notes.txt", ".dump",
		"0000000000000000000x.dump", "00000000000000000007", "00000000000000000008.progress",
	} {
		m.put(name, []byte("what is this"))
	}
	m.put(fileName(3, dumpSuffix), nil)
	m.put(fileName(4, dumpSuffix), []byte("short"))
	d := openMem(t, m, DiskOptions{})
	dumpOf(t, d, "a")
	require.Equal(t, []string{"a"}, drained(t, d, RestorerOptions[string]{}))
	require.Contains(t, m.files(), "notes.txt")
	require.Contains(t, quarantineOf(m), fileName(3, dumpSuffix))
	require.Contains(t, quarantineOf(m), fileName(4, dumpSuffix))
}

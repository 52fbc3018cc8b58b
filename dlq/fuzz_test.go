package dlq

import (
	"bytes"
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func seeds(f *testing.F) {
	f.Helper()
	for _, compress := range []bool{false, true} {
		for _, sealed := range []bool{false, true} {
			h := smallDump(compress, sealed)
			f.Add(h.data, false)
			f.Add(h.data[:len(h.data)-50], true)
			broken := bytes.Clone(h.data)
			broken[h.blocks[1].begin+10] ^= 0x40
			f.Add(broken, true)
		}
	}
	f.Add([]byte(nil), false)
	f.Add([]byte(headerMagic), false)
}

// FuzzReader reads any bytes as a sealed dump. With mend the sums of blocks are made right, to get behind them.
func FuzzReader(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, data []byte, mend bool) {
		if mend {
			data = mendSums(bytes.Clone(data))
		}
		m := newMemFS()
		m.put("x", data)
		file, err := m.Open("x", false)
		require.NoError(t, err)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		begin, end, err := bounds(file, 1)
		require.NoError(t, err)
		scan := scanner{file: file, sequence: 1, at: begin, end: end}
		declared := 0
		for {
			h, raw, err := scan.next()
			if err != nil {
				break
			}
			declared += len(raw)
			require.LessOrEqual(t, len(raw), maxRaw)
			items := Items{raw: raw, left: h.items}
			for n := uint32(0); ; n++ {
				if _, _, ok := items.Cut(); !ok {
					require.Equal(t, h.items, n)
					break
				}
			}
		}
		runtime.ReadMemStats(&after)
		if !mend { // behind a right sum is what we wrote; TestBlockThatExpands has one that somebody else wrote
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(8<<20+4*(len(data)+declared)))
		}
	})
}

// FuzzCheckpoint never finds more than a slot with a right sum says.
func FuzzCheckpoint(f *testing.F) {
	slots := appendCheckpoint(appendCheckpoint(nil, 1, checkpoint{turn: 2, delivered: 10}), 1, checkpoint{turn: 3, delivered: 20})
	f.Add(slots, uint64(1))
	f.Add(slots[:100], uint64(1))
	f.Add(slots[:10], uint64(1))
	f.Add([]byte(nil), uint64(0))
	f.Fuzz(func(t *testing.T, data []byte, sequence uint64) {
		c := parseCheckpoint(data, sequence)
		if c != (checkpoint{}) {
			slot := appendCheckpoint(nil, sequence, c)
			require.True(t, bytes.Contains(data, slot[:36]))
		}
		require.Equal(t, c, parseCheckpoint(appendCheckpoint(nil, sequence, c), sequence))
	})
}

// FuzzRecover opens a directory with any bytes in an open dump, a sealed one and a progress, kills it, opens it again, and
// restores the same both times.
func FuzzRecover(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, data []byte, mend bool) {
		if mend {
			data = mendSums(bytes.Clone(data))
		}
		m := newMemFS()
		m.put(fileName(1, openSuffix), data)
		m.put(fileName(2, dumpSuffix), data)
		m.put(fileName(2, progressSuffix), data)
		o := smallBlocks(DiskOptions{})
		d, err := openDisk("mem", m, o)
		require.NoError(t, err)
		require.NoError(t, d.Close())
		image := m.after(kept{0, inOrder})
		counted := 0
		for name, data := range image.files() {
			if sequence, suffix, ok := parseName(name); ok && suffix == dumpSuffix && sequence == 1 {
				counted += len(itemsOf(data, 0, 1))
			}
		}
		begin := int64(0)
		if h, at, err := findHeader(data[:min(len(data), maxHeaders)]); err == nil && h.sequence == 1 {
			begin = min(int64(at), int64(len(data))) // the blocks are behind both headers
		}
		require.Len(t, itemsOf(data, begin, 1), counted, "salvage keeps what is whole")
		d, err = openDisk("mem", image, o)
		require.NoError(t, err)
		dumps, err := d.Dumps()
		require.NoError(t, err)
		require.LessOrEqual(t, len(dumps), 2)
		migrate := func(_ string, data []byte) ([]byte, error) { return data, nil }
		r, err := NewRestorer(d, DecodeBytes, func(context.Context, []byte) error { return nil }, RestorerOptions[[]byte]{Migrate: migrate, CheckInterval: time.Hour})
		require.NoError(t, err)
		require.NoError(t, r.Drain(t.Context()))
		dumps, err = d.Dumps()
		require.NoError(t, err)
		require.Empty(t, dumps)
		require.Zero(t, used(d))
		require.NoError(t, d.Close())
	})
}

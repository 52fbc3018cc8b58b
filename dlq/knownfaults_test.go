//go:build knownfaults

package dlq

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

// Faults that are known and not mended. Run them with go test -tags knownfaults.

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

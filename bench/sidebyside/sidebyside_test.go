package main

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestShort runs a tiny round of some measures, so that the program still works when somebody needs it; with -short it has one
// of each. Its numbers mean nothing.
func TestShort(t *testing.T) {
	o := options{
		root: "../..", telegraf: "../../bin/telegraf", stock: "../../.build/telegraf-stock", short: true, rounds: 1, backlog: 4 << 20,
		only: []string{"window", "allocations"},
	}
	for _, path := range []string{o.telegraf, o.stock} {
		_, err := os.Stat(path)
		require.NoError(t, err, "make test builds it first")
	}
	var document strings.Builder
	require.NoError(t, bench(t.Context(), o, &document, t.Output()))
	t.Log(document.String())
	for _, heading := range []string{"A window of 20", "Allocations"} {
		require.Contains(t, document.String(), "\n## "+heading)
	}
}

func TestOnlyKnowsItsMeasures(t *testing.T) {
	t.Parallel()
	err := bench(context.Background(), options{rounds: 1, backlog: 1 << 20, only: []string{"speed"}}, io.Discard, io.Discard)
	require.ErrorContains(t, err, `no measure "speed"`)
}

func TestPayload(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 12_345, 999_999, 8_000_000} {
		payload := appendPayload(nil, n)
		require.Len(t, payload, payloadSize, "%s", payload)
		var fields struct {
			Seq         int
			Temperature float64
		}
		require.NoError(t, json.Unmarshal(payload, &fields))
		require.Equal(t, firstSeq+n, fields.Seq)
	}
}

func TestSeqOf(t *testing.T) {
	t.Parallel()
	for name, fields := range map[string]map[string]string{
		"ours":     {"seq": "10000042", "_msg": "mqtt"},
		"http":     {"fields.seq": "10000042"},
		"loki":     {"_msg": `battery="97" seq="1.0000042e+07" state="ON"`},
		"loki int": {"_msg": `seq="10000042"`},
	} {
		seq, ok := seqOf(fields)
		require.True(t, ok, name)
		require.Equal(t, 10_000_042, seq, name)
	}
	_, ok := seqOf(map[string]string{"_msg": "no number"})
	require.False(t, ok)
}

func TestResults(t *testing.T) {
	t.Parallel()
	r := make(results)
	a, b := point{way: "a"}, point{way: "b"}
	for i, v := range []float64{3, 1, 2} {
		r.add(a, v)
		r.add(b, []float64{6, 1, 4}[i])
	}
	require.InDelta(t, 2, r.median(a), 0)
	require.InDelta(t, 0.5, r.ratio(a, b), 0)
	require.Equal(t, "2.00 (1.00 … 3.00)", r.cell(a))
	require.Equal(t, "–", r.cell(point{}))
	require.Equal(t, "1,234,568", number(1_234_567.8))
	require.Equal(t, "0.025", number(0.025))
}

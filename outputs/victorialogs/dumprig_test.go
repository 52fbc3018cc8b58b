package victorialogs

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/dlq"
	"github.com/edgetide/telegraf-victorialogs/internal/deadletter"
)

// leave puts items into a directory, each as it is, as a process of another life would have.
func leave(tb testing.TB, dir, version string, items ...[]byte) {
	tb.Helper()
	disk, err := dlq.OpenDisk(dir, dlq.DiskOptions{Version: version})
	require.NoError(tb, err)
	for _, item := range items {
		require.NoError(tb, disk.AppendDurable(tb.Context(), item))
	}
	require.NoError(tb, disk.Close())
}

// item is a letter of another life with these events.
func item(tb testing.TB, change func(*deadletter.Letter), ids ...int) []byte {
	tb.Helper()
	now := time.Now()
	l := &deadletter.Letter{
		Route: deadletter.Route{Path: "/insert/jsonline", Query: "_stream_fields=host%2Cmeasurement", Encoding: "zstd"},
		First: now.UTC(), Last: now.UTC(), Reason: "test", Run: "another",
	}
	e := encoder{}
	e.prepare(nil)
	var lines []byte
	for _, id := range ids {
		var err error
		lines, err = e.appendLine(lines, event(id), now)
		require.NoError(tb, err)
		l.Count++
	}
	if change != nil {
		change(l)
	}
	encoding, err := newEncoding("zstd")
	require.NoError(tb, err)
	switch {
	case l.Body != nil:
	case l.Encoding == "zstd":
		l.Body = encoding.compress(nil, lines)
	default:
		l.Body = lines
	}
	data, err := deadletter.Append(nil, l)
	require.NoError(tb, err)
	return data
}

// rowsOnDisk counts the rows of this life of the plugin that lie in its dead letters and were not delivered.
func rowsOnDisk(tb testing.TB, r *rig) (rows int64) {
	tb.Helper()
	files, err := dlq.List(r.DLQ.Directory)
	require.NoError(tb, err)
	for _, f := range files {
		reader, err := f.Open()
		require.NoError(tb, err)
		for {
			items, err := reader.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(tb, err)
			for data, place, ok := items.Cut(); ok; data, place, ok = items.Cut() {
				if n, run := deadletter.Count(data); run == r.delivery.dead.run && place >= f.Delivered {
					rows += int64(n)
				}
			}
		}
		require.NoError(tb, reader.Close())
	}
	return rows
}

func splitLines(lines []byte) []string {
	return slices.Collect(strings.Lines(string(lines)))
}

package vlreceiver_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// compress flushes between parts, so that a cut body has an intact prefix.
func compress(t *testing.T, w interface {
	io.WriteCloser
	Flush() error
}, b *bytes.Buffer, parts []string,
) string {
	t.Helper()
	for i, p := range parts {
		if i > 0 {
			require.NoError(t, w.Flush())
		}
		_, err := io.WriteString(w, p)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.String()
}

func gzipped(t *testing.T, parts ...string) string {
	t.Helper()
	var b bytes.Buffer
	return compress(t, gzip.NewWriter(&b), &b, parts)
}

func deflated(t *testing.T, parts ...string) string {
	t.Helper()
	var b bytes.Buffer
	return compress(t, zlib.NewWriter(&b), &b, parts)
}

func zstandard(t *testing.T, parts ...string) string {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
	require.NoError(t, err)
	return compress(t, w, &b, parts)
}

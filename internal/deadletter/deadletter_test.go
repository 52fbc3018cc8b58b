package deadletter

import (
	"bytes"
	"compress/gzip"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

func TestLetterComesBackAsItWas(t *testing.T) {
	lines := []byte("{\"_time\":1,\"a\":\"x\"}\n{\"_time\":2}\n")
	w, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	var zipped bytes.Buffer
	g := gzip.NewWriter(&zipped)
	_, err = g.Write(lines)
	require.NoError(t, err)
	require.NoError(t, g.Close())
	for encoding, body := range map[string][]byte{"identity": lines, "zstd": w.EncodeAll(lines, nil), "gzip": zipped.Bytes()} {
		l := &Letter{
			Route: Route{Path: "/insert/jsonline", Query: "a=b", AccountID: "1", ProjectID: "2", Encoding: encoding},
			Count: 2, First: time.Unix(0, 1).UTC(), Last: time.Unix(0, 2).UTC(), Reason: "retry_budget", Attempts: 3, Run: "r", Body: body,
		}
		data, err := Append([]byte("before"), l)
		require.NoError(t, err)
		data = data[len("before"):]
		back, err := Parse(data)
		require.NoError(t, err)
		require.Equal(t, l, back)
		clear(data)
		got, err := back.Lines()
		require.NoError(t, err, "the body is a copy")
		require.Equal(t, lines, got)
		// Bodies of one route can be sent one behind the other.
		twice, err := Decompress(encoding, append(bytes.Clone(body), body...))
		require.NoError(t, err)
		require.Equal(t, append(bytes.Clone(lines), lines...), twice)
	}
}

func TestWhatIsNoLetter(t *testing.T) {
	for _, data := range []string{
		"", "\n", "{}", "{}\n", "hello\nworld", `{"path":1}` + "\n", `{"path":"/x","count":0}` + "\n", `{"path":"/x","count":1}`,
	} {
		_, err := Parse([]byte(data))
		require.Error(t, err, "%q", data)
		rows, _ := Count([]byte(data))
		require.Zero(t, rows)
	}
	_, err := (&Letter{Route: Route{Encoding: "br"}}).Lines()
	require.ErrorContains(t, err, `"br"`)
	_, err = (&Letter{Route: Route{Encoding: "zstd"}, Body: []byte("no")}).Lines()
	require.Error(t, err)
}

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

func TestCheck(t *testing.T) {
	const rows = 2
	body := []byte("{\"a\":1}\n{\"b\":2}\n")
	letter := func(change func(*Letter)) *Letter {
		l := &Letter{Route: Route{Path: "/x", Encoding: "identity"}, Count: rows, Body: bytes.Clone(body)}
		change(l)
		data, err := Append(nil, l)
		require.NoError(t, err)
		back, err := Parse(data)
		require.NoError(t, err)
		return back
	}
	unreadable := func(l *Letter) { l.Encoding = "zstd" } // what nobody sees who goes by the sum
	require.NoError(t, letter(func(*Letter) {}).Check())
	require.NoError(t, letter((*Letter).Seal).Check())
	require.NoError(t, letter(func(l *Letter) { l.Seal(); unreadable(l) }).Check(), "it is as it was made")

	require.ErrorContains(t, letter(unreadable).Check(), "as 2 rows")
	require.ErrorContains(t, letter(func(l *Letter) { l.Count = 3 }).Check(), "2 rows instead of 3")
	for at := range body {
		l := letter((*Letter).Seal)
		l.Body[at] ^= 1
		unreadable(l)
		require.ErrorContains(t, l.Check(), "as 2 rows", "byte %d", at)
	}
	require.Error(t, letter(func(l *Letter) { l.Seal(); l.Count = 3 }).Check())
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

package execd

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

// readLines returns what becomes of a stream: values of s, and "!" for what is no line.
func readLines(t *testing.T, source io.Reader) (got []string) {
	t.Helper()
	l := newLines(source)
	for {
		m, err := l.next()
		var broken noLine
		switch {
		case errors.Is(err, io.EOF):
			return got
		case errors.As(err, &broken):
			got = append(got, "!")
		default:
			require.NoError(t, err)
			for _, field := range m.FieldList() {
				text, _ := field.Value.(string)
				got = append(got, text)
			}
		}
	}
}

func TestLines(t *testing.T) {
	long := strings.Repeat("0123456789 \n", 20_000)
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"nothing":                 {"", nil},
		"newlines and quotes":     {"m s=\"a\nb \\\"c\\\" \\\\\" 1\nm s=\"d\" 2\n", []string{"a\nb \"c\" \\", "d"}},
		"long among short ones":   {"m s=\"a\" 1\nm s=\"" + long + "\" 2\nm s=\"b\" 3\nm s=\"" + long + "\" 4\nm s=\"c\" 5\n", []string{"a", long, "b", long, "c"}},
		"no line":                 {"m s=\"a\" 1\nno line\nm s=\"b\" 2\n", []string{"a", "!", "b"}},
		"comments and blanks":     {"# c\n\nm s=\"a\" 1\n\n# d", []string{"a"}},
		"end within a string":     {"m s=\"a\" 1\nm s=\"b", []string{"a", "!"}},
		"end within a number":     {"m s=\"a\" 1\nm v=12", []string{"a", "!"}},
		"end within a time":       {"m s=\"a\" 1\nm s=\"b\" 17", []string{"a", "!"}},
		"end behind a string":     {"m s=\"a\" 1\nm s=\"b\"", []string{"a", "!"}},
		"end within a tag":        {"m s=\"a\" 1\nm,t=x", []string{"a", "!"}},
		"end behind a backslash":  {"m s=\"a\" 1\nm,t=x\\", []string{"a", "!"}},
		"end within a long value": {"m s=\"a\" 1\nm s=\"" + long, []string{"a", "!"}},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, readLines(t, strings.NewReader(c.text)))
			require.Equal(t, c.want, readLines(t, iotest.HalfReader(strings.NewReader(c.text))))
			if len(c.text) < 1000 {
				require.Equal(t, c.want, readLines(t, iotest.OneByteReader(strings.NewReader(c.text))))
			}
		})
	}
}

// A quote that is never closed costs the lines up to the next one, and not all memory.
func TestLinesWithoutAnEnd(t *testing.T) {
	got := readLines(t, strings.NewReader("m s=\"a\" 1\nm s=\"b"+strings.Repeat(strings.Repeat("x", 1023)+"\n", mostLine>>9)+"\nm s=\"c\" 2\n"))
	require.Equal(t, []string{"a", "!"}, got[:2])
	require.Equal(t, "c", got[len(got)-1])
}

// The journal relies on where each line ends.
func TestLinesKnowWhereTheyEnd(t *testing.T) {
	const one, two, bad, three = "m s=\"a\nb\" 1\n", "m s=\"c\" 2\n", "no line\n", "m s=\"d\" 3\n"
	long := "m s=\"" + strings.Repeat("x", 2*largeLine) + "\" 1\n"
	l := newLines(strings.NewReader(one + two + long + bad + three))
	at := int64(0)
	for _, text := range []string{one, two, long} {
		_, err := l.next()
		require.NoError(t, err)
		at += int64(len(text))
		require.Equal(t, at, l.parsed)
	}
	_, err := l.next()
	require.Error(t, err)
	_, err = l.next()
	require.NoError(t, err)
	require.Equal(t, at+int64(len(bad+three)), l.parsed)
}

// A long line must not make all that come after it slow.
func BenchmarkLines(b *testing.B) {
	short := strings.Repeat("m,host=a s=\"twenty bytes of text\",n=12i 1700000000000000000\n", 1000)
	for name, first := range map[string]string{
		"short": "", "behind a long one": "m s=\"" + strings.Repeat("x", 1<<20) + "\" 1\n",
	} {
		b.Run(name, func(b *testing.B) {
			r, w := io.Pipe()
			go func() {
				_, _ = io.WriteString(w, first)
				for range b.N {
					_, _ = io.WriteString(w, short)
				}
				_ = w.Close()
			}()
			l := newLines(r)
			b.SetBytes(int64(len(short)))
			n := 0
			for {
				if _, err := l.next(); err != nil {
					break
				}
				n++
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "lines/s")
		})
	}
}

package execd

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/testutil"
)

// settled is what the outputs say of a metric.
type settled bool

func (settled) ID() telegraf.TrackingID { return 0 }
func (s settled) Delivered() bool       { return bool(s) }

// journalOf is a journal on a pipe.
func journalOf(t *testing.T, log telegraf.Logger) (*journal, *os.File) {
	t.Helper()
	if !canSpool {
		t.Skip("there is no spool on this system")
	}
	r, w, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.Close() })
	j, err := newJournal(filepath.Join(t.TempDir(), "1.lines"), r, log)
	require.NoError(t, err)
	return j, w
}

// next reads one line.
func next(t *testing.T, j *journal, length int) string {
	t.Helper()
	line := make([]byte, length)
	_, err := io.ReadFull(j, line)
	require.NoError(t, err)
	return string(line)
}

// leftBehind is what the next life would find if this one were killed now.
func leftBehind(t *testing.T, j *journal) string {
	t.Helper()
	data, err := os.ReadFile(j.path)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "1.lines")
	require.NoError(t, os.WriteFile(path, data, 0o600))
	left, err := openJournal(path, testutil.Logger{})
	require.NoError(t, err)
	if left == nil {
		require.NoFileExists(t, path)
		return ""
	}
	lines, err := io.ReadAll(left)
	require.NoError(t, err)
	require.NoError(t, left.file.Close())
	return string(lines)
}

func TestJournalKeepsWhatIsNotSafe(t *testing.T) {
	j, pipe := journalOf(t, testutil.Logger{})
	_, err := pipe.WriteString("a 1\nb 2\nc 3\n")
	require.NoError(t, err)
	require.Equal(t, "a 1\n", next(t, j, 4))
	require.Equal(t, "a 1\nb 2\nc 3\n", leftBehind(t, j), "also what is not parsed yet")
	a := j.begin(4)
	require.Equal(t, "b 2\n", next(t, j, 4))
	b := j.begin(8)
	require.Equal(t, "c 3\n", next(t, j, 4))
	c := j.begin(12)

	b(settled(true))
	require.Equal(t, "a 1\nb 2\nc 3\n", leftBehind(t, j), "a is not safe")
	a(settled(true))
	c(settled(true))
	require.Empty(t, leftBehind(t, j))
	info, err := os.Stat(j.path)
	require.NoError(t, err)
	require.EqualValues(t, headerBytes, info.Size())

	_, err = pipe.WriteString("d 4\n")
	require.NoError(t, err)
	require.Equal(t, "d 4\n", next(t, j, 4))
	j.closing = true
	d := j.begin(16)
	d(settled(false))
	require.Equal(t, "d 4\n", leftBehind(t, j), "what is rejected at the end is for the next life")
	require.NoError(t, pipe.Close())
	empty, err := j.close()
	require.NoError(t, err)
	require.False(t, empty)
}

// A replay that is killed goes on where it was.
func TestJournalIsReplayedInParts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "1.lines")
	require.NoError(t, os.WriteFile(path, []byte("\x00\x00\x00\x00\x00\x00\x00\x04a 1\nb 2\nc 3\nd 4\n"), 0o600))
	for _, want := range []string{"b 2\n", "c 3\n", "d 4\n"} {
		j, err := openJournal(path, testutil.Logger{})
		require.NoError(t, err)
		require.Equal(t, want, next(t, j, 4))
		j.begin(4)(settled(true))
		require.NoError(t, j.file.Close()) // as a kill does
	}
	j, err := openJournal(path, testutil.Logger{})
	require.NoError(t, err)
	require.Nil(t, j)
	require.NoFileExists(t, path)
}

func TestJournalIsGoneAtAGoodEnd(t *testing.T) {
	j, pipe := journalOf(t, testutil.Logger{})
	_, err := pipe.WriteString("a 1\n")
	require.NoError(t, err)
	require.NoError(t, pipe.Close())
	require.Equal(t, "a 1\n", next(t, j, 4))
	j.begin(4)(settled(false)) // dropped by the output, which counts that
	_, err = j.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	j.ended()
	empty, err := j.close()
	require.NoError(t, err)
	require.True(t, empty)
	require.NoFileExists(t, j.path)
}

// Lines are settled in any order, and at any moment a kill leaves each that is not safe, in order.
func TestJournalUnderRandomOrder(t *testing.T) {
	j, pipe := journalOf(t, testutil.Logger{})
	random := rand.New(rand.NewPCG(1, 2))
	type open struct {
		line   string
		settle func(telegraf.DeliveryInfo)
	}
	var waiting []open
	var end int64
	for i := range 3000 {
		line := fmt.Sprintf("line %d %s\n", i, strings.Repeat("x", random.IntN(20_000)))
		_, err := pipe.WriteString(line)
		require.NoError(t, err)
		require.Equal(t, line, next(t, j, len(line)))
		end += int64(len(line))
		waiting = append(waiting, open{line, j.begin(end)})
		for len(waiting) > 0 && (len(waiting) > 40 || random.IntN(2) == 0) {
			n := random.IntN(min(len(waiting), 10))
			waiting[n].settle(settled(true))
			waiting = append(waiting[:n], waiting[n+1:]...)
		}
		if i%100 == 0 {
			left := leftBehind(t, j)
			for _, w := range waiting {
				_, after, found := strings.Cut(left, w.line)
				require.True(t, found, "line %d of %d", i, len(waiting))
				left = after
			}
		}
	}
	require.NoError(t, pipe.Close())
	_, err := j.close()
	require.NoError(t, err)
}

// A journal that never runs empty does not grow for ever.
func TestJournalIsCompacted(t *testing.T) {
	j, pipe := journalOf(t, testutil.Logger{})
	line := append(bytes.Repeat([]byte("x"), 50_000-1), '\n')
	var end int64
	keep := func(telegraf.DeliveryInfo) {}
	for range 3 * compactAt / len(line) {
		_, err := pipe.Write(line)
		require.NoError(t, err)
		require.Equal(t, string(line), next(t, j, len(line)))
		end += int64(len(line))
		before := keep
		keep = j.begin(end)
		before(settled(true))
	}
	info, err := os.Stat(j.path)
	require.NoError(t, err)
	require.Less(t, info.Size(), int64(2*compactAt))
	require.True(t, strings.HasSuffix(leftBehind(t, j), string(line)))
	keep(settled(true))
	require.Empty(t, leftBehind(t, j))
	require.NoError(t, pipe.Close())
	_, err = j.close()
	require.NoError(t, err)
}

// A journal that cannot be written anew grows on, and the next attempt is not at the next read.
func TestJournalThatCannotBeCompacted(t *testing.T) {
	log := &testutil.CaptureLogger{}
	j, pipe := journalOf(t, log)
	require.NoError(t, os.Mkdir(j.path+".new", 0o700))
	line := append(bytes.Repeat([]byte("x"), 50_000-1), '\n')
	var end int64
	for end < compactAt+10*int64(len(line)) {
		_, err := pipe.Write(line)
		require.NoError(t, err)
		require.Equal(t, string(line), next(t, j, len(line)))
		end += int64(len(line))
		settle := j.begin(end)
		if end > int64(len(line)) && end < compactAt { // all but the first and the last
			settle(settled(true))
		}
	}
	require.Len(t, leftBehind(t, j), int(end))
	require.Zero(t, j.enough, "the first is not safe, so there is nothing to gain")
	j.waiting[0].safe = true
	j.advance()
	_, err := pipe.Write(line)
	require.NoError(t, err)
	require.Equal(t, string(line), next(t, j, len(line)))
	require.Len(t, log.Errors(), 1)
	require.Greater(t, j.enough, 2*int64(compactAt))
	require.True(t, strings.HasSuffix(leftBehind(t, j), string(line)), "it is in the file")
	require.NoError(t, pipe.Close())
	_, err = j.close()
	require.NoError(t, err)
}

// A journal of an earlier life is emptied as soon as all is safe, not at the end of this one.
func TestJournalIsEmptyAfterReplay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "1.lines")
	require.NoError(t, os.WriteFile(path, []byte("\x00\x00\x00\x00\x00\x00\x00\x04a 1\nb 2\nc 3\n"), 0o600))
	j, err := openJournal(path, testutil.Logger{})
	require.NoError(t, err)
	require.Equal(t, "b 2\nc 3\n", next(t, j, 8))
	first, second := j.begin(4), j.begin(8)
	first(settled(true))
	require.Equal(t, "c 3\n", leftBehind(t, j)[len(leftBehind(t, j))-4:])
	second(settled(true))
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, make([]byte, headerBytes), data)
	j.ended()
	empty, err := j.close()
	require.NoError(t, err)
	require.True(t, empty)
}

// A disk that takes nothing more does not stop standard input.
func TestJournalOnAFullDisk(t *testing.T) {
	log := &testutil.CaptureLogger{}
	j, pipe := journalOf(t, log)
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Skip("there is no /dev/full")
	}
	own := j.file
	j.file = full
	_, err = pipe.WriteString("a 1\nb 2\n")
	require.NoError(t, err)
	require.Equal(t, "a 1\n", next(t, j, 4))
	require.Equal(t, "b 2\n", next(t, j, 4))
	require.Len(t, log.Errors(), 1)
	j.file = own
	require.NoError(t, full.Close())
	_, err = pipe.WriteString("c 3\n")
	require.NoError(t, err)
	require.Equal(t, "c 3\n", next(t, j, 4))
	require.True(t, strings.HasSuffix(leftBehind(t, j), "c 3\n"))
	j.begin(12)(settled(true))
	require.Empty(t, leftBehind(t, j))
	require.NoError(t, pipe.Close())
	_, err = j.close()
	require.NoError(t, err)
}

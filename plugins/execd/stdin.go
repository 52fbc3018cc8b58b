package execd

import (
	"errors"
	"fmt"
	"io"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/plugins/parsers/influx"
)

const (
	// readSize is what the parser gets at a time. It moves what it has not parsed yet to the front of its buffer for each
	// metric, so that is kept small.
	readSize = 4 << 10
	// largeLine is the length from which on a line makes the parser begin anew, since it keeps, and moves, a buffer that
	// is larger still.
	largeLine = 64 << 10
	// mostLine is the length of the longest line. A quote that is never closed would take all memory otherwise.
	mostLine = 32 << 20
)

var errLineTooLong = fmt.Errorf("a line of more than %d MiB; was a quote not closed?", mostLine>>20)

// lines reads metrics from line protocol. A string may hold newlines, so only the parser knows where a line ends.
type lines struct {
	source io.Reader
	parser *influx.StreamParser

	chunk  []byte // what was read last
	unread int    // bytes at its end that are to be read again
	handed int64  // bytes that the parser was given, less those
	parsed int64  // bytes that it has made metrics of, or refused
	open   bool   // the last byte was no newline
	cut    string // what is left to say about a line without an end
	ended  bool
}

func newLines(source io.Reader) *lines {
	l := &lines{source: source, chunk: make([]byte, 0, readSize)}
	l.parser = influx.NewStreamParser(l)
	return l
}

// noLine is the error for a line that is none. The next may be one.
type noLine struct{ error }

// next returns the next metric, a noLine or io.EOF.
func (l *lines) next() (telegraf.Metric, error) {
	for {
		m, err := l.parser.Next()
		length := l.parser.Position()
		l.parsed += int64(length)
		switch {
		case errors.Is(err, influx.EOF):
			return nil, io.EOF
		case errors.Is(err, errLineTooLong):
			l.parsed = l.handed
			l.parser = influx.NewStreamParser(l)
			return nil, noLine{err}
		case errors.As(err, new(*influx.ParseError)):
			return nil, noLine{err}
		case err != nil:
			return nil, err
		}
		if length > largeLine && !l.ended {
			l.unread = int(l.handed - l.parsed)
			l.handed = l.parsed
			l.parser = influx.NewStreamParser(l)
		}
		if m != nil {
			return m, nil
		}
	}
}

// isCut tells that the source ended within a line, and that this is what the last error is about.
func (l *lines) isCut() bool { return l.ended && l.open }

// Read is for the parser.
func (l *lines) Read(p []byte) (n int, err error) {
	if l.handed-l.parsed > mostLine {
		return 0, errLineTooLong
	}
	if l.unread > 0 {
		n = copy(p, l.chunk[len(l.chunk)-l.unread:])
		l.unread -= n
		l.handed += int64(n)
		return n, nil
	}
	if l.ended {
		n = copy(p, l.cut)
		l.cut = l.cut[n:]
		if n == 0 {
			err = io.EOF
		}
		return n, err
	}
	n, err = l.source.Read(p[:min(len(p), readSize)])
	if n > 0 {
		l.chunk = append(l.chunk[:0], p[:n]...)
		l.handed += int64(n)
		l.open = p[n-1] != '\n'
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		l.ended = true
		if l.open { // "value=12" may be the beginning of "value=1234": make sure that it is taken for no whole line
			l.cut = ",=\n"
		}
		return l.Read(p)
	}
	return 0, err
}

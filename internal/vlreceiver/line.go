package vlreceiver

import (
	"bytes"
	"errors"
	"io"
)

// lineReader splits a body into lines of fewer than limit bytes.
//
// Longer lines are skipped by reading on until a newline. If that read is also the last one, which reports io.EOF
// together with its bytes, everything it brought is lost: the good lines behind a long one go with it.
type lineReader struct {
	src   io.Reader
	limit int
	buf   []byte // limit bytes; buf[start:end] is read but not yet returned
	start int
	end   int
	eof   bool
	err   error // of the source, other than io.EOF

	read    int64 // bytes
	skipped int   // lines that were too long
}

func (lr *lineReader) reset(src io.Reader, limit int) {
	if len(lr.buf) != limit {
		lr.buf = make([]byte, limit)
	}
	*lr = lineReader{src: src, limit: limit, buf: lr.buf}
}

// next returns the next line without its newline, empty lines included. It is valid until the next call.
// The end of a body without a newline is a line too, unless reading failed there.
func (lr *lineReader) next() ([]byte, bool) {
	for {
		rest := lr.buf[lr.start:lr.end]
		if n := bytes.IndexByte(rest, '\n'); n >= 0 {
			lr.start += n + 1
			return rest[:n], true
		}
		if lr.eof {
			lr.start = lr.end
			return rest, len(rest) > 0
		}
		if lr.err != nil || !lr.fill() {
			return nil, false
		}
	}
}

func (lr *lineReader) fill() bool {
	lr.end = copy(lr.buf, lr.buf[lr.start:lr.end])
	lr.start = 0
	if lr.end == lr.limit {
		lr.skipped++
		return lr.skip()
	}
	n, err := lr.src.Read(lr.buf[lr.end:])
	lr.end += n
	lr.read += int64(n)
	if errors.Is(err, io.EOF) {
		lr.eof = true
		return true
	}
	lr.err = err
	return n > 0
}

// skip reads up to a newline, which stays: an empty line takes the place of the long one.
func (lr *lineReader) skip() bool {
	lr.end = 0
	for {
		n, err := lr.src.Read(lr.buf)
		lr.read += int64(n)
		if errors.Is(err, io.EOF) {
			lr.eof = true
			return true
		}
		if err != nil {
			lr.err = err
			return false
		}
		if i := bytes.IndexByte(lr.buf[:n], '\n'); i >= 0 {
			lr.start, lr.end = i, n
			return true
		}
	}
}

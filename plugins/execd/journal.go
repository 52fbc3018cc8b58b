package execd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/influxdata/telegraf"
)

// A journal is a file with lines that the outputs may not have safe yet:
//
//	u64 big endian: offset of the first byte that is not safe | lines
//
// It is written before a line is parsed, and never fsynced: what was written to a file outlives the process, which is
// all that it is for. Most of the time it is truncated again long before the kernel writes it to the disk.
type journal struct {
	path string
	log  telegraf.Logger
	pipe *os.File // where more lines come from; nil for the journal of an earlier life

	mu      sync.Mutex // guards what follows
	file    *os.File
	start   int64  // of the file's lines; this and all below count the bytes from where the reading began
	written int64  // bytes that are in the file
	read    int64  // bytes that were given to the parser
	parsed  int64  // bytes that were made into metrics
	marked  int64  // the offset in the file's header
	enough  int64  // size from which on it is tried again to compact the file
	waiting []line // not safe, oldest first
	first   int    // the number of waiting[0]
	whole   bool   // no more lines will come
	closing bool   // a metric that is rejected now is for the next life
	logged  time.Time
}

// line is one that was parsed.
type line struct {
	end  int64
	safe bool
}

const (
	headerBytes = 8
	// markEvery is how far the header may lag behind while lines come: a killed process repeats no more than this, and
	// what was under way to the server.
	markEvery = 64 << 10
	// compactAt is the size from which on a journal that never runs empty is written anew, without what is safe.
	compactAt = 32 << 20
)

// newJournal makes an empty one.
func newJournal(path string, pipe *os.File, log telegraf.Logger) (*journal, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := file.Truncate(headerBytes); err != nil { // a mark of 0 that needs no room on a full disk
		return nil, errors.Join(err, file.Close())
	}
	return &journal{path: path, log: log, pipe: pipe, file: file}, nil
}

// openJournal opens one of an earlier life, or removes it and returns nil if nothing is left in it.
func openJournal(path string, log telegraf.Logger) (*journal, error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	var header [headerBytes]byte
	if _, err := file.ReadAt(header[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.Join(err, file.Close())
	}
	size := max(0, info.Size()-headerBytes)
	safe := int64(binary.BigEndian.Uint64(header[:])) //nolint:gosec // compared with the size next
	if safe < 0 || safe > size {                      // it was truncated, and not marked any more
		safe = 0
	}
	if safe == size {
		return nil, errors.Join(file.Close(), os.Remove(path))
	}
	return &journal{path: path, log: log, file: file, start: -safe, written: size - safe}, nil
}

// Read gives lines to the parser. Those from the pipe are in the file before.
func (j *journal) Read(p []byte) (int, error) {
	for {
		j.mu.Lock()
		if left := j.written - j.read; left > 0 {
			n, err := j.file.ReadAt(p[:min(int64(len(p)), left)], headerBytes+j.read-j.start)
			j.read += int64(n)
			j.mu.Unlock()
			if n > 0 {
				err = nil
			}
			return n, err
		}
		j.mu.Unlock()
		if j.pipe == nil {
			return 0, io.EOF
		}
		switch err := j.fetch(); {
		case errors.Is(err, io.EOF):
			return 0, err
		case err != nil:
			return j.pass(p)
		}
	}
}

// pass is for a file system that cannot take a pipe's content by itself, and for a full disk: standard input is to be
// drained all the same.
func (j *journal) pass(p []byte) (int, error) {
	n, err := j.pipe.Read(p)
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, err := j.file.WriteAt(p[:n], headerBytes+j.written-j.start); err != nil {
		j.complain(err)
	}
	j.read += int64(n)
	j.written += int64(n)
	return n, err
}

// fetch moves what is in the pipe into the file.
func (j *journal) fetch() error {
	if err := waitReadable(j.pipe); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.compact(); err != nil { // the file as it is may have room
		j.complain(err)
		j.enough = j.written - j.start + compactAt
	}
	n, err := moveFromPipe(j.pipe, j.file, headerBytes+j.written-j.start)
	j.written += n
	return err
}

// begin notes a line that ends there, and returns what is to be called when the outputs have settled it.
func (j *journal) begin(end int64) func(telegraf.DeliveryInfo) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.parsed = end
	number := j.first + len(j.waiting)
	j.waiting = append(j.waiting, line{end: end})
	return func(info telegraf.DeliveryInfo) {
		j.mu.Lock()
		defer j.mu.Unlock()
		if info.Delivered() || !j.closing { // what is rejected while we run, the output has counted as dropped
			j.waiting[number-j.first].safe = true
			j.advance()
		}
	}
}

// skip notes that there is nothing to keep up to there.
func (j *journal) skip(end int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.parsed = end
	j.waiting = append(j.waiting, line{end: end, safe: true})
	j.advance()
}

// advance forgets the oldest lines that are safe.
func (j *journal) advance() {
	n := 0
	for n < len(j.waiting) && j.waiting[n].safe {
		n++
	}
	if n == 0 {
		return
	}
	safe := j.waiting[n-1].end
	j.waiting = j.waiting[n:]
	j.first += n
	var err error
	switch {
	case len(j.waiting) == 0 && j.parsed == j.written:
		if j.marked != j.start {
			err = mark(j.file, 0)
		}
		if err == nil { // in this order: the heir may write behind either
			err = j.file.Truncate(headerBytes)
		}
		j.start, j.marked = j.written, j.written
	case len(j.waiting) == 0 || safe-j.marked >= markEvery:
		err = mark(j.file, safe-j.start)
		j.marked = safe
	}
	if err != nil {
		j.complain(err)
	}
}

// safe is the offset of the first byte that is not safe.
func (j *journal) safe() int64 {
	if len(j.waiting) == 0 {
		return j.parsed
	}
	return max(j.marked, j.start)
}

// compact writes the file anew when most of a large one is safe.
func (j *journal) compact() error {
	safe := j.safe()
	if j.written-j.start < max(compactAt, j.enough) || safe-j.start < (j.written-j.start)/2 {
		return nil
	}
	file, err := os.OpenFile(j.path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = mark(file, 0)
	if err == nil {
		_, err = io.Copy(io.NewOffsetWriter(file, headerBytes), io.NewSectionReader(j.file, headerBytes+safe-j.start, j.written-safe))
	}
	if err == nil {
		err = os.Rename(j.path+".new", j.path)
	}
	if err != nil {
		return errors.Join(err, file.Close(), os.Remove(j.path+".new"))
	}
	old := j.file
	j.file, j.start, j.marked, j.enough = file, safe, safe, 0
	return old.Close()
}

// ended says that no more lines will come.
func (j *journal) ended() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.whole = true
}

// done tells that no more lines will come and all are safe.
func (j *journal) done() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.whole && len(j.waiting) == 0
}

// close removes the file if all that was in it is safe. It reports whether it was.
func (j *journal) close() (empty bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	empty = len(j.waiting) == 0 && j.whole
	if !empty {
		err = mark(j.file, j.safe()-j.start)
	}
	err = errors.Join(err, j.file.Close())
	if empty {
		err = errors.Join(err, os.Remove(j.path))
	}
	return empty, err
}

// complain logs what is wrong with the file, at most once a minute.
func (j *journal) complain(err error) {
	if now := time.Now(); now.Sub(j.logged) > time.Minute {
		j.logged = now
		j.log.Errorf("The spool cannot be written: %v; until it can, what is under way is lost if this process is killed", err)
	}
}

// mark writes the header.
func mark(file *os.File, safe int64) error {
	if _, err := file.WriteAt(binary.BigEndian.AppendUint64(nil, uint64(safe)), 0); err != nil { //nolint:gosec // not negative
		return fmt.Errorf("marking what is safe: %w", err)
	}
	return nil
}

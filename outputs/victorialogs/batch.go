package victorialogs

import (
	"bytes"
	"io"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/influxdata/telegraf"
)

// batch is a run of JSON lines on its way to the server.
//
// While it is open it belongs to the plugin's lock. Once closed, its bytes never change: delivery compresses them once,
// and each attempt reads the same memory.
type batch struct {
	lines   []byte    // the JSON lines; nil once they are compressed
	body    []byte    // what is sent; nil until the first attempt
	count   int       // of metrics, which is the count of lines
	tracked []tracked // those metrics that somebody waits for
	opened  time.Time // when the first metric came
	last    time.Time // when the last one came

	// What follows is delivery's, under its lock.
	attempts int
	retry    *backoff.ExponentialBackOff // nil before the first failure
	due      time.Time                   // not to be tried again before

	halved  bool         // its lines are part of another batch's memory
	readers atomic.Int32 // request bodies that the HTTP transport has not let go of
	begun   atomic.Bool  // the transport read from the body in this attempt
}

// tracked is a metric that reports to its input what became of it.
type tracked struct {
	metric telegraf.Metric
	line   int // of the batch, from 0
}

// size is what the batch holds in memory, in bytes.
func (b *batch) size() int64 {
	if b.body != nil {
		return int64(len(b.body))
	}
	return int64(len(b.lines))
}

func (b *batch) accept() {
	for _, t := range b.tracked {
		t.metric.Accept()
	}
}

func (b *batch) reject() {
	for _, t := range b.tracked {
		t.metric.Reject()
	}
}

// drop tells the inputs not to send these metrics again: they are faulty, not delayed.
func (b *batch) drop() {
	for _, t := range b.tracked {
		t.metric.Drop()
	}
}

// split halves a batch of two lines or more; lines are its uncompressed bytes, which the halves share.
func (b *batch) split(lines []byte) (first, second *batch) {
	half := b.count / 2
	cut := 0
	for range half {
		cut += bytes.IndexByte(lines[cut:], '\n') + 1
	}
	first = &batch{lines: lines[:cut:cut], count: half, opened: b.opened, last: b.last, halved: true}
	second = &batch{lines: lines[cut:], count: b.count - half, opened: b.opened, last: b.last, halved: true}
	for _, t := range b.tracked {
		if t.line < half {
			first.tracked = append(first.tracked, t)
		} else {
			second.tracked = append(second.tracked, tracked{metric: t.metric, line: t.line - half})
		}
	}
	return first, second
}

// reader gives the body to one attempt of the HTTP transport.
func (b *batch) reader() *bodyReader {
	b.readers.Add(1)
	r := &bodyReader{batch: b}
	r.Reset(b.body)
	return r
}

// bodyReader is a request's body. The transport may go on reading after it returned an answer, until it calls Close;
// only then may the bytes be used again.
type bodyReader struct {
	bytes.Reader
	batch  *batch
	closed atomic.Bool
}

// Read and WriteTo are what the transport reads with.
func (r *bodyReader) Read(p []byte) (int, error) {
	r.batch.begun.Store(true)
	return r.Reader.Read(p)
}

// WriteTo spares a copy where the transport asks for it.
func (r *bodyReader) WriteTo(w io.Writer) (int64, error) {
	r.batch.begun.Store(true)
	return r.Reader.WriteTo(w)
}

// Close is called by the transport, at times more than once.
func (r *bodyReader) Close() error {
	if !r.closed.Swap(true) {
		r.batch.readers.Add(-1)
	}
	return nil
}

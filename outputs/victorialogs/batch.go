package victorialogs

import (
	"bytes"
	"io"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/influxdata/telegraf"

	"github.com/edgetide/telegraf-victorialogs/internal/deadletter"
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
	first   time.Time // of the rows, the oldest time
	newest  time.Time // and the newest

	route   *deadletter.Route // where it goes; nil: where the options say
	home    *home             // it comes from the disk, where it still is; nil: it does not
	failed  time.Time         // of what comes from the disk: when it was not taken for the first time
	tries   int               // and how often it was not
	anew    bool              // it goes there again, without the rows that are settled
	refusal *refusal          // it is never to be sent, and why; nil: it is

	// What follows is delivery's, under its lock.
	sibling  *batch    // the other half, which is held until this one is settled
	refused  *Failure  // what the server answered to both halves together
	held     bool      // it is such a half
	bad      *Failure  // that, when the fault can only be in this half
	closed   time.Time // when delivery took it over
	attempts int
	retry    *backoff.ExponentialBackOff // nil before the first failure
	due      time.Time                   // not to be tried again before

	readers atomic.Int32 // request bodies that the HTTP transport has not let go of
	begun   atomic.Bool  // the transport read from the body in this attempt
	whole   atomic.Bool  // and all of it
}

// refusal is why rows are set aside.
type refusal struct {
	reason string // a value of the tag reason of metrics_rejected
	status int    // of the server's answer; 0: it was not asked
	answer string
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

// split halves a batch of two lines or more; lines are its uncompressed bytes.
func (b *batch) split(lines []byte) (first, second *batch) {
	n := 0
	return b.part(lines, func([]byte) bool {
		n++
		return n <= b.count/2
	})
}

// part makes two batches of one: of the lines that belong to the first, and of the others. lines are the batch's uncompressed
// bytes. It has no request any more.
func (b *batch) part(lines []byte, toFirst func(line []byte) bool) (first, second *batch) {
	parts := [2]*batch{}
	for i := range parts {
		parts[i] = &batch{
			opened: b.opened, last: b.last, first: b.first, newest: b.newest, closed: b.closed, home: b.home, attempts: b.attempts,
		}
		if b.route != nil {
			parts[i].route = &deadletter.Route{}
			*parts[i].route = *b.route
		}
	}
	left, number := b.tracked, 0
	for line := range bytes.Lines(lines) {
		p := parts[1]
		if toFirst(line) {
			p = parts[0]
		}
		for len(left) > 0 && left[0].line == number {
			p.tracked = append(p.tracked, tracked{metric: left[0].metric, line: p.count})
			left = left[1:]
		}
		p.lines = append(p.lines, line...)
		p.count++
		number++
	}
	return parts[0], parts[1]
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
	n, err := r.Reader.Read(p)
	r.batch.whole.Store(r.Len() == 0)
	return n, err
}

// WriteTo spares a copy where the transport asks for it.
func (r *bodyReader) WriteTo(w io.Writer) (int64, error) {
	r.batch.begun.Store(true)
	n, err := r.Reader.WriteTo(w)
	r.batch.whole.Store(err == nil)
	return n, err
}

// Close is called by the transport, at times more than once.
func (r *bodyReader) Close() error {
	if !r.closed.Swap(true) {
		r.batch.readers.Add(-1)
	}
	return nil
}

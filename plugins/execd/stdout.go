package execd

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/plugins/serializers/influx"
	"github.com/influxdata/telegraf/selfstat"
)

const (
	writeSize = 64 << 10 // of lines together, at least; a pipe holds as much
	// lookAgain is how soon the pipe is asked again how much of it was read, which nothing tells by itself.
	lookAgain = time.Millisecond
	// readTime is how long the last lines may stay in the pipe. Telegraf closes it as soon as this process ends.
	readTime = 2 * time.Second
)

// writer writes metrics as lines, and accepts them once they are out of the pipe.
type writer struct {
	out        *os.File
	prefix     string // of each line
	serializer *influx.Serializer
	log        telegraf.Logger
	lost       selfstat.Stat // metrics that line protocol cannot hold
	broken     chan struct{} // closed when nobody reads any more
	err        error         // why

	buffer  []byte
	batch   []telegraf.Metric // of the buffer
	ends    []int             // where each ends in it
	written int64             // bytes
	unread  []sent            // in the pipe, oldest first
	kick    *time.Timer
}

// sent is a metric that was written.
type sent struct {
	metric telegraf.Metric
	end    int64 // of its line
}

func newWriter(out *os.File, log telegraf.Logger) *writer {
	w := &writer{
		out: out, serializer: &influx.Serializer{UintSupport: true}, log: log, lost: stat("metrics_unserializable"),
		broken: make(chan struct{}), kick: time.NewTimer(time.Hour),
	}
	_ = w.serializer.Init() // never fails
	return w
}

// run writes until the channel is closed, and returns when the last line was read. After an error it rejects all, so
// that inputs do not wait for it and brokers keep what they sent.
func (w *writer) run(metrics <-chan telegraf.Metric) error {
	defer w.kick.Stop()
	for {
		select {
		case m, ok := <-metrics:
			if !ok {
				w.drain()
				return w.err
			}
			w.gather(m, metrics)
			w.write()
		case <-w.kick.C:
		}
		w.settle()
	}
}

// gather fills the buffer with what is there.
func (w *writer) gather(m telegraf.Metric, metrics <-chan telegraf.Metric) {
	w.buffer, w.batch, w.ends = w.buffer[:0], w.batch[:0], w.ends[:0]
	for {
		w.add(m)
		if len(w.buffer) >= writeSize {
			return
		}
		var ok bool
		select {
		case m, ok = <-metrics:
			if !ok {
				return // run sees it, too
			}
		default:
			return
		}
	}
}

func (w *writer) add(m telegraf.Metric) {
	if w.err != nil {
		m.Reject()
		return
	}
	line, err := w.serializer.Serialize(m)
	if err != nil {
		w.lost.Incr(1)
		w.log.Errorf("Dropping a metric %q that line protocol cannot hold: %v", m.Name(), err)
		m.Drop() // it would come again, and be no better
		return
	}
	w.buffer = append(append(w.buffer, w.prefix...), line...)
	w.batch = append(w.batch, m)
	w.ends = append(w.ends, len(w.buffer))
}

// write writes the buffer in full. Metrics whose line is not in the pipe to its end are rejected.
func (w *writer) write() {
	if len(w.batch) == 0 {
		return
	}
	n, err := w.out.Write(w.buffer)
	for i, m := range w.batch {
		if w.ends[i] <= n {
			w.unread = append(w.unread, sent{m, w.written + int64(w.ends[i])})
		} else {
			m.Reject()
		}
	}
	w.written += int64(n)
	if err != nil {
		w.fail(err)
	}
}

func (w *writer) fail(err error) {
	w.err = err
	close(w.broken)
	for _, s := range w.unread {
		s.metric.Reject()
	}
	w.unread = nil
}

// settle accepts what was read, and looks again soon for what was not, unless its reader is gone.
func (w *writer) settle() {
	read := w.written - unreadIn(w.out)
	n := 0
	for n < len(w.unread) && w.unread[n].end <= read {
		w.unread[n].metric.Accept()
		n++
	}
	w.unread = append(w.unread[:0], w.unread[n:]...)
	switch {
	case len(w.unread) == 0:
	case isAbandoned(w.out):
		w.fail(fmt.Errorf("standard output has no reader any more: %w", syscall.EPIPE))
	default:
		w.kick.Reset(lookAgain)
	}
}

// drain waits until the last line was read.
func (w *writer) drain() {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	deadline := time.Now().Add(readTime)
	for w.settle(); len(w.unread) > 0 && time.Now().Before(deadline); w.settle() {
		<-tick.C
	}
	for _, s := range w.unread {
		s.metric.Reject()
	}
}

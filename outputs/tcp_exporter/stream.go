package tcp_exporter

import (
	"sync"
	"sync/atomic"

	"github.com/influxdata/telegraf"
)

const (
	maxMetadata = 1 << 20  // bytes of metadata that are kept: some 15,000 names
	maxEvents   = 16 << 20 // bytes of events that are kept, however few they are
	maxTaken    = 64 << 10 // bytes of events that a client takes at a time
	keptSlack   = 64       // bytes by which an event's memory may be more than twice of what it needs
)

// stream is what all clients read: the metadata so far, and the last events. Each message is encoded and kept once, and a
// client is a place in it. A client that is further behind than the ring is long goes on with the ring's oldest event, and
// so loses its own oldest events, none of another's, and no metadata. No message is ever cut: a client takes whole ones,
// and writes all that it took.
type stream struct {
	most    int           // events in the ring
	readers atomic.Int32  // clients that read; with none there is nothing in the ring
	last    *snapshot     // nil: there is none
	done    chan struct{} // closed when the stream is

	mu          sync.RWMutex // guards what follows
	ring        [][]byte     // event n is in ring[n%most]; the other slots hold nothing
	first, next uint64       // the oldest event in the ring, and the one that will come
	bytes       int          // of the events in the ring
	metadata    []byte
	described   uint64        // messages in metadata
	changed     chan struct{} // closed, and made anew, when something came and a client waits
	waiting     atomic.Bool   // a client waits; set with the lock held for reading
	closed      bool
}

// place is where a client is in the stream.
type place struct {
	metadata  int // bytes
	described uint64
	next      uint64
}

// taken says what a client took.
type taken struct {
	messages uint64
	dropped  uint64 // events that were gone before it took them
}

func newStream(most int, last *snapshot) *stream {
	return &stream{most: most, last: last, closed: true}
}

// open lets events in, also after a close.
func (s *stream) open() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done, s.changed, s.closed = make(chan struct{}), make(chan struct{}), false
}

// close ends the stream. Clients may still take what is in it.
func (s *stream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	close(s.done)
	close(s.changed)
}

// encoder makes messages of a metric, and hands them to the stream, whose lock is held.
type encoder interface {
	encode(s *stream, m telegraf.Metric)
}

// publish encodes a metric for all clients, if there is one, or if the last values are kept.
func (s *stream) publish(e encoder, m telegraf.Metric) {
	if s.readers.Load() == 0 && s.last == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	e.encode(s, m)
	if s.waiting.Load() {
		s.waiting.Store(false)
		close(s.changed)
		s.changed = make(chan struct{})
	}
}

// describe adds metadata, of which nothing is ever dropped; it reports whether there was room. The caller holds the lock.
func (s *stream) describe(message []byte) bool {
	if len(s.metadata)+len(message) > maxMetadata {
		return false
	}
	s.metadata = append(s.metadata, message...)
	s.described++
	return true
}

// event adds an event, and drops the oldest ones that have no room beside it. The caller holds the lock, and may use the
// message's memory again.
func (s *stream) event(series, message []byte) {
	if s.last != nil {
		s.last.put(series, message)
	}
	if s.readers.Load() == 0 {
		return
	}
	// What an event that gives way took serves the one that comes.
	var memory []byte
	for s.next-s.first == uint64(s.most) || s.bytes+len(message) > maxEvents { //nolint:gosec // most is positive
		memory = s.drop()
	}
	i := s.slot(s.next)
	if i == len(s.ring) {
		s.ring = append(s.ring, nil)
	}
	s.ring[i] = reuse(memory, message)
	s.bytes += len(message)
	s.next++
}

// reuse copies a message into memory of an earlier one, if that is not far too large: in time each place for a message would
// take as much as the largest one that was there.
func reuse(memory, message []byte) []byte {
	if cap(memory) > 2*len(message)+keptSlack {
		memory = nil
	}
	return append(memory[:0], message...)
}

func (s *stream) drop() (memory []byte) {
	i := s.slot(s.first)
	memory, s.ring[i] = s.ring[i], nil
	s.bytes -= len(memory)
	s.first++
	return memory
}

func (s *stream) slot(n uint64) int {
	return int(n % uint64(s.most)) //nolint:gosec // most is positive, and the rest is less
}

// join adds a client: it gets what is known so far, and its place behind it.
func (s *stream) join() (p place, known []byte, messages uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readers.Add(1)
	p = place{metadata: len(s.metadata), described: s.described, next: s.next}
	known, messages = append(known, s.metadata...), s.described
	if s.last != nil {
		known, messages = s.last.appendTo(known), messages+uint64(s.last.order.Len()) //nolint:gosec // a length
	}
	return p, known, messages
}

// leave takes a client away. With the last one the events go, since nobody waits for them.
func (s *stream) leave(p *place) (t taken) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.next < s.first {
		t.dropped = s.first - p.next
	}
	if s.readers.Add(-1) == 0 {
		s.ring, s.first, s.next, s.bytes = nil, 0, 0, 0
	}
	return t
}

// take appends to dst what is new for a client, metadata before events, since metadata is always there before the first
// event that needs it. With nothing new, wait is closed when there may be something, and nil when nothing will come.
func (s *stream) take(p *place, dst []byte) (_ []byte, t taken, wait <-chan struct{}) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if p.metadata < len(s.metadata) {
		dst = append(dst, s.metadata[p.metadata:]...)
		t.messages = s.described - p.described
		p.metadata, p.described = len(s.metadata), s.described
	}
	if p.next < s.first {
		t.dropped = s.first - p.next
		p.next = s.first
	}
	for ; p.next < s.next && len(dst) < maxTaken; p.next++ {
		dst = append(dst, s.ring[s.slot(p.next)]...)
		t.messages++
	}
	if len(dst) > 0 || s.closed {
		return dst, t, nil
	}
	s.waiting.Store(true)
	return dst, t, s.changed
}

package testbroker

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

const (
	firstPacketID = 1 << 15 // ours are 32768 to 65535
	maxWindow     = 1 << 14
	batchBytes    = 64 << 10 // a writer gathers about this much for one write
	takeoverGrace = 100 * time.Millisecond
)

// session is what the broker owes one client id: the messages in flight and those that wait for room in the window.
// It outlives the connection, and the server, when the client asked for that.
//
//	PUBLISH ──▶ waiting ──(room in the window: gets a packet id)──▶ inflight ──PUBACK or PUBCOMP──▶ gone
//	QoS 0   ──▶ writer.soon ──▶ gone                                    │
//	                                                                    └── the client returns: sent again, in order
type session struct {
	clean bool // the session ends with its connection

	mu       sync.Mutex
	limit    int // the window
	waiting  fifo[outgoing]
	inflight map[uint16]*outgoing // by packet id
	lastID   uint16
	lastSeq  uint64
	writer   *writer // nil while the client is away
}

// outgoing is a message on its way to one client.
type outgoing struct {
	topic   string
	payload []byte // shared with the other subscribers, never written to
	qos     byte
	retain  bool
	props   *packets.Properties // MQTT 5; nil when there are none

	id       uint16
	seq      uint64 // the order of sending
	received bool   // QoS 2: PUBREC came, PUBREL is next
}

// writer sends a session's messages over one connection. Its goroutine ends when the connection fails or stop is closed.
type writer struct {
	client *mochi.Client
	wake   chan struct{} // holds one
	stop   chan struct{}
	done   chan struct{}

	// Guarded by session.mu.
	again fifo[*outgoing] // in flight since an earlier connection
	soon  fifo[outgoing]  // QoS 0
}

func newSession(clean bool) *session {
	return &session{clean: clean, inflight: make(map[uint16]*outgoing), lastID: firstPacketID - 1}
}

// attach starts sending over the client's connection: first what an earlier connection left unacknowledged, in the order
// of the first sending, then what waits.
func (s *session) attach(client *mochi.Client, limit int) {
	s.disconnect(packets.ErrSessionTakenOver)

	w := &writer{client: client, wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	inOrder := slices.SortedFunc(maps.Values(s.inflight), func(a, b *outgoing) int { return cmp.Compare(a.seq, b.seq) })
	for _, m := range inOrder {
		w.again.push(m)
	}
	s.limit = limit
	s.writer = w
	go w.run(s)
}

// detach ends the writer of this client's connection and waits for its end. The connection must be closed already, or a
// write could hold it up. It reports whether there was such a writer.
func (s *session) detach(client *mochi.Client) bool {
	s.mu.Lock()
	w := s.writer
	if w == nil || w.client != client {
		s.mu.Unlock()
		return false
	}
	s.writer = nil
	s.mu.Unlock()

	close(w.stop)
	<-w.done
	return true
}

// disconnect closes the client's connection, if there is one, and ends its writer. A connection that its client has closed
// gets the time to be read to its end first: there may be acknowledgements in it.
func (s *session) disconnect(cause error) {
	s.mu.Lock()
	w := s.writer
	s.mu.Unlock()
	if w == nil {
		return
	}
	grace := time.NewTimer(takeoverGrace)
	defer grace.Stop()
	select {
	case <-w.done:
	case <-grace.C:
		w.client.Stop(cause)
	}
	s.detach(w.client)
}

func (s *session) deliver(m outgoing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.qos > 0 {
		s.waiting.push(m)
	} else if s.writer != nil {
		s.writer.soon.push(m)
	}
	s.poke()
}

// acknowledge takes a PUBACK, PUBREC or PUBCOMP that came over the client's connection. What came over a connection that
// has been replaced is void: its identifier may already stand for another message.
func (s *session) acknowledge(client *mochi.Client, pk packets.Packet) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.inflight[pk.PacketID]
	if !ok || s.writer == nil || s.writer.client != client {
		return
	}
	refused := pk.ReasonCode >= packets.ErrUnspecifiedError.Code
	if pk.FixedHeader.Type == packets.Pubrec && !refused {
		m.received = true // mochi answers with PUBREL
		return
	}
	delete(s.inflight, pk.PacketID)
	s.poke()
}

// holds reports whether the packet id stands for one of our messages.
func (s *session) holds(id uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.inflight[id]
	return ok
}

func (s *session) unacked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting.len() + len(s.inflight)
}

// poke wakes the writer. The caller holds mu.
func (s *session) poke() {
	if s.writer == nil {
		return
	}
	select {
	case s.writer.wake <- struct{}{}:
	default:
	}
}

// next appends what may be sent now to buf.
func (s *session) next(w *writer, buf *bytes.Buffer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for buf.Len() < batchBytes {
		var err error
		switch {
		case w.again.len() > 0:
			m := w.again.pop()
			if s.inflight[m.id] == m { // not acknowledged since
				err = m.encode(w.client, buf, true)
			}
		case w.soon.len() > 0:
			m := w.soon.pop()
			err = m.encode(w.client, buf, false)
		case s.waiting.len() > 0 && len(s.inflight) < s.limit:
			m := s.waiting.pop()
			m.id = s.nextID()
			s.lastSeq++
			m.seq = s.lastSeq
			s.inflight[m.id] = &m
			err = m.encode(w.client, buf, false)
		default:
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// nextID returns a packet id that is not in flight. There is always one, since the window is smaller than their number.
func (s *session) nextID() uint16 {
	for {
		s.lastID = max(s.lastID+1, firstPacketID) // wraps from 65535 by way of 0
		if _, taken := s.inflight[s.lastID]; !taken {
			return s.lastID
		}
	}
}

func (m *outgoing) encode(client *mochi.Client, buf *bytes.Buffer, again bool) error {
	pk := packets.Packet{
		ProtocolVersion: client.Properties.ProtocolVersion,
		PacketID:        m.id,
		Mods:            packets.Mods{AllowResponseInfo: true},
	}
	if m.received {
		pk.FixedHeader = packets.FixedHeader{Type: packets.Pubrel, Qos: 1} // its flags are 0010, as if it had QoS 1
		return pk.PubrelEncode(buf)
	}
	pk.FixedHeader = packets.FixedHeader{Type: packets.Publish, Qos: m.qos, Retain: m.retain, Dup: again}
	pk.TopicName = m.topic
	pk.Payload = m.payload
	if m.props != nil {
		pk.Properties = *m.props
	}
	return pk.PublishEncode(buf)
}

// run writes to the connection itself, several messages at a time, under the lock that mochi's own writes hold.
func (w *writer) run(s *session) {
	defer close(w.done)
	var buf bytes.Buffer
	for {
		buf.Reset()
		if err := s.next(w, &buf); err != nil {
			w.client.Stop(fmt.Errorf("encode a message for client %s: %w", w.client.ID, err))
			return
		}
		if buf.Len() == 0 {
			select {
			case <-w.wake:
				continue
			case <-w.stop:
				return
			}
		}
		w.client.Lock()
		_, err := w.client.Net.Conn.Write(buf.Bytes())
		w.client.Unlock()
		if err != nil {
			w.client.Stop(fmt.Errorf("write to client %s: %w", w.client.ID, err))
			return
		}
	}
}

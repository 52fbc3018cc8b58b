// Package firehose loads an agent with MQTT messages at next to no cost of its own, so that what is measured is the agent and
// not what stands beside it on the same cores. It speaks the part of MQTT 3.1.1 that this takes, from hand to socket: many
// PUBLISH packets of QoS 1 in one write, PUBACKs counted as they come.
//
// A [Broker] has one subscriber, to which it sends without anybody publishing: an agent's own limit. A [Publisher] publishes
// to a real broker. Both hold a window of unacknowledged messages, as brokers do, and both end at the first thing that they
// do not understand. They do not resend, keep no session, and look at no topic filter.
package firehose

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"time"
)

// Load is what to send. N and Message are required.
type Load struct {
	N       int
	Message func(n int) (topic string, payload []byte) // of 0 to N-1; the payload may be reused by the next call
	Rate    float64                                    // per second; 0: as fast as they are taken
	Window  int                                        // unacknowledged messages at most, below 65,535; 0: 1000
	Sent    func(n int, at time.Time)                  // called before each is written; nil: nobody wants to know
}

// Packet types of MQTT 3.1.1 section 2.2.1, in the high four bits.
const (
	packetConnect     = 0x10
	packetConnAck     = 0x20
	packetPublish     = 0x30
	packetPubAck      = 0x40
	packetSubscribe   = 0x80
	packetSubAck      = 0x90
	packetUnsubscribe = 0xa0
	packetUnsubAck    = 0xb0
	packetPingReq     = 0xc0
	packetPingResp    = 0xd0
	packetDisconnect  = 0xe0
)

const (
	maxPacket  = 1 << 20
	writeSize  = 32 << 10 // bytes of PUBLISH packets in one write
	mostWindow = 65_534
	tick       = time.Millisecond // of a load with a rate: what came due meanwhile goes out together
)

// sender is one side of a connection that publishes. Its reader counts acknowledgements.
type sender struct {
	conn net.Conn

	mu      sync.Mutex
	acked   int
	err     error         // why nothing more comes
	changed chan struct{} // closed and made anew when acked or err changed
	writing sync.Mutex    // answers to pings go between packets
}

func newSender(conn net.Conn) *sender { return &sender{conn: conn, changed: make(chan struct{})} }

func (s *sender) note(acks int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked += acks
	if s.err == nil {
		s.err = err
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *sender) state() (acked int, changed <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acked, s.changed, s.err
}

func (s *sender) write(b []byte) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	_, err := s.conn.Write(b)
	return err
}

// readAcks counts PUBACKs and hands every other packet to other, until the connection ends.
func (s *sender) readAcks(in *bufio.Reader, other func(kind byte, body []byte) error) {
	acks := 0
	for {
		kind, body, err := readPacket(in)
		switch {
		case err != nil:
			s.note(acks, err)
			return
		case kind&0xf0 == packetPubAck:
			acks++
		default:
			if err := other(kind, body); err != nil {
				s.note(acks, err)
				return
			}
		}
		if in.Buffered() == 0 && acks > 0 {
			s.note(acks, nil)
			acks = 0
		}
	}
}

// send sends the load and returns when all of it is acknowledged.
func (s *sender) send(ctx context.Context, l Load) error {
	if l.Window == 0 {
		l.Window = 1000
	}
	if l.N < 0 || l.Rate < 0 || l.Window < 0 || l.Window > mostWindow {
		return fmt.Errorf("the load's N, Rate and Window must not be negative, nor Window above %d", mostWindow)
	}
	before, _, _ := s.state()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	buffer := make([]byte, 0, writeSize+maxPacket/8)
	start := time.Now()
	for sent := 0; ; {
		acked, changed, err := s.state()
		if err != nil {
			return fmt.Errorf("after %d of %d messages were acknowledged: %w", acked-before, l.N, err)
		}
		acked -= before
		if acked >= l.N {
			return nil
		}
		due := l.N
		if l.Rate > 0 {
			due = min(l.N, 1+int(time.Since(start).Seconds()*l.Rate))
		}
		buffer = buffer[:0]
		now := time.Now()
		for sent < due && sent-acked < l.Window && len(buffer) < writeSize {
			topic, payload := l.Message(sent)
			if l.Sent != nil {
				l.Sent(sent, now)
			}
			buffer = appendPublish(buffer, topic, uint16(sent%mostWindow+1), payload)
			sent++
		}
		if len(buffer) > 0 {
			if err := s.write(buffer); err != nil {
				return err
			}
			continue
		}
		if sent < l.N && sent-acked < l.Window { // the next is not due
			timer.Reset(max(tick, time.Until(start.Add(time.Duration(float64(sent)/l.Rate*float64(time.Second))))))
			changed = nil
		}
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			return fmt.Errorf("after %d of %d messages were acknowledged: %w", acked, l.N, context.Cause(ctx))
		}
	}
}

func appendPublish(dst []byte, topic string, id uint16, payload []byte) []byte {
	dst = append(dst, packetPublish|1<<1)
	dst = binary.AppendUvarint(dst, uint64(4+len(topic)+len(payload)))
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(topic))) //nolint:gosec // topics are short
	dst = append(dst, topic...)
	dst = binary.BigEndian.AppendUint16(dst, id)
	return append(dst, payload...)
}

// readPacket returns a packet's first byte and what follows its header, which is valid until the next call.
func readPacket(in *bufio.Reader) (kind byte, body []byte, err error) {
	if kind, err = in.ReadByte(); err != nil {
		return 0, nil, err
	}
	length, err := binary.ReadUvarint(in)
	if err != nil {
		return 0, nil, err
	}
	if length > maxPacket {
		return 0, nil, fmt.Errorf("a packet of %d bytes is too long", length)
	}
	if length <= uint64(in.Size()) { //nolint:gosec // a size; most are
		body, err = in.Peek(int(length))
		_, _ = in.Discard(len(body)) // which were just looked at
		return kind, body, err
	}
	body = make([]byte, length)
	_, err = io.ReadFull(in, body)
	return kind, body, err
}

// Broker is a broker on a free port of 127.0.0.1 that serves one subscriber at a time.
type Broker struct {
	listener net.Listener
	serving  sync.WaitGroup

	mu           sync.Mutex
	current      *sender   // nil until somebody subscribes
	subscribed   time.Time // when that was
	subscription chan struct{}
	conns        map[net.Conn]struct{}
	closed       bool
}

// Listen starts a broker. The caller must call Close.
func Listen() (*Broker, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &Broker{listener: l, subscription: make(chan struct{}), conns: make(map[net.Conn]struct{})}
	b.serving.Go(b.accept)
	return b, nil
}

// URL is tcp://127.0.0.1:port.
func (b *Broker) URL() string { return "tcp://" + b.listener.Addr().String() }

// Close ends all connections and returns after their goroutines.
func (b *Broker) Close() error {
	b.mu.Lock()
	b.closed = true
	err := b.listener.Close()
	for conn := range b.conns {
		_ = conn.Close()
	}
	b.mu.Unlock()
	b.serving.Wait()
	return err
}

// WaitSubscribed returns when a subscriber's SUBSCRIBE came, and waits for one if there is none.
func (b *Broker) WaitSubscribed(ctx context.Context) (at time.Time, err error) {
	for {
		b.mu.Lock()
		current, at, changed := b.current, b.subscribed, b.subscription
		b.mu.Unlock()
		if current != nil {
			return at, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("nobody has subscribed: %w", context.Cause(ctx))
		}
	}
}

// Send sends the load to the subscriber and returns when it has acknowledged all.
func (b *Broker) Send(ctx context.Context, l Load) error {
	b.mu.Lock()
	s := b.current
	b.mu.Unlock()
	if s == nil {
		return errors.New("sending: nobody has subscribed")
	}
	if err := s.send(ctx, l); err != nil {
		return fmt.Errorf("sending to the subscriber: %w", err)
	}
	return nil
}

func (b *Broker) accept() {
	for {
		conn, err := b.listener.Accept()
		if err != nil {
			return // closed
		}
		b.mu.Lock()
		if b.closed {
			b.mu.Unlock()
			_ = conn.Close()
			return
		}
		b.conns[conn] = struct{}{}
		b.serving.Go(func() { b.serve(conn) })
		b.mu.Unlock()
	}
}

// serve answers what a client sends, until the connection ends.
func (b *Broker) serve(conn net.Conn) {
	s := newSender(conn)
	defer func() {
		_ = conn.Close()
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.conns, conn)
		if b.current == s {
			b.current = nil
		}
	}()
	s.readAcks(bufio.NewReaderSize(conn, 64<<10), func(kind byte, body []byte) error {
		switch kind & 0xf0 {
		case packetConnect:
			return s.write([]byte{packetConnAck, 2, 0, 0})
		case packetSubscribe:
			topics, err := countTopics(body)
			if err != nil {
				return err
			}
			answer := append([]byte{packetSubAck, byte(2 + topics)}, body[:2]...) //nolint:gosec // 100 at most
			for range topics {
				answer = append(answer, 1) // granted: QoS 1
			}
			if err := s.write(answer); err != nil {
				return err
			}
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.current != s {
				b.current, b.subscribed = s, time.Now()
				close(b.subscription)
				b.subscription = make(chan struct{})
			}
			return nil
		case packetUnsubscribe:
			if len(body) < 2 {
				return io.ErrUnexpectedEOF
			}
			return s.write(append([]byte{packetUnsubAck, 2}, body[:2]...))
		case packetPingReq:
			return s.write([]byte{packetPingResp, 0})
		case packetPublish: // QoS 0 alone
			return nil
		case packetDisconnect:
			return io.EOF
		default:
			return fmt.Errorf("a client sent a packet of type 0x%x", kind)
		}
	})
}

// countTopics counts the topic filters of a SUBSCRIBE, which have a byte for their QoS each.
func countTopics(body []byte) (n int, err error) {
	for i := 2; i < len(body); n++ {
		if i+2 > len(body) {
			return 0, io.ErrUnexpectedEOF
		}
		i += 2 + int(binary.BigEndian.Uint16(body[i:])) + 1
	}
	if len(body) < 5 || n > 100 {
		return 0, errors.New("a client subscribed to no topic, or to more than 100")
	}
	return n, nil
}

// Publisher publishes to a real broker.
type Publisher struct {
	*sender
	reading sync.WaitGroup
}

// Dial connects to the broker at a URL as tcp://host:port. The caller must call Close.
func Dial(ctx context.Context, brokerURL, clientID string) (*Publisher, error) {
	u, err := url.Parse(brokerURL)
	if err != nil {
		return nil, err
	}
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return nil, err
	}
	p := &Publisher{sender: newSender(conn)}
	in := bufio.NewReaderSize(conn, 64<<10)
	connect := []byte{0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 0}                 // clean session, no keepalive
	connect = binary.BigEndian.AppendUint16(connect, uint16(len(clientID))) //nolint:gosec // it is short
	connect = append(connect, clientID...)
	packet := binary.AppendUvarint([]byte{packetConnect}, uint64(len(connect)))
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second)) // a TCP connection has deadlines
	if err = p.write(append(packet, connect...)); err == nil {
		var kind byte
		var body []byte
		if kind, body, err = readPacket(in); err == nil && (kind != packetConnAck || len(body) != 2 || body[1] != 0) {
			err = fmt.Errorf("it answered 0x%x %x", kind, body)
		}
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("connecting to the broker at %s: %w", brokerURL, err)
	}
	_ = conn.SetDeadline(time.Time{})
	p.reading.Go(func() {
		p.readAcks(in, func(kind byte, _ []byte) error { return fmt.Errorf("the broker sent a packet of type 0x%x", kind) })
	})
	return p, nil
}

// Publish publishes the load and returns when the broker has acknowledged all.
func (p *Publisher) Publish(ctx context.Context, l Load) error {
	if err := p.send(ctx, l); err != nil {
		return fmt.Errorf("publishing: %w", err)
	}
	return nil
}

// Close disconnects.
func (p *Publisher) Close() error {
	_ = p.write([]byte{packetDisconnect, 0}) // a broker that is gone needs none
	err := p.conn.Close()
	p.reading.Wait()
	return err
}

package mqtt_hardware

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync/atomic"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// shortcut is a connection with MQTT 3.1.1 that takes PUBLISH with QoS 0 and 1 out of what the MQTT library reads and hands it
// over at once, on the library's reading goroutine. The library would bring each message through three goroutines and its
// acknowledgement through two more, which costs more than all else between the socket and Telegraf. Every other packet is the
// library's: the handshake, pings, subscriptions, and QoS 2. Behind a PUBLISH with QoS 2 every other one is, too, until the library
// has handed it over, so that none overtakes it.
type shortcut struct {
	*gatheredConn
	received func(mqtt.Message)
	answered bool // CONNACK, which comes before all else, was seen
	left     int  // bytes of a packet that is the library's

	theirs atomic.Int32 // PUBLISH packets that the library has not handed over
	pinged atomic.Bool  // the library sent PINGREQ, and nothing came since
	alive  []byte       // what is left of a PINGRESP that the library is given for the broker's
}

// Control packets (MQTT 3.1.1 section 2.2): the high half of a packet's first byte, and the flags of PUBLISH in the low one.
const (
	packetPublish = 3 << 4
	packetPuback  = 4 << 4

	packetPingreq  = 12 << 4
	packetPingresp = 13 << 4

	flagRetain    = 1 << 0
	flagDuplicate = 1 << 3
)

var errMalformedPacket = errors.New("the broker sent a malformed packet")

// Read gives the library what is its own.
func (s *shortcut) Read(p []byte) (int, error) {
	for s.left == 0 && len(s.alive) == 0 {
		if err := s.next(); err != nil {
			return 0, err
		}
	}
	if len(s.alive) > 0 {
		n := copy(p, s.alive)
		s.alive = s.alive[n:]
		return n, nil
	}
	n, err := s.gatheredConn.Read(p[:min(len(p), s.left)])
	s.left -= n
	return n, err
}

// Write notes that the library waits for PINGRESP. It does not see that messages come, and on a slow line the broker's answer
// comes behind all that is under way; so it is given one when the next message has come, unless the broker reads nothing.
func (s *shortcut) Write(p []byte) (int, error) {
	if len(p) == 2 && p[0] == packetPingreq {
		s.pinged.Store(true)
	}
	return s.gatheredConn.Write(p)
}

// next hands the next packet over, or leaves it to the library.
func (s *shortcut) next() error {
	first, header, length, err := s.peekHeader()
	if err != nil {
		return err
	}
	qos := first >> 1 & 3
	if publish := first&0xf0 == packetPublish && s.answered; !publish || qos > 1 || s.theirs.Load() > 0 {
		if publish {
			s.theirs.Add(1)
		}
		s.answered = true
		s.left = header + length
		return nil
	}
	if _, err := s.in.Discard(header); err != nil {
		return err
	}
	m := &publish3{to: s.gatheredConn, flags: first}
	body, err := s.readBody(length)
	if err != nil {
		return err
	}
	topic, rest, ok := cutString(body)
	if ok && qos > 0 {
		if ok = len(rest) >= 2; ok {
			m.puback = [4]byte{packetPuback, 2, rest[0], rest[1]}
			rest = rest[2:]
		}
	}
	if !ok {
		return fmt.Errorf("%w: a PUBLISH of %d bytes ends within its topic or identifier", errMalformedPacket, length)
	}
	m.topic, m.payload = string(topic), rest
	s.received(m)
	if s.pinged.Load() && !s.isStuck() {
		s.pinged.Store(false)
		s.alive = []byte{packetPingresp, 0}
	}
	return nil
}

// readBody reads so many bytes. It takes no more memory than twice what came, whatever length the broker claims.
func (s *shortcut) readBody(length int) ([]byte, error) {
	body := make([]byte, min(length, readBuffer))
	for have := 0; ; {
		n, err := io.ReadFull(s.in, body[have:])
		if err != nil {
			return nil, err
		}
		if have += n; have == length {
			return body, nil
		}
		body = slices.Grow(body, min(length-have, have))[:min(length, 2*have)]
	}
}

// peekHeader returns a packet's first byte, the length of its fixed header, and that of the rest (MQTT 3.1.1 section 2.2.3).
func (s *shortcut) peekHeader() (first byte, header, length int, err error) {
	const most = 5
	for header = 2; header <= most; header++ {
		b, err := s.in.Peek(header)
		if err != nil {
			return 0, 0, 0, err
		}
		last := b[header-1]
		length |= int(last&0x7f) << (7 * (header - 2))
		if last < 0x80 {
			return b[0], header, length, nil
		}
	}
	return 0, 0, 0, fmt.Errorf("%w: its length has more than four bytes", errMalformedPacket)
}

// cutString takes a text with its length before it off the start of b (MQTT 3.1.1 section 1.5.3).
func cutString(b []byte) (text, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	end := 2 + int(binary.BigEndian.Uint16(b))
	if end > len(b) {
		return nil, nil, false
	}
	return b[2:end], b[end:], true
}

// publish3 is a PUBLISH that took the shortcut.
type publish3 struct {
	to      net.Conn
	flags   byte
	topic   string
	payload []byte
	puback  [4]byte // the whole packet
}

func (p *publish3) Duplicate() bool   { return p.flags&flagDuplicate != 0 }
func (p *publish3) Qos() byte         { return p.flags >> 1 & 3 }
func (p *publish3) Retained() bool    { return p.flags&flagRetain != 0 }
func (p *publish3) Topic() string     { return p.topic }
func (p *publish3) MessageID() uint16 { return binary.BigEndian.Uint16(p.puback[2:]) }
func (p *publish3) Payload() []byte   { return p.payload }

// Ack sends PUBACK. That a connection is broken its reader learns.
func (p *publish3) Ack() {
	if p.Qos() > 0 {
		_, _ = p.to.Write(p.puback[:])
	}
}

package mqtt_hardware

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/stretchr/testify/require"
)

// streamConn reads what a broker sent, and keeps what is written.
type streamConn struct {
	net.Conn
	io.Reader
	written bytes.Buffer
}

func (c *streamConn) Read(p []byte) (int, error)  { return c.Reader.Read(p) }
func (c *streamConn) Write(p []byte) (int, error) { return c.written.Write(p) }
func (*streamConn) Close() error                  { return nil }

func publishText(dup bool, qos byte, retained bool, topic string, id uint16, payload []byte) string {
	return fmt.Sprintf("PUBLISH dup %v qos %d retain %v %q id %d %x", dup, qos, retained, topic, id, payload)
}

func packetText(p packets.ControlPacket) string {
	if p, ok := p.(*packets.PublishPacket); ok {
		return publishText(p.Dup, p.Qos, p.Retain, p.TopicName, p.MessageID, p.Payload)
	}
	return p.String()
}

// readAll is what the library reads, with what took the shortcut in between, until the error.
func readAll(stream io.Reader, short bool) (seen []string, err error) {
	handedOver := func() {}
	if short {
		c := newGatheredConn(&streamConn{Reader: stream})
		defer func() { _ = c.Close() }()
		s := &shortcut{gatheredConn: c, received: func(m mqtt.Message) {
			seen = append(seen, publishText(m.Duplicate(), m.Qos(), m.Retained(), m.Topic(), m.MessageID(), m.Payload()))
		}}
		stream, handedOver = s, func() { s.theirs.Add(-1) }
	}
	for {
		p, err := packets.ReadPacket(stream)
		if err != nil {
			return seen, err
		}
		seen = append(seen, packetText(p))
		if _, ok := p.(*packets.PublishPacket); ok {
			handedOver()
		}
	}
}

func encodePackets(tb testing.TB, all ...packets.ControlPacket) []byte {
	tb.Helper()
	var b bytes.Buffer
	for _, p := range all {
		require.NoError(tb, p.Write(&b))
	}
	return b.Bytes()
}

func publishPacket(qos byte, topic string, id uint16, payload []byte) *packets.PublishPacket {
	p, _ := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.Qos, p.TopicName, p.MessageID, p.Payload = qos, topic, id, payload
	return p
}

// TestShortcutChangesNothing reads random packets, of all kinds and lengths, in pieces of all lengths, with the shortcut and
// without: the same come, in the same order.
func TestShortcutChangesNothing(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 30 {
		all := []packets.ControlPacket{packets.NewControlPacket(packets.Connack)}
		for range random.IntN(20) {
			lengths := []int{0, 1, 100, 127, 128, 16_383, 16_384, 70_000}
			payload := make([]byte, lengths[random.IntN(len(lengths))])
			for i := range payload {
				payload[i] = byte(random.Uint32())
			}
			p := publishPacket(byte(random.IntN(3)), strings.Repeat("t", random.IntN(300)), 0, payload)
			if p.Qos > 0 {
				p.MessageID = uint16(1 + random.IntN(65535))
			}
			p.Dup, p.Retain = random.IntN(2) == 0, random.IntN(2) == 0
			other := []byte{packets.Pingresp, packets.Pubrel, packets.Unsuback, packets.Puback}[random.IntN(4)]
			all = append(all, p, packets.NewControlPacket(other))
		}
		stream := encodePackets(t, all...)
		want, _ := readAll(bytes.NewReader(stream), false)
		require.Len(t, want, len(all))
		for _, cut := range []func(io.Reader) io.Reader{
			func(r io.Reader) io.Reader { return r }, iotest.HalfReader, iotest.OneByteReader, iotest.DataErrReader,
		} {
			got, err := readAll(cut(bytes.NewReader(stream)), true)
			require.ErrorIs(t, err, io.EOF)
			require.Equal(t, want, got)
		}
	}
}

// TestShortcutLongestTopic has a topic that no buffer holds at once.
func TestShortcutLongestTopic(t *testing.T) {
	topic := strings.Repeat("t", 65_535)
	stream := encodePackets(t, packets.NewControlPacket(packets.Connack), publishPacket(1, topic, 7, []byte("x")))
	got, err := readAll(bytes.NewReader(stream), true)
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, publishText(false, 1, false, topic, 7, []byte("x")), got[1])
}

func TestShortcutAcknowledges(t *testing.T) {
	under := &streamConn{Reader: bytes.NewReader(encodePackets(t, packets.NewControlPacket(packets.Connack),
		publishPacket(0, "a", 0, nil), publishPacket(1, "b", 0x1234, nil)))}
	c := newGatheredConn(under)
	var messages []mqtt.Message
	_, err := io.ReadAll(&shortcut{gatheredConn: c, received: func(m mqtt.Message) { messages = append(messages, m) }})
	require.NoError(t, err)
	require.Len(t, messages, 2)
	for _, m := range messages {
		m.Ack()
	}
	require.NoError(t, c.Close())
	require.Equal(t, []byte{0x40, 2, 0x12, 0x34}, under.written.Bytes())
}

func TestShortcutMalformed(t *testing.T) {
	connack := encodePackets(t, packets.NewControlPacket(packets.Connack))
	for name, packet := range map[string][]byte{
		"length of five bytes":          {0x30, 0xff, 0xff, 0xff, 0xff, 1},
		"no topic":                      {0x30, 0},
		"half a topic's length":         {0x30, 1, 0},
		"topic longer than the packet":  {0x30, 3, 0, 2, 'a'},
		"no identifier":                 {0x32, 3, 0, 1, 'a'},
		"half an identifier":            {0x32, 4, 0, 1, 'a', 1},
		"topic as long as all the rest": {0x32, 4, 0, 2, 'a', 'b'},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := readAll(bytes.NewReader(append(bytes.Clone(connack), packet...)), true)
			require.ErrorIs(t, err, errMalformedPacket)
			require.Len(t, got, 1)
		})
	}
	_, err := readAll(bytes.NewReader(append(bytes.Clone(connack), 0x30, 10, 0, 1, 'a')), true)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF, "cut off")
}

// TestShortcutClaimedLength has a broker that claims the longest packet and sends little of it.
func TestShortcutClaimedLength(t *testing.T) {
	stream := encodePackets(t, packets.NewControlPacket(packets.Connack))
	stream = append(stream, 0x30, 0xff, 0xff, 0xff, 0x7f) // 256 MiB - 1
	stream = append(stream, make([]byte, 200_000)...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := readAll(bytes.NewReader(stream), true)
	runtime.ReadMemStats(&after)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(2<<20))
}

// FuzzShortcut has the library read any bytes with the shortcut and without.
func FuzzShortcut(f *testing.F) {
	connack := encodePackets(f, packets.NewControlPacket(packets.Connack))
	f.Add(encodePackets(f, publishPacket(1, "a/b", 5, []byte("x")), packets.NewControlPacket(packets.Pingresp)))
	f.Add(encodePackets(f, publishPacket(2, "a/b", 5, []byte("x")), publishPacket(0, "", 0, nil)))
	f.Add([]byte{0x36, 2, 0, 0, 0x30, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<16 {
			return
		}
		stream := append(bytes.Clone(connack), b...)
		want, _ := readAll(bytes.NewReader(stream), false)
		got, err := readAll(bytes.NewReader(stream), true)
		if errors.Is(err, errMalformedPacket) { // the library reads on where a length has too many bytes
			require.LessOrEqual(t, len(got), len(want))
			want = want[:len(got)]
		}
		require.Equal(t, want, got)
	})
}

// TestShortcutOvertakesNothing has messages of both kinds: the flow takes one that is no repetition for the end of what a broker
// repeats, so it must not come before a repetition with QoS 2 that was sent before it.
func TestShortcutOvertakesNothing(t *testing.T) {
	near, far := net.Pipe()
	const most = 300
	all := []packets.ControlPacket{packets.NewControlPacket(packets.Connack)}
	var want []uint16
	for id := uint16(1); id <= most; id++ {
		all = append(all, publishPacket(1+byte(id%3/2), "a", id, nil))
		want = append(want, id)
	}
	stream := encodePackets(t, all...)
	go func() {
		_, _ = packets.ReadPacket(far)
		_, _ = far.Write(stream)
		_, _ = io.Copy(io.Discard, far)
	}()
	received := make(chan uint16, most)
	c, _, err := connect3([]*url.URL{{Scheme: "tcp", Host: "broker"}}, func(*url.URL) (*gatheredConn, error) { return newGatheredConn(near), nil },
		login{clientID: "c", timeout: 10 * time.Second, keepalive: time.Minute, ping: time.Minute},
		func(m mqtt.Message) { received <- m.MessageID() }, func(uint16) {}, func(error) {})
	require.NoError(t, err)
	defer func() {
		_ = far.Close() // so that disconnecting need not wait
		c.disconnect()
	}()
	var got []uint16
	for range most {
		select {
		case id := <-received:
			got = append(got, id)
		case <-time.After(10 * time.Second):
			require.Fail(t, "not all came", "%d of %d", len(got), most)
		}
	}
	require.Equal(t, want, got)
}

// TestShortcutSlowLine has a broker whose answer to PINGREQ does not come in time, since messages are before it on the line.
func TestShortcutSlowLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		connack, message := encodePackets(t, packets.NewControlPacket(packets.Connack)), encodePackets(t, publishPacket(1, "a", 1, nil))
		go func() {
			_, _ = packets.ReadPacket(far)
			_, _ = far.Write(connack)
			go func() { _, _ = io.Copy(io.Discard, far) }()
			for range 60 {
				<-time.After(time.Second)
				_, _ = far.Write(message)
			}
		}()
		var lost atomic.Pointer[time.Time]
		began := time.Now()
		c, _, err := connect3([]*url.URL{{Scheme: "tcp", Host: "broker"}}, func(*url.URL) (*gatheredConn, error) { return newGatheredConn(near), nil },
			login{clientID: "c", timeout: 10 * time.Second, keepalive: 10 * time.Second, ping: 5 * time.Second},
			func(m mqtt.Message) { m.Ack() }, func(uint16) {}, func(error) { now := time.Now(); lost.Store(&now) })
		require.NoError(t, err)
		pass(59 * time.Second)
		still := lost.Load() == nil
		pass(time.Minute) // in which nothing comes
		silent := lost.Load()
		_ = far.Close()
		c.disconnect()
		require.True(t, still, "messages came")
		require.NotNil(t, silent, "nothing came")
		require.Greater(t, silent.Sub(began), time.Minute)
	})
}

// TestShortcutDeafBroker has a broker that goes on sending and reads nothing: it is given up, messages or not.
func TestShortcutDeafBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		connack, message := encodePackets(t, packets.NewControlPacket(packets.Connack)), encodePackets(t, publishPacket(1, "a", 1, nil))
		go func() {
			_, _ = packets.ReadPacket(far)
			_, _ = far.Write(connack)
			for range 60 {
				<-time.After(time.Second)
				_, _ = far.Write(message)
			}
		}()
		var lost atomic.Bool
		c, _, err := connect3([]*url.URL{{Scheme: "tcp", Host: "broker"}}, func(*url.URL) (*gatheredConn, error) { return newGatheredConn(near), nil },
			login{clientID: "c", timeout: 10 * time.Second, keepalive: 10 * time.Second, ping: 5 * time.Second},
			func(m mqtt.Message) { m.Ack() }, func(uint16) {}, func(error) { lost.Store(true) })
		require.NoError(t, err)
		pass(30 * time.Second)
		given := lost.Load()
		_ = far.Close()
		c.disconnect()
		pass(time.Minute)
		require.True(t, given)
	})
}

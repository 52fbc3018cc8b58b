package mqtt_hardware

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
)

// Types of packets, as they stand in the upper half of the first byte (MQTT 3.1.1 section 2.2.1).
const (
	puback  = 4
	pubrec  = 5
	pubcomp = 7
)

// TestConformance is what MQTT promises for each kind of session, of what was published, received and acknowledged, after
// each of the events:
//
//   - QoS 0: what arrived is delivered, once.
//   - QoS 1, 2: nothing is acknowledged before it is delivered.
//   - A session that the broker keeps: all that the broker took arrives; with QoS 2 exactly once.
//   - A session that ends with its connection: what arrived is delivered once, for nobody sends it again.
//
// A message has arrived when Telegraf has it, whether it is delivered already or not.
func TestConformance(t *testing.T) {
	t.Parallel()
	events := []struct {
		name string
		qos  []byte
		run  func(c *conformance)
	}{
		{"broker restart", []byte{0, 1, 2}, brokerRestarts},
		{"client kill", []byte{0, 1, 2}, clientIsKilled},
		{"network cut", []byte{0}, networkIsCutIn(0)}, // nothing of QoS 0 is acknowledged
		{"network cut in PUBACK", []byte{1}, networkIsCutIn(puback)},
		{"network cut in PUBREC", []byte{2}, networkIsCutIn(pubrec)},
		{"network cut in PUBCOMP", []byte{2}, networkIsCutIn(pubcomp)},
		{"window full", []byte{0, 1, 2}, windowIsFull},
		{"session taken over", []byte{0, 1, 2}, sessionIsTakenOver},
	}
	for _, protocol := range []string{protocol3, protocol5} {
		for qos := range byte(3) {
			for _, session := range []string{"clean", "persistent"} {
				for _, kind := range brokers {
					for _, event := range events {
						if !slices.Contains(event.qos, qos) {
							continue
						}
						t.Run(fmt.Sprintf("%s/QoS %d/%s/%s/%s", protocol, qos, session, kind.name, event.name), func(t *testing.T) {
							t.Parallel()
							event.run(&conformance{
								t: t, protocol: protocol, qos: qos, persistent: session == "persistent", broker: kind.start(t),
							})
						})
					}
				}
			}
		}
	}
}

// conformance is one row of the table. The pipeline behind the plugin holds what it gets until it is told otherwise.
type conformance struct {
	t          *testing.T
	protocol   string
	qos        byte
	persistent bool
	broker     testbroker.Broker
	unblock    func() // the pipeline, with QoS 0
}

const early = 3 // messages that are delivered before it happens

func brokerRestarts(c *conformance) {
	i, line := c.connect()
	c.publishHeld(i, line)
	i.out.release(early)
	c.untilAcked(line, early)
	require.NoError(c.t, c.broker.Stop())
	i.until("lost", func() bool { return i.stats.connected.Get() == 0 })
	c.deliver(i)
	require.NoError(c.t, c.broker.Start())
	i.untilConnected()
	c.publish(10, 10)
	c.end(i, numbers(0, 20))
}

func networkIsCutIn(packet byte) func(c *conformance) {
	return func(c *conformance) {
		i, line := c.connect()
		c.publishHeld(i, line)
		line.cutIn(packet, early-1, false)
		i.out.release(early)
		c.untilReconnected(i)
		c.publish(10, 10)
		c.deliver(i)
		c.end(i, numbers(0, 20))
	}
}

// For the broker, a killed client is a connection that ends, and nothing comes after it.
func clientIsKilled(c *conformance) {
	killed, line := c.connect()
	c.publishHeld(killed, line)
	line.cutIn([]byte{0, puback, pubcomp}[c.qos], 0, true)
	killed.out.release(early)
	killed.until("lost", func() bool { return killed.stats.connected.Get() == 0 })
	c.deliver(killed)
	killed.stop()

	c.publish(10, 5)
	i, _ := c.connect()
	c.publish(15, 5)
	switch {
	case c.qos == 0: // what comes while the client is away may be kept for it (MQTT 3.1.1 section 3.1.2.4)
		c.end(i, numbers(15, 5), numbers(10, 5)...)
	case !c.persistent:
		c.end(i, numbers(15, 5))
	case c.qos == 1:
		c.end(i, numbers(0, 20))
	default:
		// The new process knows no identifiers. n0 does not come again, since the broker has its PUBREC; each other one
		// that was acknowledged does if its PUBREC was lost (MQTT 3.1.1 section 4.3.3).
		c.end(i, numbers(early, 20-early), numbers(1, early-1)...)
	}
}

func windowIsFull(c *conformance) {
	const window, n = 4, 40 // the broker's own is 20
	i, line := c.connect(func(p *MQTTHardware) { p.MaxUndeliveredMessages = window })
	i.out.set(nil)
	c.publish(0, n)
	if c.qos > 0 {
		for released := range n {
			i.until("the window", func() bool { return i.out.count() >= min(released+window, n) })
			require.LessOrEqual(c.t, line.acked(), released)
			i.out.release(1)
			c.untilAcked(line, released+1)
		}
		require.Equal(c.t, window, i.out.highest())
	}
	c.end(i, numbers(0, n))
	require.EqualValues(c.t, 0, i.stats.reconnects.Get())
}

func sessionIsTakenOver(c *conformance) {
	i, line := c.connect()
	c.publishHeld(i, line)
	i.out.release(early)
	c.untilAcked(line, early)
	ended := c.takeOver()
	published := 10
	if c.kept() {
		c.publish(10, 5) // to whoever has the session
		published = 15
	}
	c.untilReconnected(i)
	within(c.t, soon, "the other client's end", func() { <-ended })
	c.publish(published, 20-published)
	c.deliver(i)
	c.end(i, numbers(0, 20))
	require.EqualValues(c.t, 1, i.stats.reconnects.Get())
}

// connect starts the plugin on a line of its own to the broker.
func (c *conformance) connect(change ...func(*MQTTHardware)) (*instance, *line) {
	c.t.Helper()
	window := early // the others wait in the plugin
	if c.protocol == protocol5 {
		window = 10 // or else they would wait in the broker
	}
	l := &line{broker: strings.TrimPrefix(c.broker.URL(), "tcp://")}
	url := "tcp://" + serveTCP(c.t, nil, l.carry)
	return connect(c.t, url, append([]func(*MQTTHardware){persistent, func(p *MQTTHardware) {
		p.Protocol, p.QoS, p.PersistentSession, p.MaxUndeliveredMessages = c.protocol, int(c.qos), c.persistent, window
	}}, change...)...), l
}

// kept reports whether the broker keeps messages for a client that is away.
func (c *conformance) kept() bool { return c.persistent && c.qos > 0 }

// publish returns when the broker has taken n messages; with QoS 0, when they are on their way.
func (c *conformance) publish(from, n int) {
	c.t.Helper()
	send(c.t, c.broker.URL(), c.qos, "t/x", numbers(from, n)...)
}

// publishHeld publishes ten messages, and returns when the plugin has them. The pipeline holds those that it gets; with QoS 0,
// where nobody waits for a delivery, it takes none.
func (c *conformance) publishHeld(i *instance, l *line) {
	c.t.Helper()
	i.out.set(nil)
	if c.qos == 0 {
		c.unblock = i.out.block()
		c.t.Cleanup(c.unblock)
	}
	c.publish(0, 10)
	i.until("received", func() bool { return i.stats.received.Get() == 10 && (c.qos == 0 || i.out.count() >= early) })
	require.Zero(c.t, l.acked())
}

// deliver lets the pipeline deliver all.
func (c *conformance) deliver(i *instance) {
	i.out.set(accept)
	if c.unblock != nil {
		c.unblock()
	}
}

// untilAcked waits until n messages were acknowledged on the line; no more may be.
func (c *conformance) untilAcked(l *line, n int) {
	c.t.Helper()
	if c.qos == 0 {
		n = 0
	}
	require.Eventually(c.t, func() bool { return l.acked() >= n }, soon, 2*time.Millisecond, "acknowledged")
	require.Equal(c.t, n, l.acked())
}

func (*conformance) untilReconnected(i *instance) {
	i.t.Helper()
	i.until("lost", func() bool { return i.stats.reconnects.Get() > 0 })
	i.untilConnected()
}

// end stops the plugin when the pipeline has the texts that it should get, and looks whether the broker knows so. It may
// have got those of perhaps, too.
func (c *conformance) end(i *instance, want []string, perhaps ...string) {
	c.t.Helper()
	atLeastOnce := c.qos == 1 && c.persistent
	got := func() []string {
		texts := slices.DeleteFunc(i.out.texts(), func(text string) bool { return slices.Contains(perhaps, text) })
		if atLeastOnce {
			return distinct(texts)
		}
		return texts
	}
	i.until("all", func() bool { return len(got()) >= len(want) })
	i.until("acknowledged", func() bool { return i.stats.unacked.Get() == 0 })
	i.stop()
	if c.kept() {
		require.Empty(c.t, leftover(c.t, c.broker))
	}
	if atLeastOnce {
		want = distinct(want)
	} else {
		require.Len(c.t, i.out.texts(), len(distinct(i.out.texts())), "nothing twice")
	}
	require.Equal(c.t, want, got())
}

// takeOver connects another client with the plugin's id. It takes messages in and acknowledges none. ended is closed when
// the broker ends its connection.
func (c *conformance) takeOver() (ended <-chan struct{}) {
	c.t.Helper()
	body := []byte("\x00\x04MQTT\x04\x02\x00\x3c") // clean, keepalive of 60 s
	if c.persistent {
		body[7] = 0
	}
	if c.protocol == protocol5 {
		body[6] = 5
		properties := ""
		if c.persistent {
			properties = "\x11\xff\xff\xff\xff" // the session never expires
		}
		body = append(body, byte(len(properties)))
		body = append(body, properties...)
	}
	body = append(body, "\x00\x06plugin"...)
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.broker.URL(), "tcp://"))
	require.NoError(c.t, err)
	c.t.Cleanup(func() { _ = conn.Close() })
	_, err = conn.Write(append([]byte{0x10, byte(len(body))}, body...))
	require.NoError(c.t, err)
	connack := make([]byte, 4)
	_, err = io.ReadFull(conn, connack)
	require.NoError(c.t, err)
	require.Zero(c.t, connack[3], "accepted")
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_, _ = io.Copy(io.Discard, conn) // its end is what we wait for
	}()
	c.t.Cleanup(func() { _ = conn.Close(); <-closed })
	return closed
}

// line is the network between the plugin and a broker.
type line struct {
	broker string // host:port

	mu      sync.Mutex
	ends    []net.Conn // of the connection that stands
	acks    int        // PUBACKs and PUBRECs that the plugin sent
	fatal   byte       // type of packet in the middle of which it is cut; 0: none
	before  int        // packets of that type that come through before
	forGood bool       // once it is cut
	dead    bool
}

// carry is one connection.
func (l *line) carry(plugin net.Conn) {
	defer func() { _ = plugin.Close() }()
	broker, err := net.Dial("tcp", l.broker)
	if err != nil {
		return
	}
	defer func() { _ = broker.Close() }()
	l.mu.Lock()
	l.ends = []net.Conn{plugin, broker}
	dead := l.dead
	l.mu.Unlock()
	if dead {
		return
	}
	back := make(chan struct{})
	go func() {
		defer close(back)
		_, _ = io.Copy(plugin, broker) // either end may be closed
		_ = plugin.Close()
	}()
	for in := bufio.NewReader(plugin); ; {
		packet, err := readPacket(in)
		if err != nil {
			break
		}
		if !l.pass(packet) {
			_, _ = broker.Write(packet[:len(packet)/2])
			l.cut()
			break
		}
		if _, err := broker.Write(packet); err != nil {
			break
		}
	}
	if tcp, ok := broker.(*net.TCPConn); ok {
		_ = tcp.CloseWrite() // the broker reads to the end, and closes
	}
	<-back
}

// pass reports whether a packet comes through whole.
func (l *line) pass(packet []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	kind := packet[0] >> 4
	if kind == l.fatal {
		if l.before == 0 {
			l.fatal = 0
			return false
		}
		l.before--
	}
	if kind == puback || kind == pubrec {
		l.acks++
	}
	return true
}

func (l *line) acked() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acks
}

// cutIn cuts the line in the middle of a packet of this type, after some of them came through; with type 0, at once.
func (l *line) cutIn(kind byte, before int, forGood bool) {
	l.mu.Lock()
	l.fatal, l.before, l.forGood = kind, before, forGood
	l.mu.Unlock()
	if kind == 0 {
		l.cut()
	}
}

func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = l.forGood
	for _, end := range l.ends {
		_ = end.Close() // by the broker already, perhaps
	}
}

// readPacket reads a packet as it is on the wire (MQTT 3.1.1 section 2.2).
func readPacket(in *bufio.Reader) ([]byte, error) {
	kind, err := in.ReadByte()
	if err != nil {
		return nil, err
	}
	size, err := binary.ReadUvarint(in)
	if err != nil {
		return nil, err
	}
	packet := binary.AppendUvarint([]byte{kind}, size)
	header := len(packet)
	packet = append(packet, make([]byte, size)...)
	_, err = io.ReadFull(in, packet[header:])
	return packet, err
}

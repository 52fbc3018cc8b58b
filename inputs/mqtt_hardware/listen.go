package mqtt_hardware

import (
	"bufio"
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/eclipse/paho.golang/paho"
	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	mochipackets "github.com/mochi-mqtt/server/v2/packets"
	"golang.org/x/crypto/bcrypt"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/config"

	"github.com/edgetide/telegraf-victorialogs/internal/logbridge"
)

// ListenOptions are those of the embedded broker.
type ListenOptions struct {
	Listen              string                    `toml:"listen"`
	ListenUsers         string                    `toml:"listen_users"`
	ListenPasswords     map[string]*config.Secret `toml:"listen_passwords"`
	ListenAnonymous     bool                      `toml:"listen_allow_anonymous"`
	ListenTLSCert       string                    `toml:"listen_tls_cert"`
	ListenTLSKey        string                    `toml:"listen_tls_key"`
	ListenTLSClientCAs  []string                  `toml:"listen_tls_client_cas"`
	ListenMaxClients    int64                     `toml:"listen_max_clients"`
	ListenMaxPacketSize config.Size               `toml:"listen_max_packet_size"`
	ListenMaxRetained   int                       `toml:"listen_max_retained"`
}

func defaultListen() ListenOptions {
	return ListenOptions{ListenMaxClients: 1000, ListenMaxPacketSize: 1 << 20, ListenMaxRetained: 10_000}
}

// newEmbedded checks the options and prepares the broker.
func (o *ListenOptions) newEmbedded(log telegraf.Logger, f *flow, topics []string) (*embedded, error) {
	const right = `must be a URL such as "tcp://127.0.0.1:1883" or "ssl://0.0.0.0:8883"`
	address, err := url.Parse(o.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen = %q: %w; %s", o.Listen, err, right)
	}
	secure := slices.Contains(tlsSchemes, address.Scheme)
	if !secure && !slices.Contains(plainSchemes, address.Scheme) || address.Port() == "" || address.Path != "" || address.User != nil {
		return nil, fmt.Errorf("listen = %q: %s", o.Listen, right)
	}
	switch {
	case o.ListenMaxClients < 1:
		return nil, fmt.Errorf("listen_max_clients = %d: must be 1 or more", o.ListenMaxClients)
	case o.ListenMaxPacketSize < 1<<10 || o.ListenMaxPacketSize > 256<<20:
		return nil, fmt.Errorf(`listen_max_packet_size = %d: must be from "1KiB" to "256MiB"`, o.ListenMaxPacketSize)
	case o.ListenMaxRetained < 0:
		return nil, fmt.Errorf("listen_max_retained = %d: must not be negative", o.ListenMaxRetained)
	}
	e := &embedded{
		log: log, flow: f, topics: topics, address: address.Host, passwords: o.ListenPasswords,
		maxRetained: o.ListenMaxRetained, retained: make(map[string]bool),
		busy: make(map[uint16]bool), flowing: make(map[deviceID]*devicePublish),
	}
	if o.ListenUsers != "" {
		if e.users, err = readUsers(o.ListenUsers); err != nil {
			return nil, fmt.Errorf("listen_users = %q: %w", o.ListenUsers, err)
		}
	}
	for name, password := range e.passwords {
		switch {
		case e.users[name] != nil:
			return nil, fmt.Errorf("listen_passwords: %q is in listen_users, too: name each device once", name)
		case name == "" || password.Empty():
			return nil, fmt.Errorf("listen_passwords: %q: name and password must not be empty", name)
		}
	}
	known := e.users != nil || len(e.passwords) > 0
	e.anonymous = o.ListenAnonymous || !known && isLoopback(address.Hostname())
	if !known && !e.anonymous {
		return nil, fmt.Errorf("listen = %q: is open to other machines; set listen_users or listen_passwords, or "+
			"listen_allow_anonymous = true if anybody may publish", o.Listen)
	}
	if e.tls, err = o.serverTLS(secure); err != nil {
		return nil, err
	}
	capabilities := mochi.NewDefaultServerCapabilities()
	capabilities.MaximumClients = o.ListenMaxClients
	capabilities.MaximumPacketSize = uint32(o.ListenMaxPacketSize)
	e.server = mochi.New(&mochi.Options{
		InlineClient: true, Capabilities: capabilities, Logger: logbridge.New(quiet{log}, "Broker: "),
	})
	return e, e.server.AddHook(&hook{embedded: e}, nil)
}

// quiet is a log for a library that has errors to tell of each client that leaves.
type quiet struct{ telegraf.Logger }

func (q quiet) Error(args ...any) { q.Debug(args...) }
func (q quiet) Warn(args ...any)  { q.Debug(args...) }
func (q quiet) Info(args ...any)  { q.Debug(args...) }

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// readUsers reads lines of name:hash, the hash being bcrypt's, as htpasswd -B writes them.
func readUsers(path string) (map[string][]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was read only
	users := make(map[string][]byte)
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, hash, ok := strings.Cut(line, ":")
		if _, err := bcrypt.Cost([]byte(hash)); !ok || name == "" || err != nil {
			return nil, fmt.Errorf("line %d: must be NAME:HASH with a hash of bcrypt, as htpasswd -nB NAME makes it", n)
		}
		users[name] = []byte(hash)
	}
	return users, lines.Err()
}

func (o *ListenOptions) serverTLS(secure bool) (*tls.Config, error) {
	switch {
	case !secure && (o.ListenTLSCert != "" || o.ListenTLSKey != "" || len(o.ListenTLSClientCAs) > 0):
		return nil, fmt.Errorf("listen = %q: must begin with ssl:// when listen_tls_… is set", o.Listen)
	case !secure:
		return nil, nil //nolint:nilnil // no TLS
	}
	pair, err := tls.LoadX509KeyPair(o.ListenTLSCert, o.ListenTLSKey)
	if err != nil {
		return nil, fmt.Errorf("listen_tls_cert = %q, listen_tls_key = %q: %w", o.ListenTLSCert, o.ListenTLSKey, err)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	for _, path := range o.ListenTLSClientCAs {
		pem, err := os.ReadFile(path)
		if c.ClientCAs == nil {
			c.ClientCAs, c.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		}
		if err == nil && !c.ClientCAs.AppendCertsFromPEM(pem) {
			err = errors.New("holds no certificate")
		}
		if err != nil {
			return nil, fmt.Errorf("listen_tls_client_cas: %q: %w", path, err)
		}
	}
	return c, nil
}

// embedded is a broker inside the plugin. A device's message is acknowledged to it as one from a broker is: when Telegraf
// has delivered it.
type embedded struct {
	log         telegraf.Logger
	flow        *flow
	topics      []string
	address     string
	tls         *tls.Config
	users       map[string][]byte // bcrypt
	passwords   map[string]*config.Secret
	anonymous   bool
	maxRetained int
	server      *mochi.Server
	connection  int
	bound       string // the address, once it listens

	mu       sync.Mutex
	retained map[string]bool // topics
	busy     map[uint16]bool // identifiers that we made for messages in the flow
	last     uint16
	flowing  map[deviceID]*devicePublish
}

// deviceID tells a device's message in the flow from all others.
type deviceID struct {
	client string
	packet uint16
}

// listen begins to take devices in.
func (e *embedded) listen() error {
	var l listeners.Listener = listeners.NewTCP(listeners.Config{ID: "listen", Address: e.address, TLSConfig: e.tls})
	if err := e.server.AddListener(l); err != nil {
		return fmt.Errorf("listen: %w; where a broker runs already, name it in servers", err)
	}
	e.connection = e.flow.connecting()
	e.flow.connected(false)
	if err := e.server.Serve(); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	e.flow.stats.connected.Set(1)
	e.bound = l.Address()
	e.log.Infof("Listening for MQTT devices on %s", e.bound)
	return nil
}

// run waits until the plugin stops.
func (e *embedded) run(ctx context.Context) {
	<-ctx.Done()
	e.flow.stats.connected.Set(0)
	e.flow.disconnected(e.connection)
	if err := e.server.Close(); err != nil {
		e.log.Warnf("Closing the embedded broker: %v", err)
	}
}

// wants reports whether a topic is one that is handed over; the others are between devices.
func (e *embedded) wants(topic string) bool {
	return slices.ContainsFunc(e.topics, func(filter string) bool { return matchesTopic(filter, topic) })
}

// flows notes a message that goes into the flow, and gives it an identifier that no other in there has: those of several
// devices are the same. A message that is there already is repeated.
func (e *embedded) flows(d *devicePublish) (repeated, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if d.packet.FixedHeader.Dup && e.flowing[d.of()] != nil {
		return true, true
	}
	for range 1 << 16 {
		if e.last++; e.last != 0 && !e.busy[e.last] {
			e.busy[e.last], d.id = true, e.last
			e.flowing[d.of()] = d
			return false, true
		}
	}
	return false, false
}

// left notes that a message is out of the flow. The device may have used its identifier for another one since, after it
// lost its session.
func (e *embedded) left(d *devicePublish) (awaited bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.busy, d.id)
	if awaited = e.flowing[d.of()] == d; awaited {
		delete(e.flowing, d.of())
	}
	return awaited
}

// mayRetain counts retained messages, beside the broker's own of $SYS; an empty payload clears one.
func (e *embedded) mayRetain(topic string, clears bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case clears:
		delete(e.retained, topic)
	case !e.retained[topic] && len(e.retained) >= e.maxRetained:
		e.log.Debugf("listen_max_retained is reached: %q is passed on, and not retained", topic)
		return false
	default:
		e.retained[topic] = true
	}
	return true
}

// hook is what the broker asks us.
type hook struct {
	mochi.HookBase
	*embedded
}

// ID names the hook.
func (*hook) ID() string { return "telegraf" }

// Provides says which questions it answers.
func (*hook) Provides(b byte) bool {
	return b == mochi.OnConnectAuthenticate || b == mochi.OnACLCheck || b == mochi.OnPublish ||
		b == mochi.OnSessionEstablished || b == mochi.OnSubscribe
}

// OnSessionEstablished turns the broker's bookkeeping of what a device may still be sent off: it takes a lock twice, which
// stands still for ever when another goroutine wants the lock in between. With QoS 0 alone nothing needs it.
func (*hook) OnSessionEstablished(c *mochi.Client, _ mochipackets.Packet) {
	c.State.Inflight.ResetSendQuota(0)
}

// OnSubscribe grants QoS 0: what goes from device to device is not ours to keep.
func (*hook) OnSubscribe(_ *mochi.Client, p mochipackets.Packet) mochipackets.Packet {
	for i := range p.Filters {
		p.Filters[i].Qos = 0
	}
	return p
}

// OnConnectAuthenticate checks a device's name and password.
func (h *hook) OnConnectAuthenticate(_ *mochi.Client, p mochipackets.Packet) bool {
	name, password := string(p.Connect.Username), p.Connect.Password
	if name == "" && len(password) == 0 && h.anonymous {
		return true
	}
	if hash, ok := h.users[name]; ok {
		return bcrypt.CompareHashAndPassword(hash, password) == nil
	}
	if secret, ok := h.passwords[name]; ok {
		right, err := secret.Get()
		if err != nil {
			h.log.Errorf("listen_passwords: %q: %v", name, err)
			return false
		}
		defer right.Destroy()
		return subtle.ConstantTimeCompare(right.Bytes(), password) == 1
	}
	return h.users == nil && len(h.passwords) == 0 && h.anonymous
}

// OnACLCheck lets devices publish and subscribe everywhere.
func (*hook) OnACLCheck(*mochi.Client, string, bool) bool { return true }

// OnPublish brings a device's message into the flow. It does not wait.
func (h *hook) OnPublish(c *mochi.Client, p mochipackets.Packet) (mochipackets.Packet, error) {
	if c.Net.Inline { // what we pass on to other devices
		return p, nil
	}
	p.FixedHeader.Retain = p.FixedHeader.Retain && h.mayRetain(p.TopicName, len(p.Payload) == 0)
	if p.FixedHeader.Qos == 0 {
		h.flow.receive(h.connection, &devicePublish{packet: p})
		return p, nil
	}
	d := &devicePublish{packet: p, client: c, broker: h.embedded}
	if repeated, ok := h.flows(d); repeated || !ok {
		return p, mochipackets.ErrRejectPacket // it is acknowledged in time, or the device sends it again when it connects again
	}
	h.flow.receive(h.connection, d)
	if err := h.server.Publish(p.TopicName, p.Payload, p.FixedHeader.Retain, p.FixedHeader.Qos); err != nil {
		h.log.Debugf("Passing on %q: %v", p.TopicName, err)
	}
	return p, mochipackets.ErrRejectPacket // so that it is not acknowledged yet
}

// devicePublish is a PUBLISH of a device, seen as those of a broker are.
type devicePublish struct {
	packet mochipackets.Packet
	id     uint16
	client *mochi.Client // nil with QoS 0
	broker *embedded
}

func (*devicePublish) Duplicate() bool     { return false } // those do not come this far
func (d *devicePublish) Qos() byte         { return d.packet.FixedHeader.Qos }
func (*devicePublish) Retained() bool      { return false } // to us it is new
func (d *devicePublish) Topic() string     { return d.packet.TopicName }
func (d *devicePublish) MessageID() uint16 { return d.id }
func (d *devicePublish) Payload() []byte   { return d.packet.Payload }
func (d *devicePublish) of() deviceID      { return deviceID{d.client.ID, d.packet.PacketID} }

// Ack tells the device, which may have come back on another connection.
func (d *devicePublish) Ack() {
	if !d.broker.left(d) {
		return
	}
	client := d.client
	if now, ok := d.broker.server.Clients.Get(client.ID); ok && !now.Properties.Clean {
		client = now
	}
	answer := mochipackets.Packet{
		FixedHeader: mochipackets.FixedHeader{Type: mochipackets.Puback}, PacketID: d.packet.PacketID,
	}
	if d.Qos() == 2 {
		answer.FixedHeader.Type = mochipackets.Pubrec
		client.State.Inflight.Set(answer) // PUBREL asks for it
	}
	_ = client.WritePacket(answer) // a device that left sends its message again
}

func (d *devicePublish) properties() *paho.PublishProperties {
	p := d.packet.Properties
	properties := &paho.PublishProperties{
		ContentType: p.ContentType, ResponseTopic: p.ResponseTopic, CorrelationData: p.CorrelationData,
	}
	if p.MessageExpiryInterval > 0 {
		properties.MessageExpiry = &p.MessageExpiryInterval
	}
	for _, u := range p.User {
		properties.User.Add(u.Key, u.Val)
	}
	return properties
}

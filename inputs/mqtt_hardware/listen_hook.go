package mqtt_hardware

import (
	"bytes"
	"crypto/subtle"
	"errors"
	"slices"
	"time"

	"github.com/eclipse/paho.golang/paho"
	mochi "github.com/mochi-mqtt/server/v2"
	mochipackets "github.com/mochi-mqtt/server/v2/packets"
	"golang.org/x/crypto/bcrypt"
)

// hook is what the embedded broker asks us. It never waits for the outputs.
type hook struct {
	mochi.HookBase
	*embedded
}

// ID names the hook.
func (*hook) ID() string { return "telegraf" }

// Provides says which questions it answers.
func (*hook) Provides(b byte) bool {
	return slices.Contains([]byte{
		mochi.OnConnect, mochi.OnConnectAuthenticate, mochi.OnACLCheck, mochi.OnSessionEstablished, mochi.OnDisconnect,
		mochi.OnPacketRead, mochi.OnPacketEncode, mochi.OnSubscribe, mochi.OnPublish, mochi.OnWill, mochi.OnWillSent,
	}, b)
}

// OnConnect refuses a device that is one too many.
func (h *hook) OnConnect(c *mochi.Client, _ mochipackets.Packet) error {
	if h.server.Info.Clone().ClientsConnected < h.maxClients {
		return nil
	}
	h.refuse(c, refusedClients, "listen_max_clients = %d is reached", h.maxClients)
	code := mochipackets.ErrServerBusy
	if c.Properties.ProtocolVersion < 5 {
		code = mochipackets.ErrServerUnavailable
	}
	return errors.Join(code, h.server.SendConnack(c, code, false, nil))
}

// OnConnectAuthenticate checks a device's name and password.
func (h *hook) OnConnectAuthenticate(c *mochi.Client, p mochipackets.Packet) bool {
	ok := h.knows(string(p.Connect.Username), p.Connect.Password)
	if !ok {
		h.refuse(c, refusedCredentials, "wrong name or password of user %q", p.Connect.Username)
	}
	return ok
}

func (h *hook) knows(name string, password []byte) bool {
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

// OnSessionEstablished forgets what a device published in a session that is over.
//
// It also turns the broker's bookkeeping of what a device may still be sent off: that takes a lock twice, which stands
// still for ever when another goroutine wants the lock in between. With QoS 0 alone nothing needs it.
func (h *hook) OnSessionEstablished(c *mochi.Client, p mochipackets.Packet) {
	c.State.Inflight.ResetSendQuota(0)
	if p.Connect.Clean {
		h.forget(c.ID)
	}
}

// OnDisconnect says why the broker sent a device away.
func (h *hook) OnDisconnect(c *mochi.Client, err error, expire bool) {
	if errors.Is(err, mochipackets.ErrPacketTooLarge) {
		h.refuse(c, refusedSize, "it sent more than listen_max_packet_size = %d bytes at once", h.maxPacket)
	}
	if expire && !c.IsTakenOver() {
		h.forget(c.ID)
	}
}

// OnPacketEncode tells a device of MQTT 5 the limit, which the broker itself does not.
func (h *hook) OnPacketEncode(_ *mochi.Client, p mochipackets.Packet) mochipackets.Packet {
	if p.FixedHeader.Type == mochipackets.Connack {
		p.Properties.MaximumPacketSize = h.maxPacket
	}
	return p
}

// OnSubscribe grants QoS 0: what goes from device to device is not ours to keep.
func (*hook) OnSubscribe(_ *mochi.Client, p mochipackets.Packet) mochipackets.Packet {
	for i := range p.Filters {
		p.Filters[i].Qos = 0
	}
	return p
}

// OnPublish brings a device's message into the flow.
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
	switch repeated, acked, ok := h.flows(d); {
	case !ok: // the device sends it again when it connects again
	case repeated:
		h.flow.stats.received.Incr(1)
		h.flow.stats.repeated.Incr(1)
		if acked { // PUBREC was lost
			d.answer()
		}
	default:
		h.flow.receive(h.connection, d)
		h.passOn(p)
	}
	return p, mochipackets.ErrRejectPacket // so that it is not acknowledged yet
}

// passOn sends a message to the devices that subscribed.
func (h *hook) passOn(p mochipackets.Packet) {
	p.FixedHeader.Qos, p.FixedHeader.Dup, p.PacketID = 0, false, 0
	p.Properties.TopicAlias, p.Properties.TopicAliasFlag = 0, false
	if err := h.server.InjectPacket(h.inline, p); err != nil {
		h.log.Debugf("Passing on %q: %v", p.TopicName, err)
	}
}

// OnPacketRead sees PUBREL, which ends what we know of a message with QoS 2. The broker answers it if it knows of PUBREC.
func (h *hook) OnPacketRead(c *mochi.Client, p mochipackets.Packet) (mochipackets.Packet, error) {
	if p.FixedHeader.Type == mochipackets.Pubrel && h.released(c.ID, p.PacketID) {
		c.State.Inflight.Set(mochipackets.Packet{
			FixedHeader: mochipackets.FixedHeader{Type: mochipackets.Pubrec}, PacketID: p.PacketID, Created: time.Now().Unix(),
		})
	}
	return p, nil
}

// OnWill bounds what a last will asks for. A will that is to wait for longer than its session lasts does not wait, since
// the broker would forget it.
func (h *hook) OnWill(c *mochi.Client, w mochi.Will) (mochi.Will, error) {
	w.Retain = w.Retain && h.mayRetain(w.TopicName, len(w.Payload) == 0)
	if c.Properties.ProtocolVersion < 5 || c.Properties.Props.SessionExpiryInterval <= c.Properties.Will.WillDelayInterval {
		c.Properties.Will.WillDelayInterval = 0
	}
	return w, nil
}

// OnWillSent brings a last will into the flow. Nobody waits for its acknowledgement.
func (h *hook) OnWillSent(_ *mochi.Client, p mochipackets.Packet) {
	p.FixedHeader.Qos = 0
	h.flow.receive(h.connection, &devicePublish{packet: p})
}

// refuse counts that a device was sent away, and logs each reason once a minute at most.
func (e *embedded) refuse(c *mochi.Client, reason, format string, args ...any) {
	const pause = time.Minute
	e.flow.stats.refused[reason].Incr(1)
	e.mu.Lock()
	now := time.Now()
	quiet := now.Sub(e.told[reason]) < pause
	if !quiet {
		e.told[reason] = now
	}
	e.mu.Unlock()
	if !quiet {
		e.log.Warnf("Device %q at %s is sent away: "+format, append([]any{c.ID, c.Net.Remote}, args...)...)
	}
}

// wants reports whether a topic is one that is handed over; the others are between devices.
func (e *embedded) wants(topic string) bool {
	return slices.ContainsFunc(e.topics, func(filter string) bool { return matchesTopic(filter, topic) })
}

// flows notes a message that goes into the flow, and gives it an identifier that no other in there has: those of several
// devices are the same. One that is known already is only repeated. It is not ok while no identifier is free.
func (e *embedded) flows(d *devicePublish) (repeated, acked, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	known := e.devices[d.client.ID][d.packet.PacketID]
	if known != nil && d.packet.FixedHeader.Dup && known.packet.TopicName == d.packet.TopicName &&
		bytes.Equal(known.packet.Payload, d.packet.Payload) {
		return true, known.acked, true
	}
	for range 1 << 16 {
		if e.last++; e.last != 0 && !e.busy[e.last] {
			e.busy[e.last], d.id = true, e.last
			if e.devices[d.client.ID] == nil {
				e.devices[d.client.ID] = make(map[uint16]*devicePublish)
			}
			e.devices[d.client.ID][d.packet.PacketID] = d
			return false, false, true
		}
	}
	return false, false, false
}

// left notes that a message is out of the flow. Its device awaits the answer, unless it lost its session since, and
// perhaps used the identifier for another message. With QoS 2 the message is known until PUBREL.
func (e *embedded) left(d *devicePublish) (awaited bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.busy, d.id)
	if e.devices[d.client.ID][d.packet.PacketID] != d {
		return false
	}
	if d.acked = true; d.Qos() < 2 {
		e.drop(d.client.ID, d.packet.PacketID)
	}
	return true
}

// released forgets a message with QoS 2, and reports whether it was acknowledged.
func (e *embedded) released(client string, id uint16) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	d := e.devices[client][id]
	if d == nil || !d.acked {
		return false
	}
	e.drop(client, id)
	return true
}

func (e *embedded) drop(client string, id uint16) {
	delete(e.devices[client], id)
	if len(e.devices[client]) == 0 {
		delete(e.devices, client)
	}
}

// forget ends a session: what is in the flow is delivered, and nobody awaits an answer.
func (e *embedded) forget(client string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.devices, client)
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

// devicePublish is a PUBLISH of a device, seen as those of a broker are.
type devicePublish struct {
	packet mochipackets.Packet
	id     uint16
	client *mochi.Client // nil with QoS 0
	broker *embedded
	acked  bool // guarded by the broker's lock
}

func (*devicePublish) Duplicate() bool     { return false } // those do not come this far
func (d *devicePublish) Qos() byte         { return d.packet.FixedHeader.Qos }
func (*devicePublish) Retained() bool      { return false } // to us it is new
func (d *devicePublish) Topic() string     { return d.packet.TopicName }
func (d *devicePublish) MessageID() uint16 { return d.id }
func (d *devicePublish) Payload() []byte   { return d.packet.Payload }

// Ack tells the device.
func (d *devicePublish) Ack() {
	if d.broker.left(d) {
		d.answer()
	}
}

// answer goes to the connection that the device has now.
func (d *devicePublish) answer() {
	client := d.client
	if now, ok := d.broker.server.Clients.Get(client.ID); ok {
		client = now
	}
	kind := mochipackets.Puback
	if d.Qos() == 2 {
		kind = mochipackets.Pubrec
	}
	_ = client.WritePacket(mochipackets.Packet{ // a device that left sends its message again
		FixedHeader: mochipackets.FixedHeader{Type: kind}, PacketID: d.packet.PacketID,
	})
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

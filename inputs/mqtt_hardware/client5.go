package mqtt_hardware

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	paholog "github.com/eclipse/paho.golang/paho/log"
	"github.com/eclipse/paho.golang/paho/session/state"
	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// options5 are what MQTT 5 has beyond 3.1.1.
type options5 struct {
	receiveMaximum uint16        // unacknowledged messages that the broker may send
	sessionExpiry  time.Duration // of a persistent session, after the connection is lost; 0: never
	retainHandling byte          // MQTT 5 section 3.8.3.1
	noLocal        bool
	state          *state.State // of the session, for its QoS 2 handshakes; outlives connections
}

// promptSession sends an acknowledgement when it is given, as the 3.1.1 library does. MQTT 5's would keep all of them back, and
// repeat them after a lost connection, while one message waits for its delivery.
type promptSession struct{ *state.State }

// Ack is called by the library, in the order of the messages, long after publish5.Ack.
func (promptSession) Ack(*packets.Publish) error { return nil }

// forgetInterval is how often the library drops what was acknowledged from its list.
const forgetInterval = 100 * time.Millisecond

// client5 is a connection with MQTT 5.
type client5 struct {
	connection *paho.Client
	options    *options5
	timeout    time.Duration
}

// connect5 connects to the first of the servers that takes it, as connect3 does.
func connect5(ctx context.Context, servers []*url.URL, dial dialer, l login, o *options5, received func(mqtt.Message), lost func(error)) (c client, sessionPresent bool, err error) {
	var errs []error
	for _, server := range servers {
		c, sessionPresent, err := open5(ctx, server, dial, l, o, received, lost)
		if err == nil {
			return c, sessionPresent, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, false, errors.Join(errs...)
}

func open5(ctx context.Context, server *url.URL, dial dialer, l login, o *options5, received func(mqtt.Message), lost func(error)) (client, bool, error) {
	conn, err := dial(server)
	if err != nil {
		return nil, false, err
	}
	c := paho.NewClient(paho.ClientConfig{
		ClientID:                   l.clientID,
		Conn:                       packets.NewThreadSafeConn(conn),
		Session:                    promptSession{o.state},
		PingHandler:                &pinger{timeout: l.ping, isStuck: conn.isStuck},
		PacketTimeout:              l.timeout,
		EnableManualAcknowledgment: true,
		SendAcksInterval:           forgetInterval,
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(r paho.PublishReceived) (bool, error) {
			received(&publish5{Publish: r.Packet, client: r.Client, session: o.state})
			return true, nil
		}},
		OnServerDisconnect: func(d *paho.Disconnect) {
			text := (&packets.Disconnect{ReasonCode: d.ReasonCode}).Reason()
			if d.Properties != nil {
				text = explain(text, d.Properties.ReasonString, d.Properties.ServerReference)
			}
			lost(fmt.Errorf("the broker ended it with code 0x%02x: %s", d.ReasonCode, text))
		},
		OnClientError: lost,
	})
	connect := &paho.Connect{
		ClientID:   l.clientID,
		CleanStart: !l.persistent,
		KeepAlive:  uint16(l.keepalive / time.Second), //nolint:gosec // check bounds it
		Username:   l.username, UsernameFlag: l.username != "",
		Password: []byte(l.password), PasswordFlag: l.password != "",
		Properties: &paho.ConnectProperties{ReceiveMaximum: &o.receiveMaximum, RequestProblemInfo: true},
	}
	if l.persistent {
		expiry := uint32(0xFFFFFFFF) // never (MQTT 5 section 3.1.2.11.2)
		if o.sessionExpiry > 0 {
			expiry = uint32(o.sessionExpiry / time.Second) //nolint:gosec // check bounds it
		}
		connect.Properties.SessionExpiryInterval = &expiry
	}
	if l.will != nil {
		connect.WillMessage = &paho.WillMessage{Retain: true, QoS: 1, Topic: l.will.topic, Payload: []byte(l.will.payload)}
	}
	ack, err := c.Connect(ctx, connect)
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w", server.Redacted(), connackError(ack, err))
	}
	return &client5{connection: c, options: o, timeout: l.timeout}, ack.SessionPresent, nil
}

// connackError says why the broker refused, if it did.
func connackError(ack *paho.Connack, err error) error {
	if ack == nil || ack.ReasonCode < subscribeFailure {
		return err
	}
	text := (&packets.Connack{ReasonCode: ack.ReasonCode}).Reason()
	if ack.Properties != nil {
		text = explain(text, ack.Properties.ReasonString, ack.Properties.ServerReference)
	}
	err = fmt.Errorf("code 0x%02x: %s", ack.ReasonCode, text)
	switch ack.ReasonCode {
	case packets.ConnackServerUnavailable, packets.ConnackServerBusy, packets.ConnackQuotaExceeded, packets.ConnackConnectionRateExceeded:
		return err // which passes
	}
	return refusedError{err}
}

// explain adds what the broker says of its own.
func explain(text, reason, elsewhere string) string {
	if reason != "" {
		text += " (" + reason + ")"
	}
	if elsewhere != "" {
		text += "; it says to use " + elsewhere
	}
	return text
}

func (c *client5) subscribe(ctx context.Context, topics []string, qos byte) (codes []byte, err error) {
	s := &paho.Subscribe{}
	for _, topic := range topics {
		s.Subscriptions = append(s.Subscriptions, paho.SubscribeOptions{
			Topic: topic, QoS: qos, RetainHandling: c.options.retainHandling, NoLocal: c.options.noLocal && !strings.HasPrefix(topic, "$share/"), // which the two must not be together
		})
	}
	answer, err := c.connection.Subscribe(ctx, s)
	if answer == nil || len(answer.Reasons) != len(topics) {
		return nil, err
	}
	return answer.Reasons, nil // an error says no more than these
}

func (c *client5) unsubscribe(ctx context.Context, topics []string) error {
	_, err := c.connection.Unsubscribe(ctx, &paho.Unsubscribe{Topics: topics})
	return err
}

func (c *client5) publish(ctx context.Context, topic, payload string) error {
	_, err := c.connection.Publish(ctx, &paho.Publish{Topic: topic, QoS: 1, Retain: true, Payload: []byte(payload)})
	return err
}

func (c *client5) disconnect() { _ = c.connection.Disconnect(&paho.Disconnect{}) } // it may be lost already

// pinger pings each keepalive, and ends the connection when nothing comes for timeout then. A message is as good as the answer,
// unless the broker reads nothing.
type pinger struct {
	timeout time.Duration
	isStuck func() bool // the broker reads nothing
	heard   atomic.Bool // a packet came since the last look
}

// Run is called by the library on a goroutine of its own.
func (p *pinger) Run(ctx context.Context, conn net.Conn, keepalive uint16) error {
	if keepalive == 0 {
		return nil
	}
	wait := time.NewTimer(time.Duration(keepalive) * time.Second)
	defer wait.Stop()
	for asked := false; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-wait.C:
		}
		switch {
		case asked && !p.heard.Load():
			return fmt.Errorf("the broker did not answer a ping within %s", p.timeout)
		case asked:
			asked = false
			wait.Reset(max(time.Duration(keepalive)*time.Second-p.timeout, time.Second))
		default: // sent whatever was heard: the broker wants to hear from us, too (MQTT 5 section 3.1.2.10)
			p.heard.Store(false)
			asked = true
			if _, err := packets.NewControlPacket(packets.PINGREQ).WriteTo(conn); err != nil {
				return err
			}
			wait.Reset(p.timeout)
		}
	}
}

// PacketReceived and the others are told by the library.
func (p *pinger) PacketReceived() {
	if !p.heard.Load() && !p.isStuck() {
		p.heard.Store(true)
	}
}

// PingResp says that the broker has read the ping.
func (p *pinger) PingResp() { p.heard.Store(true) }

// PacketSent does not matter.
func (*pinger) PacketSent() {}

// SetDebug is not used.
func (*pinger) SetDebug(paholog.Logger) {}

// publish5 is a PUBLISH of MQTT 5, seen as those of 3.1.1 are.
type publish5 struct {
	*paho.Publish
	client  *paho.Client
	session *state.State
}

func (p *publish5) Qos() byte         { return p.QoS }
func (p *publish5) Retained() bool    { return p.Retain }
func (p *publish5) Topic() string     { return p.Publish.Topic }
func (p *publish5) MessageID() uint16 { return p.PacketID }
func (p *publish5) Payload() []byte   { return p.Publish.Payload }

func (p *publish5) properties() *paho.PublishProperties { return p.Properties }

// Ack does nothing once the connection is lost, as with 3.1.1.
func (p *publish5) Ack() {
	if p.client.Ack(p.Publish) == nil {
		_ = p.session.Ack(p.Packet())
	}
}

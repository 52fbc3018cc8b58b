package mqtt_hardware

import (
	"context"
	"errors"
	"net"
	"net/url"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

// client is one connection to a broker, of either protocol. Its calls wait for the broker's answer or the end of ctx.
type client interface {
	// subscribe returns one code for each topic: the QoS that the broker grants, or 0x80 and more for why it does not.
	subscribe(ctx context.Context, topics []string, qos byte) (codes []byte, err error)
	unsubscribe(ctx context.Context, topics []string) error
	// publish sends a retained message with QoS 1.
	publish(ctx context.Context, topic, payload string) error
	// disconnect says goodbye, with which the broker keeps the will to itself, and ends the connection.
	disconnect()
}

// subscribeFailure and above are codes of SUBACK that refuse (MQTT 3.1.1 section 3.9.3, MQTT 5 section 3.9.3).
const subscribeFailure = 0x80

// will is what the broker publishes when the connection is lost, retained and with QoS 1.
type will struct {
	topic, payload string
}

// login is what a connection is opened with.
type login struct {
	clientID           string
	username, password string
	persistent         bool
	keepalive, ping    time.Duration
	timeout            time.Duration
	will               *will // nil: none
}

// dialer opens the connection to a server; it is aborted when the plugin stops.
type dialer func(server *url.URL) (*gatheredConn, error)

// client3 is a connection with MQTT 3.1.1.
type client3 struct{ mqtt.Client }

// connect3 connects to the first of the servers that takes it. received gets each PUBLISH, released each PUBREL's identifier,
// lost one error when the connection breaks.
func connect3(servers []*url.URL, dial dialer, l login, received func(mqtt.Message), released func(id uint16), lost func(error)) (c client, sessionPresent bool, err error) {
	options := mqtt.NewClientOptions()
	options.Servers = servers
	options.SetClientID(l.clientID)
	options.SetProtocolVersion(4) // 3.1.1, and no other try with 3.1
	options.SetCleanSession(!l.persistent)
	options.SetAutoReconnect(false)
	options.SetAutoAckDisabled(true)
	options.SetOrderMatters(true)
	options.SetStore(releases{released: released})
	options.SetConnectTimeout(l.timeout)
	options.SetKeepAlive(l.keepalive)
	options.SetPingTimeout(l.ping)
	options.SetUsername(l.username)
	options.SetPassword(l.password)
	if l.will != nil {
		options.SetWill(l.will.topic, l.will.payload, 1, true)
	}
	var short *shortcut
	options.SetCustomOpenConnectionFn(func(server *url.URL, _ mqtt.ClientOptions) (net.Conn, error) {
		conn, err := dial(server)
		if err != nil {
			return nil, err
		}
		short = &shortcut{gatheredConn: conn, received: received}
		return short, nil
	})
	options.SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { // of those with QoS 2, and behind them
		received(m)
		short.theirs.Add(-1)
	})
	options.SetConnectionLostHandler(func(_ mqtt.Client, err error) { lost(err) })

	connection := mqtt.NewClient(options)
	token, ok := connection.Connect().(*mqtt.ConnectToken)
	if !ok {
		return nil, false, errUnknownToken
	}
	token.Wait() // dialling and the handshake are bounded by timeout for each server, and aborted with the dialer
	if err := token.Error(); err != nil {
		switch token.ReturnCode() { // of CONNACK (MQTT 3.1.1 section 3.2.2.3); a broker that starts is "unavailable"
		case packets.ErrRefusedBadProtocolVersion, packets.ErrRefusedIDRejected, packets.ErrRefusedBadUsernameOrPassword,
			packets.ErrRefusedNotAuthorised:
			return nil, false, refusedError{err}
		}
		return nil, false, err
	}
	return client3{connection}, token.SessionPresent(), nil
}

// refusedError is a refusal that time alone seldom mends; it is an errRefused.
type refusedError struct{ error }

func (e refusedError) Unwrap() []error { return []error{errRefused, e.error} }

var errUnknownToken = errors.New("the MQTT library returned an unknown token")

// releases is the library's store, which it tells of each PUBREL before it answers it; nothing else does. It stores nothing:
// the library asks for what is stored when it connects again, which it never does here.
type releases struct {
	released func(id uint16)
}

func (releases) Open()                            {}
func (releases) Close()                           {}
func (releases) Reset()                           {}
func (releases) All() []string                    { return nil }
func (releases) Get(string) packets.ControlPacket { return nil }
func (releases) Del(string)                       {}

// Put is called by the library.
func (r releases) Put(_ string, p packets.ControlPacket) {
	if pubrel, ok := p.(*packets.PubrelPacket); ok {
		r.released(pubrel.MessageID)
	}
}

func (c client3) subscribe(ctx context.Context, topics []string, qos byte) (codes []byte, err error) {
	filters := make(map[string]byte, len(topics))
	for _, topic := range topics {
		filters[topic] = qos
	}
	token, ok := c.SubscribeMultiple(filters, nil).(*mqtt.SubscribeToken)
	if !ok {
		return nil, errUnknownToken
	}
	if err := answer(ctx, token); err != nil && ctx.Err() != nil {
		return nil, err
	}
	granted := token.Result()
	for _, topic := range topics {
		code, ok := granted[topic]
		if !ok {
			return nil, token.Error()
		}
		codes = append(codes, code)
	}
	return codes, nil // an error of the token says no more than the codes
}

func (c client3) unsubscribe(ctx context.Context, topics []string) error {
	return answer(ctx, c.Unsubscribe(topics...))
}

func (c client3) publish(ctx context.Context, topic, payload string) error {
	return answer(ctx, c.Publish(topic, 1, true, payload))
}

func (c client3) disconnect() { c.Disconnect(250) } // milliseconds; acknowledgements that were given go out before

// answer waits for the broker's answer.
func answer(ctx context.Context, token mqtt.Token) error {
	select {
	case <-token.Done():
		return token.Error()
	case <-ctx.Done():
		return ctx.Err()
	}
}

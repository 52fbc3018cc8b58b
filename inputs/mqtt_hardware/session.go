package mqtt_hardware

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/config"
)

const (
	refusedTopicRetry = time.Minute // between tries to subscribe to what the broker refused
	firstReconnect    = 250 * time.Millisecond
	lastReconnect     = 3 * time.Second  // and half as much again by jitter
	refusedReconnect  = 30 * time.Second // after the broker refused us, which time alone seldom mends
	steadyTime        = 10 * time.Second // a connection that lasted so long was a good one
	subscribeFailure  = 0x80             // a return code of SUBACK (MQTT 3.1.1 section 3.9.3)
)

// session keeps one connection to a broker, and the subscriptions on it, until it is stopped. Each connection is a new
// MQTT client; the flow outlives them.
type session struct {
	log        telegraf.Logger
	stats      *stats
	flow       *flow
	servers    []*url.URL
	clientID   string
	username   *config.Secret
	password   *config.Secret
	persistent bool
	topics     []string
	qos        byte
	timeout    time.Duration // of connecting, subscribing
	keepalive  time.Duration
	ping       time.Duration
	tls        *tls.Config
	known      []string // topics of an earlier run, which the broker may still hold for this client

	mu       sync.Mutex
	unwanted []string      // topics that came without being in topics, and were not looked at
	told     int           // how many of them were in the log
	wake     chan struct{} // there are new ones
	down     bool          // a failure was logged, and nothing since
}

// run connects, and again whenever the connection is lost, until ctx ends; then it disconnects in good order.
func (s *session) run(ctx context.Context) {
	retry := &backoff.ExponentialBackOff{
		InitialInterval: firstReconnect, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: lastReconnect,
	}
	for first := true; ctx.Err() == nil; first = false {
		if !first {
			s.stats.reconnects.Incr(1)
		}
		began := time.Now()
		err := s.connection(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > steadyTime { // not two clients with one id, which put each other out again and again
			retry.Reset()
		}
		wait := retry.NextBackOff()
		if errors.Is(err, errRefused) {
			wait = refusedReconnect
		}
		s.logDown(err, wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// logDown logs a failure once, until a connection stands again.
func (s *session) logDown(err error, wait time.Duration) {
	if s.down {
		s.log.Debugf("Still not connected: %v; trying again in %s", err, wait.Round(time.Millisecond))
		return
	}
	s.down = true
	if errors.Is(err, errRefused) {
		s.log.Errorf("%v; trying again every %s", err, refusedReconnect)
		return
	}
	s.log.Warnf("%v; trying again until it works", err)
}

var (
	errRefused   = errors.New("the broker refused")
	errReconnect = errors.New("reconnecting to have messages sent again")
)

// connection makes one connection and stays until it is lost or ctx ends.
func (s *session) connection(ctx context.Context) error {
	s.mu.Lock()
	s.told, s.unwanted = 0, nil
	s.mu.Unlock()
	lost := make(chan error, 1)
	client, number, err := s.connect(ctx, lost)
	if err != nil {
		return err
	}
	defer func() {
		s.stats.connected.Set(0)
		s.flow.disconnected(number)
		client.Disconnect(250) // milliseconds; acknowledgements that were given go out before
	}()
	refused, err := s.subscribe(ctx, client, s.topics)
	if err != nil {
		return err
	}
	s.dropOldSubscriptions(ctx, client)
	s.stats.connected.Set(1)
	s.down = false
	s.log.Infof("Connected to %s as %q and subscribed to %d topics", s.serverNames(), s.clientID, len(s.topics)-len(refused))

	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	lastTry := time.Now()
	for {
		select {
		case <-ctx.Done():
			s.farewell(client)
			return nil
		case err := <-lost:
			return fmt.Errorf("connection to %s lost: %w", s.serverNames(), err)
		case <-s.wake:
			s.dropUnwanted(ctx, client)
		case now := <-tick.C:
			if s.flow.wantsReconnect() {
				return errReconnect
			}
			if len(refused) > 0 && now.Sub(lastTry) >= refusedTopicRetry {
				lastTry = now
				if refused, err = s.subscribe(ctx, client, refused); err != nil {
					return err
				}
			}
		}
	}
}

// farewell waits until the broker has read the acknowledgements that were given: its answer to anything that was sent
// behind them says so. Without it a client that comes back at once may be sent those messages again.
func (s *session) farewell(client mqtt.Client) {
	const patience = time.Second
	client.Unsubscribe("telegraf/farewell/" + s.clientID).WaitTimeout(patience)
}

// connect brings a connection up, to the first of the servers that takes it. lost gets one error when it breaks.
func (s *session) connect(ctx context.Context, lost chan<- error) (client mqtt.Client, number int, err error) {
	options := mqtt.NewClientOptions()
	options.Servers = s.servers
	options.SetClientID(s.clientID)
	options.SetProtocolVersion(4) // 3.1.1, and no other try with 3.1
	options.SetCleanSession(!s.persistent)
	options.SetAutoReconnect(false)
	options.SetAutoAckDisabled(true)
	options.SetOrderMatters(true)
	options.SetConnectTimeout(s.timeout)
	options.SetKeepAlive(s.keepalive)
	options.SetPingTimeout(s.ping)
	if err := s.setCredentials(options); err != nil {
		return nil, 0, err
	}

	opening := &opening{}
	stopOpening := context.AfterFunc(ctx, opening.abort)
	defer stopOpening()
	options.SetCustomOpenConnectionFn(func(server *url.URL, _ mqtt.ClientOptions) (net.Conn, error) {
		conn, err := dial(ctx, server, s.timeout, s.tls)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", server.Redacted(), err)
		}
		return opening.watch(conn), nil
	})
	number = s.flow.connecting()
	options.SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { s.flow.receive(number, m) })
	options.SetConnectionLostHandler(func(_ mqtt.Client, err error) {
		s.flow.disconnected(number)
		lost <- err
	})

	client = mqtt.NewClient(options)
	token, ok := client.Connect().(*mqtt.ConnectToken)
	if !ok {
		return nil, 0, errors.New("the MQTT library returned an unknown token")
	}
	token.Wait() // dialling and the handshake are bounded by timeout for each server, and aborted with ctx
	if err := token.Error(); err != nil {
		switch token.ReturnCode() { // of CONNACK (MQTT 3.1.1 section 3.2.2.3); a broker that starts is "unavailable"
		case packets.ErrRefusedBadProtocolVersion, packets.ErrRefusedIDRejected, packets.ErrRefusedBadUsernameOrPassword,
			packets.ErrRefusedNotAuthorised:
			return nil, 0, fmt.Errorf("%w: %s: %w", errRefused, s.serverNames(), err)
		}
		return nil, 0, fmt.Errorf("cannot connect to %s: %w", s.serverNames(), err)
	}
	s.flow.connected(token.SessionPresent())
	return client, number, nil
}

// opening is the connection that is being set up, to be closed when the plugin stops meanwhile.
type opening struct {
	mu      sync.Mutex
	conn    net.Conn
	aborted bool
}

func (o *opening) watch(conn net.Conn) net.Conn {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.conn = conn
	if o.aborted {
		_ = conn.Close() // nobody waits for its answer
	}
	return conn
}

func (o *opening) abort() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.aborted = true
	if o.conn != nil {
		_ = o.conn.Close() // nobody waits for its answer
	}
}

func (s *session) setCredentials(options *mqtt.ClientOptions) error {
	for _, c := range []struct {
		key    string
		secret *config.Secret
		set    func(string) *mqtt.ClientOptions
	}{{"username", s.username, options.SetUsername}, {"password", s.password, options.SetPassword}} {
		if c.secret.Empty() {
			continue
		}
		value, err := c.secret.Get()
		if err != nil {
			return fmt.Errorf("reading %s: %w", c.key, err)
		}
		c.set(value.String())
		value.Destroy()
	}
	return nil
}

// subscribe asks for the topics and returns those that the broker refused, each of which it logs.
func (s *session) subscribe(ctx context.Context, client mqtt.Client, topics []string) (refused []string, err error) {
	filters := make(map[string]byte, len(topics))
	for _, topic := range topics {
		filters[topic] = s.qos
	}
	token, ok := client.SubscribeMultiple(filters, nil).(*mqtt.SubscribeToken)
	if !ok {
		return nil, errors.New("the MQTT library returned an unknown token")
	}
	if !answered(ctx, token, s.timeout) {
		return nil, fmt.Errorf("%s did not answer SUBSCRIBE within %s", s.serverNames(), s.timeout)
	}
	granted := token.Result()
	for _, topic := range slices.Sorted(maps.Keys(granted)) {
		switch code := granted[topic]; {
		case code == subscribeFailure:
			refused = append(refused, topic)
			s.log.Errorf("The broker refuses the subscription to %q; check this client's rights there; trying again every %s",
				topic, refusedTopicRetry)
		case code < s.qos:
			s.log.Warnf("The broker grants QoS %d instead of %d for %q", code, s.qos, topic)
		}
	}
	if err := token.Error(); err != nil && len(refused) == 0 {
		return nil, fmt.Errorf("subscribing at %s: %w", s.serverNames(), err)
	}
	return refused, nil
}

// answered waits for the broker's answer and reports whether it came.
func answered(ctx context.Context, token mqtt.Token, timeout time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	select {
	case <-token.Done():
		return true
	case <-ctx.Done():
		return false
	}
}

// dropOldSubscriptions ends those of an earlier configuration, which a resumed session keeps.
func (s *session) dropOldSubscriptions(ctx context.Context, client mqtt.Client) {
	var old []string
	for _, topic := range s.known {
		if !slices.Contains(s.topics, topic) {
			old = append(old, topic)
		}
	}
	if len(old) == 0 || !s.persistent {
		return
	}
	if token := client.Unsubscribe(old...); answered(ctx, token, s.timeout) && token.Error() == nil {
		s.log.Infof("Unsubscribed from %q, which topics does not list any more", old)
		s.known = nil
	}
}

// wants reports whether a topic is one of those that are configured. Others come from an earlier configuration's
// subscriptions, which the broker cannot be asked for. It does not wait.
func (s *session) wants(topic string) bool {
	if !s.persistent {
		return true // a new session has no subscriptions but ours
	}
	for _, filter := range s.topics {
		if isForeign(filter) || matchesTopic(filter, topic) {
			return true
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.told < mostUnwanted && len(s.unwanted) < mostUnwanted && !slices.Contains(s.unwanted, topic) {
		s.unwanted = append(s.unwanted, topic)
		wake(s.wake)
	}
	return false
}

// isForeign reports whether a filter has a prefix with a meaning that only the broker knows, such as $exclusive/.
func isForeign(filter string) bool {
	prefix, _, _ := strings.Cut(filter, "/")
	return strings.HasPrefix(prefix, "$") && !slices.Contains([]string{"$share", "$queue", "$SYS"}, prefix)
}

// mostUnwanted bounds how many unwanted topics are looked at on one connection: each should end the subscription that
// brought it, so more than a few mean that they do not.
const mostUnwanted = 20

// dropUnwanted ends the subscriptions that can have brought topics that came unasked. The broker does not tell which they
// are; unsubscribing from what is not subscribed does nothing.
func (s *session) dropUnwanted(ctx context.Context, client mqtt.Client) {
	s.mu.Lock()
	topics := s.unwanted
	s.unwanted = nil
	first := s.told == 0
	s.told += len(topics)
	s.mu.Unlock()
	if len(topics) == 0 {
		return // those of an earlier connection
	}
	if first {
		s.log.Warnf("The session of %q has subscriptions of an earlier configuration, which brought %q: unsubscribing; what they "+
			"bring is acknowledged, dropped, and counted in messages_dropped", s.clientID, topics[0])
	}
	for _, topic := range topics {
		if ctx.Err() == nil {
			answered(ctx, client.Unsubscribe(filtersFor(topic)...), s.timeout)
		}
	}
}

func (s *session) serverNames() string {
	names := make([]string, len(s.servers))
	for i, server := range s.servers {
		names[i] = server.Redacted()
	}
	return strings.Join(names, ", ")
}

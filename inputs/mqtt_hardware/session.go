package mqtt_hardware

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/eclipse/paho.golang/paho/session/state"
	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/config"
)

const (
	refusedTopicRetry = time.Minute // between tries to subscribe to what the broker refused
	firstReconnect    = 250 * time.Millisecond
	lastReconnect     = 3 * time.Second  // and half as much again by jitter
	refusedReconnect  = 30 * time.Second // after the broker refused us, which time alone seldom mends
	steadyTime        = 10 * time.Second // a connection that lasted so long was a good one
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

	availability string    // topic that says whether this client is there; empty: none
	v5           *options5 // nil: MQTT 3.1.1
	known        []string  // topics of an earlier run, which the broker may still hold for this client

	mu       sync.Mutex
	unwanted []string      // topics that came without being in topics, and were not looked at
	told     int           // how many of them were in the log
	wake     chan struct{} // there are new ones
	down     bool          // a failure was logged, and nothing since
	refused  bool          // so was a refusal
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

// logDown logs a failure once, and a refusal once, until a connection stands again.
func (s *session) logDown(err error, wait time.Duration) {
	refused := errors.Is(err, errRefused)
	switch {
	case refused && !s.refused:
		s.log.Errorf("%v; trying again every %s", err, refusedReconnect)
	case refused || s.down:
		s.log.Debugf("Still not connected: %v; trying again in %s", err, wait.Round(time.Millisecond))
	default:
		s.log.Warnf("%v; trying again until it works", err)
	}
	s.down, s.refused = true, s.refused || refused
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
	live, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	client, number, err := s.connect(ctx, lost)
	if err != nil {
		return err
	}
	defer func() {
		s.stats.connected.Set(0)
		s.flow.disconnected(number)
		client.disconnect()
	}()
	refused, err := s.subscribe(live, client, s.topics)
	if err != nil {
		return err
	}
	s.dropOldSubscriptions(live, client)
	s.announce(live, client, online)
	s.stats.connected.Set(1)
	s.down, s.refused = false, false
	s.log.Infof("Connected to %s as %q and subscribed to %d topics", s.serverNames(), s.clientID, len(s.topics)-len(refused))

	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	lastTry := time.Now()
	for {
		select {
		case <-live.Done():
			if ctx.Err() == nil {
				return s.lostError(live)
			}
			s.farewell(client)
			return nil
		case <-s.wake:
			s.dropUnwanted(live, client)
		case now := <-tick.C:
			if s.flow.wantsReconnect() {
				return errReconnect
			}
			if len(refused) > 0 && now.Sub(lastTry) >= refusedTopicRetry {
				lastTry = now
				if refused, err = s.subscribe(live, client, refused); err != nil {
					return err
				}
			}
		}
	}
}

// lostError says how the connection ended that a context stands for.
func (s *session) lostError(live context.Context) error {
	return fmt.Errorf("connection to %s lost: %w", s.serverNames(), context.Cause(live))
}

// farewell waits until the broker has read the acknowledgements that were given: its answer to anything that was sent
// behind them says so. Without it a client that comes back at once may be sent those messages again.
func (s *session) farewell(c client) {
	const patience = time.Second
	s.unsubscribe(context.Background(), c, patience, "telegraf/farewell/"+s.clientID)
	s.announce(context.Background(), c, offline)
}

// connect brings a connection up, to the first of the servers that takes it. lost is told why it broke, perhaps twice.
func (s *session) connect(ctx context.Context, lost context.CancelCauseFunc) (c client, number int, err error) {
	l, err := s.login()
	if err != nil {
		return nil, 0, err
	}
	opening := &opening{}
	stopOpening := context.AfterFunc(ctx, opening.abort)
	defer stopOpening()
	dial := func(server *url.URL) (*gatheredConn, error) {
		conn, err := dial(ctx, server, s.timeout, s.tls)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", server.Redacted(), err)
		}
		return opening.watch(conn), nil
	}
	number = s.flow.connecting()
	received := func(m mqtt.Message) { s.flow.receive(number, m) }
	released := func(id uint16) { s.flow.released(number, id) }
	onLost := func(err error) {
		s.flow.disconnected(number)
		lost(err)
	}
	var sessionPresent bool
	if s.v5 == nil {
		c, sessionPresent, err = connect3(s.servers, dial, l, received, released, onLost)
	} else {
		if s.v5.state == nil || !s.persistent {
			s.v5.state = state.NewInMemory()
		}
		c, sessionPresent, err = connect5(ctx, s.servers, dial, l, s.v5, received, onLost)
	}
	switch {
	case errors.Is(err, errRefused):
		return nil, 0, fmt.Errorf("%w: %s: %w", errRefused, s.serverNames(), err)
	case err != nil:
		return nil, 0, fmt.Errorf("cannot connect to %s: %w", s.serverNames(), err)
	}
	s.flow.connected(sessionPresent, opening.conn.gather)
	return c, number, nil
}

// login reads the credentials anew each time, so that a rotated secret is used.
func (s *session) login() (l login, err error) {
	l = login{
		clientID: s.clientID, persistent: s.persistent, keepalive: s.keepalive, ping: s.ping, timeout: s.timeout,
	}
	if s.availability != "" {
		l.will = &will{topic: s.availability, payload: offline}
	}
	for _, c := range []struct {
		key    string
		secret *config.Secret
		to     *string
	}{{"username", s.username, &l.username}, {"password", s.password, &l.password}} {
		if c.secret.Empty() {
			continue
		}
		value, err := c.secret.Get()
		if err != nil {
			return l, fmt.Errorf("reading %s: %w", c.key, err)
		}
		*c.to = string(value.Bytes())
		value.Destroy()
	}
	return l, nil
}

// What is published to the availability topic.
const (
	online  = "online"
	offline = "offline"
)

// opening is the connection that is being set up, to be closed when the plugin stops meanwhile.
type opening struct {
	mu      sync.Mutex
	conn    *gatheredConn
	aborted bool
}

func (o *opening) watch(conn *gatheredConn) *gatheredConn {
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

// subscribe asks for the topics and returns those that the broker refused, each of which it logs.
func (s *session) subscribe(ctx context.Context, c client, topics []string) (refused []string, err error) {
	waiting, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	codes, err := c.subscribe(waiting, topics, s.qos)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, s.lostError(ctx)
	case err != nil && waiting.Err() != nil:
		return nil, fmt.Errorf("%s did not answer SUBSCRIBE within %s", s.serverNames(), s.timeout)
	case err != nil:
		return nil, fmt.Errorf("subscribing at %s: %w", s.serverNames(), err)
	}
	for i, topic := range topics {
		switch code := codes[i]; {
		case code >= subscribeFailure:
			refused = append(refused, topic)
			s.log.Errorf("The broker refuses the subscription to %q with code 0x%02x; check this client's rights there; trying again "+
				"every %s", topic, code, refusedTopicRetry)
		case code < s.qos:
			s.log.Warnf("The broker grants QoS %d instead of %d for %q", code, s.qos, topic)
		}
	}
	return refused, nil
}

// unsubscribe reports whether the broker did so in time.
func (*session) unsubscribe(ctx context.Context, c client, patience time.Duration, topics ...string) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return c.unsubscribe(ctx, topics) == nil
}

// announce publishes that this client is there, or is not.
func (s *session) announce(ctx context.Context, c client, what string) {
	if s.availability == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if err := c.publish(ctx, s.availability, what); err != nil {
		s.log.Warnf("availability_topic = %q: cannot publish %q: %v", s.availability, what, err)
	}
}

// dropOldSubscriptions ends those of an earlier configuration, which a resumed session keeps.
func (s *session) dropOldSubscriptions(ctx context.Context, c client) {
	var old []string
	for _, topic := range s.known {
		if !slices.Contains(s.topics, topic) {
			old = append(old, topic)
		}
	}
	if len(old) == 0 || !s.persistent {
		return
	}
	if s.unsubscribe(ctx, c, s.timeout, old...) {
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
func (s *session) dropUnwanted(ctx context.Context, c client) {
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
			s.unsubscribe(ctx, c, s.timeout, filtersFor(topic)...)
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

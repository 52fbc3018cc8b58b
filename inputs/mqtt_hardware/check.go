package mqtt_hardware

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho/session/state"
	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// This file is for a program that checks an installation. It calls Init and then these methods, and neither Start nor Stop.
// Nothing here disturbs an agent that runs with the same options: the client id is another one, the session ends with the
// connection, no message is acknowledged, and what a shared subscription brings is left to those who share it.

// Stage is how far a check of a broker came.
type Stage string

// The stages, in their order. A check that failed names the one at which it did.
const (
	StageSecrets   Stage = "secrets"   // the credentials are read
	StageConnect   Stage = "connect"   // the name is resolved and the connection stands, with TLS where the URL says so
	StageLogin     Stage = "login"     // the broker took CONNECT
	StageSubscribe Stage = "subscribe" // it answered each SUBSCRIBE, with whatever code
)

// BrokerCheck is what came of a try to log in to one of the servers, and to subscribe.
type BrokerCheck struct {
	Server   string // without credentials
	ClientID string
	Took     time.Duration // until it was logged in
	Stage    Stage
	Err      error // at that stage; nil when all was answered
	Refused  bool  // at StageLogin: the broker answered, and other credentials or rights are the cure
	Topics   []TopicCheck
}

// TopicCheck is the broker's answer to one subscription.
type TopicCheck struct {
	Topic  string // as configured
	Filter string // as it was asked for
	Code   byte   // of SUBACK
	Reason string // what the code says; empty where the protocol has no more than the code
}

// Refused reports whether the broker refused the subscription.
func (t TopicCheck) Refused() bool { return t.Code >= subscribeFailure }

// CheckBrokers tries each of the servers by itself, which takes so long at most. It returns none when there is no MQTT, or the
// plugin is the broker.
func (p *MQTTHardware) CheckBrokers(ctx context.Context, each time.Duration) (checks []BrokerCheck) {
	if p.session == nil {
		return nil
	}
	for _, server := range p.session.servers {
		check := BrokerCheck{Server: server.Redacted(), ClientID: checkID()}
		limited, cancel := context.WithTimeout(ctx, each)
		p.session.check(limited, server, &check)
		cancel()
		checks = append(checks, check)
	}
	return checks
}

// checkID is of 23 bytes that every broker takes (MQTT 3.1.1 section 3.1.3.1).
func checkID() string { return "telegrafcheck" + rand.Text()[:10] }

func (s *session) check(ctx context.Context, server *url.URL, c *BrokerCheck) {
	began := time.Now()
	c.Stage = StageSecrets
	l, err := s.login()
	if err != nil {
		c.Err = err
		return
	}
	l.clientID, l.persistent, l.will = c.ClientID, false, nil

	c.Stage = StageConnect
	live, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	connection, stage, err := s.checkLogin(live, server, l, func(err error) { lost(err) })
	if c.Stage = stage; err != nil {
		c.Err, c.Refused = late(ctx, err), errors.Is(err, errRefused)
		return
	}
	defer connection.disconnect()
	c.Took = time.Since(began)

	c.Stage = StageSubscribe
	for _, topic := range s.topics { // alone, so that a broker which hangs up instead of refusing tells at which
		check := TopicCheck{Topic: topic, Filter: unshared(topic)}
		codes, err := connection.subscribe(live, []string{check.Filter}, s.qos)
		switch {
		case err != nil && live.Err() != nil && ctx.Err() == nil:
			c.Err = fmt.Errorf("%q: the connection was lost: %w", topic, context.Cause(live))
		case err != nil:
			c.Err = fmt.Errorf("%q: %w", topic, late(ctx, err))
		}
		if c.Err != nil {
			return
		}
		check.Code = codes[0]
		if s.v5 != nil {
			check.Reason, _, _ = strings.Cut((&packets.Suback{Reasons: codes}).Reason(0), " - ")
		}
		c.Topics = append(c.Topics, check)
	}
}

// checkLogin connects to one server, and says how far it came.
func (s *session) checkLogin(ctx context.Context, server *url.URL, l login, lost func(error)) (client, Stage, error) {
	stage := StageConnect
	var dialError error
	opening := &opening{}
	stopOpening := context.AfterFunc(ctx, opening.abort)
	defer stopOpening()
	open := func(server *url.URL) (*gatheredConn, error) {
		conn, err := dial(ctx, server, s.timeout, s.tls)
		if err != nil {
			dialError = err // the library's own has lost what it wraps
			return nil, err
		}
		stage = StageLogin
		return opening.watch(conn), nil
	}
	ignore := func(mqtt.Message) {} // it stays unacknowledged, and is forgotten with this session
	var (
		c   client
		err error
	)
	if s.v5 == nil {
		c, _, err = connect3([]*url.URL{server}, open, l, ignore, func(uint16) {}, lost)
	} else {
		c, _, err = connect5(ctx, []*url.URL{server}, open, l, &options5{
			receiveMaximum: 1, retainHandling: 2, noLocal: s.v5.noLocal, state: state.NewInMemory(),
		}, ignore, lost)
	}
	if dialError != nil {
		err = dialError
	}
	return c, stage, err
}

// late says that it took too long, where that is why something failed.
func late(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("no answer in time: %w", err)
	}
	return err
}

// unshared is the filter below a prefix with which the broker deals messages out, or gives all to one client. Asking for the
// filter as it is would take messages, or all of them, from the agent.
func unshared(topic string) string {
	prefix, rest, ok := strings.Cut(topic, "/")
	switch {
	case ok && (prefix == "$queue" || prefix == "$exclusive"):
		return rest
	case ok && prefix == "$share":
		if _, filter, ok := strings.Cut(rest, "/"); ok {
			return filter
		}
	}
	return topic
}

// ListenCheck is what is at the address of the embedded broker.
type ListenCheck struct {
	Address string
	Free    bool  // it can be listened on
	Broker  bool  // it is taken, and who has it speaks MQTT
	Err     error // why it is neither
}

// CheckListen looks at the address that listen names. It reports false when the plugin is no broker.
func (p *MQTTHardware) CheckListen(ctx context.Context, most time.Duration) (ListenCheck, bool) {
	if p.embedded == nil {
		return ListenCheck{}, false
	}
	c := ListenCheck{Address: p.embedded.address}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Address)
	if err == nil {
		c.Free, c.Err = true, l.Close()
		return c, true
	}
	if c.Err = err; errors.Is(err, syscall.EADDRINUSE) {
		c.Err = speaksMQTT(ctx, c.Address, p.embedded.tls != nil, most)
		c.Broker = c.Err == nil
	}
	return c, true
}

// speaksMQTT logs in without credentials; a refusal will do.
func speaksMQTT(ctx context.Context, address string, secure bool, most time.Duration) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	server := &url.URL{Scheme: "tcp", Host: net.JoinHostPort(host, port)}
	s := &session{timeout: most}
	if secure {
		server.Scheme = "ssl"
		s.tls = &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12} //nolint:gosec // what it speaks is asked, not who it is
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	c, _, err := s.checkLogin(ctx, server, login{clientID: checkID(), keepalive: time.Minute, ping: most, timeout: most}, func(error) {})
	switch {
	case errors.Is(err, errRefused):
		return nil
	case err != nil:
		return late(ctx, err)
	}
	c.disconnect()
	return nil
}

// ErrAbsent says that this host has none of a kind of hardware, or that it is not read on this system; it is not sampled then.
var ErrAbsent = errNone

// CheckHardware reads one of the kinds that hardware lists, once, and returns how many readings there were: of devices,
// sensors, mounts. There may be an error beside readings that did succeed. A read that hangs in the kernel does not return.
func (p *MQTTHardware) CheckHardware(ctx context.Context, kind string) (readings int, err error) {
	i := slices.IndexFunc(p.hardware.active, func(s *sampled) bool { return s.name == kind })
	if i < 0 {
		return 0, fmt.Errorf("%q is not in hardware", kind)
	}
	found, err := guarded(ctx, p.hardware.active[i].read)
	if len(found) == 0 && isAbsence(err) {
		return 0, ErrAbsent
	}
	return len(found), err
}

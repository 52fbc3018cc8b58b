// Package mqtt_hardware is the Telegraf input inputs.mqtt_hardware.
//
// It subscribes to an MQTT broker and makes an event of each message, and on each interval it samples the host's
// hardware.
//
// What it promises: a message with QoS 1 or 2 is acknowledged to the broker only after Telegraf reported it delivered.
// One that Telegraf rejects is handed over again, after a backoff, until it is delivered or the plugin stops. Nothing
// waits in the MQTT library's handlers, so that a full window of unacknowledged messages neither stops pings nor ends
// the connection. A lost connection is made again, with backoff, and messages that the broker then repeats while they
// are still under way are recognised. A broker that is away is no reason not to start.
//
// What it does not promise: a message with QoS 1 whose acknowledgement was under way when the connection broke comes twice;
// so does one with QoS 2 if the plugin, too, was started anew. QoS 0 messages are not repeated by anybody. Without
// persistent_session the broker forgets what it has not delivered when
// the connection is lost.
package mqtt_hardware

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	_ "embed"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/config"
	telegraftls "github.com/influxdata/telegraf/plugins/common/tls"
	"github.com/influxdata/telegraf/plugins/inputs"
	_ "github.com/influxdata/telegraf/plugins/parsers/influx" // Telegraf asks for it while data_format is not set
	"github.com/influxdata/telegraf/selfstat"

	"github.com/edgetide/telegraf-victorialogs/internal/redact"
	"github.com/edgetide/telegraf-victorialogs/internal/tlsconf"
)

//go:embed sample.conf
var sampleConfig string

// drainTime is how long Stop waits for messages that Telegraf has not delivered. The output's retry_budget is shorter.
const drainTime = 5 * time.Second

// MQTTHardware is the plugin. Its exported fields are its options.
type MQTTHardware struct {
	Servers                []string        `toml:"servers"`
	Topics                 []string        `toml:"topics"`
	TopicTag               *string         `toml:"topic_tag"`
	TopicParsing           []TopicParsing  `toml:"topic_parsing"`
	Username               config.Secret   `toml:"username"`
	Password               config.Secret   `toml:"password"`
	QoS                    int             `toml:"qos"`
	ConnectionTimeout      config.Duration `toml:"connection_timeout"`
	KeepAlive              config.Duration `toml:"keepalive"`
	PingTimeout            config.Duration `toml:"ping_timeout"`
	MaxUndeliveredMessages int             `toml:"max_undelivered_messages"`
	PersistentSession      bool            `toml:"persistent_session"`
	ClientTrace            bool            `toml:"client_trace"`
	ClientID               string          `toml:"client_id"`
	DataFormat             string          `toml:"data_format"`
	Hardware               []string        `toml:"hardware"`
	ProtocolOptions
	ListenOptions
	PayloadOptions
	HardwareOptions
	telegraftls.ClientConfig

	Log        telegraf.Logger     `toml:"-"`
	Statistics *selfstat.Collector `toml:"-"`

	id        string
	newParser telegraf.ParserFunc
	parser    telegraf.Parser // nil: payloads are read as events
	payloads  payloadReader
	topicTag  string
	topics    []*topicParser
	hardware  *hardware
	stats     *stats
	flow      *flow
	session   *session // nil without topics, and beside listen
	embedded  *embedded

	stopSession context.CancelFunc
	sessionRun  sync.WaitGroup
	stopFeed    chan struct{}
	feedRun     sync.WaitGroup
	stopAck     chan struct{}
	ackRun      sync.WaitGroup
}

// New returns the plugin with its defaults.
func New() *MQTTHardware {
	return &MQTTHardware{
		QoS:                    1,
		ConnectionTimeout:      config.Duration(30 * time.Second),
		KeepAlive:              config.Duration(60 * time.Second),
		PingTimeout:            config.Duration(10 * time.Second),
		MaxUndeliveredMessages: 1000,
		ProtocolOptions:        ProtocolOptions{Protocol: protocol3},
		ListenOptions:          defaultListen(),
		HardwareOptions:        HardwareOptions{Layout: layoutSplit},
		PayloadOptions:         newPayloadOptions(),
		id:                     rand.Text(),
	}
}

func init() {
	inputs.Add("mqtt_hardware", func() telegraf.Input { return New() })
}

// SampleConfig returns the documented configuration.
func (*MQTTHardware) SampleConfig() string { return sampleConfig }

// SetParserFunc is called by Telegraf while it loads the configuration.
func (p *MQTTHardware) SetParserFunc(newParser telegraf.ParserFunc) { p.newParser = newParser }

// TLSConfig is called by Telegraf while it loads the configuration, so that a wrong tls_… option fails there.
func (p *MQTTHardware) TLSConfig() (*tls.Config, error) { return tlsconf.Client(&p.ClientConfig) }

// Init checks the options; nothing starts yet.
func (p *MQTTHardware) Init() error {
	if len(p.Topics) == 0 && len(p.Hardware) == 0 {
		return errors.New("topics and hardware are both empty: there would be nothing to do; set one of them")
	}
	if p.Statistics == nil { // hosts other than the agent set none
		p.Statistics = selfstat.NewCollector(nil)
	}
	p.stats = newStats(p.Statistics)
	var err error
	if p.hardware, err = newHardware(p.Hardware, p.HardwareOptions); err != nil {
		return err
	}
	if len(p.Topics) == 0 {
		if p.Listen != "" {
			return fmt.Errorf("listen = %q: needs topics, such as [\"#\"]", p.Listen)
		}
		return nil
	}
	if err := p.check(); err != nil {
		return err
	}
	if p.payloads, err = p.newReader(p.DataFormat, p.Statistics); err != nil {
		return err
	}
	if p.DataFormat != "" {
		if p.newParser == nil {
			return fmt.Errorf("data_format = %q: this host offers no parsers; leave it out", p.DataFormat)
		}
		if p.parser, err = p.newParser(); err != nil {
			return fmt.Errorf("data_format = %q: %w", p.DataFormat, err)
		}
	}
	p.topicTag = "topic"
	if p.TopicTag != nil {
		p.topicTag = *p.TopicTag
	}
	p.topics = nil
	for i, c := range p.TopicParsing {
		parser, err := newTopicParser(c)
		if err != nil {
			return fmt.Errorf("topic_parsing, entry %d: %w", i+1, err)
		}
		p.topics = append(p.topics, parser)
	}
	return p.newSession()
}

// check finds the first MQTT option that cannot work, and says which, and what would.
func (p *MQTTHardware) check() error {
	for _, topic := range p.Topics {
		if err := checkFilter(topic); err != nil {
			return fmt.Errorf("topics: %w", err)
		}
	}
	if p.QoS < 0 || p.QoS > 2 {
		return fmt.Errorf("qos = %d: must be 0, 1 or 2", p.QoS)
	}
	if err := p.ProtocolOptions.check(); err != nil {
		return err
	}
	if p.Username.Empty() && !p.Password.Empty() {
		return errors.New(`username = "": must be set beside password; MQTT knows no password alone`)
	}
	if p.PersistentSession && p.ClientID == "" {
		return errors.New(`client_id = "": must be set with persistent_session, since the broker keeps the session by it`)
	}
	for _, d := range []struct {
		key     string
		value   config.Duration
		example string
	}{
		{"connection_timeout", p.ConnectionTimeout, "30s"},
		{"keepalive", p.KeepAlive, "60s"},
		{"ping_timeout", p.PingTimeout, "10s"},
	} {
		if d.value < config.Duration(time.Second) {
			return fmt.Errorf("%s = %q: must be 1s or longer, such as %q", d.key, time.Duration(d.value), d.example)
		}
	}
	if p.KeepAlive%config.Duration(time.Second) != 0 || p.KeepAlive > config.Duration(65535*time.Second) {
		return fmt.Errorf("keepalive = %q: must be whole seconds, 65535 at most", time.Duration(p.KeepAlive))
	}
	if p.MaxUndeliveredMessages < 1 {
		return fmt.Errorf("max_undelivered_messages = %d: must be 1 or more; 1000 is the default", p.MaxUndeliveredMessages)
	}
	return nil
}

func (p *MQTTHardware) newSession() error {
	p.flow = newFlow(p.stats, p.Log, p.MaxUndeliveredMessages)
	p.flow.makeMetrics = p.makeMetrics
	p.flow.skipRetained = p.SkipRetained
	none := len(p.Servers) == 0 || len(p.Servers) == 1 && p.Servers[0] == "" // as from an environment that names none
	if p.Listen == "" && (p.ListenUsers != "" || len(p.ListenPasswords) > 0) {
		p.Log.Warnf("listen_users and listen_passwords have no effect without listen")
	}
	if p.Listen != "" && !none {
		p.Log.Infof("servers names a broker, so that listen = %q is not used; for both, use two inputs", p.Listen)
	}
	if p.Listen != "" && none {
		for key, set := range map[string]bool{
			"availability_topic": p.AvailabilityTopic != "", "persistent_session": p.PersistentSession,
			"username": !p.Username.Empty(), "protocol": p.Protocol != protocol3,
		} {
			if set {
				p.Log.Warnf("%s has no effect beside listen = %q: it is for a broker in servers", key, p.Listen)
			}
		}
		var err error
		if p.embedded, err = p.newEmbedded(p.Log, p.flow, p.Topics); err == nil {
			p.flow.wants = p.embedded.wants
		}
		return err
	}
	tlsConfig, err := p.TLSConfig()
	if err != nil {
		return err
	}
	servers, err := p.serverURLs(tlsConfig != nil)
	if err != nil {
		return err
	}
	clientID := p.ClientID
	if clientID == "" {
		clientID = "telegraf-" + rand.Text()[:10] // of 23 bytes that every broker takes (MQTT 3.1.1 section 3.1.3.1)
	}
	if p.ClientTrace {
		trace := traceLogger{p.Log}
		mqtt.ERROR, mqtt.CRITICAL, mqtt.WARN, mqtt.DEBUG = trace, trace, trace, trace
	}
	p.session = &session{
		log:        p.Log,
		stats:      p.stats,
		flow:       p.flow,
		servers:    servers,
		clientID:   clientID,
		username:   &p.Username,
		password:   &p.Password,
		persistent: p.PersistentSession,
		topics:     unique(p.Topics),
		qos:        byte(p.QoS), //nolint:gosec // check keeps it from 0 to 2
		timeout:    time.Duration(p.ConnectionTimeout),
		keepalive:  time.Duration(p.KeepAlive),
		ping:       time.Duration(p.PingTimeout),
		tls:        tlsConfig,
		wake:       make(chan struct{}, 1),

		v5:           p.options5(p.MaxUndeliveredMessages),
		availability: p.AvailabilityTopic,
	}
	p.flow.wants = p.session.wants
	if p.Protocol == protocol3 {
		p.flow.unreleased = make(map[uint16]*message)
	}
	return nil
}

// unique leaves out what was there before; mqtt_consumer takes a topic twice, too.
func unique(topics []string) (different []string) {
	for _, topic := range topics {
		if !slices.Contains(different, topic) {
			different = append(different, topic)
		}
	}
	return different
}

func (p *MQTTHardware) serverURLs(withTLS bool) ([]*url.URL, error) {
	const right = `must be URLs such as "tcp://127.0.0.1:1883", "ssl://broker:8883" or "wss://broker/mqtt"`
	addresses := p.Servers
	switch {
	case addresses == nil:
		addresses = []string{"tcp://127.0.0.1:1883"}
	case len(addresses) == 0:
		return nil, errors.New("servers = []: " + right)
	}
	var servers []*url.URL
	for _, server := range addresses {
		address := server
		if !strings.Contains(server, "://") { // mqtt_consumer still takes host:port
			if address = "tcp://" + server; withTLS {
				address = "ssl://" + server
			}
		}
		parsed, err := url.Parse(address)
		if err != nil {
			if broken := (*url.Error)(nil); errors.As(err, &broken) {
				err = broken.Err // without the URL, which may hold a password
			}
			return nil, fmt.Errorf("servers: %q: %w; %s", redact.URL(server), err, right)
		}
		known := slices.Concat(plainSchemes, tlsSchemes, webSchemes, []string{"unix"})
		if port, err := strconv.ParseUint(parsed.Port(), 10, 16); parsed.Port() != "" && (err != nil || port == 0) {
			return nil, fmt.Errorf("servers: %q: %q is no port; %s", redact.URL(server), parsed.Port(), right)
		}
		if !slices.Contains(known, parsed.Scheme) || parsed.Scheme != "unix" && parsed.Hostname() == "" ||
			parsed.Scheme == "unix" && parsed.Host+parsed.Path == "" {
			return nil, fmt.Errorf("servers: %q cannot be used; %s", redact.URL(server), right)
		}
		if parsed.Port() == "" && (slices.Contains(plainSchemes, parsed.Scheme) || slices.Contains(tlsSchemes, parsed.Scheme)) {
			return nil, fmt.Errorf("servers: %q names no port; %s", redact.URL(server), right)
		}
		if parsed.User != nil {
			return nil, fmt.Errorf("servers: %q must not hold credentials; set username and password", parsed.Redacted())
		}
		servers = append(servers, parsed)
	}
	return servers, nil
}

// traceLogger brings what the MQTT library says about itself into Telegraf's log.
type traceLogger struct{ log telegraf.Logger }

func (t traceLogger) Println(v ...any)               { t.log.Debug(strings.TrimSpace(fmt.Sprintln(v...))) }
func (t traceLogger) Printf(format string, v ...any) { t.log.Debugf(strings.TrimSpace(format), v...) }

// ID is what the agent keeps the state by. By default that is a hash of all options, which would lose the state whenever
// topics change. Without a persistent session there is nothing to find again.
func (p *MQTTHardware) ID() string {
	if p.PersistentSession {
		return "mqtt_hardware " + p.ClientID + " at " + strings.Join(p.Servers, " ")
	}
	return p.id
}

// GetState and SetState keep the topics over a restart, where the agent has a state file: a session that the broker
// resumes may hold subscriptions to topics that the configuration no longer lists.
func (p *MQTTHardware) GetState() any { return p.Topics }

// SetState is called before Start.
func (p *MQTTHardware) SetState(state any) error {
	topics, ok := state.([]string)
	if !ok {
		return fmt.Errorf("the state file holds a %T where topics were expected", state)
	}
	if p.session != nil {
		p.session.known = topics
	}
	return nil
}

// Start begins to connect and returns at once.
func (p *MQTTHardware) Start(acc telegraf.Accumulator) error {
	if p.flow == nil {
		p.hardware.burst.start()
		return nil
	}
	acc.SetPrecision(time.Nanosecond)
	p.flow.acc = acc
	if p.embedded != nil {
		if err := p.embedded.listen(); err != nil {
			return err
		}
	}
	p.hardware.burst.start()
	ctx, cancel := context.WithCancel(context.Background())
	p.stopSession = cancel
	p.stopFeed, p.stopAck = make(chan struct{}), make(chan struct{})
	if p.embedded != nil {
		p.sessionRun.Go(func() { p.embedded.run(ctx) })
	} else {
		p.sessionRun.Go(func() { p.session.run(ctx) })
	}
	p.feedRun.Go(func() { p.flow.feed(p.stopFeed) })
	p.ackRun.Go(func() { p.flow.acknowledge(p.stopAck) })
	return nil
}

// Gather samples the hardware.
func (p *MQTTHardware) Gather(acc telegraf.Accumulator) error {
	p.hardware.sample(acc, p.Log)
	return nil
}

// Stop takes no more messages in, waits until Telegraf has delivered those that it has, for drainTime at most, and
// disconnects. It does not unsubscribe: the broker goes on collecting for a persistent session.
func (p *MQTTHardware) Stop() {
	if p.hardware != nil {
		p.hardware.burst.stop()
	}
	if p.flow == nil || p.stopSession == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if left := p.flow.drain(ctx); left > 0 {
		p.Log.Warnf("Stopping with %d messages undelivered; those with QoS 1 or 2 are not acknowledged", left)
	}
	close(p.stopFeed)
	p.feedRun.Wait()
	p.stopSession()
	p.stopSession = nil
	p.sessionRun.Wait()
	close(p.stopAck)
	p.ackRun.Wait()
	p.Log.Infof("Stopped: %d messages received, %d acknowledged", p.stats.received.Get(), p.stats.acked.Get())
}

// makeMetrics reads a payload. What cannot be read is malformed and becomes an event with the field error; so there is
// one metric at least, unless on_malformed drops them.
func (p *MQTTHardware) makeMetrics(source *message) (metrics []telegraf.Metric, malformed bool) {
	contentType := ""
	if source.properties != nil {
		contentType = source.properties.ContentType
	}
	metrics, malformed = p.parse(source.payload, source.topic, contentType, source.at)
	var levels []string
	if len(p.topics) > 0 {
		levels = strings.Split(source.topic, "/")
	}
	for _, m := range metrics {
		p.describe(m, source)
		if p.topicTag != "" {
			m.AddTag(p.topicTag, source.topic)
		}
		for _, parser := range p.topics {
			if err := parser.apply(m, levels); err != nil {
				malformed = true
				addError(m, err)
			}
		}
	}
	if malformed && p.payloads.drop {
		p.payloads.dropped.Incr(1)
		return nil, true
	}
	return metrics, malformed
}

func (p *MQTTHardware) parse(payload []byte, topic, contentType string, at time.Time) (metrics []telegraf.Metric, malformed bool) {
	if m := p.payloads.tooLarge(payload, at); m != nil {
		return []telegraf.Metric{m}, true
	}
	if p.parser == nil {
		return p.payloads.read(payload, topic, contentType, at)
	}
	begin := time.Now()
	metrics, err := p.parser.Parse(payload)
	end := time.Now()
	for _, m := range metrics { // without a time in the payload parsers take the present; it is the same at each try
		if !m.Time().Before(begin) && !m.Time().After(end) {
			m.SetTime(at)
		}
	}
	if err == nil && len(metrics) > 0 {
		return metrics, false
	}
	if err == nil {
		err = errors.New("no metric in this payload")
	}
	return append(metrics, unreadable(payload, fmt.Errorf("data_format %s: %w", p.DataFormat, err), at)), true
}

package testbroker

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// Opts says how [Publish] publishes. The zero value publishes at QoS 0 as fast as the connection takes it.
type Opts struct {
	// ClientID of the publisher. Empty means a unique one.
	ClientID string
	// QoS of every message; a message's own QoS does not count.
	QoS byte
	// Rate is in messages per second. 0 means as fast as the broker takes them. A publisher that was held up catches up.
	Rate float64
	// Inflight is how many messages may wait for their acknowledgement. 0 means 100, and 20 at QoS 2: Mosquitto disconnects
	// a client that has more than max_inflight_messages under way at QoS 2.
	Inflight int
	// Resume makes Publish connect again, for up to Timeout, when the connection is lost, and publish again, in order,
	// what was not acknowledged. Without it the first lost connection is an error.
	Resume bool
	// Timeout bounds the wait for one acknowledgement, and for a lost broker's return. 0 means 30 s.
	Timeout time.Duration
	// Acked, if set, is called for each message counted, in order.
	Acked func(Message)
}

// Publish publishes the messages until the iterator ends, waits for all acknowledgements, and returns how many messages
// the broker acknowledged (at QoS 0: were written to the connection). It ends early with an error when ctx ends, when a
// wait times out, and, without Resume, when the connection is lost. The payloads must not change before it returns.
//
// Acknowledgements are looked at before each message and at the end, not while the iterator is being waited for.
func Publish(ctx context.Context, brokerURL string, opts Opts, messages iter.Seq[Message]) (published int, err error) {
	if opts.ClientID == "" {
		opts.ClientID = unique("publisher")
	}
	if opts.Inflight == 0 {
		opts.Inflight = 100
		if opts.QoS == 2 {
			opts.Inflight = DefaultMaxInflight
		}
	}
	if opts.Timeout == 0 {
		opts.Timeout = 30 * time.Second
	}
	if opts.QoS > 2 || opts.Rate < 0 || opts.Inflight < 0 || opts.Timeout < 0 {
		return 0, fmt.Errorf("publish to %s: QoS must be 0, 1 or 2, and Rate, Inflight and Timeout not negative", brokerURL)
	}

	p := &publisher{url: brokerURL, opts: opts}
	defer p.disconnect()
	if err := p.connect(ctx); err != nil {
		return 0, err
	}
	err = p.run(ctx, messages)
	if err != nil {
		err = fmt.Errorf("publish to %s as %s: %w", brokerURL, opts.ClientID, err)
	}
	return p.published, err
}

// publisher is one call of Publish.
type publisher struct {
	url       string
	opts      Opts
	conn      *connection // nil after a lost connection
	pending   fifo[sent]
	published int
}

// sent is a message that was handed to paho.
type sent struct {
	message Message
	token   mqtt.Token
}

func (p *publisher) run(ctx context.Context, messages iter.Seq[Message]) error {
	pace := newPace(p.opts.Rate)
	defer pace.stop()
	for m := range messages {
		if err := pace.wait(ctx); err != nil {
			return err
		}
		for p.pending.len() > 0 && (p.pending.len() >= p.opts.Inflight || p.answered()) {
			if err := p.settle(ctx); err != nil {
				return err
			}
		}
		p.pending.push(sent{message: m, token: p.publish(m)})
	}
	for p.pending.len() > 0 {
		if err := p.settle(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (p *publisher) publish(m Message) mqtt.Token {
	return p.conn.Publish(m.Topic, p.opts.QoS, m.Retained, m.Payload)
}

// answered reports whether the oldest message needs no waiting.
func (p *publisher) answered() bool {
	select {
	case <-p.pending.front().token.Done():
		return true
	default:
		return false
	}
}

// settle waits for the acknowledgement of the oldest message. When the connection was lost it connects again and
// publishes everything pending again.
func (p *publisher) settle(ctx context.Context) error {
	err := await(ctx, p.pending.front().token, p.opts.Timeout)
	if err == nil {
		m := p.pending.pop().message
		p.published++
		if p.opts.Acked != nil {
			m.QoS = p.opts.QoS
			p.opts.Acked(m)
		}
		return nil
	}
	if ctx.Err() != nil || errors.Is(err, errTimeout) || !p.opts.Resume {
		return err
	}
	p.disconnect()
	if err := p.reconnect(ctx); err != nil {
		return err
	}
	again := p.pending.all()
	for i := range again {
		again[i].token = p.publish(again[i].message)
	}
	return nil
}

func (p *publisher) connect(ctx context.Context) error {
	writeTimeout := 10 * time.Second
	if p.opts.Resume {
		writeTimeout = 2 * time.Second // a busy publisher runs into it at each lost connection; see dial
	}
	conn, err := dial(ctx, p.url, p.opts.ClientID, true, writeTimeout, nil)
	if err != nil {
		return err
	}
	p.conn = conn
	return nil
}

func (p *publisher) reconnect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.opts.Timeout)
	defer cancel()
	retry := time.NewTicker(dialEvery)
	defer retry.Stop()
	for {
		last := p.connect(ctx)
		if last == nil {
			return nil
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			return fmt.Errorf("the broker did not return: %w", last)
		}
	}
}

func (p *publisher) disconnect() {
	if p.conn != nil {
		p.conn.close()
		p.conn = nil
	}
}

// pace lets the n-th wait return at start + n / rate. With rate 0 it does not wait.
type pace struct {
	rate   float64
	start  time.Time
	passed float64
	tick   *time.Ticker
}

func newPace(rate float64) *pace {
	p := &pace{rate: rate, start: time.Now()}
	if rate > 0 {
		p.tick = time.NewTicker(max(time.Millisecond, min(time.Second, time.Duration(float64(time.Second)/rate))))
	}
	return p
}

func (p *pace) wait(ctx context.Context) error {
	if p.rate == 0 {
		return context.Cause(ctx)
	}
	for p.passed > time.Since(p.start).Seconds()*p.rate {
		select {
		case <-p.tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	p.passed++
	return context.Cause(ctx)
}

func (p *pace) stop() {
	if p.tick != nil {
		p.tick.Stop()
	}
}

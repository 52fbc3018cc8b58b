package mqtt_hardware

import (
	"bytes"
	"context"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/paho"
	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/metric"
)

const (
	maxQueuedMessages = 100_000
	maxQueuedBytes    = 64 << 20 // of topics and payloads
	firstRetry        = 500 * time.Millisecond
	lastRetry         = 30 * time.Second
)

// flow brings messages from the broker's connection to Telegraf, and their acknowledgements back.
//
//	handler ─ queue ─ feed ─ Telegraf ─ settled ─ acknowledge ─ broker
//	                   ▲                    │ rejected
//	                   └──── after a while ─┘
//
// The handler only queues. feed hands messages over, at most maxUndelivered with an acknowledgement to give at a time.
// A message that Telegraf rejects is handed over again from memory, after a backoff, and stays unacknowledged: neither
// the broker nor the connection has to do with it. QoS 0 messages have nobody to tell and are not tracked.
//
// A message that the broker sends again in the same session, since the connection was lost before its acknowledgement,
// is the same message: it has the DUP flag, the same content, and the same packet identifier, which the broker may not
// use for another one before we acknowledge (MQTT 3.1.1 sections 2.3.1 and 3.3.1.1). Only the way to acknowledge is taken
// from the new PUBLISH. With QoS 2 that holds until PUBREL, which says that the broker has our PUBREC (MQTT 3.1.1 section
// 4.3.3). Once a message comes that is no repetition, the broker has repeated all that it knew; what it
// did not repeat it has forgotten, as one that crashed and restored an older state, and those identifiers are forgotten
// here, too.
type flow struct {
	stats          *stats
	log            telegraf.Logger
	makeMetrics    func(*message) (metrics []telegraf.Metric, malformed bool)
	skipRetained   bool
	wants          func(topic string) bool // must not wait
	acc            telegraf.Accumulator
	maxUndelivered int

	mu             sync.Mutex
	connection     int               // counts connections; messages remember which one they came by
	gather         func(acks func()) // has it bring all that acks writes out as one
	repeating      bool              // the broker may still repeat what an earlier connection brought
	overflowLogged time.Time
	begun          bool           // it is known whether the broker kept the session
	early          []mqtt.Message // came before that
	online         bool
	draining       bool                // nothing more is taken in
	queue          []*message          // with QoS 1 or 2, not handed over yet
	loose          []*message          // with QoS 0, not handed over yet
	queued         int                 // bytes of topics and payloads in both
	unacked        map[uint16]*message // of this session, by packet identifier
	unreleased     map[uint16]*message // acknowledged with PUBREC, PUBREL has not come; nil: the MQTT library knows of them
	handed         int                 // tracked messages that Telegraf has, or has rejected
	feeding        bool                // one is being handed over
	rejected       []*message          // wait to be handed over again
	settled        []settlement
	retryAfter     time.Duration
	leftBehind     int64         // messages with QoS 1 or 2 that did not fit and are left to the broker
	idle           chan struct{} // closed once draining and nothing is left; nil otherwise

	feedWake, ackWake chan struct{}
}

// message is one PUBLISH.
type message struct {
	topic   string
	payload []byte
	at      time.Time
	tracked bool // its sender waits for an acknowledgement: QoS 1 or 2
	again   bool // it was handed over before

	retained   bool
	properties *paho.PublishProperties // nil with MQTT 3.1.1

	// What follows is the flow's, under its lock.
	publish    mqtt.Message // to acknowledge; nil once the broker has forgotten it
	connection int          // that publish came by
	delivered  bool         // while in unacked: its acknowledgement waits for the broker to send it again
}

// size is what the message holds in memory, in bytes.
func (m *message) size() int { return len(m.topic) + len(m.payload) }

// settlement is what became of a message that was handed over.
type settlement struct {
	message   *message
	delivered bool
}

func newFlow(s *stats, log telegraf.Logger, maxUndelivered int) *flow {
	return &flow{
		stats:          s,
		log:            log,
		maxUndelivered: maxUndelivered,
		unacked:        make(map[uint16]*message),
		retryAfter:     firstRetry,
		feedWake:       make(chan struct{}, 1),
		ackWake:        make(chan struct{}, 1),
	}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// connecting begins a connection. What it brings waits until connected says whether the broker kept the session.
func (f *flow) connecting() (connection int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.connection++
	f.begun, f.early = false, nil
	return f.connection
}

// connected says whether the broker kept the session of the connection before, and what is to call the acknowledgements that
// are given together: the connection may bring them out as one.
func (f *flow) connected(sessionPresent bool, gather func(acks func())) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gather = gather
	if !sessionPresent { // identifiers of the old session mean nothing in this one, and it has no more to send
		f.forget(func(*message) bool { return true })
		f.stats.dropped[droppedOverflow].Incr(f.leftBehind)
	}
	f.begun, f.online, f.leftBehind = true, true, 0
	f.repeating = sessionPresent
	early := f.early
	f.early = nil
	for _, publish := range early {
		f.take(publish, f.connection)
	}
}

// direct is for connections that bring out each by itself.
func direct(acks func()) { acks() }

// forget gives up the identifiers of those messages; they are delivered all the same.
func (f *flow) forget(which func(*message) bool) {
	for _, messages := range []map[uint16]*message{f.unacked, f.unreleased} {
		for id, m := range messages {
			if which(m) {
				m.publish = nil
				delete(messages, id)
			}
		}
	}
	f.stats.unacked.Set(int64(len(f.unacked)))
}

func (f *flow) disconnected(connection int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if connection == f.connection {
		f.online = false
	}
}

// released is told that the broker will not repeat a message with QoS 2 again.
func (f *flow) released(connection int, id uint16) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.unreleased[id]; m != nil && connection == f.connection {
		m.publish = nil
		delete(f.unreleased, id)
	}
}

// receive is called by the MQTT library for each PUBLISH, on the goroutine that also sees the broker's ping responses.
func (f *flow) receive(connection int, publish mqtt.Message) {
	f.stats.received.Incr(1)
	f.stats.payloadBytes.Incr(int64(len(publish.Payload())))
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case connection != f.connection: // the last words of a connection that was given up
	case !f.begun:
		f.early = append(f.early, publish)
	default:
		f.take(publish, connection)
	}
}

func (f *flow) take(publish mqtt.Message, connection int) {
	id, payload := publish.MessageID(), publish.Payload()
	tracked := publish.Qos() > 0
	if tracked && f.repeating && !publish.Duplicate() {
		f.repeating = false
		f.forget(func(m *message) bool { return m.connection != connection })
	}
	known := f.unacked[id]
	if known == nil {
		known = f.unreleased[id]
	}
	if tracked && known != nil && publish.Duplicate() && known.topic == publish.Topic() && bytes.Equal(known.payload, payload) {
		f.stats.repeated.Incr(1)
		known.publish, known.connection = publish, connection
		if known.delivered {
			f.settle(known, true)
		}
		return
	}
	if f.draining {
		if !tracked {
			f.stats.dropped[droppedShutdown].Incr(1)
		}
		return // unacknowledged: the broker sends it to the next session
	}
	if len(f.queue)+len(f.loose) >= maxQueuedMessages || f.queued >= maxQueuedBytes {
		f.overflow(tracked)
		return
	}
	m := &message{topic: publish.Topic(), payload: payload, at: time.Now(), tracked: tracked, retained: publish.Retained()}
	if p, ok := publish.(interface {
		properties() *paho.PublishProperties
	}); ok {
		m.properties = p.properties()
	}
	if tracked {
		if known != nil { // the broker uses the identifier for another message, so it waits for the known one no more
			known.publish = nil
		}
		m.publish, m.connection = publish, connection
		f.unacked[id] = m
		delete(f.unreleased, id)
		f.stats.unacked.Set(int64(len(f.unacked)))
	}
	if reason := f.unwanted(m); reason != "" {
		f.stats.dropped[reason].Incr(1)
		if tracked {
			f.handed++
			f.settle(m, true)
		}
		return
	}
	if tracked {
		f.queue = append(f.queue, m)
	} else {
		f.loose = append(f.loose, m)
	}
	f.queued += m.size()
	wake(f.feedWake)
}

// unwanted says why a message is acknowledged and not handed over, if so.
func (f *flow) unwanted(m *message) (reason string) {
	switch {
	case !f.wants(m.topic):
		return droppedUnwanted
	case f.skipRetained && m.retained:
		return droppedRetained
	default:
		return ""
	}
}

// overflow leaves a message to the broker, or counts it as dropped when the broker will not send it again.
func (f *flow) overflow(tracked bool) {
	if !tracked {
		if now := time.Now(); now.Sub(f.overflowLogged) > time.Minute {
			f.overflowLogged = now
			f.log.Errorf("Dropping QoS 0 messages: %d wait already, and the outputs do not keep up", len(f.queue)+len(f.loose))
		}
		f.stats.dropped[droppedOverflow].Incr(1)
		return
	}
	if f.leftBehind == 0 {
		f.log.Warnf("The broker sends more unacknowledged messages than fit into memory; reconnecting when %d are through, "+
			"for it to send the others again, which it does for a persistent session", len(f.queue))
	}
	f.leftBehind++
}

// wantsReconnect reports that messages were left to the broker and that there is room for them now.
func (f *flow) wantsReconnect() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.leftBehind > 0 && len(f.queue) == 0
}

// feed hands messages to Telegraf until stop. It may wait there for the outputs; only the queue waits for it.
func (f *flow) feed(stop <-chan struct{}) {
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	retrying := false
	for {
		select {
		case <-stop:
			return
		default:
		}
		m, rejected := f.next()
		if m != nil {
			f.hand(m)
			continue
		}
		if rejected > 0 && !retrying {
			retrying = true
			retry.Reset(f.backoff())
		}
		select {
		case <-stop:
			return
		case <-f.feedWake:
		case <-retry.C:
			retrying = false
			f.retryRejected()
		}
	}
}

// next takes the oldest message for which there is room, and tells how many rejected ones wait for another try.
func (f *flow) next() (m *message, rejected int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	from := &f.queue
	if len(f.queue) == 0 || f.handed >= f.maxUndelivered || len(f.loose) > 0 && f.loose[0].at.Before(f.queue[0].at) {
		from = &f.loose // which nothing but the outputs holds up
	}
	if len(*from) > 0 {
		m = (*from)[0]
		(*from)[0] = nil
		*from = (*from)[1:]
		f.queued -= m.size()
		if m.tracked {
			f.handed++
		}
	}
	f.feeding = m != nil
	f.finishIfIdle()
	return m, len(f.rejected)
}

// backoff is how long rejected messages wait: twice as long each time, until one is delivered.
func (f *flow) backoff() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	wait := f.retryAfter
	f.retryAfter = min(2*wait, lastRetry)
	return wait
}

// retryRejected hands rejected messages over again; they have kept their place among those that Telegraf has.
func (f *flow) retryRejected() {
	f.mu.Lock()
	rejected := f.rejected
	f.rejected = nil
	f.mu.Unlock()
	for _, m := range rejected {
		f.stats.redelivered.Incr(1)
		f.hand(m)
	}
}

// hand gives a message to Telegraf, which may already have settled it when hand returns.
func (f *flow) hand(m *message) {
	metrics, malformed := f.makeMetrics(m)
	if malformed && !m.again {
		f.stats.malformed.Incr(1)
	}
	m.again = true
	if m.tracked {
		metrics, _ = metric.WithGroupTracking(metrics, func(info telegraf.DeliveryInfo) {
			f.mu.Lock()
			f.settle(m, info.Delivered())
			f.mu.Unlock()
		})
	}
	for _, one := range metrics {
		f.acc.AddMetric(one)
	}
}

// settle notes what became of a message, for acknowledge to act on. It is called under the lock, on the goroutine of
// whichever output settled the message, and so never waits.
func (f *flow) settle(m *message, delivered bool) {
	f.settled = append(f.settled, settlement{m, delivered})
	wake(f.ackWake)
}

// acknowledge tells the broker what Telegraf delivered, until stop. It may wait there for a connection that is stuck.
func (f *flow) acknowledge(stop <-chan struct{}) {
	var batch []settlement
	var publishes []mqtt.Message
	for {
		select {
		case <-stop:
			return
		case <-f.ackWake:
		}
		released := 0 // counted only after their acknowledgement, for which drain waits
		f.mu.Lock()
		batch, f.settled = f.settled, batch[:0]
		for _, s := range batch {
			publish, first := f.resolve(s)
			if publish != nil {
				publishes = append(publishes, publish)
			}
			if first {
				released++
			}
		}
		f.stats.unacked.Set(int64(len(f.unacked)))
		gather := f.gather
		f.mu.Unlock()
		if len(publishes) > 0 {
			gather(func() {
				for _, publish := range publishes {
					publish.Ack()
				}
			})
		}
		f.stats.acked.Incr(int64(len(publishes)))
		clear(publishes)
		publishes = publishes[:0]
		f.mu.Lock()
		f.handed -= released
		f.finishIfIdle()
		f.mu.Unlock()
		clear(batch)
		wake(f.feedWake)
	}
}

// resolve takes a settled message out of the flow, or back into it. It returns what is to be acknowledged, if anything,
// and whether this is the first time that the message was found delivered. It is called under the lock.
func (f *flow) resolve(s settlement) (publish mqtt.Message, first bool) {
	m := s.message
	if !s.delivered {
		f.rejected = append(f.rejected, m)
		return nil, false
	}
	f.retryAfter = firstRetry
	first = !m.delivered
	m.delivered = true
	switch {
	case m.publish == nil: // the session is gone, and with it whoever waited
		return nil, first
	case m.connection != f.connection || !f.online: // acknowledged when the broker sends it again
		return nil, first
	}
	delete(f.unacked, m.publish.MessageID())
	if f.unreleased != nil && m.publish.Qos() == 2 {
		f.unreleased[m.publish.MessageID()] = m
	}
	return m.publish, first
}

// drain takes in nothing more and waits until Telegraf has delivered what it was given, or ctx ends. It returns how
// many messages are left, which the broker sends again to the next session if it keeps one.
func (f *flow) drain(ctx context.Context) (left int) {
	f.mu.Lock()
	f.draining = true
	f.idle = make(chan struct{})
	idle := f.idle
	f.finishIfIdle()
	f.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stats.dropped[droppedShutdown].Incr(int64(len(f.loose)))
	return len(f.queue) + len(f.loose) + f.handed
}

func (f *flow) finishIfIdle() {
	if f.idle != nil && len(f.queue)+len(f.loose) == 0 && f.handed == 0 && !f.feeding {
		close(f.idle)
		f.idle = nil
	}
}

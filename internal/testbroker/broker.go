// Package testbroker runs real MQTT brokers for tests, benchmarks and the quickstart, publishes to them, and proves what
// they still hold.
//
// # Promises
//
//   - A [Broker] keeps its port from the first Start on, whatever is stopped and started in between.
//   - A persistent session (clean session false) survives Stop and Start on both brokers, with its subscriptions, its
//     queued messages and its unacknowledged ones. [Mosquitto.Kill] loses what came after the last autosave;
//     [MochiOptions.Volatile] loses everything.
//   - No broker keeps more unacknowledged QoS 1 and 2 messages outstanding to one client than its window. The excess
//     waits, in order and without limit, also while the client is away; nothing is dropped.
//   - [Publish] counts a message only after the broker's PUBACK or PUBCOMP. With [Opts.Resume] it survives restarts, and
//     every message it counted was accepted at least once; after a restart some may have been accepted twice.
//   - Every wait has an end: a context, a timeout, or both. Stop returns after every goroutine it owns has ended.
//
// All exported functions and methods may be called concurrently; Start, Stop and Restart of one broker take turns.
// The package does not import testing: [StartMochi] and [StartMosquitto] take a [TB].
//
// # What mochi-mqtt 2.7.9 does, and what is done about it
//
// mochi has no window for MQTT 3.1.1. It writes every message at once, and from MaximumInflight unacknowledged messages
// on (online or offline) it drops the rest with a warning in its log. For MQTT 5 it holds a window of the client's
// receive maximum, but removes a held message from the session at the moment it is written: a connection lost before the
// PUBACK loses the message. A resumed session is sent all of its messages at once, ordered by the second in which
// they came and at random within it. Messages a client publishes and messages it receives share one map by packet
// identifier: a client that publishes with identifier 7 deletes the unacknowledged message 7 it has yet to acknowledge.
// A slow client's outbound channel (MaximumClientWritesPending) drops when full. A stopped server leaves a
// connection accepted in that moment open and unanswered, and a connection that never sent CONNECT blocks Close.
//
// So outbound delivery is ours: the hook in window.go takes each accepted PUBLISH away from mochi (it answers
// CodeSuccessIgnore and stores a retained message itself) and puts it into a session of its own for each subscriber
// (session.go), whose writer sends while the window has room. Our packet identifiers begin at 32768, so that they meet
// neither mochi's nor a usual client's. mochi remains the parser, the subscription index, and the receiving side.
// What still goes mochi's way, past the window: retained messages sent upon Subscribe, and wills.
// Tested with MQTT 3.1.1 alone. Not supported: MQTT 5 message expiry, outbound topic aliases, and the client's maximum packet size.
//
// # What Mosquitto 2.0.11 does
//
// It sends 20 messages and waits (max_inflight_messages), but after the first acknowledgements of a resumed session it
// sends more than that. It queues 1000 and drops the excess silently unless max_queued_messages is 0, which is what we
// write. It disconnects a publisher that has more than max_inflight_messages under way at QoS 2. It sets DUP also on
// messages of a resumed session that it never sent before. It reads one packet of each connection in a turn of its
// loop: acknowledgements that a client sent just before it disconnected are lost if a second CONNECT with its id is
// read before them, so a message may come again that was acknowledged. Started by root it becomes user mosquitto
// and then cannot write into the test's directory; its configuration says user root in that case. It saves its
// database at SIGTERM, and every autosave_interval seconds.
//
// # What paho.mqtt.golang 1.5.1 does
//
// When a persistent session with AutoReconnect resumes, paho completes the tokens of the messages it is about to send
// again, without an error and before any PUBACK (claimID in messageids.go), and it sends them in random order. A
// publisher that believed those tokens would count messages that a second restart then loses. [Publish] therefore keeps
// the unacknowledged messages itself, connects anew and publishes them again in order.
package testbroker

import (
	"errors"
	"time"
)

// DefaultMaxInflight is the window of a broker that was not told otherwise. It is Mosquitto's.
const DefaultMaxInflight = 20

const (
	startTimeout = 15 * time.Second // from Start to the first CONNACK
	stopTimeout  = 15 * time.Second // from SIGTERM to the end of the process
	dialTimeout  = 5 * time.Second  // one attempt to connect, CONNACK included
	dialEvery    = 50 * time.Millisecond
)

var (
	// ErrRunning says that Start was called on a broker that runs.
	ErrRunning = errors.New("the broker is running already")
	// ErrNoSession says that the broker holds no session for this client id.
	ErrNoSession = errors.New("the broker holds no session for this client id")
)

// Broker is an MQTT broker that a test can take away and give back.
type Broker interface {
	// URL is tcp://127.0.0.1:port. It is known from the first Start on and does not change after that.
	URL() string
	// Start listens and returns once a client can connect.
	Start() error
	// Stop ends the broker and its connections. Stopping a stopped broker does nothing.
	Stop() error
	// Restart is Stop, then Start.
	Restart() error
	// Unacked returns how many QoS 1 and 2 messages the broker holds for the client: sent and not acknowledged, and
	// waiting to be sent. A broker that cannot tell returns an error that is errors.ErrUnsupported.
	Unacked(clientID string) (int, error)
}

// Message is one application message.
type Message struct {
	Topic    string
	Payload  []byte
	QoS      byte
	Retained bool
	// Duplicate is the DUP flag: the broker had sent this message before. Only on received messages.
	Duplicate bool
}

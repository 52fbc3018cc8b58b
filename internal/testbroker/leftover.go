package testbroker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

const sentinelPrefix = "testbroker-sentinel"

// Leftover returns what the broker still owes a persistent session, and so proves that nothing was left unacknowledged.
// It takes the session over (its client should be gone), publishes a sentinel at QoS 1 to the topic, which must match a
// QoS 1 or 2 subscription of the session, and returns every message that came before the sentinel, in order. They are
// acknowledged, so the session is empty afterwards. Nobody else should publish meanwhile. Without a session it returns
// [ErrNoSession].
//
// A broker learns of an acknowledgement when it reads it, which may be after its client has closed the connection.
// Leftover gives the broker the time for that before it connects; see settle. It cannot bring back acknowledgements of a
// client that closed its connection with messages unread: TCP then resets the connection, and what the broker has not
// read by then is gone.
func Leftover(ctx context.Context, brokerURL, clientID, topic string) (_ []Message, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("read what client %s left on %s: %w", clientID, brokerURL, err)
		}
	}()

	if err := settle(ctx, brokerURL); err != nil {
		return nil, err
	}
	sentinel := unique(sentinelPrefix)
	var (
		mu       sync.Mutex // paho's goroutine appends until the connection is closed
		received []Message
		once     sync.Once
	)
	reached := make(chan struct{})
	conn, err := dial(ctx, brokerURL, clientID, false, 10*time.Second, func(_ mqtt.Client, m mqtt.Message) {
		m.Ack() // before reached is closed: paho then writes it before what follows
		if string(m.Payload()) == sentinel {
			once.Do(func() { close(reached) })
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if !strings.HasPrefix(string(m.Payload()), sentinelPrefix) { // nor the sentinel of a call that failed
			received = append(received, Message{
				Topic: m.Topic(), Payload: m.Payload(), QoS: m.Qos(), Retained: m.Retained(), Duplicate: m.Duplicate(),
			})
		}
	})
	if err != nil {
		return nil, err
	}
	defer conn.close()
	if !conn.sessionPresent {
		return nil, ErrNoSession
	}
	if err := await(ctx, conn.Publish(topic, 1, false, sentinel), leftoverTimeout); err != nil {
		return nil, err
	}

	deadline := time.NewTimer(leftoverTimeout)
	defer deadline.Stop()
	select {
	case <-reached:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-deadline.C:
		return nil, errors.New("the sentinel did not come back: is the session subscribed to " + topic + "?")
	}
	// The answer to this says that the broker has read the acknowledgements.
	if err := await(ctx, conn.Unsubscribe(sentinel), leftoverTimeout); err != nil {
		return nil, err
	}
	mu.Lock()
	defer mu.Unlock()
	return received, nil
}

const leftoverTimeout = 30 * time.Second

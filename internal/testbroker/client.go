package testbroker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// connection is a paho client that does not reconnect by itself: the tokens of a lost connection end with an error.
type connection struct {
	mqtt.Client
	sessionPresent bool
}

// dial makes one attempt to connect. receive may be nil; otherwise it gets each message, on one goroutine, and
// acknowledges it. writeTimeout bounds a write, and also how long paho's Publish sticks to a connection that is lost in
// that very moment.
func dial(
	ctx context.Context, brokerURL, clientID string, clean bool, writeTimeout time.Duration, receive mqtt.MessageHandler,
) (*connection, error) {
	opts := mqtt.NewClientOptions().
		AddBroker(brokerURL).
		SetClientID(clientID).
		SetProtocolVersion(4). // 3.1.1, and no second attempt with 3.1
		SetCleanSession(clean).
		SetAutoReconnect(false).
		SetAutoAckDisabled(true).
		SetConnectTimeout(dialTimeout).
		SetWriteTimeout(writeTimeout).
		SetKeepAlive(30 * time.Second)
	if receive != nil {
		opts.SetDefaultPublishHandler(receive)
	}
	client := mqtt.NewClient(opts)
	connect := client.Connect()
	err := await(ctx, connect, 2*dialTimeout)
	if err != nil {
		client.Disconnect(0)
		return nil, fmt.Errorf("connect client %s to %s: %w", clientID, brokerURL, err)
	}
	c := &connection{Client: client}
	if t, ok := connect.(*mqtt.ConnectToken); ok {
		c.sessionPresent = t.SessionPresent()
	}
	return c, nil
}

func (c *connection) close() { c.Disconnect(1000) } // ms at most, usually none

var errTimeout = errors.New("timed out")

// await waits for the token, for the context, or for the timeout, and returns the error of the first.
func await(ctx context.Context, token mqtt.Token, timeout time.Duration) error {
	select {
	case <-token.Done():
		return token.Error()
	default: // a timer is needed
	}
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	select {
	case <-token.Done():
		return token.Error()
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-deadline.C:
		return fmt.Errorf("no answer from the broker: %w after %s", errTimeout, timeout)
	}
}

// unique returns prefix and a random text.
func unique(prefix string) string { return prefix + "-" + rand.Text() }

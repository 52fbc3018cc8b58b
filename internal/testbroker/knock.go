package testbroker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// knock says CONNECT, waits for CONNACK, and leaves.
func knock(ctx context.Context, addr string) error { return ping(ctx, addr, 0) }

// settle returns when the broker has read what closed connections sent before their end. A client that acknowledges and
// disconnects may return before the broker has read the acknowledgements, and a broker that then sees a second CONNECT
// with its id throws them away unread. Mosquitto reads one packet from each connection in a turn of its loop, and
// a PINGREQ takes a turn.
func settle(ctx context.Context, brokerURL string) error {
	u, err := url.Parse(brokerURL)
	if err != nil {
		return err
	}
	return ping(ctx, u.Host, 1000)
}

// ping connects and says PINGREQ so many times, each after the answer to the one before.
func ping(ctx context.Context, addr string, times int) (err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := conn.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return err
	}
	connect, ok := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	if !ok {
		return errors.New("paho has another CONNECT packet")
	}
	connect.ProtocolName = "MQTT"
	connect.ProtocolVersion = 4
	connect.CleanSession = true
	connect.ClientIdentifier = unique("knock")
	connect.Keepalive = 10
	if err := connect.Write(conn); err != nil {
		return err
	}
	answer, err := packets.ReadPacket(conn)
	if err != nil {
		return err
	}
	if ack, ok := answer.(*packets.ConnackPacket); !ok || ack.ReturnCode != packets.Accepted {
		return fmt.Errorf("the answer to CONNECT was %s", answer)
	}
	for range times {
		if err := conn.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
			return err
		}
		if err := packets.NewControlPacket(packets.Pingreq).Write(conn); err != nil {
			return err
		}
		if _, err := packets.ReadPacket(conn); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return packets.NewControlPacket(packets.Disconnect).Write(conn)
}

package mqtt_hardware

import (
	"context"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho/session/state"
	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/stretchr/testify/require"
)

// TestClient5DeafBroker is TestShortcutDeafBroker with MQTT 5.
func TestClient5DeafBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		go func() {
			_, _ = packets.ReadPacket(far)
			_, _ = packets.NewControlPacket(packets.CONNACK).WriteTo(far)
			for range 60 {
				<-time.After(time.Second)
				_, _ = (&packets.Publish{Topic: "a", Properties: &packets.Properties{}}).WriteTo(far)
			}
		}()
		var lost atomic.Bool
		c, _, err := connect5(context.Background(), []*url.URL{{Scheme: "tcp", Host: "broker"}},
			func(*url.URL) (*gatheredConn, error) { return newGatheredConn(near), nil },
			login{clientID: "c", timeout: 10 * time.Second, keepalive: 10 * time.Second, ping: 5 * time.Second},
			&options5{receiveMaximum: 10, state: state.NewInMemory()}, func(mqtt.Message) {}, func(error) { lost.Store(true) })
		require.NoError(t, err)
		pass(30 * time.Second)
		given := lost.Load()
		_ = far.Close()
		c.disconnect()
		pass(time.Minute)
		require.True(t, given)
	})
}

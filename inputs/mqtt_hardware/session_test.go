package mqtt_hardware

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf/config"
	telegraftls "github.com/influxdata/telegraf/plugins/common/tls"
	"github.com/influxdata/telegraf/testutil"

	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
)

func TestSessionQoS(t *testing.T) {
	t.Parallel()
	for _, kind := range brokers {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			b := kind.start(t)
			for qos := range byte(3) {
				t.Run(fmt.Sprintf("QoS %d", qos), func(t *testing.T) {
					i := connect(t, b.URL(), persistent, func(p *MQTTHardware) { p.QoS = int(qos) })
					send(t, b.URL(), qos, "t/x", numbers(0, 300)...)
					i.untilTexts(numbers(0, 300))
					i.stop()
					require.EqualValues(t, 300, i.stats.received.Get())
					if qos > 0 {
						require.EqualValues(t, 300, i.stats.acked.Get())
						require.Empty(t, leftover(t, b))
					}
					require.EqualValues(t, 0, i.stats.connected.Get())
					require.EqualValues(t, 0, i.stats.reconnects.Get())
					require.Empty(t, i.lines(testutil.LevelWarn))
					require.Empty(t, i.lines(testutil.LevelError))
					for _, m := range i.out.all() {
						require.Equal(t, map[string]string{"topic": "t/x"}, m.Tags())
					}
				})
			}
		})
	}
}

// What was never delivered stays with the broker, and Stop ends all the same.
func TestSessionStopsUndelivered(t *testing.T) {
	t.Parallel()
	for _, kind := range brokers {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			b := kind.start(t)
			i := connect(t, b.URL(), persistent)
			i.out.set(nil)
			send(t, b.URL(), 1, "t/x", numbers(0, 5)...)
			i.untilTexts(numbers(0, 5))
			i.stop()
			require.EqualValues(t, 0, i.stats.acked.Get())
			require.Len(t, i.lines(testutil.LevelWarn), 1)
			require.Contains(t, i.lines(testutil.LevelWarn)[0], "5 messages undelivered")
			i.out.set(accept) // Telegraf's last flush comes too late
			require.Equal(t, numbers(0, 5), leftover(t, b))
		})
	}
}

func TestSessionStopWaitsForDelivery(t *testing.T) {
	t.Parallel()
	for _, kind := range brokers {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			b := kind.start(t)
			i := connect(t, b.URL(), persistent)
			i.out.set(nil)
			send(t, b.URL(), 1, "t/x", numbers(0, 5)...)
			i.untilTexts(numbers(0, 5))
			stopped := make(chan struct{})
			go func() {
				defer close(stopped)
				i.stop()
			}()
			i.until("draining", func() bool {
				i.flow.mu.Lock()
				defer i.flow.mu.Unlock()
				return i.flow.draining
			})
			send(t, b.URL(), 1, "t/x", "late") // for the next session
			select {
			case <-stopped:
				require.Fail(t, "Stop did not wait")
			default:
			}
			i.out.settle(accept)
			within(t, soon, "Stop", func() { <-stopped })
			require.EqualValues(t, 5, i.stats.acked.Get())
			require.Equal(t, numbers(0, 5), i.out.texts())
			require.Equal(t, []string{"late"}, leftover(t, b))
		})
	}
}

func TestSessionBrokerComesLater(t *testing.T) {
	t.Parallel()
	for _, kind := range brokers {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			b := kind.start(t)
			require.NoError(t, b.Stop())
			i := prepare(t, b.URL())
			i.start()
			i.until("a line in the log", func() bool { return len(i.lines(testutil.LevelWarn)) > 0 })
			require.Contains(t, i.lines(testutil.LevelWarn)[0], b.URL())
			require.NoError(t, b.Start())
			i.untilConnected()
			send(t, b.URL(), 1, "t/x", "one")
			i.untilTexts([]string{"one"})
			require.Len(t, i.lines(testutil.LevelWarn), 1, "a failure is logged once")
			require.Empty(t, i.lines(testutil.LevelError))
		})
	}
}

func TestSessionBrokerRestarts(t *testing.T) {
	t.Parallel()
	for _, kind := range brokers {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			b := kind.start(t)
			i := connect(t, b.URL(), persistent)
			send(t, b.URL(), 1, "t/x", numbers(0, 50)...)
			i.untilTexts(numbers(0, 50))
			i.out.set(nil) // the next ones are under way while the broker is away
			send(t, b.URL(), 1, "t/x", numbers(50, 10)...)
			i.untilTexts(numbers(0, 60))
			require.NoError(t, b.Stop())
			i.until("lost", func() bool { return i.stats.connected.Get() == 0 })
			i.out.set(accept)
			require.NoError(t, b.Start())
			i.untilConnected()
			send(t, b.URL(), 1, "t/x", numbers(60, 50)...)
			i.untilTexts(numbers(0, 110))
			require.Positive(t, i.stats.reconnects.Get())
			i.until("acknowledged", func() bool { return i.stats.unacked.Get() == 0 })
			i.stop()
			require.Empty(t, leftover(t, b))
			require.Equal(t, numbers(0, 110), i.out.texts(), "nothing twice")
		})
	}
}

func TestSessionRestartUnderLoad(t *testing.T) {
	t.Parallel()
	for _, kind := range brokers {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			b := kind.start(t)
			const n = 3000
			i := connect(t, b.URL(), persistent)
			published := make(chan error, 1)
			go func() {
				_, err := testbroker.Publish(t.Context(), b.URL(), testbroker.Opts{QoS: 1, Resume: true, Rate: 1500},
					func(yield func(testbroker.Message) bool) {
						for _, text := range numbers(0, n) {
							if !yield(testbroker.Message{Topic: "t/x", Payload: []byte(text)}) {
								return
							}
						}
					})
				published <- err
			}()
			i.until("half", func() bool { return i.out.count() > n/2 })
			require.NoError(t, b.Restart())
			require.NoError(t, <-published)
			i.until("all", func() bool { return len(distinct(i.out.texts())) == n })
			i.until("acknowledged", func() bool { return i.stats.unacked.Get() == 0 })
			i.stop()
			require.Empty(t, leftover(t, b))
		})
	}
}

func distinct(texts []string) []string {
	texts = slices.Clone(texts)
	slices.Sort(texts)
	return slices.Compact(texts)
}

func TestSessionPersists(t *testing.T) {
	t.Parallel()
	for _, kind := range brokers {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			b := kind.start(t)
			i := connect(t, b.URL(), persistent)
			send(t, b.URL(), 1, "t/x", "before")
			i.untilTexts([]string{"before"})
			i.stop()
			send(t, b.URL(), 1, "t/x", numbers(0, 100)...)
			i = connect(t, b.URL(), persistent)
			i.untilTexts(numbers(0, 100))
			require.EqualValues(t, 100, i.stats.received.Get())
		})
	}
}

// The pings are answered, and the connection stays, however long Telegraf takes.
func TestSessionFullWindow(t *testing.T) {
	const held = 6 * time.Second // keepalive and ping_timeout are over in 3 s; mochi takes 1.5 times a keepalive of 1 s to be 1 s
	impatientPing := func(p *MQTTHardware) {
		p.KeepAlive, p.PingTimeout, p.MaxUndeliveredMessages = config.Duration(2*time.Second), config.Duration(time.Second), 10
	}
	t.Run("outputs do not deliver", func(t *testing.T) {
		t.Parallel()
		for _, kind := range brokers {
			t.Run(kind.name, func(t *testing.T) {
				t.Parallel()
				b := kind.start(t)
				i := connect(t, b.URL(), impatientPing, persistent)
				i.out.set(nil)
				send(t, b.URL(), 1, "t/x", numbers(0, 200)...)
				<-time.After(held)
				require.Equal(t, 10, i.out.count())
				i.out.set(accept)
				fullWindowEnds(t, b, i)
			})
		}
	})
	t.Run("Telegraf does not take", func(t *testing.T) {
		t.Parallel()
		for _, kind := range brokers {
			t.Run(kind.name, func(t *testing.T) {
				t.Parallel()
				b := kind.start(t)
				i := connect(t, b.URL(), impatientPing, persistent)
				unblock := i.out.block()
				t.Cleanup(unblock)
				send(t, b.URL(), 1, "t/x", numbers(0, 200)...)
				<-time.After(held)
				require.Zero(t, i.out.count())
				unblock()
				fullWindowEnds(t, b, i)
			})
		}
	})
}

func fullWindowEnds(t *testing.T, b testbroker.Broker, i *instance) {
	t.Helper()
	i.untilTexts(numbers(0, 200))
	i.stop()
	require.EqualValues(t, 0, i.stats.reconnects.Get())
	require.EqualValues(t, 200, i.stats.received.Get())
	require.Empty(t, leftover(t, b))
}

func TestSessionRejected(t *testing.T) {
	t.Parallel()
	for _, kind := range brokers {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			b := kind.start(t)
			i := connect(t, b.URL(), persistent)
			i.out.set(reject)
			send(t, b.URL(), 1, "t/x", numbers(0, 50)...)
			i.until("again", func() bool { return i.stats.redelivered.Get() >= 20 })
			require.EqualValues(t, 0, i.stats.acked.Get())
			i.out.set(accept)
			i.until("acknowledged", func() bool { return i.stats.acked.Get() == 50 })
			require.Equal(t, slices.Sorted(slices.Values(numbers(0, 50))), distinct(i.out.texts()))
			i.stop()
			require.Empty(t, leftover(t, b))
		})
	}
}

func TestSessionWrongPassword(t *testing.T) {
	credentials := func(name, password string) func(*MQTTHardware) {
		return func(p *MQTTHardware) {
			p.Username, p.Password = config.NewSecret([]byte(name)), config.NewSecret([]byte(password))
		}
	}
	starts := map[string]func(t *testing.T) string{
		"mochi": func(t *testing.T) string {
			t.Helper()
			return ruledMochi(t, &rules{user: func(name, password string) bool { return name == "me" && password == "right" }})
		},
		"mosquitto": func(t *testing.T) string {
			t.Helper()
			program, err := exec.LookPath("mosquitto_passwd")
			if err != nil {
				t.Skip("mosquitto_passwd is not installed")
			}
			file := filepath.Join(t.TempDir(), "passwords")
			require.NoError(t, exec.Command(program, "-b", "-c", file, "me", "right").Run())
			return mosquittoWith(t, "password_file "+file).URL()
		},
	}
	for name, start := range starts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := start(t)
			i := prepare(t, url, credentials("me", "wrong"))
			i.start()
			i.until("a line in the log", func() bool { return len(i.lines(testutil.LevelError)) > 0 })
			i.stopWithin(hanging)
			require.Len(t, i.lines(testutil.LevelError), 1)
			line := i.lines(testutil.LevelError)[0]
			require.Contains(t, line, url)
			require.Regexp(t, "(?i)not authorized|bad user name or password", line)
			require.NotContains(t, line, "wrong")
			require.Empty(t, i.lines(testutil.LevelWarn))

			right := connect(t, url, credentials("me", "right"))
			send(t, url, 1, "t/x", "one")
			right.untilTexts([]string{"one"})
		})
	}
}

// Mosquitto 2.0 never refuses a subscription (it leaves the messages out), so this is mochi alone.
func TestSessionSubscriptionRefused(t *testing.T) {
	t.Parallel()
	url := ruledMochi(t, &rules{subscribe: func(filter string) bool { return filter != "secret/#" }})
	i := connect(t, url, func(p *MQTTHardware) { p.Topics = []string{"a/#", "secret/#", "t/#"} })
	send(t, url, 1, "secret/x", "hidden")
	send(t, url, 1, "a/x", "one")
	send(t, url, 1, "t/x", "two")
	i.untilTexts([]string{"one", "two"})
	require.Len(t, i.lines(testutil.LevelError), 1)
	require.Contains(t, i.lines(testutil.LevelError)[0], `"secret/#"`)
	require.EqualValues(t, 0, i.stats.reconnects.Get())
}

// The broker keeps the subscriptions of a persistent session; those that topics does not list any more bring no events.
func TestSessionTopicsChanged(t *testing.T) {
	for _, known := range []bool{true, false} {
		t.Run(fmt.Sprintf("state %t", known), func(t *testing.T) {
			t.Parallel()
			for _, kind := range brokers {
				t.Run(kind.name, func(t *testing.T) {
					t.Parallel()
					b := kind.start(t)
					topics := func(topics ...string) func(*MQTTHardware) {
						return func(p *MQTTHardware) { p.Topics = topics }
					}
					first := connect(t, b.URL(), persistent, topics("t/old/#", "t/fixed", "t/both"))
					first.stop()
					for _, topic := range []string{"t/old/x", "t/fixed", "t/new/x", "t/both"} {
						send(t, b.URL(), 1, topic, "while away on "+topic)
					}

					i := prepare(t, b.URL(), persistent, topics("t/new/#", "t/both"))
					if known {
						require.NoError(t, i.SetState(first.GetState()))
					}
					i.start()
					i.untilTexts([]string{"while away on t/both"})
					i.until("the others", func() bool { return i.stats.received.Get() == 3 })
					require.EqualValues(t, 2, i.stats.dropped[droppedUnwanted].Get())
					i.until("a line in the log", func() bool {
						return strings.Contains(strings.Join(i.lines(testutil.LevelWarn), "\n"), "earlier configuration")
					})

					// Whether the state names them or not, t/fixed and t/old/# are unsubscribed before long.
					i.until("unsubscribed", func() bool {
						before := i.stats.received.Get()
						for _, topic := range []string{"t/old/x", "t/fixed", "t/new/x"} {
							send(t, b.URL(), 1, topic, "later")
						}
						const want = 1 // t/new/x
						i.until("all", func() bool { return i.stats.received.Get() >= before+want })
						send(t, b.URL(), 1, "t/both", "mark")
						i.until("the mark", func() bool { return slices.Contains(i.out.texts(), "mark") })
						return i.stats.received.Get() == before+want+1
					})
					for _, text := range i.out.texts() {
						require.Contains(t, []string{"while away on t/both", "later", "mark"}, text)
					}
					for _, m := range i.out.all() {
						topic, _ := m.GetTag("topic")
						require.Contains(t, []string{"t/both", "t/new/x"}, topic)
					}
					i.stop()
					if known {
						require.Empty(t, i.lines(testutil.LevelError))
					}
				})
			}
		})
	}
}

// Whoever accepts and never answers must not hold Stop up.
func TestSessionStopIsPrompt(t *testing.T) {
	only3(t)
	silent := func(t *testing.T, seen chan<- struct{}) string {
		t.Helper()
		return serveTCP(t, nil, func(conn net.Conn) {
			b := make([]byte, 1000)
			for {
				n, err := conn.Read(b)
				if err != nil {
					_ = conn.Close()
					return
				}
				if n > 0 {
					select {
					case seen <- struct{}{}:
					default:
					}
				}
			}
		})
	}
	for _, scheme := range []string{"tcp", "ssl", "ws", "wss"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			seen := make(chan struct{}, 1)
			i := prepare(t, scheme+"://"+silent(t, seen), impatientAfterTest)
			i.start()
			within(t, soon, "connecting", func() { <-seen })
			i.stopWithin(hanging)
		})
	}
	silentAbout := map[string]func(p packets.ControlPacket) bool{
		"CONNECT":     func(p packets.ControlPacket) bool { _, ok := p.(*packets.ConnectPacket); return ok },
		"SUBSCRIBE":   func(p packets.ControlPacket) bool { _, ok := p.(*packets.SubscribePacket); return ok },
		"UNSUBSCRIBE": func(p packets.ControlPacket) bool { _, ok := p.(*packets.UnsubscribePacket); return ok },
	}
	for name, isIt := range silentAbout {
		t.Run("no answer to "+name, func(t *testing.T) {
			t.Parallel()
			seen := make(chan struct{}, 1)
			url := scripted(t, func(_ int, p packets.ControlPacket) (packets.ControlPacket, bool) {
				if isIt(p) {
					seen <- struct{}{}
					return nil, true
				}
				return accepting(p)
			})
			i := prepare(t, url, persistent, impatientAfterTest)
			require.NoError(t, i.SetState([]string{"old"}))
			i.start()
			within(t, soon, name, func() { <-seen })
			i.stopWithin(hanging)
		})
	}
}

// impatientAfterTest is short enough for the cleanup after a test that failed, and too long for it to pass.
func impatientAfterTest(p *MQTTHardware) { p.ConnectionTimeout = config.Duration(8 * time.Second) }

// A broker that closes the connection in the middle of subscribing is one to try again, at once.
func TestSessionLostWhileSubscribing(t *testing.T) {
	only3(t)
	for name, change := range map[string]func(*MQTTHardware){"persistent": persistent, "clean": func(*MQTTHardware) {}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := scripted(t, func(connection int, p packets.ControlPacket) (packets.ControlPacket, bool) {
				if _, ok := p.(*packets.SubscribePacket); ok && connection == 0 {
					return nil, false
				}
				return accepting(p)
			})
			i := prepare(t, url, change) // connection_timeout is 30 s
			i.start()
			i.untilConnected()
		})
	}
}

// A broker that is starting says "server unavailable". That is no wrong configuration, which 30 s would be right for.
func TestSessionServerUnavailable(t *testing.T) {
	only3(t)
	t.Parallel()
	url := scripted(t, func(connection int, p packets.ControlPacket) (packets.ControlPacket, bool) {
		if _, ok := p.(*packets.ConnectPacket); ok && connection == 0 {
			return connack(packets.ErrRefusedServerUnavailable), true
		}
		return accepting(p)
	})
	i := prepare(t, url)
	i.start()
	require.Eventually(t, func() bool { return i.stats.connected.Get() == 1 }, 10*time.Second, 5*time.Millisecond)
}

// A refusal is told although the broker was away before, as one that came back with another password file.
func TestSessionRefusedAfterOutage(t *testing.T) {
	only3(t)
	t.Parallel()
	url := scripted(t, func(connection int, p packets.ControlPacket) (packets.ControlPacket, bool) {
		if _, ok := p.(*packets.ConnectPacket); ok && connection > 0 {
			return connack(packets.ErrRefusedNotAuthorised), true
		}
		if _, ok := p.(*packets.SubscribePacket); ok {
			return nil, false
		}
		return accepting(p)
	})
	i := prepare(t, url)
	i.start()
	i.until("told", func() bool { return len(i.lines('E')) > 0 })
	require.Contains(t, i.lines('E')[0], "the broker refused")
	require.Len(t, i.lines('W'), 1)
}

func TestSessionTwoServers(t *testing.T) {
	t.Parallel()
	for _, kind := range brokers {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			b := kind.start(t)
			i := connect(t, "tcp://"+freeAddress(t), func(p *MQTTHardware) { p.Servers = append(p.Servers, b.URL()) })
			send(t, b.URL(), 1, "t/x", "one")
			i.untilTexts([]string{"one"})
		})
	}
}

func TestSessionLargeMessage(t *testing.T) {
	t.Parallel()
	for _, kind := range brokers {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			b := kind.start(t)
			large := strings.Repeat("0123456789abcdef", 8<<20/16)
			i := connect(t, b.URL())
			send(t, b.URL(), 1, "t/x", large, "small")
			i.until("both", func() bool { return i.out.count() == 2 })
			require.True(t, slices.Equal([]string{large, "small"}, i.out.texts()), "content")
		})
	}
}

// More than fits into memory is left to the broker; once there is room it is asked to send it again.
func TestSessionOverflow(t *testing.T) {
	if protocolUnderTest() == protocol5 {
		t.Skip("MQTT 5's receive maximum keeps the broker from it")
	}
	const n = 10
	size := maxQueuedBytes / 8
	var texts []string
	for i := range n {
		texts = append(texts, fmt.Sprintf("%02d", i)+strings.Repeat("x", size-2))
	}
	short := func(i *instance) []string {
		var heads []string
		for _, text := range i.out.texts() {
			heads = append(heads, text[:2])
		}
		return distinct(heads)
	}
	overflow := func(t *testing.T, b testbroker.Broker, change ...func(*MQTTHardware)) *instance {
		t.Helper()
		i := connect(t, b.URL(), append(change, func(p *MQTTHardware) { p.MaxUndeliveredMessages = 1 })...)
		i.out.set(nil)
		send(t, b.URL(), 1, "t/x", texts...)
		i.until("all are here", func() bool { return i.stats.received.Get() >= n })
		i.out.set(accept)
		i.until("through", func() bool { return i.stats.acked.Get() >= 8 })
		return i
	}
	t.Run("persistent", func(t *testing.T) {
		t.Parallel()
		for _, kind := range brokers {
			t.Run(kind.name, func(t *testing.T) {
				t.Parallel()
				b := kind.start(t)
				i := overflow(t, b, persistent)
				i.until("the rest", func() bool { return len(short(i)) == n })
				require.Len(t, i.out.texts(), n, "nothing twice")
				require.EqualValues(t, 1, i.stats.reconnects.Get())
				i.stop()
				require.Empty(t, leftover(t, b))
			})
		}
	})
	// Without a session that the broker keeps, what was left is lost with the connection. Then it must be counted.
	t.Run("clean", func(t *testing.T) {
		t.Parallel()
		for _, kind := range brokers {
			t.Run(kind.name, func(t *testing.T) {
				t.Parallel()
				b := kind.start(t)
				i := overflow(t, b)
				i.until("the rest, or its loss", func() bool {
					return int64(len(short(i)))+i.stats.dropped[droppedOverflow].Get() == n
				})
			})
		}
	})
}

func TestSessionTLS(t *testing.T) {
	t.Parallel()
	starts := map[string]func(t *testing.T, a *authority) (plain, secure string){
		"mochi": func(t *testing.T, a *authority) (plain, secure string) {
			t.Helper()
			l := listeners.NewTCP(listeners.Config{
				ID: "tls", Address: "127.0.0.1:0", TLSConfig: requireClientCertificate(a.server),
			})
			plain = ruledMochi(t, &rules{}, l)
			return plain, l.Address()
		},
		"mosquitto": func(t *testing.T, a *authority) (plain, secure string) {
			t.Helper()
			address := freeAddress(t)
			host, port, err := net.SplitHostPort(address)
			require.NoError(t, err)
			b := mosquittoWith(t, "listener "+port+" "+host, "cafile "+a.file("ca.pem"), "certfile "+a.file("server.pem"),
				"keyfile "+a.file("server-key.pem"), "require_certificate true")
			return b.URL(), address
		},
	}
	for name, start := range starts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAuthority(t)
			plain, secure := start(t, a)
			certificate := func(p *MQTTHardware) {
				p.ClientConfig = telegraftls.ClientConfig{
					TLSCA: a.file("ca.pem"), TLSCert: a.file("client.pem"), TLSKey: a.file("client-key.pem"),
				}
			}
			for _, scheme := range []string{"ssl", "tls", "mqtts"} {
				i := connect(t, scheme+"://"+secure, certificate)
				send(t, plain, 1, "t/x", numbers(0, 100)...)
				i.untilTexts(numbers(0, 100))
				i.stop()
			}
			// mqtt_consumer takes host:port, and TLS with it if it is configured.
			connect(t, secure, certificate).stop()

			for what, change := range map[string]func(*MQTTHardware){
				"no certificate": func(p *MQTTHardware) { p.TLSCA = a.file("ca.pem") },
				"no trust":       func(p *MQTTHardware) { p.ServerName = "another" },
			} {
				i := prepare(t, "ssl://"+secure, change)
				i.start()
				i.until(what, func() bool { return len(i.lines(testutil.LevelWarn)) > 0 })
				require.EqualValues(t, 0, i.stats.connected.Get())
				i.stopWithin(hanging)
			}
		})
	}
}

// The Mosquitto of Debian speaks no websockets, so this is mochi alone.
func TestSessionWebsocket(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	for scheme, secure := range map[string]*tls.Config{"ws": nil, "wss": requireClientCertificate(a.server)} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			address := freeAddress(t)
			plain := ruledMochi(t, &rules{}, listeners.NewWebsocket(listeners.Config{ID: "web", Address: address, TLSConfig: secure}))
			i := connect(t, scheme+"://"+address+"/mqtt", func(p *MQTTHardware) {
				p.ClientConfig = telegraftls.ClientConfig{
					TLSCA: a.file("ca.pem"), TLSCert: a.file("client.pem"), TLSKey: a.file("client-key.pem"),
				}
			})
			send(t, plain, 1, "t/x", numbers(0, 1000)...)
			i.untilTexts(numbers(0, 1000))
			i.until("acknowledged", func() bool { return i.stats.acked.Get() == 1000 })
		})
	}
}

func TestSessionUnixSocket(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "mqtt") //nolint:usetesting // a socket's path must be short
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	plain := ruledMochi(t, &rules{}, listeners.NewUnixSock(listeners.Config{ID: "unix", Address: socket}))
	i := connect(t, "unix://"+socket)
	send(t, plain, 1, "t/x", "one")
	i.untilTexts([]string{"one"})
}

// The exact content comes through the real brokers.
func TestSessionContent(t *testing.T) {
	t.Parallel()
	for _, kind := range brokers {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			b := kind.start(t)
			i := connect(t, b.URL(), func(p *MQTTHardware) {
				p.TopicParsing = []TopicParsing{{Topic: "t/+/+", Tags: "_/device/_", Fields: "_/_/slot", Types: map[string]string{"slot": "int"}}}
			})
			send(t, b.URL(), 1, "t/press/7", `{"n":9007199254740993,"s":"line\nq\" é 😀"}`, "", "\xff")
			send(t, b.URL(), 1, "t/press/x", "text")
			i.until("metrics", func() bool { return i.out.count() == 4 })
			var got []fields
			for _, m := range i.out.all() {
				got = append(got, m.Fields())
				require.Equal(t, "press", m.Tags()["device"])
			}
			require.Equal(t, []fields{
				{"n": int64(9007199254740993), "s": "line\nq\" é 😀", "slot": int64(7)},
				{"message": "", "slot": int64(7)},
				{"payload_base64": "/w==", "slot": int64(7)},
				{"message": "text", "slot": "x", "error": got[3]["error"]},
			}, got)
			require.Contains(t, got[3]["error"], `"slot"`)
			require.EqualValues(t, 1, i.stats.malformed.Get())
		})
	}
}

func TestSessionDataFormat(t *testing.T) {
	t.Parallel()
	for _, kind := range brokers {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			b := kind.start(t)
			for _, format := range []string{"json", ""} {
				text := fmt.Sprintf("[[inputs.mqtt_hardware]]\n  servers = [%q]\n  topics = [\"t/#\"]\n", b.URL())
				if format != "" {
					text += fmt.Sprintf("  data_format = %q\n  tag_keys = [\"device\"]\n", format)
				}
				running, p := loadConfig(t, text)
				require.NoError(t, running.Init())
				i := &instance{MQTTHardware: p, t: t, out: &outlet{verdict: accept}, log: &testutil.CaptureLogger{}}
				before := i.stats.malformed.Get()
				i.start()
				i.untilConnected()
				send(t, b.URL(), 1, "t/x", `{"device":"press","n":1,"big":9007199254740993}`, "no json", "\xff", "[]")
				i.until("metrics", func() bool { return i.out.count() == 4 })
				all := i.out.all()
				if format == "" {
					require.Equal(t, fields{"device": "press", "n": int64(1), "big": int64(9007199254740993)}, all[0].Fields())
					require.Equal(t, []string{"", "no json", "", "[]"}, i.out.texts())
					require.Equal(t, before, i.stats.malformed.Get())
					i.stop()
					continue
				}
				require.Equal(t, "press", all[0].Tags()["device"])
				require.InDelta(t, 1, all[0].Fields()["n"], 0)
				require.Equal(t, "t/x", all[0].Tags()["topic"])
				for n, kept := range map[int]fields{1: {"message": "no json"}, 2: {"payload_base64": "/w=="}, 3: {"message": "[]"}} {
					got := all[n].Fields()
					require.Contains(t, got["error"], "data_format json")
					delete(got, "error")
					require.Equal(t, kept, got)
					require.Equal(t, "mqtt", all[n].Name())
				}
				require.EqualValues(t, 3, i.stats.malformed.Get()-before)
				i.stop()
			}
		})
	}
}

func TestSessionStopWithoutStart(t *testing.T) {
	within(t, hanging, "Stop", prepare(t, "tcp://127.0.0.1:1").Stop)
	p := New()
	p.Hardware = []string{"load"}
	require.NoError(t, p.Init())
	require.NoError(t, p.Start(&outlet{}))
	within(t, hanging, "Stop", p.Stop)
}

func TestSessionStateIsJSON(t *testing.T) { // as the agent's state file is
	i := prepare(t, "tcp://127.0.0.1:1")
	text, err := json.Marshal(i.GetState())
	require.NoError(t, err)
	require.JSONEq(t, `["t/#"]`, string(text))
	require.Error(t, i.SetState("t/#"))
}

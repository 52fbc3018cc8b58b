package e2e

import (
	"context"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/agentproc"
	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
)

// Each of 20,000 messages arrives once, with its content, and the broker is told of each.
func TestEachMessageArrivesOnce(t *testing.T) {
	t.Parallel()
	const n = 20_000
	for server, start := range map[string]func(*testing.T) string{
		"stand-in":      func(t *testing.T) string { t.Helper(); return standIn(t).URL() },
		"victoria-logs": func(t *testing.T) string { t.Helper(); return realServer(t).URL() },
	} {
		t.Run(server, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, broker testbroker.Broker) {
				logsURL := start(t)
				r := newRig(t, broker.URL(), logsURL, "", "")
				r.start()
				require.Equal(t, n, publish(t, broker.URL(), testbroker.Opts{QoS: 1}, events(1, n)))
				require.Zero(t, requireAll(t, waitStored(t, logsURL, n), n), "doubled")
				r.stop()
				require.Zero(t, requireAll(t, stored(t, logsURL), n), "doubled")
				requireNothingLeft(t, broker.URL())
				require.Zero(t, r.logged(" W! [inputs.mqtt_hardware]")+r.logged(" E! "), "%s", r.agent.Log())
			})
		})
	}
}

// The server is away for ten seconds under load: nothing is lost or doubled, and the log says so once.
func TestServerAway(t *testing.T) {
	t.Parallel()
	const n, rate = 8000, 500
	each(t, func(t *testing.T, broker testbroker.Broker) {
		logs := standIn(t)
		r := newRig(t, broker.URL(), logs.URL(), "", "")
		r.start()
		published := publishing(t, broker.URL(), testbroker.Opts{QoS: 1, Rate: rate}, events(1, n))
		require.NoError(t, logs.WaitCount(within(t, patience), vlreceiver.Tenant{}, rate))
		require.NoError(t, logs.Down())
		pause(t, 10*time.Second)
		require.NoError(t, logs.Up())
		published()
		require.Zero(t, requireAll(t, waitStored(t, logs.URL(), n), n), "doubled")
		r.stop()
		require.Equal(t, 1, r.logged("takes no batches:"))
		require.Equal(t, 1, r.logged("takes batches again"))
		require.Zero(t, r.logged("connection to"), "the broker's connection must not suffer")
		requireNothingLeft(t, broker.URL())
	})
}

// The output is down for a minute while the broker's window is full: the connection stays up through many keepalives.
func TestFullWindowKeepsTheConnection(t *testing.T) {
	t.Parallel()
	const n = 500
	each(t, func(t *testing.T, broker testbroker.Broker) {
		logs := standIn(t)
		require.NoError(t, logs.Down())
		r := newRig(t, broker.URL(), logs.URL(), "  keepalive = \"5s\"\n  ping_timeout = \"2s\"", "")
		r.start()
		publish(t, broker.URL(), testbroker.Opts{QoS: 1}, events(1, n))
		pause(t, 60*time.Second)
		received := r.agent.Self("internal_mqtt_hardware.messages_received")
		require.NoError(t, logs.Up())
		require.Zero(t, requireAll(t, waitStored(t, logs.URL(), n), n), "doubled")
		r.stop()
		require.EqualValues(t, testbroker.DefaultMaxInflight, received, "the broker's window")
		require.Equal(t, 1, r.logged("and subscribed to"), "connections")
		require.Zero(t, r.logged("connection to"))
		requireNothingLeft(t, broker.URL())
	})
}

// The agent is ended under load and started again.
func TestAgentRestart(t *testing.T) {
	t.Parallel()
	const n, rate, restarts = 10_000, 2000, 3
	for _, way := range []struct {
		name     string
		end      func(*rig)
		maxTwice int
	}{
		{"SIGTERM", (*rig).stop, 0},
		// What was delivered and not yet acknowledged comes again: a batch of the window, which Mosquitto stretches.
		{"SIGKILL", func(r *rig) { r.agent.Kill() }, restarts * 5 * testbroker.DefaultMaxInflight},
	} {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, broker testbroker.Broker) {
				logs := standIn(t)
				r := newRig(t, broker.URL(), logs.URL(), "", "")
				r.start()
				published := publishing(t, broker.URL(), testbroker.Opts{QoS: 1, Rate: rate}, events(1, n))
				for i := range restarts {
					require.NoError(t, logs.WaitCount(within(t, patience), vlreceiver.Tenant{}, (i+1)*rate))
					way.end(r)
					r.start()
				}
				published()
				doubled := requireAll(t, waitStored(t, logs.URL(), n), n)
				r.stop()
				t.Logf("%d of %d doubled in %d restarts", doubled, n, restarts)
				require.LessOrEqual(t, doubled, way.maxTwice)
				requireNothingLeft(t, broker.URL())
			})
		})
	}
}

// The broker is restarted under load: the flow goes on, and what it had accepted arrives.
func TestBrokerRestart(t *testing.T) {
	t.Parallel()
	const n, rate = 10_000, 1000
	each(t, func(t *testing.T, broker testbroker.Broker) {
		logs := standIn(t)
		r := newRig(t, broker.URL(), logs.URL(), "", "")
		r.start()
		published := publishing(t, broker.URL(), testbroker.Opts{QoS: 1, Rate: rate, Resume: true}, events(1, n))
		require.NoError(t, logs.WaitCount(within(t, patience), vlreceiver.Tenant{}, 2*rate))
		require.NoError(t, broker.Restart())
		restarted, before := time.Now(), logs.Count(vlreceiver.Tenant{})
		require.NoError(t, logs.WaitCount(within(t, patience), vlreceiver.Tenant{}, before+rate/10))
		t.Logf("the flow went on after %s", time.Since(restarted).Round(time.Millisecond))
		published()
		doubled := requireAll(t, waitStored(t, logs.URL(), n), n)
		t.Logf("%d of %d doubled, by publisher or agent", doubled, n)
		r.stop()
		require.Equal(t, 2, r.logged("and subscribed to"), "connections")
		requireNothingLeft(t, broker.URL())
	})
}

// The server is restarted under load: a batch that was under way may be there twice, nothing is lost.
func TestServerRestart(t *testing.T) {
	t.Parallel()
	const n, rate = 6000, 1000
	each(t, func(t *testing.T, broker testbroker.Broker) {
		server := realServer(t)
		r := newRig(t, broker.URL(), server.URL(), "", "")
		r.start()
		published := publishing(t, broker.URL(), testbroker.Opts{QoS: 1, Rate: rate}, events(1, n))
		waitStored(t, server.URL(), rate)
		require.NoError(t, server.Stop())
		pause(t, time.Second)
		require.NoError(t, server.Start(within(t, patience)))
		published()
		doubled := requireAll(t, waitStored(t, server.URL(), n), n)
		t.Logf("%d of %d doubled", doubled, n)
		r.stop()
		requireNothingLeft(t, broker.URL())
	})
}

// pause lets a time pass that the test is about.
func pause(t *testing.T, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	<-ctx.Done()
	require.NoError(t, t.Context().Err())
}

// SIGHUP makes new plugins in the same process.
func TestReload(t *testing.T) {
	t.Parallel()
	const n, rate = 6000, 2000
	each(t, func(t *testing.T, broker testbroker.Broker) {
		logs := standIn(t)
		r := newRig(t, broker.URL(), logs.URL(), "", "")
		r.start()
		published := publishing(t, broker.URL(), testbroker.Opts{QoS: 1, Rate: rate}, events(1, n))
		require.NoError(t, logs.WaitCount(within(t, patience), vlreceiver.Tenant{}, rate))
		require.NoError(t, r.agent.Signal(syscall.SIGHUP))
		require.NoError(t, r.agent.WaitFor(within(t, patience), func(*agentproc.Agent) bool {
			return r.logged("and subscribed to") == 2
		}))
		published()
		require.Zero(t, requireAll(t, waitStored(t, logs.URL(), n), n), "doubled")
		r.stop()
		requireNothingLeft(t, broker.URL())
	})
}

// A burst of QoS 0 messages and silence is one request; silence makes none.
func TestBurstIsOneRequest(t *testing.T) {
	t.Parallel()
	const n = 500
	each(t, func(t *testing.T, broker testbroker.Broker) {
		logs := standIn(t)
		r := newRig(t, broker.URL(), logs.URL(), "", "  idle_gap = \"700ms\"") // wide enough for a busy machine
		r.start()
		publish(t, broker.URL(), testbroker.Opts{QoS: 0}, events(1, n))
		require.Zero(t, requireAll(t, waitStored(t, logs.URL(), n), n), "doubled")
		requests := 0
		for _, request := range logs.Requests() {
			if request.Lines >= n {
				requests++
			}
		}
		require.Equal(t, 1, requests, "requests with all "+strconv.Itoa(n)+" events")
		r.stop()
	})
}

// Mosquitto crashes and comes back with an older state, in which it knows the session and not what it has sent since. What
// is published then has identifiers, and here also contents, of messages that were delivered before.
func TestBrokerForgets(t *testing.T) {
	t.Parallel()
	const n = testbroker.DefaultMaxInflight
	broker := testbroker.StartMosquitto(t, testbroker.MosquittoOptions{Autosave: time.Hour})
	logs := standIn(t)
	r := newRig(t, broker.URL(), logs.URL(), "", "")
	r.start()
	require.NoError(t, broker.Restart()) // which saves the session
	connected := func(times int) {
		require.NoError(t, r.agent.WaitFor(within(t, patience), func(*agentproc.Agent) bool {
			return r.logged("and subscribed to") >= times
		}))
	}
	connected(2)
	on := func(yield func(testbroker.Message) bool) {
		for range n {
			if !yield(testbroker.Message{Topic: "e2e/switch", Payload: []byte("ON")}) {
				return
			}
		}
	}
	logs.Fail(vlreceiver.Fault{Kind: vlreceiver.FaultStatus, Status: 503})
	publish(t, broker.URL(), testbroker.Opts{QoS: 1}, on)
	require.NoError(t, r.agent.WaitFor(within(t, patience), func(a *agentproc.Agent) bool {
		return a.Self("internal_mqtt_hardware.messages_received") == n
	}))
	require.NoError(t, broker.Kill())
	require.NoError(t, broker.Start())
	connected(3)
	logs.Fail()
	for round := range 3 {
		if round > 0 {
			publish(t, broker.URL(), testbroker.Opts{QoS: 1}, on)
		}
		require.Eventually(t, func() bool {
			stored := 0
			for row := range logs.All(vlreceiver.Tenant{}) {
				if row.Fields["topic"] == "e2e/switch" {
					stored++
				}
			}
			return stored == (round+1)*n
		}, patience/4, 50*time.Millisecond, "round %d", round+1)
	}
	r.stop()
}

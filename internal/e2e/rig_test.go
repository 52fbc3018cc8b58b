// Package e2e holds the end-to-end tests: bin/telegraf as a process, real brokers, and VictoriaLogs or its stand-in.
package e2e

import (
	"context"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/agentproc"
	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
	"github.com/edgetide/telegraf-victorialogs/internal/vlserver"
)

const (
	clientID = "e2e-agent"
	topic    = "e2e/device"
	patience = 60 * time.Second // with anything that should come within seconds
)

// telegraf is the binary under test.
func telegraf(tb testing.TB) string {
	tb.Helper()
	path, err := filepath.Abs("../../bin/telegraf")
	require.NoError(tb, err)
	_, err = os.Stat(path)
	require.NoError(tb, err, "make build makes bin/telegraf; make test does it first")
	return path
}

// brokers are the real ones that each test runs with.
var brokers = map[string]func(testing.TB) testbroker.Broker{
	"mochi": func(tb testing.TB) testbroker.Broker {
		return testbroker.StartMochi(tb, testbroker.MochiOptions{})
	},
	"mosquitto": func(tb testing.TB) testbroker.Broker {
		return testbroker.StartMosquitto(tb, testbroker.MosquittoOptions{})
	},
}

// each runs the test with each broker.
func each(t *testing.T, test func(t *testing.T, broker testbroker.Broker)) {
	t.Helper()
	for name, start := range brokers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, start(t))
		})
	}
}

func standIn(tb testing.TB) *vlreceiver.Server {
	tb.Helper()
	server, err := vlreceiver.Start(vlreceiver.Config{})
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, server.Close()) })
	return server
}

func realServer(t *testing.T) *vlserver.Server {
	t.Helper()
	path, ok := vlserver.Look()
	if !ok {
		t.Skip("victoria-logs is not on PATH: this runs with the stand-in alone")
	}
	server, err := vlserver.New(path, "", t.TempDir())
	require.NoError(t, err)
	require.NoError(t, server.Start(within(t, patience)))
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	return server
}

// within is a context that ends after d, or with the test.
func within(tb testing.TB, d time.Duration) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	tb.Cleanup(cancel)
	return ctx
}

// rig is an agent with its configuration, which can be started again.
type rig struct {
	tb     testing.TB
	config string
	dir    string
	agent  *agentproc.Agent
}

// newRig writes a configuration with the defaults of both plugins, a persistent session, and more lines for each.
func newRig(tb testing.TB, brokerURL, logsURL, inputLines, outputLines string) *rig {
	tb.Helper()
	r := &rig{tb: tb, dir: tb.TempDir()}
	r.config = filepath.Join(r.dir, "telegraf.conf")
	require.NoError(tb, os.WriteFile(r.config, fmt.Appendf(nil, `
[agent]
  hostname = "edge"
  skip_processors_after_aggregators = true
[[inputs.mqtt_hardware]]
  servers = [%q]
  topics = ["e2e/#"]
  client_id = %q
  persistent_session = true
%s
[[outputs.victorialogs]]
  url = %q
%s
`, brokerURL, clientID, inputLines, logsURL, outputLines), 0o600))
	return r
}

// start starts the agent and waits until it is subscribed.
func (r *rig) start() {
	r.tb.Helper()
	r.launch()
	require.NoError(r.tb, r.agent.WaitFor(within(r.tb, patience), func(a *agentproc.Agent) bool {
		return strings.Contains(a.Log(), "and subscribed to")
	}), "%s", r.agent.Log())
}

func (r *rig) launch() {
	r.tb.Helper()
	agent, err := agentproc.Start(agentproc.Options{
		Path: telegraf(r.tb), Configs: []string{r.config}, Self: 500 * time.Millisecond, Dir: r.dir,
	})
	require.NoError(r.tb, err)
	r.tb.Cleanup(agent.Kill)
	r.tb.Cleanup(func() {
		if r.tb.Failed() {
			r.tb.Logf("telegraf, process %d, logged:\n%s", agent.PID(), agent.Log())
		}
	})
	r.agent = agent
}

// stop sends SIGTERM.
func (r *rig) stop() {
	r.tb.Helper()
	require.NoError(r.tb, r.agent.Stop(within(r.tb, patience)))
}

// logged counts the lines of the agent's log that hold the text.
func (r *rig) logged(text string) int { return strings.Count(r.agent.Log(), text) }

// event is message number seq: what is published, and what must be stored. It is hard to get through unchanged.
func event(seq int) (payload, stored string) {
	big := uint64(1)<<63 + uint64(seq)
	text := message(seq)
	return fmt.Sprintf(`{"seq":%d,"big":%d,"small":-9007199254740993,"on":true,"message":%s}`, seq, big, strconv.Quote(text)),
		fmt.Sprintf("%d|%d|-9007199254740993|true|%s", seq, big, text)
}

// message is the text of message number seq.
func message(seq int) string {
	return fmt.Sprintf("line one\nline \"two\" with \\ and a tab\t– größer, 日本語, 🚀 %d", seq)
}

// events yields messages first to last.
func events(first, last int) iter.Seq[testbroker.Message] {
	return func(yield func(testbroker.Message) bool) {
		for seq := first; seq <= last; seq++ {
			payload, _ := event(seq)
			if !yield(testbroker.Message{Topic: topic, Payload: []byte(payload)}) {
				return
			}
		}
	}
}

// publish publishes and returns when the broker has acknowledged all.
func publish(tb testing.TB, brokerURL string, o testbroker.Opts, messages iter.Seq[testbroker.Message]) int {
	tb.Helper()
	n, err := testbroker.Publish(within(tb, 5*patience), brokerURL, o, messages)
	require.NoError(tb, err)
	return n
}

// publishing is publish on a goroutine of its own; wait waits for its end.
func publishing(tb testing.TB, brokerURL string, o testbroker.Opts, messages iter.Seq[testbroker.Message]) (wait func()) {
	tb.Helper()
	ended := make(chan error, 1)
	ctx := within(tb, 5*patience)
	go func() {
		_, err := testbroker.Publish(ctx, brokerURL, o, messages)
		ended <- err
	}()
	return func() {
		tb.Helper()
		require.NoError(tb, <-ended)
	}
}

// stored reads all events back, checks their content, and returns how often each is there.
func stored(tb testing.TB, logsURL string) map[int]int {
	tb.Helper()
	times := make(map[int]int)
	require.NoError(tb, vlserver.Rows(within(tb, patience), logsURL, 0, func(row map[string]string) {
		if row["topic"] != topic {
			return
		}
		seq, err := strconv.Atoi(row["seq"])
		require.NoError(tb, err)
		_, want := event(seq)
		require.Equal(tb, want, strings.Join([]string{row["seq"], row["big"], row["small"], row["on"], row["_msg"]}, "|"))
		require.Equal(tb, "edge", row["host"])
		require.Equal(tb, "mqtt", row["measurement"])
		times[seq]++
	}))
	return times
}

// waitStored waits until so many different events are stored, then returns how often each is there.
func waitStored(tb testing.TB, logsURL string, events int) map[int]int {
	tb.Helper()
	ctx := within(tb, 2*patience)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		n, err := vlserver.Count(ctx, logsURL)
		if err == nil && n >= int64(events) {
			if times := stored(tb, logsURL); len(times) >= events {
				return times
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			times := stored(tb, logsURL)
			var missing []int
			for seq := 1; seq <= events && len(missing) < 20; seq++ {
				if times[seq] == 0 {
					missing = append(missing, seq)
				}
			}
			require.Empty(tb, missing, "%d events are missing, the first of them %v; the last count failed with: %v", events-len(times), missing, err)
			return nil
		}
	}
}

// requireAll checks that events 1 to n are there, and returns how many there are beyond one of each.
func requireAll(tb testing.TB, times map[int]int, n int) (doubled int) {
	tb.Helper()
	require.Len(tb, times, n)
	for seq := 1; seq <= n; seq++ {
		require.NotZero(tb, times[seq], "event %d is lost", seq)
		doubled += times[seq] - 1
	}
	return doubled
}

// requireNothingLeft checks that the broker waits for no acknowledgement of the agent's, which must have ended.
func requireNothingLeft(tb testing.TB, brokerURL string) {
	tb.Helper()
	left, err := testbroker.Leftover(within(tb, patience), brokerURL, clientID, topic)
	require.NoError(tb, err)
	require.Empty(tb, left, "the broker still holds messages that were not acknowledged")
}

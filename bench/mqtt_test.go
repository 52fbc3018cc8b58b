package bench

import (
	"context"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/agentproc"
	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
)

const agentLines = `
[agent]
  hostname = "edge"
  interval = "1h"
  flush_interval = "100ms"
  skip_processors_after_aggregators = true
`

// ours is the default configuration with nothing but addresses and names.
const ours = agentLines + `
[[inputs.mqtt_hardware]]
  servers = [%[1]q]
  topics = ["bench/#"]
  client_id = "bench-ours"
  persistent_session = %[3]t
[[outputs.victorialogs]]
  url = %[2]q
`

// stock is Telegraf's best route: what it acknowledges it may lose, since without persistent_session it acknowledges
// before anything is written; with it, it would wait for flush_interval at each window of the broker's.
const stock = agentLines + `
[[inputs.mqtt_consumer]]
  servers = [%[1]q]
  topics = ["bench/#"]
  client_id = "bench-stock"
  qos = 1
  persistent_session = %[3]t
  data_format = "json_v2"
  [[inputs.mqtt_consumer.json_v2]]
    measurement_name = "mqtt"
    [[inputs.mqtt_consumer.json_v2.object]]
      path = "@this"
[[outputs.loki]]
  domain = %[2]q
  endpoint = "/insert/loki/api/v1/push"
`

// messages are about 110 bytes each, with the topic.
func messages(n int) iter.Seq[testbroker.Message] {
	return func(yield func(testbroker.Message) bool) {
		for seq := range n {
			payload := fmt.Appendf(nil, `{"temperature":21.5,"humidity":47.1,"battery":97,"linkquality":120,"state":"ON","seq":%d}`, seq)
			if !yield(testbroker.Message{Topic: "bench/zigbee2mqtt/kitchen", Payload: payload}) {
				return
			}
		}
	}
}

// result is one run: the whole way from the publisher to the receiver.
type result struct {
	rate float64 // messages per second
	cpu  float64 // microseconds of the agent per message, its start and end included
}

// through publishes n QoS 1 messages as fast as the broker takes them and waits until all are stored.
func through(b *testing.B, broker testbroker.Broker, config string, persistent bool, n int) result {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	logs, err := vlreceiver.Start(vlreceiver.Config{CountOnly: true})
	require.NoError(b, err)
	defer func() { require.NoError(b, logs.Close()) }()

	dir := b.TempDir()
	path := filepath.Join(dir, "telegraf.conf")
	require.NoError(b, os.WriteFile(path, fmt.Appendf(nil, config, broker.URL(), logs.URL(), persistent), 0o600))
	agent, err := agentproc.Start(agentproc.Options{Path: "../bin/telegraf", Configs: []string{path}})
	require.NoError(b, err)
	defer agent.Kill()
	require.NoError(b, agent.WaitFor(ctx, func(a *agentproc.Agent) bool {
		return strings.Contains(a.Log(), "Connected")
	}), "%s", agent.Log())
	before := warmUp(ctx, b, broker, logs)

	start := time.Now()
	_, err = testbroker.Publish(ctx, broker.URL(), testbroker.Opts{QoS: 1, Inflight: 1000}, messages(n))
	require.NoError(b, err)
	require.NoError(b, logs.WaitCount(ctx, vlreceiver.Tenant{}, before+n), "%d stored\n%s", logs.Count(vlreceiver.Tenant{}),
		agent.Log())
	took := time.Since(start)
	require.NoError(b, agent.Stop(ctx))
	return result{
		rate: float64(n) / took.Seconds(),
		cpu:  float64(agent.CPU().Microseconds()) / float64(n),
	}
}

// warmUp publishes single messages until the agent, which logs that it is connected before it is subscribed, delivers
// them all, and returns how many that are.
func warmUp(ctx context.Context, b *testing.B, broker testbroker.Broker, logs *vlreceiver.Server) (stored int) {
	b.Helper()
	for {
		published, err := testbroker.Publish(ctx, broker.URL(), testbroker.Opts{QoS: 1}, messages(1))
		require.NoError(b, err)
		wait, cancel := context.WithTimeout(ctx, time.Second)
		err = logs.WaitCount(wait, vlreceiver.Tenant{}, stored+published)
		cancel()
		if err == nil {
			return logs.Count(vlreceiver.Tenant{})
		}
		require.NoError(b, ctx.Err())
		stored = logs.Count(vlreceiver.Tenant{})
	}
}

// A broker that truly holds its window at 20 unacknowledged messages, and a persistent session.
func BenchmarkWindowOf20(b *testing.B) {
	const n = 5000
	broker := testbroker.StartMochi(b, testbroker.MochiOptions{MaxInflight: 20})
	var runs []result
	for b.Loop() {
		runs = append(runs, through(b, broker, ours, true, n))
	}
	b.ReportMetric(median(runs, rate), "msgs/s")
	b.ReportMetric(0, "ns/op") // a run, which means nothing
}

// Ours beside stock Telegraf's best route, through Mosquitto with its default window, in turn.
func BenchmarkBesideStock(b *testing.B) {
	const n, rounds = 40_000, 3
	broker := testbroker.StartMosquitto(b, testbroker.MosquittoOptions{})
	var us, them []result
	for b.Loop() {
		for range rounds {
			us = append(us, through(b, broker, ours, false, n))
			them = append(them, through(b, broker, stock, false, n))
		}
	}
	b.ReportMetric(median(us, rate), "ours-msgs/s")
	b.ReportMetric(median(them, rate), "stock-msgs/s")
	b.ReportMetric(median(us, rate)/median(them, rate), "rate-ratio")
	b.ReportMetric(median(us, cpu), "ours-cpu-us/msg")
	b.ReportMetric(median(them, cpu), "stock-cpu-us/msg")
	b.ReportMetric(median(us, cpu)/median(them, cpu), "cpu-ratio")
	b.ReportMetric(0, "ns/op")
}

func rate(r result) float64 { return r.rate }
func cpu(r result) float64  { return r.cpu }

func median(runs []result, of func(result) float64) float64 {
	values := make([]float64, len(runs))
	for i, r := range runs {
		values[i] = of(r)
	}
	slices.Sort(values)
	return values[len(values)/2]
}

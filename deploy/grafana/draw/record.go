package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/edgetide/telegraf-victorialogs/internal/agentproc"
	"github.com/edgetide/telegraf-victorialogs/internal/series"
	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
)

const (
	scrapes  = 2 * time.Second  // between two of them
	patience = 30 * time.Second // with what should come at once
)

// recording is what was scraped in a run, and when the server was away.
type recording struct {
	data                   series.Database
	begin, away, back, end time.Time
}

const configuration = `
[agent]
  interval = "2s"
  flush_interval = "2s"
  hostname = "gateway-7"
  skip_processors_after_aggregators = true
[[inputs.mqtt_hardware]]
  listen = "tcp://%[1]s"
  topics = ["#"]
[[inputs.internal]]
  collect_memstats = false
[[outputs.victorialogs]]
  url = "%[2]s"
  namedrop = ["internal_*"]
  [outputs.victorialogs.dlq]
    directory = "%[3]s"
    max_size = "8MiB"
[[outputs.tcp_exporter]]
  listen = "%[4]s"
  namedrop = ["internal_*"]
[[outputs.prometheus_client]]
  listen = "%[5]s"
  namepass = ["internal_*"]
  collectors_exclude = ["gocollector", "process"]
`

// record runs the agent through an outage.
func record(ctx context.Context, o options) (seen recording, err error) {
	dir, err := os.MkdirTemp("", "draw")
	if err != nil {
		return seen, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	server, err := vlreceiver.Start(vlreceiver.Config{CountOnly: true})
	if err != nil {
		return seen, err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	var ports [3]any
	for i := range ports {
		if ports[i], err = freeAddress(ctx); err != nil {
			return seen, err
		}
	}
	path := filepath.Join(dir, "telegraf.conf")
	text := fmt.Sprintf(configuration, ports[0], server.URL(), filepath.Join(dir, "dead-letters"), ports[1], ports[2])
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return seen, err
	}
	agent, err := agentproc.Start(agentproc.Options{Path: o.telegraf, Configs: []string{path}})
	if err != nil {
		return seen, err
	}
	defer agent.Kill()
	starting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := agent.WaitFor(starting, func(a *agentproc.Agent) bool {
		return strings.Contains(a.Log(), "Listening for MQTT devices on")
	}); err != nil {
		return seen, fmt.Errorf("%w; it logged:\n%s", err, agent.Log())
	}

	ctx, cancel = context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { publish(ctx, fmt.Sprint("tcp://", ports[0])) })
	running.Go(func() { watch(ctx, fmt.Sprint(ports[1])) })
	if err := wait(ctx, 4*scrapes); err != nil { // the counters have begun
		return seen, err
	}
	seen.data = make(series.Database)
	during := func(d time.Duration) error {
		for until := time.Now().Add(d); time.Now().Before(until); {
			if err := scrape(ctx, seen.data, fmt.Sprintf("http://%s/metrics", ports[2])); err != nil {
				return err
			}
			if err := wait(ctx, scrapes); err != nil {
				return err
			}
		}
		return nil
	}
	seen.begin = time.Now()
	if err := during(o.before); err != nil {
		return seen, err
	}
	seen.away = time.Now()
	if err := server.Down(); err != nil {
		return seen, err
	}
	if err := during(o.outage); err != nil {
		return seen, err
	}
	seen.back = time.Now()
	if err := server.Up(); err != nil {
		return seen, err
	}
	err = during(o.after)
	seen.end = time.Now()
	return seen, err
}

func freeAddress(ctx context.Context) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// publish is some devices: many messages, more and fewer of them, and one device whose field has a name that the server would
// mix up with its own.
func publish(ctx context.Context, url string) {
	client := mqtt.NewClient(mqtt.NewClientOptions().AddBroker(url).SetClientID("devices"))
	if token := client.Connect(); !token.WaitTimeout(patience) || token.Error() != nil {
		return
	}
	defer client.Disconnect(0)
	for begin := time.Now(); ctx.Err() == nil; {
		passed := time.Since(begin).Seconds()
		rate := 120 + 40*math.Sin(passed/23) + 20*math.Sin(passed/9)
		payload := fmt.Sprintf(`{"temperature":%.1f,"humidity":%d,"linkquality":%d}`, 19+4*rand.Float64(), 40+rand.IntN(20), rand.IntN(255))
		client.Publish(fmt.Sprintf("zigbee2mqtt/sensor-%d", rand.IntN(40)), 1, false, payload)
		if rand.IntN(900) == 0 {
			client.Publish("tele/meter", 1, false, `{"_time":"now","energy":`+fmt.Sprint(passed)+`}`)
		}
		_ = wait(ctx, time.Duration(float64(time.Second)/rate))
	}
}

// watch is a person who looks at the live stream now and then.
func watch(ctx context.Context, address string) {
	for ctx.Err() == nil {
		if conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address); err == nil {
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			_ = conn.SetReadDeadline(time.Now().Add(100 * time.Second))
			_, _ = io.Copy(io.Discard, conn)
			stop()
			_ = conn.Close()
		}
		_ = wait(ctx, 20*time.Second)
	}
}

func scrape(ctx context.Context, data series.Database, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	response, err := (&http.Client{Timeout: patience}).Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }() // it was read only
	at := time.Now()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		return err
	}
	for name, family := range families {
		for _, m := range family.GetMetric() {
			set := labels.NewBuilder(labels.FromStrings(model.MetricNameLabel, name))
			for _, pair := range m.GetLabel() {
				set.Set(pair.GetName(), pair.GetValue())
			}
			data.Add(set.Labels(), at, m.GetUntyped().GetValue()+m.GetGauge().GetValue()+m.GetCounter().GetValue())
		}
	}
	return nil
}

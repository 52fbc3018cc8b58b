// Command quickstart is the first command of the README: it brings the main job up on a machine that may have nothing
// installed, and lets a person see it. It runs the real bin/telegraf with sample.conf between an MQTT broker and a
// VictoriaLogs, each of which it takes from the environment, finds listening, or brings itself: the broker in bin/telegraf,
// the server from PATH or a stand-in.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/edgetide/telegraf-victorialogs/internal/agentproc"
	"github.com/edgetide/telegraf-victorialogs/internal/vlserver"
)

func main() {
	o := options{out: os.Stdout}
	flag.StringVar(&o.telegraf, "telegraf", "bin/telegraf", "the telegraf binary with our plugins")
	flag.StringVar(&o.config, "config", "sample.conf", "its configuration; it reads MQTT_URL and VICTORIALOGS_URL")
	flag.DurationVar(&o.duration, "duration", 0, "end by itself after this time; 0 means at Ctrl-C")
	flag.StringVar(&o.mqttAddr, "mqtt-addr", "127.0.0.1:1883", "where a broker is looked for, and where Telegraf listens if there is none")
	flag.StringVar(&o.logsAddr, "victorialogs-addr", "127.0.0.1:9428", "where VictoriaLogs is looked for, or else started")
	flag.Parse()
	o.mqttURL, o.logsURL = os.Getenv("MQTT_URL"), os.Getenv("VICTORIALOGS_URL")

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

type options struct {
	telegraf, config   string
	duration           time.Duration
	mqttAddr, logsAddr string
	mqttURL, logsURL   string // from the environment; empty: find or bring one
	out                *os.File
}

const patience = 30 * time.Second // with anything that should come at once

func run(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "quickstart")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	broker := findBroker(ctx, o)
	logs, err := findLogs(ctx, o, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, logs.close()) }()
	fmt.Fprintf(o.out, "MQTT broker   %s, %s\n", broker.url, broker.what)
	fmt.Fprintf(o.out, "VictoriaLogs  %s, %s\n", logs.url, logs.what)
	fmt.Fprintf(o.out, "Telegraf      %s --config %s\n", o.telegraf, o.config)

	screen := newScreen(o.out)
	before, err := vlserver.Count(ctx, logs.url)
	if err != nil {
		return err
	}
	agent, err := agentproc.Start(agentproc.Options{
		Path:    o.telegraf,
		Configs: []string{o.config},
		Env: append(broker.env,
			"VICTORIALOGS_URL="+logs.url, "DEAD_LETTERS="+filepath.Join(dir, "dead-letters")),
		Self: time.Second,
		Dir:  dir,
		OnLog: func(line string) {
			if strings.Contains(line, " W! [") || strings.Contains(line, " E! ") {
				screen.print(strings.TrimSpace(line))
			}
		},
	})
	if err != nil {
		return err
	}
	defer agent.Kill()
	if err := waitConnected(ctx, agent); err != nil {
		return err
	}
	devices := broker.startDevices(ctx)
	watch(ctx, o.duration, agent, logs, screen)

	published, err := devices.stop()
	if err != nil {
		return fmt.Errorf("the simulated devices: %w", err)
	}
	return finish(o, agent, logs, totals{published: published, ours: broker.devices != nil, before: before}, screen)
}

// waitConnected waits until messages reach the agent, so that none is published before.
func waitConnected(ctx context.Context, agent *agentproc.Agent) error {
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := agent.WaitFor(wait, func(a *agentproc.Agent) bool {
		return strings.Contains(a.Log(), "and subscribed to") || strings.Contains(a.Log(), "Listening for MQTT devices on")
	})
	switch {
	case err == nil || ctx.Err() != nil:
		return nil
	case errors.Is(err, agentproc.ErrEnded):
		return fmt.Errorf("%w; it logged:\n%s", err, agent.Log())
	default:
		return fmt.Errorf("telegraf is not connected to the broker after %s; it logged:\n%s", patience, agent.Log())
	}
}

// watch shows the live line until ctx or the duration ends.
func watch(ctx context.Context, duration time.Duration, agent *agentproc.Agent, logs *logs, screen *screen) {
	if duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, duration)
		defer cancel()
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := int64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-agent.Ended():
			return
		case <-tick.C:
		}
		delivered := agent.Self("internal_victorialogs.metrics_delivered")
		screen.live(fmt.Sprintf("received %d  delivered %d  unacknowledged %d  %d rows/s  last: %s",
			agent.Self("internal_victorialogs.metrics_received"), delivered,
			agent.Self("internal_mqtt_hardware.messages_unacked"), max(0, delivered-last), logs.lastRow(ctx)))
		last = delivered
	}
}

// totals are what the balance is made of.
type totals struct {
	published int64 // by our devices, acknowledged by the broker
	ours      bool  // the devices are; others may publish, too
	before    int64 // rows stored before the agent started
}

// finish ends the agent, prints the totals, and says whether they balance.
func finish(o options, agent *agentproc.Agent, logs *logs, t totals, screen *screen) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if t.ours { // what is under way between broker and agent arrives first
		err := agent.WaitFor(ctx, func(a *agentproc.Agent) bool {
			return a.Self("internal_mqtt_hardware.messages_received") >= t.published
		})
		if err != nil {
			return fmt.Errorf("%d messages were published and %d received: %w", t.published,
				agent.Self("internal_mqtt_hardware.messages_received"), err)
		}
	}
	if err := agent.Stop(ctx); err != nil {
		return fmt.Errorf("telegraf: %w; it logged:\n%s", err, agent.Log())
	}
	ledger, err := readLedger(agent.Log())
	if err != nil {
		return err
	}
	after, err := vlserver.Count(ctx, logs.url)
	if err != nil {
		return err
	}
	screen.end()
	stored := after - t.before
	if t.ours {
		fmt.Fprintf(o.out, "published by the devices  %8d\n", t.published)
	}
	fmt.Fprintf(o.out, "MQTT messages received    %8d, %d acknowledged\n", ledger.messages, ledger.acked)
	fmt.Fprintf(o.out, "metrics received          %8d, hardware samples among them\n", ledger.received)
	fmt.Fprintf(o.out, "metrics delivered         %8d, %d on disk, %d rejected, %d dropped\n", ledger.delivered, ledger.onDisk,
		ledger.rejected, ledger.dropped)
	fmt.Fprintf(o.out, "rows stored               %8d\n", stored)
	return ledger.balance(t, stored, logs.ours)
}

// ledger is what the plugins logged of themselves when they ended.
type ledger struct {
	messages, acked                        int64
	received, delivered, rejected, dropped int64
	onDisk                                 int64
}

func readLedger(log string) (l ledger, err error) {
	for line := range strings.Lines(log) {
		if _, rest, ok := strings.Cut(line, "[outputs.victorialogs] Closed. Metrics: "); ok {
			var recovered, left int64 // none: the directory is new, and what is in memory at the end is rejected
			_, err = fmt.Sscanf(rest, "%d received + %d recovered from disk = %d delivered + %d on disk + %d rejected + %d dropped + "+
				"%d in memory", &l.received, &recovered, &l.delivered, &l.onDisk, &l.rejected, &l.dropped, &left)
		}
		if _, rest, ok := strings.Cut(line, "[inputs.mqtt_hardware] Stopped: "); ok && err == nil {
			_, err = fmt.Sscanf(rest, "%d messages received, %d acknowledged", &l.messages, &l.acked)
		}
	}
	if err != nil || l.received == 0 {
		return l, fmt.Errorf("telegraf did not say what became of the metrics: %w; it logged:\n%s", err, log)
	}
	return l, nil
}

// balance finds what is missing or too much.
func (l ledger) balance(t totals, stored int64, alone bool) error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(l.received == l.delivered+l.onDisk+l.rejected+l.dropped,
		"%d metrics received, but %d delivered, %d on disk, %d rejected and %d dropped",
		l.received, l.delivered, l.onDisk, l.rejected, l.dropped)
	check(l.rejected == 0 && l.dropped == 0, "%d metrics rejected and %d dropped", l.rejected, l.dropped)
	check(l.acked == l.messages, "%d of %d messages acknowledged", l.acked, l.messages)
	if t.ours {
		check(l.messages >= t.published, "%d messages published and %d received", t.published, l.messages)
	}
	if alone {
		check(stored == l.delivered, "%d metrics delivered and %d rows stored", l.delivered, stored)
	} else {
		check(stored >= l.delivered, "%d metrics delivered and only %d rows stored", l.delivered, stored)
	}
	if len(errs) > 0 {
		return fmt.Errorf("the totals do not balance: %w", errors.Join(errs...))
	}
	return nil
}

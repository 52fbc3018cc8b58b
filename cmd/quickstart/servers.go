package main

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
	"github.com/edgetide/telegraf-victorialogs/internal/vlserver"
)

// broker is the MQTT side.
type broker struct {
	url     string // for devices
	what    string
	env     []string            // tells the agent
	devices *testbroker.Devices // nil with a broker that is not ours: its devices are real
}

func findBroker(ctx context.Context, o options) *broker {
	b := &broker{url: o.mqttURL}
	switch {
	case b.url != "":
		b.what = "from MQTT_URL"
	case listens(ctx, o.mqttAddr):
		b.url, b.what = "tcp://"+o.mqttAddr, "which listens here already; publish to it"
	default:
		b.url, b.what = "tcp://"+o.mqttAddr, "Telegraf itself, with simulated devices; publish to it, too"
		b.env, b.devices = []string{"MQTT_URL=", "MQTT_LISTEN=" + b.url}, testbroker.NewDevices()
		return b
	}
	b.env = []string{"MQTT_URL=" + b.url}
	return b
}

// devices are the simulated ones while they run.
type devices struct {
	cancel context.CancelFunc
	ended  chan error
	list   *testbroker.Devices
}

func (b *broker) startDevices(ctx context.Context) *devices {
	d := &devices{ended: make(chan error, 1), list: b.devices}
	ctx, d.cancel = context.WithCancel(ctx)
	if b.devices == nil {
		d.ended <- nil
		return d
	}
	go func() { d.ended <- b.devices.Run(ctx, b.url) }()
	return d
}

// stop ends the devices and returns how many messages the broker took from them.
func (d *devices) stop() (published int64, err error) {
	d.cancel()
	err = <-d.ended
	if d.list != nil {
		published = int64(d.list.Published(1)) //nolint:gosec // a count of messages
	}
	return published, err
}

// logs is the VictoriaLogs side.
type logs struct {
	url   string
	what  string
	ours  bool // nobody else writes to it
	close func() error
}

func findLogs(ctx context.Context, o options, dir string) (*logs, error) {
	l := &logs{close: func() error { return nil }}
	switch path, ok := vlserver.Look(); {
	case o.logsURL != "":
		l.url, l.what = o.logsURL, "from VICTORIALOGS_URL"
	case listens(ctx, o.logsAddr):
		l.url, l.what = "http://"+o.logsAddr, "which listens here already"
	case ok:
		server, err := vlserver.New(path, o.logsAddr, filepath.Join(dir, "victoria-logs"))
		if err != nil {
			return nil, err
		}
		starting, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if err := server.Start(starting); err != nil {
			return nil, err
		}
		l.url, l.what, l.ours = server.URL(), "victoria-logs from PATH, started here", true
		l.close = server.Stop
	default:
		server, err := vlreceiver.Start(vlreceiver.Config{Addr: o.logsAddr})
		if err != nil {
			return nil, err
		}
		l.url, l.what, l.ours = server.URL(), "a stand-in in this process, since no victoria-logs is on PATH", true
		l.close = server.Close
	}
	return l, nil
}

func listens(ctx context.Context, addr string) bool {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// lastRow returns the newest event, or hardware sample where there is none, in a few words.
func (l *logs) lastRow(ctx context.Context) string {
	var newest map[string]string
	err := vlserver.Rows(ctx, l.url, 20, func(row map[string]string) {
		switch event := row["topic"] != ""; {
		case strings.HasPrefix(row["measurement"], "internal_"):
		case newest == nil, event && newest["topic"] == "", event == (newest["topic"] != "") && row["_time"] > newest["_time"]:
			newest = row
		}
	})
	if err != nil || newest == nil {
		return "–"
	}
	var words []string
	for _, name := range []string{"topic", "_msg", "temperature", "ENERGY.Power", "seq", "usage_idle"} {
		if value := newest[name]; value != "" {
			words = append(words, strings.TrimPrefix(name+"=", "_msg=")+value)
		}
	}
	return strings.Join(words, " ")
}

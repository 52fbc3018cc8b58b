package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
)

// broker is the MQTT side.
type broker struct {
	url     string
	what    string
	devices *testbroker.Devices // nil with a broker that is not ours: its devices are real
	close   func() error
}

func findBroker(ctx context.Context, o options, dir string) (*broker, error) {
	nothing := func() error { return nil }
	if o.mqttURL != "" {
		return &broker{url: o.mqttURL, what: "from MQTT_URL", close: nothing}, nil
	}
	if listens(ctx, o.mqttAddr) {
		return &broker{url: "tcp://" + o.mqttAddr, what: "which listens here already; publish to it", close: nothing}, nil
	}
	started, what, err := newBroker(o.mqttAddr, dir)
	if err != nil {
		return nil, err
	}
	if err := started.Start(); err != nil {
		return nil, err
	}
	return &broker{
		url: started.URL(), what: what + ", with simulated devices",
		devices: testbroker.NewDevices(), close: started.Stop,
	}, nil
}

func newBroker(addr, dir string) (_ testbroker.Broker, what string, err error) {
	if path, ok := testbroker.LookMosquitto(); ok {
		home := filepath.Join(dir, "mosquitto")
		if err := os.Mkdir(home, 0o700); err != nil {
			return nil, "", err
		}
		b, err := testbroker.NewMosquitto(testbroker.MosquittoOptions{Dir: home, Path: path})
		return b, "Mosquitto, started here", err
	}
	b, err := testbroker.NewMochi(testbroker.MochiOptions{Addr: addr})
	return b, "mochi-mqtt in this process, since no Mosquitto is on PATH", err
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
	url    string
	what   string
	ours   bool // nobody else writes to it
	client *http.Client
	close  func() error
}

func findLogs(ctx context.Context, o options, dir string) (*logs, error) {
	l := &logs{client: &http.Client{Timeout: 5 * time.Second}, close: func() error { return nil }}
	switch path, err := exec.LookPath("victoria-logs"); {
	case o.logsURL != "":
		l.url, l.what = o.logsURL, "from VICTORIALOGS_URL"
	case listens(ctx, o.logsAddr):
		l.url, l.what = "http://"+o.logsAddr, "which listens here already"
	case err == nil:
		l.url, l.what, l.ours = "http://"+o.logsAddr, "victoria-logs from PATH, started here", true
		if l.close, err = startVictoriaLogs(ctx, path, o.logsAddr, filepath.Join(dir, "victoria-logs")); err != nil {
			return nil, err
		}
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

func startVictoriaLogs(ctx context.Context, path, addr, data string) (stop func() error, err error) {
	server := exec.Command(path, "-storageDataPath="+data, "-httpListenAddr="+addr) //nolint:gosec,noctx // stop ends it
	server.Stderr = io.Discard
	if err := server.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", path, err)
	}
	stop = func() error {
		_ = server.Process.Signal(syscall.SIGTERM)
		return server.Wait()
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		if listens(ctx, addr) {
			tick.Stop()
			return stop, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("%s does not listen on %s: %w", path, addr, ctx.Err()), stop())
		}
	}
}

// count returns how many rows are stored, those that were taken a moment ago included.
func (l *logs) count(ctx context.Context) (int64, error) {
	if _, err := l.get(ctx, "/internal/force_flush"); err != nil {
		return 0, err
	}
	body, err := l.get(ctx, "/select/logsql/query?query="+url.QueryEscape("* | stats count() n"))
	if err != nil {
		return 0, err
	}
	var answer struct {
		N string `json:"n"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return 0, fmt.Errorf("counting rows at %s: %w", l.url, err)
	}
	return strconv.ParseInt(answer.N, 10, 64)
}

// lastRow returns the newest event, or what stands for it, in a few words.
func (l *logs) lastRow(ctx context.Context) string {
	body, err := l.get(ctx, "/select/logsql/query?limit=20&query=*")
	if err != nil {
		return "–"
	}
	var newest map[string]string
	for line := range strings.Lines(string(body)) {
		var row map[string]string
		if json.Unmarshal([]byte(line), &row) != nil || row["measurement"] == "internal_victorialogs" {
			continue
		}
		if newest == nil || (row["topic"] != "") == (newest["topic"] != "") && row["_time"] > newest["_time"] ||
			row["topic"] != "" && newest["topic"] == "" {
			newest = row
		}
	}
	if newest == nil {
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

func (l *logs) get(ctx context.Context, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(l.url, "/")+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := l.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", path, response.Status)
	}
	return io.ReadAll(io.LimitReader(response.Body, 16<<20))
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/gdamore/tcell/v2"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/edgetide/telegraf-victorialogs/outputs/tcp_exporter/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var at = time.Date(2026, 11, 21, 7, 30, 0, 5000, time.UTC)

// tap runs the command until it ends.
func tap(t *testing.T, args ...string) (code int, out, errors string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var stdout, stderr bytes.Buffer
	a := &app{out: &stdout, err: &stderr}
	return a.run(ctx, args), stdout.String(), stderr.String()
}

// serve is a server that sends each connection the next of these, and closes it.
func serve(t *testing.T, listener net.Listener, streams ...[]byte) (address string) {
	t.Helper()
	var serving sync.WaitGroup
	serving.Go(func() {
		for _, stream := range streams {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write(stream)
			_ = conn.Close()
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		serving.Wait()
	})
	return listener.Addr().String()
}

func local(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return listener
}

func metricFrame(t *testing.T, m *wire.Metric) []byte {
	t.Helper()
	frame, err := wire.AppendEvent(nil, &wire.Event{Event: &wire.Event_Metric{Metric: m}})
	require.NoError(t, err)
	return frame
}

func gauge(name string, value float64, labels ...string) []byte {
	common := wire.AppendTimestamp(nil, at)
	for i := 0; i < len(labels); i += 2 {
		common = wire.AppendLabel(common, labels[i], labels[i+1])
	}
	return wire.AppendMetric(nil, name, common, wire.SetGauge(value))
}

func described(t *testing.T, name, unit, description string) []byte {
	t.Helper()
	frame, err := wire.AppendEvent(nil, &wire.Event{Event: &wire.Event_Metadata{Metadata: &wire.Metadata{
		Name: name, MetricType: wire.Metadata_GAUGE, Unit: &wire.Metadata_UnitValue{UnitValue: unit},
		Description: &wire.Metadata_DescriptionValue{DescriptionValue: description},
	}}})
	require.NoError(t, err)
	return frame
}

func join(frames ...[]byte) []byte { return bytes.Join(frames, nil) }

func TestLines(t *testing.T) {
	labels := map[string]string{"b": "2", "a": "1"}
	address := serve(t, local(t), join(
		described(t, "cpu_idle", "percent", "idle"),
		wire.EmptyEvent,
		gauge("cpu_idle", 97.5, "host", "gateway-7"),
		metricFrame(t, &wire.Metric{Name: "c", Labels: labels, Operation: &wire.Metric_SetCounter{SetCounter: math.MaxUint64}}),
		metricFrame(t, &wire.Metric{Name: "c", Operation: &wire.Metric_IncrementCounter{IncrementCounter: 2}}),
		metricFrame(t, &wire.Metric{Name: "g", Operation: &wire.Metric_IncrementGauge{IncrementGauge: 0.5}}),
		metricFrame(t, &wire.Metric{Name: "g", Operation: &wire.Metric_DecrementGauge{DecrementGauge: 0.5}}),
		metricFrame(t, &wire.Metric{Name: "h", Operation: &wire.Metric_RecordHistogram{RecordHistogram: 1e300}}),
		metricFrame(t, &wire.Metric{Name: "nothing"}),
	))
	code, out, errors := tap(t, "--once", address)
	require.Equal(t, exitStream, code)
	require.Equal(t, `2026-11-21T07:30:00.000005Z cpu_idle{host="gateway-7"} 97.5 percent
- c{a="1",b="2"} 18446744073709551615
- c +2
- g +0.5
- g -0.5
- h 1e+300
`, out)
	require.Equal(t, "telegraf-tap: connected to "+address+"\ntelegraf-tap: the server closed the connection\n", errors)
}

func TestJSON(t *testing.T) {
	address := serve(t, local(t), join(
		described(t, "cpu_idle", "percent", "idle"),
		gauge("cpu_idle", 97.5, "host", "gateway-7"),
		metricFrame(t, &wire.Metric{Name: "c", Operation: &wire.Metric_SetCounter{SetCounter: math.MaxUint64}}),
		gauge("n", math.NaN()),
		gauge("i", math.Inf(-1)),
	))
	code, out, _ := tap(t, "--json", "--count", "4", address)
	require.Zero(t, code)
	want := []string{
		`{"time":"2026-11-21T07:30:00.000005Z","name":"cpu_idle","labels":{"host":"gateway-7"},"type":"gauge",` +
			`"operation":"set_gauge","value":97.5,"unit":"percent","description":"idle"}`,
		`{"name":"c","type":"counter","operation":"set_counter","value":18446744073709551615}`,
		`{"time":"2026-11-21T07:30:00.000005Z","name":"n","type":"gauge","operation":"set_gauge","value":"NaN"}`,
		`{"time":"2026-11-21T07:30:00.000005Z","name":"i","type":"gauge","operation":"set_gauge","value":"-Inf"}`,
	}
	require.Equal(t, strings.Join(want, "\n")+"\n", out)
}

// hostile is what a terminal may obey: escapes, the 8-bit forms of them, and marks that turn the direction of text.
const hostile = "\x1b]0;owned\a\x1b[2J\u009b31m\r\n\x7f\u202e\U000e0001"

func TestNothingThatATerminalObeys(t *testing.T) {
	stream := join(described(t, hostile, hostile, hostile), gauge(hostile, 1, hostile, hostile))
	for _, how := range []string{"--lines", "--json"} {
		code, out, _ := tap(t, how, "--count", "1", serve(t, local(t), stream))
		require.Zero(t, code)
		for _, r := range strings.TrimSuffix(out, "\n") {
			require.NotContains(t, hostile[:0]+"\x1b\a\u009b\r\n\x7f\u202e\U000e0001", string(r), how)
		}
		if how == "--json" {
			var e jsonEvent
			require.NoError(t, json.Unmarshal([]byte(out), &e))
			require.Equal(t, hostile, e.Name)
			require.Equal(t, hostile, e.Labels[hostile])
		}
	}
}

// Whatever comes, nothing that a terminal would obey is printed, and JSON is JSON.
func FuzzStream(f *testing.F) {
	f.Add(join(gauge("a", 1, "b", "c"), gauge(hostile, math.NaN(), hostile, hostile)))
	f.Add([]byte("load,host=gateway system=1i 1700000000123456789\n"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		for _, asJSON := range []bool{false, true} {
			var out, status bytes.Buffer
			p := &printer{out: bufio.NewWriter(&out), err: &status, json: asJSON}
			s := &source{metadata: make(map[nameAndType]*wire.Metadata)}
			p.status(s.read(bytes.NewReader(stream), p, func() {}).Error())
			for _, r := range out.String() + status.String() {
				require.True(t, r == '\n' || unicode.IsGraphic(r), "%q", r)
			}
			for line := range strings.Lines(out.String()) {
				require.True(t, !asJSON || json.Valid([]byte(line)), line)
			}
		}
	})
}

func TestFilters(t *testing.T) {
	stream := join(gauge("cpu_idle", 1, "host", "a"), gauge("cpu_user", 2, "host", "b", "cpu", "0"), gauge("mem_used", 3, "host", "b"), gauge("x", 4))
	for args, want := range map[string]string{
		"":                                "1 2 3 4",
		"--name cpu_*":                    "1 2",
		"--name cpu_idle --name x":        "1 4",
		"--label host=b":                  "2 3",
		"--label host=*":                  "1 2 3",
		"--label host=b --label cpu=0":    "2",
		"--name mem_* --label host=[a-b]": "3",
		"--label host=":                   "",
	} {
		_, out, _ := tap(t, append(strings.Fields(args), "--once", serve(t, local(t), stream))...)
		var values []string
		for line := range strings.Lines(out) {
			fields := strings.Fields(line)
			values = append(values, fields[len(fields)-1])
		}
		require.Equal(t, want, strings.Join(values, " "), args)
	}
}

func TestConnectsAgain(t *testing.T) {
	whole := gauge("a", 3)
	address := serve(t, local(t), gauge("a", 1), nil, join(gauge("a", 2), whole[:len(whole)-1]), whole)
	code, out, errors := tap(t, "--count", "3", address)
	require.Zero(t, code)
	require.Equal(t, 3, strings.Count(out, "\n"))
	require.Contains(t, out, "a 3")
	require.Equal(t, 4, strings.Count(errors, "connected to"))
	require.Equal(t, 3, strings.Count(errors, "the server closed the connection; trying again in"))
}

func TestNobodyListens(t *testing.T) {
	listener := local(t)
	require.NoError(t, listener.Close())
	code, _, errors := tap(t, "--once", listener.Addr().String())
	require.Equal(t, exitStream, code)
	require.Contains(t, errors, "cannot connect: ")
}

// What is no stream ends the command with a clear error, before a length takes memory.
func TestNoStream(t *testing.T) {
	for name, stream := range map[string]string{
		"line protocol": "load,host=gateway system=1i 1700000000123456789\n" + strings.Repeat("x", 200),
		"JSON":          `{"fields":{"system":1},"name":"load","tags":{"host":"gateway"},"timestamp":1700000000}` + strings.Repeat("x", 200),
		"HTTP":          "HTTP/1.1 400 Bad Request\r\n" + strings.Repeat("x", 200),
		"a huge length": "\xff\xff\xff\xff\x7f",
		"no length":     "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
		"no UTF-8":      "\x06\x12\x04\x0a\x02\xff\x1b",
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errors := tap(t, serve(t, local(t), []byte(stream)))
			require.Equal(t, exitStream, code)
			require.Empty(t, out)
			require.Contains(t, errors, "this is no stream of metrics-exporter-tcp")
			require.NotContains(t, errors, "\x1b")
		})
	}
}

func TestCannotRun(t *testing.T) {
	for args, want := range map[string]string{
		"":                             "HOST:PORT",
		"a b":                          "HOST:PORT",
		"127.0.0.1":                    `"127.0.0.1": must be HOST:PORT`,
		"--lines --json a:1":           "exclude each other",
		"--table a:1":                  "needs a terminal",
		"--label a a:1":                "KEY=VALUE",
		"--name [ a:1":                 "--name",
		"--tls-ca /absent a:1":         `--tls-ca = "/absent"`,
		"127.0.0.1:99999":              `"127.0.0.1:99999": must be HOST:PORT`,
		"127.0.0.1:0":                  "HOST:PORT",
		"127.0.0.1:nonsense":           "HOST:PORT",
		"--count x a:1":                "--count",
		"--nonsense":                   "--nonsense",
		"--tls-cert /etc/hostname a:1": `--tls-key = ""`,
	} {
		code, out, errors := tap(t, strings.Fields(args)...)
		require.Equal(t, exitCannotRun, code, args)
		require.Empty(t, out)
		require.Contains(t, errors, want, args)
	}
	code, out, _ := tap(t, "--help")
	require.Zero(t, code)
	require.Contains(t, out, "--label KEY=VALUE")
}

func TestTLS(t *testing.T) {
	server := httptest.NewUnstartedServer(nil)
	server.StartTLS()
	defer server.Close()
	authority := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	require.NoError(t, os.WriteFile(authority, block, 0o600))
	listen := func() net.Listener { return tls.NewListener(local(t), server.TLS) }
	for _, args := range [][]string{{"--tls-ca", authority}, {"--insecure-skip-verify"}, {"--tls-ca", authority, "--tls-server-name", "example.com"}} {
		code, out, errors := tap(t, append(args, "--count", "1", serve(t, listen(), gauge("a", 1)))...)
		require.Zero(t, code, errors)
		require.Contains(t, out, "a 1")
	}
	for _, args := range [][]string{{"--tls"}, {"--tls-ca", authority, "--tls-server-name", "other.example"}} {
		code, _, errors := tap(t, append(args, "--once", serve(t, listen(), nil))...)
		require.Equal(t, exitStream, code)
		require.Contains(t, errors, "certificate")
	}
}

// What cannot be printed ends the command, since nobody sees it.
func TestOutputIsGone(t *testing.T) {
	r, w := io.Pipe()
	require.NoError(t, r.Close())
	a := &app{out: w, err: io.Discard}
	require.Equal(t, exitStream, a.run(context.Background(), []string{serve(t, local(t), gauge("a", 1))}))
}

func TestTable(t *testing.T) {
	screen := tcell.NewSimulationScreen("UTF-8")
	listener := local(t)
	a := &app{out: io.Discard, err: io.Discard, terminal: true, screen: func() (tcell.Screen, error) { return screen, nil }}
	ended := make(chan int)
	go func() { ended <- a.run(context.Background(), []string{listener.Addr().String()}) }()
	conn, err := listener.Accept()
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	defer func() { _ = listener.Close() }()
	var many [][]byte
	for n := range 100 {
		many = append(many, gauge(fmt.Sprintf("row_%02d", n), float64(n)))
	}
	_, err = conn.Write(join(described(t, "cpu_idle", "percent", "idle"), gauge("cpu_idle", 97.5, "host", "gäteway"), gauge(hostile, 1), join(many...)))
	require.NoError(t, err)
	see := func(texts ...string) {
		t.Helper()
		require.Eventually(t, func() bool {
			shown := contents(screen)
			for _, text := range texts {
				if !strings.Contains(shown, text) {
					return false
				}
			}
			return true
		}, 30*time.Second, 5*time.Millisecond, "%s\n%s", texts, contents(screen))
	}
	see("connected to "+listener.Addr().String(), "102 series, 102 events", "SERIES", `cpu_idle{host="gäteway"}`, "97.500 %", `\x1b]0;owned`, "row_20")
	screen.InjectKey(tcell.KeyEnd, 0, 0)
	see("row_99", "▁")
	screen.InjectKey(tcell.KeyPgUp, 0, 0)
	see("row_60")
	screen.InjectKey(tcell.KeyHome, 0, 0)
	see("cpu_idle")
	screen.InjectKey(tcell.KeyRune, ' ', 0)
	see("PAUSED")
	screen.SetSize(30, 5)
	screen.InjectKey(tcell.KeyDown, 0, 0)
	screen.InjectKey(tcell.KeyRune, 's', 0)
	screen.InjectKey(tcell.KeyRune, 'q', 0)
	require.Zero(t, <-ended)
}

// contents is what stands on the screen.
func contents(screen tcell.Screen) string {
	width, height := screen.Size()
	var b strings.Builder
	for y := range height {
		for x := range width {
			text, _, _ := screen.Get(x, y)
			b.WriteString(text)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func TestRow(t *testing.T) {
	counter := &row{kind: wire.Metadata_COUNTER}
	now := at
	for second := range 12 {
		counter.update(event{operation: "set_counter", value: float64(1000 + second*second*10)}, now)
		now = now.Add(time.Second)
	}
	require.InDelta(t, 210, counter.rate, 0.01)
	require.Equal(t, strings.Repeat(" ", 9)+"▁▁▂▃▄▅▅▆▇██", counter.sparkline())
	counter.update(event{operation: "set_counter", value: 5}, now) // it began anew
	require.InDelta(t, 5, counter.rate, 0.01)
	counter.update(event{operation: "increment_counter", value: 2}, now.Add(2*time.Second))
	require.InDelta(t, 1, counter.rate, 0.01)
	require.InDelta(t, 7, counter.value, 0)

	level := &row{kind: wire.Metadata_GAUGE}
	require.Equal(t, strings.Repeat(" ", points), level.sparkline())
	for n := range 40 {
		level.update(event{operation: "set_gauge", value: float64(n % 8)}, at.Add(time.Duration(n)*time.Second/2))
	}
	require.InDelta(t, 2, level.rate, 0.01)
	require.InDelta(t, 7, level.value, 0)
	require.Len(t, []rune(level.sparkline()), points)
	level.update(event{operation: "decrement_gauge", value: 10}, at)
	level.update(event{operation: "increment_gauge", value: 1}, at)
	require.InDelta(t, -2, level.value, 0)
	level.push(math.NaN())
	require.Len(t, []rune(level.sparkline()), points)
}

func TestShort(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", -3: "-3", 97.5: "97.500", 1234.56: "1234.6", 123456789: "1.23e+08", 0.00001: "1e-05", math.Inf(1): "+Inf",
	} {
		require.Equal(t, want, short(v))
	}
}

// A server cannot make this command remember without bound, neither by many names nor by long ones.
func TestWhatIsRememberedIsBounded(t *testing.T) {
	const most = maxBytes / wire.MaxMessage
	name := func(n int) string { return fmt.Sprint(n) + strings.Repeat("x", wire.MaxMessage) }
	s := &source{metadata: make(map[nameAndType]*wire.Metadata)}
	table := newTable()
	for n := range most + 5 {
		require.NoError(t, s.take(&wire.Event{Event: &wire.Event_Metadata{Metadata: &wire.Metadata{Name: name(n)}}}, table))
		require.NoError(t, table.event(event{name: name(n), operation: "set_gauge"}))
	}
	require.InDelta(t, most, len(s.metadata), 2)
	require.InDelta(t, most, len(table.rows), 2)
	require.Equal(t, most+5-len(table.rows), table.more)

	// What is known may change as often as it likes.
	known := &wire.Metadata{Name: name(0), Unit: &wire.Metadata_UnitValue{UnitValue: "bytes"}}
	for range 2 * most {
		require.NoError(t, s.take(&wire.Event{Event: &wire.Event_Metadata{Metadata: known}}, table))
	}
	require.Equal(t, "bytes", s.metadata[nameAndType{name: known.GetName()}].GetUnitValue())
}

// stoppedScreen is a terminal that takes nothing until it is told to go on.
type stoppedScreen struct {
	tcell.SimulationScreen

	shows, goOn chan struct{}
}

func (s stoppedScreen) Show() {
	close(s.shows)
	<-s.goOn
}

// A terminal that is stopped, as by Ctrl-S, or slow, does not hold up the events, or the server would drop them.
func TestDrawingHoldsUpNoEvents(t *testing.T) {
	screen := stoppedScreen{tcell.NewSimulationScreen("UTF-8"), make(chan struct{}), make(chan struct{})}
	require.NoError(t, screen.Init())
	defer screen.Fini()
	table := newTable()
	drawn := make(chan struct{})
	go func() {
		table.draw(screen, at)
		close(drawn)
	}()
	<-screen.shows
	taken := make(chan struct{})
	go func() {
		_ = table.event(event{name: "load", operation: "set_gauge"})
		close(taken)
	}()
	select {
	case <-taken:
	case <-time.After(30 * time.Second):
		t.Error("the event waits for the terminal")
	}
	close(screen.goOn)
	<-drawn
	<-taken
}

// On a narrow terminal other columns give way to the series.
func TestNarrowTable(t *testing.T) {
	table := newTable()
	name := "cpu_usage_guest_nice"
	require.NoError(t, table.event(event{name: name, labels: map[string]string{"cpu": "cpu-total"}, operation: "set_gauge", kind: wire.Metadata_GAUGE, value: 97.5}))
	for width, want := range map[int][]string{
		160: {"RATE/s", "LAST", "AGE", "▁"}, 80: {"RATE/s", "LAST", "AGE", "▁"}, 74: {"RATE/s", "LAST", "AGE"}, 70: {"RATE/s", "LAST"},
		60: {"LAST"}, 40: {"LAST"},
	} {
		screen := tcell.NewSimulationScreen("UTF-8")
		require.NoError(t, screen.Init())
		screen.SetSize(width, 5)
		table.draw(screen, at)
		shown := contents(screen)
		require.Contains(t, shown, name, width)
		require.Contains(t, shown, "97.500", width)
		if width >= 60 {
			require.Contains(t, shown, name+`{cpu="cpu-total"}`, width)
		}
		for _, column := range []string{"RATE/s", "LAST", "AGE", "▁"} {
			require.Equal(t, slices.Contains(want, column), strings.Contains(shown, column), "%d %s", width, column)
		}
		screen.Fini()
	}
	for width := range 40 {
		newLayout(width).columns("1", "2", "3", strings.Repeat(" ", points))
	}
}

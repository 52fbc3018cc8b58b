package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf/plugins/parsers/influx"

	"github.com/edgetide/telegraf-victorialogs/internal/agentproc"
)

// shown is what bin/telegraf-tap prints of an event, as far as the test looks at it.
type shown struct {
	Time   time.Time
	Name   string
	Labels map[string]string
	Type   string
	Value  float64
	Unit   string
}

// tap runs bin/telegraf-tap, and ends it with the test.
func tap(t *testing.T, args ...string) (events func() shown, cmd *exec.Cmd) {
	t.Helper()
	path, err := filepath.Abs("../../bin/telegraf-tap")
	require.NoError(t, err)
	_, err = os.Stat(path)
	require.NoError(t, err, "make build makes bin/telegraf-tap; make test does it first")
	cmd = exec.CommandContext(within(t, patience), path, append([]string{"--json"}, args...)...)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	decoder := json.NewDecoder(out)
	return func() (e shown) {
		t.Helper()
		require.NoError(t, decoder.Decode(&e))
		return e
	}, cmd
}

// freeAddress is one that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	return listener.Addr().String()
}

// The agent streams what its inputs gather to whoever connects, in both formats, and through a reload.
func TestLiveStream(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	config := filepath.Join(dir, "telegraf.conf")
	binary, text := freeAddress(t), freeAddress(t)
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `
[agent]
  hostname = "edge"
  interval = "100ms"
  flush_interval = "1h" # nothing waits for it
  skip_processors_after_aggregators = true
[[inputs.mem]]
[[inputs.internal]]
  collect_memstats = false
  namepass = ["internal_tcp_exporter"]
[[outputs.tcp_exporter]]
  alias = "live"
  listen = %q
  [[outputs.tcp_exporter.describe]]
    name = "mem_used"
    unit = "bytes"
[[outputs.tcp_exporter]]
  listen = %q
  format = "influx"
  namepass = ["mem"]
`, binary, text), 0o600))
	agent, err := agentproc.Start(agentproc.Options{Path: telegraf(t), Configs: []string{config}, Dir: dir})
	require.NoError(t, err)
	t.Cleanup(agent.Kill)
	listening := func(times int) {
		t.Helper()
		require.NoError(t, agent.WaitFor(within(t, patience), func(a *agentproc.Agent) bool {
			return strings.Count(a.Log(), "Listening on "+binary) == times && strings.Count(a.Log(), "Listening on "+text) == times
		}), "%s", agent.Log())
	}
	listening(1)

	next, cmd := tap(t, "--name", "mem_used", "--count", "3", binary)
	for range 3 {
		e := next()
		require.Positive(t, e.Value)
		require.Equal(t, shown{
			Time: e.Time, Name: "mem_used", Labels: map[string]string{"host": "edge"}, Type: "gauge", Value: e.Value, Unit: "bytes",
		}, e)
	}
	require.NoError(t, cmd.Wait())

	conn, err := net.Dial("tcp", text)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	lines := influx.NewStreamParser(conn)
	for range 3 {
		m, err := lines.Next()
		require.NoError(t, err)
		require.Equal(t, "mem", m.Name())
		require.NotNil(t, m.Fields()["used"])
	}

	// One that stays sees that it is counted, and what comes after a reload: the port is free at once.
	next, cmd = tap(t, "--name", "internal_tcp_exporter_clients", "--label", "alias=live", binary)
	counted := func(since time.Time) {
		t.Helper()
		for e := next(); e.Value != 1 || e.Time.Before(since); e = next() {
		}
	}
	counted(time.Time{})
	require.NoError(t, agent.Signal(syscall.SIGHUP))
	_, err = io.Copy(io.Discard, bufio.NewReader(conn))
	require.NoError(t, err, "the stream ends as a stream does")
	listening(2)
	counted(time.Now())
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Wait())
	require.NoError(t, agent.Stop(within(t, patience)), "%s", agent.Log())
	require.NotContains(t, agent.Log(), "E! ")
}

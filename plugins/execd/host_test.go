//go:build unix

package execd

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
)

const patience = 60 * time.Second // with anything that should come within seconds

// built is a program that make builds.
func built(tb testing.TB, path string) string {
	tb.Helper()
	path, err := filepath.Abs(filepath.Join("../..", path))
	require.NoError(tb, err)
	_, err = os.Stat(path)
	require.NoError(tb, err, "make test makes it first")
	return path
}

func within(tb testing.TB, d time.Duration) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	tb.Cleanup(cancel)
	return ctx
}

// pause lets a time pass that the test is about.
func pause(tb testing.TB, d time.Duration) {
	tb.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
}

// host is a bin/telegraf-execd, with pipes as Telegraf makes them.
type host struct {
	t      testing.TB
	cmd    *exec.Cmd
	stdin  *os.File
	stdout *os.File

	mu  sync.Mutex
	log bytes.Buffer
}

// Write is the log's.
func (h *host) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.log.Write(p)
}

func (h *host) logged() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.log.String()
}

func startHost(tb testing.TB, args ...string) *host {
	tb.Helper()
	return startHostIn(tb, nil, args...)
}

// startHostIn adds to the environment.
func startHostIn(tb testing.TB, environment []string, args ...string) *host {
	tb.Helper()
	h := &host{t: tb}
	h.cmd = exec.Command(built(tb, "bin/telegraf-execd"), args...)
	h.cmd.Env = append(os.Environ(), environment...)
	stdin, in, err := os.Pipe()
	require.NoError(tb, err)
	out, stdout, err := os.Pipe()
	require.NoError(tb, err)
	h.stdin, h.stdout = in, out
	h.cmd.Stdin, h.cmd.Stdout, h.cmd.Stderr = stdin, stdout, h
	h.cmd.WaitDelay = patience
	require.NoError(tb, h.cmd.Start())
	require.NoError(tb, stdin.Close())
	require.NoError(tb, stdout.Close())
	tb.Cleanup(func() {
		_ = h.cmd.Process.Kill() // it may have ended
		_ = h.cmd.Wait()
		_ = h.stdin.Close()
		_ = h.stdout.Close()
		if tb.Failed() {
			tb.Logf("%v logged:\n%s", args, h.logged())
		}
	})
	return h
}

func (h *host) send(text string) {
	h.t.Helper()
	_, err := h.stdin.WriteString(text)
	require.NoError(h.t, err)
}

// end closes standard input, and returns the exit code and what was on standard output.
func (h *host) end() (code int, out string) {
	h.t.Helper()
	require.NoError(h.t, h.stdin.Close())
	text, err := io.ReadAll(h.stdout)
	require.NoError(h.t, err)
	_ = h.cmd.Wait() // its error is the exit code
	return h.cmd.ProcessState.ExitCode(), string(text)
}

func receiver(t *testing.T, config vlreceiver.Config) *vlreceiver.Server {
	t.Helper()
	server, err := vlreceiver.Start(config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	return server
}

// write makes a configuration.
func write(tb testing.TB, text string, args ...any) (path string) {
	tb.Helper()
	path = filepath.Join(tb.TempDir(), "execd.conf")
	require.NoError(tb, os.WriteFile(path, fmt.Appendf(nil, text, args...), 0o600))
	return path
}

func messagesIn(server *vlreceiver.Server) (texts []string) {
	for row := range server.All(vlreceiver.Tenant{}) {
		texts = append(texts, row.Fields["_msg"])
	}
	return texts
}

// now is a timestamp that the server takes.
func now() int64 { return time.Now().UnixNano() }

func TestOutputDrainsToTheEnd(t *testing.T) {
	t.Parallel()
	server := receiver(t, vlreceiver.Config{})
	h := startHost(t, "--config", write(t, "[global_tags]\n  site = \"berlin\"\n[[outputs.victorialogs]]\n  url = %q\n", server.URL()))
	h.send(fmt.Sprintf("a message=\"one\n\\\"two\\\"\" %d\nthis is no line\n", now()))
	require.NoError(t, server.WaitCount(within(t, patience), vlreceiver.Tenant{}, 1), "without an end or a full batch")
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGINT} {
		require.NoError(t, h.cmd.Process.Signal(s))
	}
	h.send(fmt.Sprintf("a message=\"three\" %d\na v=1", now()))
	code, out := h.end()
	require.Zero(t, code)
	require.Equal(t, []string{"one\n\"two\"", "three"}, messagesIn(server))
	for row := range server.All(vlreceiver.Tenant{}) {
		require.Equal(t, "berlin", row.Fields["site"])
	}
	require.Contains(t, out, "I! [outputs.victorialogs] Closed. Metrics: 2 received + 0 recovered from disk = 2 delivered")
	require.Contains(t, out, "I! [execd] Ended: 2 metrics read from standard input and 0 from the spool, 1 lines malformed\n")
	require.Equal(t, 1, strings.Count(h.logged(), "E! [execd] Leaving out a line that cannot be read:"))
	require.Contains(t, h.logged(), `"this is"`)
	require.Equal(t, 1, strings.Count(h.logged(), "W! [execd] Leaving out the beginning of a line"))
}

func TestOutputsShareAProcess(t *testing.T) {
	t.Parallel()
	one, two := receiver(t, vlreceiver.Config{}), receiver(t, vlreceiver.Config{})
	h := startHost(t, "--self-metrics", "1s", "--config", write(t, `
[[outputs.victorialogs]]
  url = %q
  namepass = ["a"]
[[outputs.victorialogs]]
  url = %q
  namedrop = ["a"]
  fieldexclude = ["secret"]
`, one.URL(), two.URL()))
	h.send(fmt.Sprintf("a message=\"for one\" %d\nb message=\"for two\",secret=1 %d\n", now(), now()))
	require.NoError(t, two.WaitCount(within(t, patience), vlreceiver.Tenant{}, 2), "self-metrics")
	code, _ := h.end()
	require.Zero(t, code)
	require.Equal(t, []string{"for one"}, messagesIn(one))
	seen := make(map[string]bool)
	for row := range two.All(vlreceiver.Tenant{}) {
		seen[row.Fields["measurement"]] = true
		require.NotContains(t, row.Fields, "secret")
	}
	require.True(t, seen["b"] && seen["internal_victorialogs"] && seen["internal_execd"] && !seen["a"], "%v", seen)
}

// What Telegraf wrote is not lost though the process was killed before it read it, or could not start at all.
func TestSpoolKeepsThePipe(t *testing.T) {
	t.Parallel()
	if !canSpool {
		t.Skip("there is no spool on this system")
	}
	server := receiver(t, vlreceiver.Config{})
	spool := filepath.Join(t.TempDir(), "[spool]")
	var lines, want []string
	for i := range 2000 {
		lines = append(lines, fmt.Sprintf("a message=\"line\n%d\" %d\n", i, now()))
		want = append(want, fmt.Sprintf("line\n%d", i))
	}
	wrong := startHost(t, "--spool", spool, "--config", write(t, "[[outputs.victorialogs]]\n  url = \"nowhere\"\n"))
	wrong.send(strings.Join(lines[:500], ""))
	code, _ := wrong.end()
	require.Equal(t, 2, code)
	require.Contains(t, wrong.logged(), "url = \"nowhere\": must be a base URL")
	for range 3 { // a start that nothing was written to leaves nothing
		again := startHost(t, "--spool", spool, "--config", "nowhere.conf")
		code, _ = again.end()
		require.Equal(t, 2, code)
	}
	left, err := os.ReadDir(spool)
	require.NoError(t, err)
	require.Len(t, left, 3, "the lock, what the first left, and the last's own")

	right := write(t, "[[outputs.victorialogs]]\n  url = %q\n", server.URL())
	killed := startHost(t, "--spool", spool, "--config", right)
	killed.send(lines[500])
	require.NoError(t, server.WaitCount(within(t, patience), vlreceiver.Tenant{}, 501))
	server.Fail(vlreceiver.Fault{Kind: vlreceiver.FaultHang, Times: 100})
	killed.send(strings.Join(lines[501:1000], ""))
	require.NoError(t, killed.cmd.Process.Signal(syscall.SIGSTOP))
	killed.send(strings.Join(lines[1000:1500], "")) // stays in the pipe
	require.NoError(t, killed.cmd.Process.Kill())
	_ = killed.cmd.Wait()
	killed.send(strings.Join(lines[1500:1999], "")) // to the heir
	killed.send("a message=\"cut")                  // Telegraf writes this again
	require.NoError(t, killed.stdin.Close())
	server.Fail()

	h := startHost(t, "--spool", spool, "--config", right)
	h.send(lines[1999])
	code, out := h.end()
	require.Zero(t, code)
	require.Contains(t, out, "I! [execd] Replaying ")
	got := make(map[string]int)
	for _, text := range messagesIn(server) {
		got[text]++
	}
	require.Len(t, got, len(want))
	for _, text := range want {
		require.NotZero(t, got[text], "%q is lost", text)
	}
	left, err = os.ReadDir(spool)
	require.NoError(t, err)
	require.Len(t, left, 1, "the lock")
}

// A spool is for one process; the second says what would be right.
func TestSpoolIsForOne(t *testing.T) {
	t.Parallel()
	if !canSpool {
		t.Skip("there is no spool on this system")
	}
	spool := t.TempDir()
	config := write(t, "[[outputs.victorialogs]]\n  url = \"http://127.0.0.1:1\"\n")
	first := startHost(t, "--spool", spool, "--config", config)
	first.waitLog("no directory is set") // so it has the spool
	second := startHost(t, "--spool", spool, "--config", config)
	code, _ := second.end()
	require.Equal(t, 2, code)
	require.Contains(t, second.logged(), "in use by another process")
	require.Contains(t, second.logged(), "; each outputs.execd needs a spool of its own\n")
	code, _ = first.end()
	require.Zero(t, code)
}

// What no server took, and no dead letters hold, waits in the spool.
func TestSpoolKeepsWhatOutputsReject(t *testing.T) {
	t.Parallel()
	if !canSpool {
		t.Skip("there is no spool on this system")
	}
	server := receiver(t, vlreceiver.Config{})
	require.NoError(t, server.Down())
	spool := t.TempDir()
	config := write(t, "[[outputs.victorialogs]]\n  url = %q\n  retry_budget = \"100ms\"\n", server.URL())
	h := startHost(t, "--spool", spool, "--config", config)
	h.send(fmt.Sprintf("a message=\"kept\" %d\n", now()))
	code, _ := h.end()
	require.Zero(t, code)
	require.Contains(t, h.logged(), "W! [execd] The outputs could not take all")
	require.NoError(t, server.Up())
	code, _ = startHost(t, "--spool", spool, "--config", config).end()
	require.Zero(t, code)
	require.Equal(t, []string{"kept"}, messagesIn(server))
}

func TestInputAcknowledgesWhatWasRead(t *testing.T) {
	t.Parallel()
	broker := testbroker.StartMochi(t, testbroker.MochiOptions{})
	h := startHost(t, "--self-metrics", "1s", "--config", write(t, `
[[inputs.mqtt_hardware]]
  servers = [%q]
  topics = ["a"]
  client_id = "execd"
  persistent_session = true
  hardware = ["load"]
  name_prefix = "edge_"
  [inputs.mqtt_hardware.tags]
    site = "berlin"
`, broker.URL()))
	h.waitLog("and subscribed to")
	unacked := func() int {
		n, err := broker.Unacked("execd")
		require.NoError(t, err)
		return n
	}
	publish := func(text string) {
		t.Helper()
		_, err := testbroker.Publish(within(t, patience), broker.URL(), testbroker.Opts{QoS: 1},
			func(yield func(testbroker.Message) bool) {
				yield(testbroker.Message{Topic: "a", Payload: []byte(text)})
			})
		require.NoError(t, err)
	}
	lines := bufio.NewReader(h.stdout)
	read := func(until string) string {
		t.Helper()
		for {
			line, err := lines.ReadString('\n')
			require.NoError(t, err)
			if strings.HasPrefix(line, until) {
				return line
			}
		}
	}
	publish("first")
	if runtime.GOOS == "linux" {
		h.waitUnread()
		require.Equal(t, 1, unacked(), "the line waits in the pipe")
	}
	require.Contains(t, read("edge_mqtt,"), `site=berlin`)
	for ctx := within(t, patience); unacked() > 0; pause(t, time.Millisecond) {
		require.NoError(t, ctx.Err())
	}
	h.send("\n")
	require.Contains(t, read("edge_hardware_load"), "load1=")
	require.NoError(t, h.cmd.Process.Signal(syscall.SIGUSR1))
	require.Contains(t, read("edge_hardware_load"), "load1=")
	for !strings.Contains(read("internal_mqtt_hardware"), "messages_acked=1i") {
	}

	// The Telegraf around it dies: what nobody read is not acknowledged.
	require.NoError(t, h.stdout.Close())
	publish("second")
	_ = h.cmd.Wait() // though nobody closes standard input
	require.Equal(t, 1, h.cmd.ProcessState.ExitCode(), h.logged())
	require.Contains(t, h.logged(), "broken pipe")
	require.Equal(t, 1, unacked())
}

func (h *host) waitLog(text string) {
	h.t.Helper()
	for ctx := within(h.t, patience); !strings.Contains(h.logged(), text); pause(h.t, time.Millisecond) {
		require.NoError(h.t, ctx.Err(), "%q is not logged", text)
	}
}

// waitUnread waits until something is in the pipe.
func (h *host) waitUnread() {
	h.t.Helper()
	for ctx := within(h.t, patience); unreadIn(h.stdout) == 0; pause(h.t, time.Millisecond) {
		require.NoError(h.t, ctx.Err())
	}
}

func TestSecretsStaySecret(t *testing.T) {
	t.Parallel()
	const secret = "hunter2-hunter2"
	server := receiver(t, vlreceiver.Config{Auth: vlreceiver.Auth{Username: "u", Password: secret}})
	secrets := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(secrets, "password"), []byte(secret), 0o600))
	t.Run("store", func(t *testing.T) {
		h := startHost(t, "--self-metrics", "1s", "--config", write(t, `
[agent]
  debug = true
[[secretstores.docker]]
  id = "files"
  path = %q
[[outputs.victorialogs]]
  url = %q
  username = "u"
  password = "@{files:password}"
`, secrets, server.URL()))
		h.send(fmt.Sprintf("a message=\"in\" %d\n", now()))
		code, out := h.end()
		require.Zero(t, code)
		require.Contains(t, messagesIn(server), "in")
		require.NotContains(t, h.logged()+out, secret)
	})
	t.Run("variable", func(t *testing.T) {
		h := startHostIn(t, []string{"SERVER_PASSWORD=" + secret}, "--config", write(t, `
[agent]
  debug = true
[[outputs.victorialogs]]
  url = %q
  username = "u"
  password = "${SERVER_PASSWORD}"
`, server.URL()))
		h.send(fmt.Sprintf("a message=\"too\" %d\n", now()))
		code, out := h.end()
		require.Zero(t, code)
		require.Contains(t, messagesIn(server), "too")
		require.NotContains(t, h.logged()+out, secret)
	})
}

func TestWrongConfiguration(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		want []string // FILE stands for the path
	}{
		"unknown option": {
			"[[outputs.victorialogs]]\n  idle_gab = \"1s\"\n",
			[]string{"FILE:2: outputs.victorialogs: there is no option idle_gab; did you mean idle_gap?"},
		},
		"unknown option below": {
			"[[outputs.victorialogs]]\n  [outputs.victorialogs.dlq]\n    directori = \"x\"\n",
			[]string{"FILE:3: outputs.victorialogs: there is no option directori; did you mean directory?"},
		},
		"unknown plugins, in order": {"[[outputs.victorialog]]\n[[inputs.cpu]]\n", []string{
			"FILE:1: there is no outputs.victorialog here; this program hosts inputs.mqtt_hardware, outputs.",
			"FILE:2: there is no inputs.cpu here; this program hosts",
		}},
		"option without effect": {
			"[[outputs.victorialogs]]\n  interval = \"1s\"\n  [outputs.victorialogs.tags]\n    a = \"b\"\n",
			[]string{"FILE:2: outputs.victorialogs: interval does nothing here", "FILE:3: outputs.victorialogs: tags does nothing here"},
		},
		"wrong type":      {"[[inputs.mqtt_hardware]]\n  qos = \"1\"\n", []string{"FILE:2: ", "QoS"}},
		"wrong value":     {"[[inputs.mqtt_hardware]]\n  topics = [\"a\"]\n  qos = 3\n", []string{"FILE: inputs.mqtt_hardware: qos = 3: must be 0, 1 or 2"}},
		"single brackets": {"[outputs.victorialogs]\n", []string{"FILE:1: outputs.victorialogs must be written as [[outputs.victorialogs]]"}},
		"processors":      {"[[processors.rename]]\n", []string{"FILE:1: processors cannot be set here"}},
		"agent":           {"[agent]\n  hostname = \"a\"\n", []string{"FILE:2: [agent]: hostname does nothing here; known are"}},
		"no plugin":       {"[agent]\n  debug = true\n", []string{"FILE: no plugin; this program hosts inputs.mqtt_hardware"}},
		"both sides":      {"[[inputs.mqtt_hardware]]\n  hardware = [\"load\"]\n[[outputs.victorialogs]]\n", []string{"inputs and outputs cannot share a process"}},
		"no TOML":         {"[[outputs.victorialogs]]\n  url = \n", []string{"FILE:3: invalid TOML syntax"}},
		"no such store":   {"[[outputs.victorialogs]]\n  username = \"u\"\n  password = \"@{x:y}\"\n", []string{`unknown secret-store for "@{x:y}"`}},
		"variables that are not set": {
			"[[outputs.victorialogs]]\n  url = \"http://127.0.0.1:1\"\n  username = \"u\"\n  password = \"${EXECD_NOT_SET}\"\n" +
				"  stream_fields = [\"${EXECD_TOO}\"]\n",
			[]string{
				"FILE:4: the environment variable EXECD_NOT_SET is not set",
				"FILE:5: the environment variable EXECD_TOO is not set",
			},
		},
		"numbers below zero": {
			"[agent]\n  metric_buffer_limit = -5\n  metric_batch_size = -1\n  flush_interval = \"0s\"\n" +
				"[[outputs.victorialogs]]\n  flush_interval = \"-1s\"\n",
			[]string{
				"FILE:2: [agent]: metric_buffer_limit = -5: must not be negative", "FILE:3: [agent]: metric_batch_size = -1: must not",
				"FILE:4: [agent]: flush_interval = \"0s\": must be positive", "FILE:6: outputs.victorialogs: flush_interval = \"-1s\"",
			},
		},
		"what Telegraf passes over": {
			"[[outputs.victorialogs]]\n  log_level = \"loud\"\n  tagpass = \"a\"\n", []string{
				"FILE:2: outputs.victorialogs: log_level = \"loud\": must be error, warn,",
				"FILE:3: outputs.victorialogs: tagpass must be a table of lists, such as [outputs.victorialogs.tagpass]",
			},
		},
		"no such format":    {"[[inputs.mqtt_hardware]]\n  topics = [\"a\"]\n  data_format = \"jsom\"\n", []string{"FILE: ", "parser not found"}},
		"filter that fails": {"[[outputs.victorialogs]]\n  metricpass = \"name ==\"\n", []string{"FILE: ", "| name =="}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := write(t, "%s", c.text)
			h := startHost(t, "--config", path)
			code, out := h.end()
			require.Equal(t, 2, code, h.logged())
			require.Empty(t, out)
			logged := strings.Split(strings.TrimSpace(h.logged()), "\n")
			for _, want := range c.want {
				require.Contains(t, h.logged(), strings.ReplaceAll(want, "FILE", path))
			}
			for _, line := range logged {
				require.True(t, strings.HasPrefix(line, "E! "), line)
			}
		})
	}
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	load := write(t, "[[inputs.mqtt_hardware]]\n  hardware = [\"load\"]\n")
	output := write(t, "[[outputs.victorialogs]]\n  url = \"http://127.0.0.1:1\"\n")
	version, err := os.ReadFile("../../VERSION")
	require.NoError(t, err)
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--version"}, 0, "telegraf-execd " + string(version)},
		{[]string{"--help"}, 0, "--spool string"},
		{[]string{"--config", load, "--test"}, 0, "> hardware_load load"},
		{[]string{"--config", output, "--test"}, 0, "The configuration of 1 outputs is right"},
		{[]string{"--config", filepath.Dir(output), "--test"}, 0, "The configuration of 1 outputs is right"},
		{[]string{"--config", load, "--spool", t.TempDir()}, 2, "--spool is for outputs"},
		{[]string{"--config", load, "--self-metrics", "1ms"}, 2, "must be 1s or longer"},
		{[]string{"--config", "/nowhere.conf"}, 2, "E! [execd] wrong configuration: stat /nowhere.conf: no such file"},
		{[]string{"--config", t.TempDir()}, 2, "no *.conf in this directory"},
		{nil, 2, "name a file with --config"},
		{[]string{"--confg", load}, 2, "unknown flag: --confg; see telegraf-execd --help"},
		{[]string{load}, 2, "is no option; see telegraf-execd --help"},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			t.Parallel()
			h := startHost(t, c.args...)
			code, out := h.end()
			require.Equal(t, c.code, code, h.logged())
			require.Contains(t, out+h.logged(), c.want)
		})
	}
}

// Telegraf's outputs.execd is imitated: it writes batches, and writes one again when not all of it got through. The
// process is killed at random moments under load.
func TestKillsUnderLoad(t *testing.T) {
	t.Parallel()
	if !canSpool {
		t.Skip("there is no spool on this system")
	}
	const kills, linesInBatch = 25, 500
	server := receiver(t, vlreceiver.Config{})
	dir := t.TempDir()
	args := []string{"--spool", filepath.Join(dir, "spool"), "--config", write(t, `
[[outputs.victorialogs]]
  url = %q
  [outputs.victorialogs.dlq]
    directory = %q
`, server.URL(), filepath.Join(dir, "dlq"))}
	seq, batch := 0, ""
	begin := time.Now()
	for range kills {
		h := startHost(t, args...)
		ended := make(chan struct{})
		go func() { // as a child's end closes its pipe in Telegraf
			_ = h.cmd.Wait()
			_ = h.stdin.Close()
			close(ended)
		}()
		go func() { _, _ = io.Copy(io.Discard, h.stdout) }()
		killed := time.AfterFunc(time.Duration(100+rand.IntN(300))*time.Millisecond, func() { _ = h.cmd.Process.Kill() })
		for {
			if batch == "" {
				var text strings.Builder
				for range linesInBatch {
					fmt.Fprintf(&text, "a message=\"line\n%d\",more=\"%s\" %d\n", seq, strings.Repeat("x", seq%1000), now())
					seq++
				}
				batch = text.String()
			}
			if _, err := h.stdin.WriteString(batch); err != nil {
				break
			}
			batch = ""
		}
		<-ended
		killed.Stop()
	}
	h := startHost(t, args...)
	h.send(batch)
	code, out := h.end()
	require.Zero(t, code)
	got := make(map[string]bool)
	rows := 0
	for _, text := range messagesIn(server) {
		got[text] = true
		rows++
	}
	lost := 0
	for i := range seq {
		if !got[fmt.Sprintf("line\n%d", i)] {
			lost++
		}
	}
	t.Logf("%d lines in %s through %d kills: %d lost, %d came twice\n%s", seq, time.Since(begin).Round(time.Millisecond), kills,
		lost, rows-len(got), out+h.logged())
	require.Zero(t, lost)
}

// When the Telegraf around it dies, the process ends at once: what it has not acknowledged, nobody will read.
func TestInputEndsWithItsReader(t *testing.T) {
	t.Parallel()
	if !canSpool {
		t.Skip("nothing tells here that a pipe has no reader")
	}
	broker := testbroker.StartMochi(t, testbroker.MochiOptions{})
	h := startHost(t, "--config", write(t, `
[[inputs.mqtt_hardware]]
  servers = [%q]
  topics = ["a"]
  client_id = "execd"
  persistent_session = true
  hardware = []
`, broker.URL()))
	h.waitLog("and subscribed to")
	_, err := testbroker.Publish(within(t, patience), broker.URL(), testbroker.Opts{QoS: 1}, func(yield func(testbroker.Message) bool) {
		yield(testbroker.Message{Topic: "a", Payload: []byte("unread")})
	})
	require.NoError(t, err)
	h.waitUnread()
	begin := time.Now()
	require.NoError(t, h.stdout.Close())
	require.NoError(t, h.stdin.Close())
	_ = h.cmd.Wait() // its error is the exit code
	require.Equal(t, 1, h.cmd.ProcessState.ExitCode(), h.logged())
	require.Less(t, time.Since(begin), 4*time.Second, "a plugin waits 5 s for its messages")
	unacked, err := broker.Unacked("execd")
	require.NoError(t, err)
	require.Equal(t, 1, unacked)
}

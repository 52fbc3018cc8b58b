package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/influxdata/telegraf/config"

	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
	"github.com/edgetide/telegraf-victorialogs/internal/vlserver"
)

// asProcess makes of the test's program the command itself, for what Telegraf keeps in globals.
const asProcess = "TELEGRAF_CHECK_AS_PROCESS"

func TestMain(m *testing.M) {
	if os.Getenv(asProcess) != "" {
		main()
	}
	config.DisableSecretProtection()
	goleak.VerifyTestMain(m)
}

// sesame is the password of all tests, and is never printed.
const sesame = "open-sesame-417"

// result is what the command printed and returned.
type result struct {
	t        *testing.T
	code     int
	steps    []step
	out, err string
}

// checked runs the command with configurations, as main does.
func checked(t *testing.T, texts ...string) result {
	t.Helper()
	args := []string{"--json", "--timeout", "10s"}
	for _, text := range texts {
		args = append(args, "--config", file(t, text))
	}
	return command(t, args...)
}

func command(t *testing.T, args ...string) result {
	t.Helper()
	var out, complaints bytes.Buffer
	code := run(t.Context(), args, &out, &complaints)
	return read(t, code, out.String(), complaints.String())
}

// process runs the command as a process of its own.
func process(t *testing.T, args ...string) result {
	t.Helper()
	cmd := processOf(t, args...)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	_ = cmd.Run() // the code says how it ended
	return read(t, cmd.ProcessState.ExitCode(), out.String(), complaints.String())
}

func processOf(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	program, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = append(os.Environ(), asProcess+"=1")
	return cmd
}

func read(t *testing.T, code int, out, complaints string) result {
	t.Helper()
	require.NotContains(t, out+complaints, sesame)
	r := result{t: t, code: code, out: out, err: complaints}
	if strings.HasPrefix(out, "[") {
		require.NoError(t, json.Unmarshal([]byte(out), &r.steps))
		faults := 0
		for _, s := range r.steps {
			require.Contains(t, []string{ok, failed, skipped}, s.Status)
			require.NotEmpty(t, s.Text, s)
			require.Equal(t, s.Status == failed, s.Todo != "", "%+v", s)
			if s.Status == failed {
				faults++
			}
		}
		require.Equal(t, faults > 0, code == exitFault, out)
	}
	return r
}

// step returns the only step of that name.
func (r result) step(name string) step {
	r.t.Helper()
	var found []step
	for _, s := range r.steps {
		if s.Step == name {
			found = append(found, s)
		}
	}
	require.Len(r.t, found, 1, "%s in %s%s", name, r.out, r.err)
	return found[0]
}

// failed wants this one fault, and no other.
func (r result) failed(name, text, todo string) {
	r.t.Helper()
	var faults []step
	for _, s := range r.steps {
		if s.Status == failed {
			faults = append(faults, s)
		}
	}
	require.Len(r.t, faults, 1, r.out+r.err)
	require.Equal(r.t, name, faults[0].Step)
	require.Contains(r.t, faults[0].Text, text)
	require.Contains(r.t, faults[0].Todo, todo)
	require.Equal(r.t, exitFault, r.code)
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "telegraf.conf")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func receiver(t *testing.T, c vlreceiver.Config) *vlreceiver.Server {
	t.Helper()
	s, err := vlreceiver.Start(c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func input(servers string, more ...string) string {
	return fmt.Sprintf("[[inputs.mqtt_hardware]]\nservers = [%q]\ntopics = [\"a/#\", \"b/+\"]\n%s\n", servers, strings.Join(more, "\n"))
}

func output(url string, more ...string) string {
	return fmt.Sprintf("[[outputs.victorialogs]]\nurl = %q\n%s\n", url, strings.Join(more, "\n"))
}

// deadLetters has room anywhere.
func deadLetters(dir string) string {
	return fmt.Sprintf("[outputs.victorialogs.dlq]\ndirectory = %q\nmax_size = \"1MiB\"", dir)
}

// privateDir is as the agent makes it.
func privateDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "dlq")
	require.NoError(t, os.Mkdir(dir, 0o700))
	return dir
}

const credentials = "username = \"me\"\npassword = \"" + sesame + "\""

func TestAllIsWell(t *testing.T) {
	mochi := testbroker.StartMochi(t, testbroker.MochiOptions{})
	r := receiver(t, vlreceiver.Config{Auth: vlreceiver.Auth{Username: "me", Password: sesame}, PathPrefix: "/logs"})
	dir := privateDir(t)
	got := checked(t, "[global_tags]\nsite = \"berlin\"\n"+
		input(mochi.URL(), "client_id = \"gateway\"\npersistent_session = true", `hardware = ["memory", "uptime"]`)+
		output(r.URL(), credentials, "account_id = 7\nproject_id = 1\ncontent_encoding = \"gzip\"\nstream_fields = [\"site\"]", deadLetters(dir)))
	require.Zero(t, got.code, got.out+got.err)
	for _, s := range got.steps {
		require.Equal(t, ok, s.Status, "%+v", s)
	}
	require.Contains(t, got.step("hardware").Text, "memory 1, uptime 1")
	require.Contains(t, got.step("subscribe").Text, `granted "a/#", "b/+" with QoS 1`)

	rows := r.Rows(vlreceiver.Tenant{AccountID: 7, ProjectID: 1})
	require.Len(t, rows, 1)
	require.Equal(t, measurement, rows[0].Fields["measurement"])
	require.Contains(t, got.step("write").Text, rows[0].Fields[idField])
	require.Equal(t, `{site="berlin"}`, rows[0].Stream)
	require.Equal(t, "gzip", r.Requests()[0].Header.Get("Content-Encoding"))
	_, err := mochi.Unacked("gateway")
	require.ErrorIs(t, err, testbroker.ErrNoSession, "the agent's client id is not used")
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

// The other broker, the other version of MQTT, the real server, and no credentials.
func TestAllIsWellWithTheRealOnes(t *testing.T) {
	path, found := vlserver.Look()
	if !found {
		t.Skip("victoria-logs is not on PATH")
	}
	server, err := vlserver.New(path, "", t.TempDir())
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, server.Start(ctx))
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	mosquitto := testbroker.StartMosquitto(t, testbroker.MosquittoOptions{Dir: t.TempDir()})
	got := checked(t, input(mosquitto.URL(), `protocol = "5"`), output(server.URL(), "account_id = 3", "name_override = \"other\"\nextra_fields = {\"a\" = \"b\"}"))
	require.Zero(t, got.code, got.out+got.err)
	for _, name := range []string{"broker", "subscribe", "write", "read", "clock"} {
		require.Equal(t, ok, got.step(name).Status)
	}
	require.Equal(t, skipped, got.step("directory").Status)
	require.Contains(t, got.step("read").Text, `measurement="other"`)
}

func TestText(t *testing.T) {
	r := receiver(t, vlreceiver.Config{})
	r.Fail(vlreceiver.Fault{Status: 500, Body: "no\x1b[31m\rgood"})
	got := command(t, "--timeout", "10s", "--config", file(t, output(r.URL())))
	require.Equal(t, exitFault, got.code)
	lines := strings.Split(strings.TrimSpace(got.out), "\n")
	require.Len(t, lines, 5)
	require.Regexp(t, `^ok {24,}configuration +/.+telegraf.conf: outputs.victorialogs$`, lines[0])
	require.Regexp(t, `^FAILED +outputs.victorialogs +write +http://.* did not take a row .*500.*no\\x1b\[31m\\rgood; to do: see the log`, lines[1])
	require.Regexp(t, `^skipped +outputs.victorialogs +read +nothing was written$`, lines[2])
}

func TestCannotRun(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none.conf")
	for name, c := range map[string]struct {
		args []string
		text string
	}{
		"no such file":      {[]string{"--config", missing}, "none.conf"},
		"no such directory": {[]string{"--config-directory", missing}, "none.conf"},
		"empty directory":   {[]string{"--config-directory", t.TempDir()}, "no *.conf in"},
		"unknown flag":      {[]string{"--nonsense"}, "unknown flag: --nonsense; see telegraf-check --help"},
		"argument":          {[]string{"telegraf.conf"}, `"telegraf.conf" is no option; name a file with --config`},
		"timeout":           {[]string{"--timeout", "0s"}, "must be longer than 0s"},
		"nothing of ours":   {[]string{"--config", file(t, "[[inputs.cpu]]\n")}, "there is no plugin of ours to check"},
	} {
		t.Run(name, func(t *testing.T) {
			got := command(t, c.args...)
			require.Equal(t, exitCannotRun, got.code)
			require.Empty(t, got.out)
			require.Contains(t, got.err, c.text)
		})
	}
	got := command(t, "--help")
	require.Zero(t, got.code)
	require.Contains(t, got.out, "--config-directory")
	require.Equal(t, "telegraf-check unknown\n", command(t, "--version").out)
}

// silent takes one connection, calls what is to happen then, and never answers.
func silent(t *testing.T, taken func()) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, listener.Close()) })
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		taken()
		_, _ = io.Copy(io.Discard, conn) // until the client hangs up
		_ = conn.Close()
	}()
	return listener.Addr().String()
}

// What ends with us is no fault of the installation.
func TestInterrupted(t *testing.T) {
	for name, text := range map[string]func(address string) string{
		"output": func(address string) string { return output("http://" + address) },
		"input":  func(address string) string { return input("tcp://"+address, `hardware = ["memory"]`) },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, interrupt := context.WithCancel(t.Context())
			args := []string{"--json", "--config", file(t, text(silent(t, interrupt)))}
			var out, complaints bytes.Buffer
			code := run(ctx, args, &out, &complaints)
			got := read(t, code, out.String(), complaints.String())
			require.Equal(t, exitCannotRun, got.code)
			require.Contains(t, got.err, "interrupted")
			require.Len(t, got.steps, 1, "nothing after the configuration")
		})
	}
}

// A server of configurations that is away or never answers ends us in time, and an interruption at once.
func TestConfigurationByURL(t *testing.T) {
	asked := func() {}
	got := process(t, "--timeout", "100ms", "--config", "http://"+silent(t, asked)+"/telegraf.conf")
	require.Equal(t, exitCannotRun, got.code)
	require.Contains(t, got.err, "the configuration cannot be read within 100ms")

	ctx, interrupt := context.WithCancel(t.Context())
	cmd := processOf(t, "--config", "http://"+silent(t, interrupt)+"/telegraf.conf")
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	require.NoError(t, cmd.Start())
	<-ctx.Done()
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	_ = cmd.Wait() // the code says how it ended
	require.Equal(t, exitCannotRun, cmd.ProcessState.ExitCode())
	require.Equal(t, "telegraf-check: interrupted\n", complaints.String())
}

// Credentials in the URL of a configuration are not printed, whatever is in it; the helpers look for them.
func TestCredentialsOfConfiguration(t *testing.T) {
	for _, text := range []string{"[[inputs.mqtt_hardware]]\nhardware = [\"memory\"]\n", "[[inputs.cpu]]\n", "syntax = ["} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }))
		got := process(t, "--json", "--config", "http://me:"+sesame+"@"+server.Listener.Addr().String()+"/telegraf.conf")
		server.Close()
		require.Contains(t, got.out+got.err, "http://xxxxx@127.0.0.1:")
	}
}

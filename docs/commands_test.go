//go:build unix

package docs

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/edgetide/telegraf-victorialogs/dlq"
	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
	"github.com/edgetide/telegraf-victorialogs/outputs/tcp_exporter/wire"
)

const patience = time.Minute // with a command that should end within a second

// command is one of our programs with its arguments; the test fails if it does not end.
func command(t *testing.T, program string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../bin", program))
	require.NoError(t, err)
	require.FileExists(t, path, "make build makes it")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "TELEGRAF_CONFIG_PATH="+os.DevNull)
	return cmd
}

// ends is the exit code of a command.
func ends(t *testing.T, program string, args ...string) int {
	t.Helper()
	return run(t, command(t, program, args...))
}

func run(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	out, err := cmd.CombinedOutput()
	t.Logf("%v\n%s", cmd.Args, out)
	if err != nil {
		require.ErrorAs(t, err, new(*exec.ExitError))
	}
	return cmd.ProcessState.ExitCode()
}

// written is a file with a text.
func written(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "text.conf")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// letters is a directory with a dump of three items, each in a block of its own.
func letters(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	disk, err := dlq.OpenDisk(dir, dlq.DiskOptions{Version: "1"})
	require.NoError(t, err)
	for _, item := range []string{"a", "b", "c"} {
		require.NoError(t, disk.AppendDurable(t.Context(), []byte(item)))
	}
	require.NoError(t, disk.Close())
	return dir
}

// damaged is one of which a byte in the middle was changed.
func damaged(t *testing.T) string {
	t.Helper()
	dir := letters(t)
	dumps, err := filepath.Glob(filepath.Join(dir, "*.dump"))
	require.NoError(t, err)
	require.Len(t, dumps, 1)
	content, err := os.ReadFile(dumps[0])
	require.NoError(t, err)
	content[len(content)/2] ^= 1
	require.NoError(t, os.WriteFile(dumps[0], content, 0o600))
	return dir
}

// serves is an address where each connection is given so much.
func serves(t *testing.T, content []byte) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, listener.Close()) })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write(content)
			_ = conn.Close()
		}
	}()
	return listener.Addr().String()
}

// agent is a configuration that runs, and writes to a server that is there.
func agent(t *testing.T) string {
	t.Helper()
	logs, err := vlreceiver.Start(vlreceiver.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, logs.Close()) })
	return written(t, fmt.Sprintf("[agent]\n  skip_processors_after_aggregators = true\n"+
		"[[inputs.mqtt_hardware]]\n  topics = []\n  hardware = [\"memory\"]\n[[outputs.victorialogs]]\n  url = %q\n", logs.URL()))
}

func outputTo(t *testing.T, url string) string {
	t.Helper()
	return written(t, fmt.Sprintf("[[outputs.victorialogs]]\n  url = %q\n", url))
}

// Each line of the table of exit codes is what happens, and each command ends with no other code.
func TestExitCodes(t *testing.T) {
	t.Parallel()
	const nowhere, nobody = "/nowhere", "127.0.0.1:1"
	const notHere = "[[inputs.mqtt_hardware]]\n  topics = [\"a\"]\n  listen = \"tcp://192.0.2.1:1883\"\n  listen_allow_anonymous = true\n" // an address of no host
	event := new(bytes.Buffer)
	_, err := protodelim.MarshalTo(event, &wire.Event{Event: &wire.Event_Metric{Metric: &wire.Metric{
		Name: "a", Operation: &wire.Metric_SetGauge{SetGauge: 1},
	}}})
	require.NoError(t, err)
	cases := map[string]func(*testing.T) int{
		"telegraf 0 it ended since it was told to": func(t *testing.T) int {
			cmd := command(t, "telegraf", "--config", agent(t))
			log, err := cmd.StderrPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			seen := new(bytes.Buffer)
			for buffer := make([]byte, 4096); !strings.Contains(seen.String(), "Config: Interval"); { // it listens for signals
				n, err := log.Read(buffer)
				seen.Write(buffer[:n])
				require.NoError(t, err, seen)
			}
			require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
			_, err = io.Copy(seen, log)
			require.NoError(t, err)
			_ = cmd.Wait() // its error is the exit code
			t.Log(seen)
			return cmd.ProcessState.ExitCode()
		},
		"telegraf 1 the command line or the configuration is wrong": func(t *testing.T) int {
			require.Equal(t, 1, ends(t, "telegraf", "--no-such-flag"))
			return ends(t, "telegraf", "--config", written(t, "[[outputs.victorialogs]]\n  no_such_option = 1\n"))
		},
		"telegraf 1 a plugin cannot start": func(t *testing.T) int {
			return ends(t, "telegraf", "--config", written(t, "[agent]\n  skip_processors_after_aggregators = true\n"+
				notHere+"[[outputs.victorialogs]]\n"))
		},
		"telegraf-check 0 no step failed": func(t *testing.T) int {
			return ends(t, "telegraf-check", "--config", agent(t))
		},
		"telegraf-check 1 a step failed": func(t *testing.T) int {
			return ends(t, "telegraf-check", "--config", outputTo(t, "http://"+nobody))
		},
		"telegraf-check 2 it could not run: the command line is wrong, or there is no configuration to read": func(t *testing.T) int {
			require.Equal(t, 2, ends(t, "telegraf-check", "--no-such-flag"))
			return ends(t, "telegraf-check", "--config", nowhere)
		},
		"telegraf-execd 0 standard input ended, and all was done": func(t *testing.T) int {
			return ends(t, "telegraf-execd", "--unprotected", "--config", outputTo(t, "http://"+nobody))
		},
		"telegraf-execd 1 something went wrong, such as that a plugin could not start": func(t *testing.T) int {
			return ends(t, "telegraf-execd", "--unprotected", "--config", written(t, notHere))
		},
		"telegraf-execd 2 the command line or the configuration is wrong": func(t *testing.T) int {
			require.Equal(t, 2, ends(t, "telegraf-execd", "--no-such-flag"))
			return ends(t, "telegraf-execd", "--unprotected", "--config", outputTo(t, nobody))
		},
		"telegraf-tap 0 as many events as asked for were shown, or somebody ended it": func(t *testing.T) int {
			require.Equal(t, 0, ends(t, "telegraf-tap", "--count", "1", serves(t, event.Bytes())))
			cmd := command(t, "telegraf-tap", serves(t, event.Bytes()))
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			_, err = out.Read(make([]byte, 1)) // it runs
			require.NoError(t, err)
			require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
			_, err = io.Copy(io.Discard, out)
			require.NoError(t, err)
			_ = cmd.Wait() // its error is the exit code
			return cmd.ProcessState.ExitCode()
		},
		"telegraf-tap 1 what comes is no such stream": func(t *testing.T) int {
			return ends(t, "telegraf-tap", serves(t, []byte(strings.Repeat("HTTP/1.1 400 Bad Request\r\n", 10))))
		},
		"telegraf-tap 1 with `--once`: there is no connection, or it ended": func(t *testing.T) int {
			require.Equal(t, 1, ends(t, "telegraf-tap", "--once", nobody))
			return ends(t, "telegraf-tap", "--once", serves(t, event.Bytes()))
		},
		"telegraf-tap 2 it could not run: the command line is wrong": func(t *testing.T) int {
			require.Equal(t, 2, ends(t, "telegraf-tap", "--no-such-flag"))
			return ends(t, "telegraf-tap", "nowhere")
		},
		"dlq 0 all is well, and all was done": func(t *testing.T) int {
			dir := letters(t)
			for _, args := range [][]string{{"ls", dir}, {"cat", dir}, {"verify", dir}, {"salvage", dir}, {"replay", dir, "--stdout"}} {
				require.Equal(t, 0, ends(t, "dlq", args...))
			}
			return ends(t, "dlq", "ls", dir)
		},
		"dlq 1 `verify` or `cat` found something damaged, or `salvage` set it aside": func(t *testing.T) int {
			require.Equal(t, 1, ends(t, "dlq", "verify", damaged(t)))
			torn := damaged(t)
			dumps, err := filepath.Glob(filepath.Join(torn, "*.dump"))
			require.NoError(t, err)
			require.NoError(t, os.Rename(dumps[0], strings.TrimSuffix(dumps[0], "dump")+"open"))
			require.Equal(t, 1, ends(t, "dlq", "salvage", torn))
			return ends(t, "dlq", "cat", damaged(t))
		},
		"dlq 1 `replay` left something, or set it aside": func(t *testing.T) int {
			return ends(t, "dlq", "replay", letters(t), "--url", "http://"+nobody, "--give-up", "1ms")
		},
		"dlq 1 `quarantine restore` or `quarantine rm` could not do all": func(t *testing.T) int {
			dir := damaged(t)
			require.NoError(t, os.MkdirAll(filepath.Join(dir, "quarantine"), 0o700))
			dumps, err := filepath.Glob(filepath.Join(dir, "*.dump"))
			require.NoError(t, err)
			require.NoError(t, os.Rename(dumps[0], filepath.Join(dir, "quarantine", filepath.Base(dumps[0]))))
			return ends(t, "dlq", "quarantine", "restore", dir, "1")
		},
		"dlq 2 it could not run: the command line is wrong, or the directory is missing or in use": func(t *testing.T) int {
			require.Equal(t, 2, ends(t, "dlq", "no-such-command"))
			require.Equal(t, 2, ends(t, "dlq", "ls", nowhere))
			dir := letters(t)
			disk, err := dlq.OpenDisk(dir, dlq.DiskOptions{})
			require.NoError(t, err)
			defer func() { require.NoError(t, disk.Close()) }()
			return ends(t, "dlq", "salvage", dir)
		},
	}
	_, chapter, ok := strings.Cut(documents(t)["docs/operations.md"], "\n## Exit codes\n")
	require.True(t, ok)
	chapter, _, _ = strings.Cut(chapter, "\n## ")
	var named []string
	for _, row := range regexp.MustCompile("(?m)^\\| `bin/([a-z-]+)` \\| (\\d) \\| (.*) \\|$").FindAllStringSubmatch(chapter, -1) {
		line := strings.Join(row[1:], " ")
		named = append(named, line)
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			require.Contains(t, cases, line, "nobody has tried it")
			require.Equal(t, row[2], fmt.Sprint(cases[line](t)))
		})
	}
	require.Len(t, named, len(cases), "what is tried, and what docs/operations.md says")
}

// helpOf is what a command says of its flags.
func helpOf(t *testing.T, program string, words ...string) string {
	t.Helper()
	out, err := command(t, program, append(words, "--help")...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

var (
	programs  = []string{"telegraf", "telegraf-check", "telegraf-execd", "telegraf-tap", "dlq"}
	ourCall   = regexp.MustCompile(`(?:^|[\s"'(/])(telegraf|telegraf-check|telegraf-execd|telegraf-tap|dlq)(?:\.exe)?"?,?(\s[^|;&>]*|$)`)
	flag      = regexp.MustCompile(`(?:^|[\s"` + "`" + `])(--[a-z][a-z-]*)`)
	fragment  = regexp.MustCompile("`([^`]*)`")
	codeBlock = regexp.MustCompile("(?ms)^ *```([a-z]*)\n(.*?)^ *```")
	listed    = regexp.MustCompile(`(?s)\[[^\[\]]*\]`)
)

// Each flag behind a command of ours, or for itself in a text, is one that its --help lists.
func TestFlags(t *testing.T) {
	t.Parallel()
	helps := make(map[string]string)
	all := []string{"--heir", "--help"} // the first is how telegraf-execd calls itself
	for _, program := range programs {
		helps[program] = helpOf(t, program) + "--help"
		all = append(all, helps[program])
	}
	helps["telegraf-execd"] += " --heir"
	for _, found := range regexp.MustCompile(`(?m)^  dlq ((?:quarantine )?[a-z]+) `).FindAllStringSubmatch(helps["dlq"], -1) {
		helps["dlq "+found[1]] = helpOf(t, "dlq", strings.Fields(found[1])...) + "--help"
		all = append(all, helps["dlq "+found[1]])
	}
	require.Greater(t, len(helps), 12)
	has := func(help, flag string) bool {
		return regexp.MustCompile(regexp.QuoteMeta(flag) + `(\W|$)`).MatchString(help)
	}

	calls, alone := 0, 0
	check := func(path, line string) {
		line, _, _ = strings.Cut(line, " # ")
		for _, call := range ourCall.FindAllStringSubmatch(line, -1) {
			name := call[1]
			if words := strings.Fields(call[2]); name == "dlq" && len(words) > 0 {
				name += " " + words[0]
				if words[0] == "quarantine" && len(words) > 1 {
					name += " " + words[1]
				}
			}
			for _, found := range flag.FindAllStringSubmatch(call[2], -1) {
				calls++
				require.True(t, has(helps[name], found[1]), "%s: %s has no %s: %s", path, name, found[1], line)
			}
		}
	}
	for path, text := range documents(t) {
		for _, block := range codeBlock.FindAllStringSubmatch(text, -1) {
			body := listed.ReplaceAllStringFunc(block[2], func(list string) string { return strings.ReplaceAll(list, "\n", " ") })
			for line := range strings.Lines(body) {
				check(path, line)
			}
		}
		for _, found := range fragment.FindAllStringSubmatch(codeBlock.ReplaceAllString(text, ""), -1) {
			check(path, found[1])
			if name, _, _ := strings.Cut(found[1], " "); strings.HasPrefix(name, "--") {
				alone++
				require.True(t, has(strings.Join(all, "\n"), name), "%s: no command of ours has %s", path, name)
			}
		}
	}
	require.Greater(t, calls, 40)
	require.Greater(t, alone, 15)
}

// Each configuration is one that bin/telegraf takes, which refuses keys that it does not know. What is a part of a plugin's
// table is of the plugin whose page it is on.
func TestConfigurations(t *testing.T) {
	t.Parallel()
	tried := 0
	for path, text := range documents(t) {
		for _, block := range codeBlock.FindAllStringSubmatch(text, -1) {
			if block[1] != "toml" {
				continue
			}
			tried++
			text := block[2]
			if !strings.Contains(text, "[[inputs.") && !strings.Contains(text, "[[outputs.") {
				text = "[[" + strings.ReplaceAll(filepath.Dir(path), "/", ".") + "]]\n  topics = [\"a\"]\n" + text
			}
			text = strings.ReplaceAll(text, "/etc/telegraf/mqtt-users", written(t, ""))
			require.Zero(t, ends(t, "telegraf", "config", "check", "--config", written(t, text)), "%s:\n%s", path, block[2])
		}
	}
	require.Greater(t, tried, 10)
}

var (
	snake   = regexp.MustCompile(`^([a-z][a-z0-9]*(?:_[a-z0-9]+)+)$|^([a-z][a-z0-9_]*) = `)
	literal = regexp.MustCompile("\"(?:[^\"\\\\\n]|\\\\.)*\"|`[^`]*`")
	word    = regexp.MustCompile(`[a-z0-9_]+`)
)

// elsewhere are names of other programs, or of devices in examples.
var elsewhere = []string{
	"acl_file", "rule_files", "in_mqtt", "clean_session", // Mosquitto, Prometheus, Fluent Bit, MQTT's libraries
	"restart_delay", "influx_uint_support", // Telegraf's execd and serializer
	"error_2", "alias_7", "coretemp_package_id_0", "rapl_package_0_core", "nvme_composite_2",
}

// composed are names that are put together of parts.
var composed = regexp.MustCompile(`^(hardware_|internal_|some_|full_|measurement_)`)

// Each option, metric, field and reason that a text names is a word of a string in the source, a sample's, or Telegraf's.
func TestNames(t *testing.T) {
	t.Parallel()
	known := make(map[string]bool)
	read := func(path string, parts *regexp.Regexp) {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, part := range parts.FindAllString(string(text), -1) {
			for _, name := range word.FindAllString(part, -1) {
				known[name] = true
			}
		}
	}
	for _, directory := range []string{"inputs", "outputs", "plugins", "cmd", "dlq", "internal"} {
		require.NoError(t, filepath.WalkDir("../"+directory, func(path string, _ os.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"):
				read(path, literal)
			case filepath.Base(path) == "sample.conf":
				read(path, word)
			}
			return nil
		}))
	}
	found, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/influxdata/telegraf").Output()
	require.NoError(t, err)
	module := strings.TrimSpace(string(found))
	for _, pattern := range []string{"config/*.go", "models/*.go"} {
		files, err := filepath.Glob(filepath.Join(module, pattern))
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, path := range files {
			if !strings.HasSuffix(path, "_test.go") {
				read(path, literal)
			}
		}
	}
	for _, kind := range []string{"inputs", "outputs", "processors"} {
		plugins, err := filepath.Glob(filepath.Join(module, "plugins", kind, "*"))
		require.NoError(t, err)
		for _, path := range plugins {
			known[filepath.Base(path)] = true
		}
	}
	named := 0
	for path, text := range documents(t) {
		for _, found := range fragment.FindAllStringSubmatch(codeBlock.ReplaceAllString(text, ""), -1) {
			name := snake.FindStringSubmatch(found[1])
			if name == nil {
				continue
			}
			named++
			key := name[1] + name[2]
			assert.True(t, known[key] || slices.Contains(elsewhere, key) || composed.MatchString(key), "%s names %s", path, found[1])
		}
	}
	require.Greater(t, named, 300)
}

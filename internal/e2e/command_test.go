package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// run runs bin/telegraf to its end.
func run(t *testing.T, args ...string) (output string, err error) {
	t.Helper()
	cmd := exec.CommandContext(within(t, patience), telegraf(t), append([]string{"--non-strict-env-handling"}, args...)...)
	cmd.Env = append(os.Environ(), "MQTT_URL=tcp://127.0.0.1:1") // nobody listens there
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestVersionNamesBoth(t *testing.T) {
	t.Parallel()
	ours, err := os.ReadFile("../../VERSION")
	require.NoError(t, err)
	for _, args := range [][]string{{"--version"}, {"version"}} {
		out, err := run(t, args...)
		require.NoError(t, err)
		require.Contains(t, out, "Telegraf 1.37.2")
		require.Contains(t, out, "telegraf-victorialogs@"+strings.TrimSpace(string(ours)))
	}
}

func TestSampleConfigPrintsHardware(t *testing.T) {
	t.Parallel()
	out, err := run(t, "--config", "../../sample.conf", "--test")
	require.NoError(t, err, out)
	for _, source := range []string{"cpu,cpu=cpu-total", "memory", "load", "disk", "disk_io", "network"} {
		require.Contains(t, out, "> hardware_"+source)
	}
}

func TestConfigPrintsOurSections(t *testing.T) {
	t.Parallel()
	out, err := run(t, "config")
	require.NoError(t, err)
	for _, plugin := range []string{"inputs.mqtt_hardware", "outputs.victorialogs"} {
		sample, err := os.ReadFile("../../" + strings.ReplaceAll(plugin, ".", "/") + "/sample.conf")
		require.NoError(t, err)
		require.Contains(t, out, "[["+plugin+"]]")
		for line := range strings.Lines(string(sample)) {
			require.Contains(t, out, strings.TrimSpace(strings.TrimLeft(line, "# ")))
		}
	}
}

// The sample configuration is the plugins' own samples behind an agent's section.
func TestSampleConfigIsThePluginsSamples(t *testing.T) {
	t.Parallel()
	sample, err := os.ReadFile("../../sample.conf")
	require.NoError(t, err)
	text := strings.NewReplacer( // what the environment may change
		`servers = ["${MQTT_URL:-}"]`, `servers = ["tcp://127.0.0.1:1883"]`,
		`listen = "${MQTT_LISTEN:-tcp://127.0.0.1:1883}"`, `# listen = ""`,
		`url = "${VICTORIALOGS_URL:-http://127.0.0.1:9428}"`, `url = "http://127.0.0.1:9428"`,
		`directory = "${DEAD_LETTERS:-}"`, `# directory = "/var/lib/telegraf/dead-letters"`,
	).Replace(string(sample))
	for _, plugin := range []string{"inputs/mqtt_hardware", "outputs/victorialogs"} {
		own, err := os.ReadFile("../../" + plugin + "/sample.conf")
		require.NoError(t, err)
		require.Contains(t, text, string(own), "%s/sample.conf and sample.conf differ", plugin)
		readme, err := os.ReadFile("../../" + plugin + "/README.md")
		require.NoError(t, err)
		require.Contains(t, string(readme), "```toml\n"+string(own)+"```", "%s/README.md and its sample.conf differ", plugin)
	}
}

// What is wrong in a configuration is one line that names key, value and remedy, and exit code 1.
func TestWrongConfiguration(t *testing.T) {
	t.Parallel()
	const input, output = "inputs.mqtt_hardware", "outputs.victorialogs"
	for _, c := range []struct {
		plugin, line string
		want         []string
	}{
		{output, `idle_gapp = "1s"`, []string{"idle_gapp", "typo"}},
		{output, `url = "127.0.0.1:9428"`, []string{`url = "127.0.0.1:9428"`, "must be", "http://127.0.0.1:9428"}},
		{output, `idle_gap = "0s"`, []string{`idle_gap = "0s"`, "must be longer than zero", "100ms"}},
		{output, `ack_gap = "-5ms"`, []string{`ack_gap = "-5ms"`, "must be longer than zero", "5ms"}},
		{output, `max_pending = -5`, []string{`max_pending = -5`, "must be"}},
		{output, `max_batch_size = "-1MiB"`, []string{`max_batch_size = -1048576`, "must be", "1KiB", "4MiB"}},
		{output, `tls_ca = "/nowhere/ca.pem"`, []string{`tls_ca = "/nowhere/ca.pem"`, "must be a readable PEM file"}},
		{output, `content_encoding = "br"`, []string{`content_encoding = "br"`, "must be", "zstd"}},
		{output, `headers = {"content-type" = "text/plain"}`, []string{`"content-type"`, "must not be set"}},
		{input, `topicss = ["a"]`, []string{"topicss", "typo"}},
		{input, `hardware = ["cpu", "fam"]`, []string{`"fam"`, "known are", "temperature"}},
		{input, `qos = 3`, []string{"qos = 3", "must be 0, 1 or 2"}},
		{input, `servers = ["http://broker"]`, []string{"servers", "http://broker", "must be", "tcp://127.0.0.1:1883"}},
		{input, `keepalive = "0s"`, []string{`keepalive = "0s"`, "must be 1s or longer"}},
		{input, `max_undelivered_messages = 0`, []string{"max_undelivered_messages = 0", "must be 1 or more"}},
		{input, `persistent_session = true`, []string{"client_id", "must be set"}},
		{input, `tls_ca = "/nowhere/ca.pem"`, []string{`tls_ca = "/nowhere/ca.pem"`, "must be a readable PEM file"}},
	} {
		t.Run(c.line, func(t *testing.T) {
			t.Parallel()
			lines := map[string]string{c.plugin: "  " + c.line}
			if c.plugin == input && !strings.HasPrefix(c.line, "hardware") {
				lines[input] += "\n  topics = [\"a\"]"
			} else if c.plugin != input {
				lines[input] = "  topics = [\"a\"]"
			}
			dir, err := os.MkdirTemp("", "wrong") //nolint:usetesting // whose brackets Telegraf takes for a pattern
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
			config := filepath.Join(dir, "wrong.conf")
			text := fmt.Sprintf("[agent]\n  skip_processors_after_aggregators = true\n[[%s]]\n%s\n[[%s]]\n%s\n",
				input, lines[input], output, lines[output])
			require.NoError(t, os.WriteFile(config, []byte(text), 0o600))

			out, err := run(t, "--config", config)
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit, out)
			require.Equal(t, 1, exit.ExitCode())
			var complaints []string
			for line := range strings.Lines(out) {
				if strings.Contains(line, " E! ") {
					complaints = append(complaints, line)
				}
			}
			require.Len(t, complaints, 1, out)
			for _, want := range c.want {
				require.Contains(t, complaints[0], want)
			}
		})
	}
}

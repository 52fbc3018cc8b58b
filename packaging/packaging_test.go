package packaging

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	unitFile = "telegraf-victorialogs.service"
	user     = "telegraf-victorialogs"
	etc      = "/etc/telegraf-victorialogs"
	state    = "/var/lib/telegraf-victorialogs"
	program  = "/usr/lib/telegraf-victorialogs/telegraf"
)

// unit is what systemd would read of the service: the values of each key, in their order.
type unit map[string][]string

func readUnit(t *testing.T, path string) unit {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	u := unit{}
	for line := range strings.Lines(string(content)) {
		line = strings.TrimSpace(line)
		key, value, ok := strings.Cut(line, "=")
		if ok && !strings.HasPrefix(line, "#") {
			u[key] = append(u[key], value)
		}
	}
	return u
}

// readEnvironment reads lines of NAME=value, also those that are commented out.
func readEnvironment(t *testing.T, path string) (set, commented map[string]string) {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	set, commented = map[string]string{}, map[string]string{}
	assignment := regexp.MustCompile(`(?m)^(#?)([A-Z_]+)=(.*)$`)
	for _, match := range assignment.FindAllStringSubmatch(string(content), -1) {
		if match[1] == "" {
			set[match[2]] = match[3]
		} else {
			commented[match[2]] = match[3]
		}
	}
	return set, commented
}

// command is ExecStart's words, with the environment in its $NAMEs, as systemd splits it.
func (u unit) command(environment map[string]string) []string {
	var words []string
	for word := range strings.FieldsSeq(u["ExecStart"][0]) {
		if name, ok := strings.CutPrefix(word, "$"); ok {
			words = append(words, strings.Fields(environment[name])...)
			continue
		}
		words = append(words, word)
	}
	return words
}

// The unit's own command line, with the files where they are in the repository, samples once and ends well.
func TestCommandOfUnit(t *testing.T) {
	t.Parallel()
	agent := filepath.Join("..", "bin", "telegraf")
	_, err := os.Stat(agent)
	require.NoError(t, err, "make build makes bin/telegraf; make test does it first")

	u := readUnit(t, unitFile)
	environment, _ := readEnvironment(t, "environment")
	place := map[string]string{
		program:                agent,
		etc + "/telegraf.conf": filepath.Join("..", "sample.conf"),
		etc + "/telegraf.d":    t.TempDir(),
	}
	command := u.command(environment)
	for i, word := range command {
		if strings.HasPrefix(word, "/") {
			require.Contains(t, place, word, "ExecStart names a file that the packages do not have")
			command[i] = place[word]
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], append(command[1:], "--test")...)
	for name, value := range environment {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.Env = append(cmd.Env, "MQTT_LISTEN=tcp://127.0.0.1:0", "DEAD_LETTERS="+t.TempDir())
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "> hardware_uptime")
}

// What the configuration takes from the environment the environment file names, and nothing else.
func TestEnvironmentOfConfiguration(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile(filepath.Join("..", "sample.conf"))
	require.NoError(t, err)
	var used []string
	for _, match := range regexp.MustCompile(`\$\{([A-Z_]+)`).FindAllStringSubmatch(string(content), -1) {
		used = append(used, match[1])
	}

	u := readUnit(t, unitFile)
	require.Contains(t, u["ExecStart"][0], " $TELEGRAF_OPTS")
	set, commented := readEnvironment(t, "environment")
	var named []string
	for _, names := range []map[string]string{set, commented} {
		for name := range names {
			named = append(named, name)
		}
	}
	require.ElementsMatch(t, append(slices.Compact(slices.Sorted(slices.Values(used))), "TELEGRAF_OPTS"), named)
	require.Equal(t, []string{"DEAD_LETTERS=" + commented["DEAD_LETTERS"]}, u["Environment"],
		"the unit has the default that the environment file names")
}

// What the unit runs is ours, or on each system that has systemd.
func TestProgramsOfUnit(t *testing.T) {
	t.Parallel()
	u := readUnit(t, unitFile)
	for key, values := range u {
		if !strings.HasPrefix(key, "Exec") {
			continue
		}
		for _, value := range values {
			require.Contains(t, []string{program, "/bin/sh"}, strings.Fields(value)[0], key)
		}
	}
}

// The command that the documentation has for a check gives it what the unit gives the service.
func TestCheckAsTheService(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile(filepath.Join("..", "docs", "packaging.md"))
	require.NoError(t, err)
	command := regexp.MustCompile(`(?s)systemd-run .*?\n` + "```").FindString(string(content))
	u := readUnit(t, unitFile)
	for key, want := range map[string]string{
		"EnvironmentFile":    strings.TrimPrefix(u["EnvironmentFile"][0], "-"),
		"Environment":        u["Environment"][0],
		"StateDirectory":     `"` + u["StateDirectory"][0] + `"`,
		"StateDirectoryMode": u["StateDirectoryMode"][0],
	} {
		require.Contains(t, command, " -p "+key+"="+want+" ")
	}
	require.Contains(t, command, " --uid="+u["User"][0]+" ")
	for word := range strings.FieldsSeq(u["ExecStart"][0]) {
		if strings.HasPrefix(word, etc) {
			require.Contains(t, strings.Fields(command), word)
		}
	}
}

// Stopping takes as long as the longest request that may be configured, and some more to write what is in memory.
func TestTimeToStop(t *testing.T) {
	t.Parallel()
	u := readUnit(t, unitFile)
	require.Len(t, u["TimeoutStopSec"], 1, "without it a distribution may allow less")
	allowed, err := time.ParseDuration(u["TimeoutStopSec"][0])
	require.NoError(t, err)
	require.GreaterOrEqual(t, allowed, time.Minute+20*time.Second)
}

// systemd's own opinion of the unit: every line understood, and an exposure of at most 2.1 of 10.
func TestUnit(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	content, err := os.ReadFile(unitFile)
	require.NoError(t, err)
	dir := t.TempDir()
	executable := filepath.Join(dir, "telegraf") // verify wants one
	require.NoError(t, os.WriteFile(executable, nil, 0o755))
	path := filepath.Join(dir, unitFile)
	require.NoError(t, os.WriteFile(path, bytes.ReplaceAll(content, []byte(program), []byte(executable)), 0o600))

	out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", path).CombinedOutput()
	require.NoError(t, err, "%s", out)
	var about []string
	for scanner := bufio.NewScanner(bytes.NewReader(out)); scanner.Scan(); {
		if strings.Contains(scanner.Text(), unitFile) { // others' units are others' business
			about = append(about, scanner.Text())
		}
	}
	require.Empty(t, about)

	out, err = exec.CommandContext(t.Context(), analyze, "security", "--offline=true", "--threshold=21", path).CombinedOutput()
	if err != nil && strings.Contains(string(out), "unrecognized option") {
		t.Skip("systemd-analyze is older than 250 and cannot judge a file")
	}
	require.NoError(t, err, "%s", out)
}

// The scripts of the packages run under any sh, and their users and directories are the unit's.
func TestScripts(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("there is no sh")
	}
	scripts, err := filepath.Glob("*.sh")
	require.NoError(t, err)
	require.Len(t, scripts, 4)
	u := readUnit(t, unitFile)
	require.Equal(t, []string{user}, u["User"])
	require.Equal(t, []string{filepath.Base(state) + " " + filepath.Base(state) + "/dead-letters"}, u["StateDirectory"])
	for _, script := range scripts {
		out, err := exec.CommandContext(t.Context(), "sh", "-n", script).CombinedOutput()
		require.NoError(t, err, "%s: %s", script, out)
		content, err := os.ReadFile(script)
		require.NoError(t, err)
		for name, value := range map[string]string{"USER": user, "STATE": state, "UNIT": unitFile} {
			for _, match := range regexp.MustCompile(`(?m)^`+name+`=(.*)$`).FindAllStringSubmatch(string(content), -1) {
				require.Equal(t, value, match[1], "%s in %s", name, script)
			}
		}
	}
}

// A systemd that refuses leaves no package half installed, and none that cannot be removed.
func TestScriptsWithoutSystemd(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("there is no sh")
	}
	refusing := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(refusing, "systemctl"), []byte("#!/bin/sh\nexit 1\n"), 0o700))
	for _, words := range [][]string{
		{"postinstall.sh", "configure", "0.1.0-1"},
		{"postinstall.sh", "configure", ""},
		{"postinstall.sh", "2"},
		{"preremove.sh", "remove"},
		{"preremove.sh", "0"},
		{"postremove.sh", "remove"},
		{"postremove.sh", "0"},
	} {
		cmd := exec.CommandContext(t.Context(), "sh", words...)
		cmd.Env = []string{"PATH=" + refusing + ":" + os.Getenv("PATH")}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%q: %s", words, out)
	}
}

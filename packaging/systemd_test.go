package packaging

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The same with systemd itself, in a container that boots: the service starts, reloads, restarts and stops as the unit
// and the scripts of the package say, and behind the unit's walls it samples what it samples without them.
func TestDebUnderSystemd(t *testing.T) {
	r := newRoot(t)
	if _, err := exec.LookPath("systemd-nspawn"); err != nil {
		t.Skip("systemd-nspawn is not installed")
	}
	script, err := os.ReadFile("testdata/systemd.sh")
	require.NoError(t, err)
	r.write("/test.sh", string(script))
	r.write("/etc/systemd/system/test.service", `[Unit]
After=basic.target
[Service]
Type=oneshot
ExecStart=/bin/sh /test.sh
StandardOutput=file:/result.txt
StandardError=file:/result.txt
TimeoutStartSec=300
ExecStopPost=/bin/systemctl poweroff --no-block
`)
	// A network of its own, so that ports are free.
	console, err := exec.CommandContext(t.Context(), "systemd-nspawn", "--quiet", "--directory="+r.dir,
		"--register=no", "--keep-unit", "--private-network", "--console=pipe", "--boot", "--", "--unit=test.service").CombinedOutput()
	if _, missing := os.Stat(r.path("/result.txt")); missing != nil {
		t.Skipf("systemd does not boot in a container here: %v: %s", err, console)
	}
	result := r.read("/result.txt")
	require.True(t, strings.HasSuffix(result, "DONE\n"), "%s", result)
	require.Contains(t, result, "CapBnd:\t0000000000000000")
	require.Contains(t, result, "NoNewPrivs:\t1")
	require.Contains(t, result, "Seccomp:\t2")

	journal := r.read("/journal.txt")
	t.Logf("%s", journal)
	require.NotRegexp(t, `(?i)permission denied|not permitted|read-only file`, journal)

	// One line for each metric, with the tags that tell devices apart.
	var outside []string
	for line := range strings.Lines(r.read("/outside.txt")) {
		if name, _, ok := strings.Cut(strings.TrimPrefix(line, "> "), " "); ok && strings.HasPrefix(line, "> hardware_") {
			outside = append(outside, regexp.MustCompile(`,host=[^,]*`).ReplaceAllString(name, ""))
		}
	}
	var inside []string
	for line := range strings.Lines(r.read("/inside.json")) {
		var item struct{ Lines []map[string]any }
		require.NoError(t, json.Unmarshal([]byte(line), &item))
		for _, row := range item.Lines {
			name, _ := row["measurement"].(string)
			for _, tag := range []string{"cpu", "device", "fstype", "interface", "name", "path", "resource", "sensor"} {
				if value, ok := row[tag].(string); ok {
					name += "," + tag + "=" + value
				}
			}
			inside = append(inside, name)
		}
	}
	slices.Sort(outside)
	slices.Sort(inside)
	require.NotEmpty(t, outside)
	require.Equal(t, slices.Compact(outside), slices.Compact(inside))
}

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
)

// An installation is checked again and again beside its agent, under load: nothing is lost or doubled, and the agent keeps its
// session, its share of a shared subscription, and its directory.
func TestCheckBesideTheAgent(t *testing.T) {
	t.Parallel()
	const n, rate, times = 4000, 1000, 5
	check, err := filepath.Abs("../../bin/telegraf-check")
	require.NoError(t, err)
	_, err = os.Stat(check)
	require.NoError(t, err, "make build makes bin/telegraf-check; make test does it first")
	for name, topics := range map[string]string{"plain": `"e2e/#"`, "shared": `"$share/agents/e2e/#"`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			broker, logsURL := brokers["mosquitto"](t), standIn(t).URL()
			letters := filepath.Join(t.TempDir(), "dlq")
			r := newRig(t, broker.URL(), logsURL, `  hardware = ["memory"]`, "  [outputs.victorialogs.dlq]\n  max_size = \"1MiB\"\n  directory = \""+letters+`"`)
			config, err := os.ReadFile(r.config)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(r.config, []byte(strings.Replace(string(config), `"e2e/#"`, topics, 1)), 0o600))
			r.start()
			published := publishing(t, broker.URL(), testbroker.Opts{QoS: 1, Rate: rate}, events(1, n))
			for range times {
				var steps []struct{ Status, Step, Text string }
				out, err := exec.CommandContext(within(t, patience), check, "--json", "--config", r.config).Output()
				require.NoError(t, err, "%s", out)
				require.NoError(t, json.Unmarshal(out, &steps))
				for _, s := range steps {
					require.Equal(t, "ok", s.Status, "%+v", s)
					if s.Step == "directory" {
						require.Contains(t, s.Text, "an agent has it")
					}
				}
			}
			published()
			require.Zero(t, requireAll(t, waitStored(t, logsURL, n), n), "doubled")
			r.stop()
			requireNothingLeft(t, broker.URL())
			require.Zero(t, r.logged(" W! ")+r.logged(" E! "), "%s", r.agent.Log())
			require.Equal(t, 1, r.logged("and subscribed to"))
		})
	}
}

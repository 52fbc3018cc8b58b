package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/agentproc"
	"github.com/edgetide/telegraf-victorialogs/internal/deadletter"
)

// ledger is where the metrics of outputs.victorialogs are, or have gone to.
type ledger struct{ received, recovered, delivered, onDisk, rejected, dropped, inMemory int64 }

func (l ledger) balances() bool {
	return l.received+l.recovered == l.delivered+l.onDisk+l.rejected+l.dropped+l.inMemory
}

// selfLedger is the ledger as the agent's self-metrics last told it.
func selfLedger(a *agentproc.Agent) ledger {
	const output = "internal_victorialogs."
	return ledger{
		received: a.Self(output + "metrics_received"), recovered: a.Self(output + "metrics_recovered"),
		delivered: a.Self(output + "metrics_delivered"), onDisk: a.Self(output + "dlq_metrics"),
		rejected: a.SelfTotal(output + "metrics_rejected"), dropped: a.SelfTotal(output + "metrics_dropped"),
		inMemory: a.Self(output + "pending_metrics"),
	}
}

// waitLedger waits for a quiet moment at which the self-metrics balance and are as asked, and returns them.
func (r *rig) waitLedger(asked func(ledger) bool) ledger {
	r.tb.Helper()
	var last ledger
	err := r.agent.WaitFor(within(r.tb, patience), func(a *agentproc.Agent) bool {
		last = selfLedger(a)
		return last.inMemory == 0 && last.balances() && asked(last)
	})
	require.NoError(r.tb, err, "the self-metrics do not balance, or are not as asked: %+v", last)
	return last
}

var closedLine = regexp.MustCompile(`Closed\. Metrics: (\d+) received \+ (\d+) recovered from disk = ` +
	`(\d+) delivered \+ (\d+) on disk \+ (\d+) rejected \+ (\d+) dropped \+ (\d+) in memory`)

// closedLedgers are the ledgers that the agent logged each time it closed the plugin.
func closedLedgers(tb testing.TB, log string) (all []ledger) {
	tb.Helper()
	for _, line := range closedLine.FindAllStringSubmatch(log, -1) {
		var n [7]int64
		for i := range n {
			var err error
			n[i], err = strconv.ParseInt(line[i+1], 10, 64)
			require.NoError(tb, err)
		}
		all = append(all, ledger{n[0], n[1], n[2], n[3], n[4], n[5], n[6]})
	}
	return all
}

// requireClosed checks that the agent, which has ended, closed the plugin with a ledger that balances, and returns it.
func (r *rig) requireClosed() ledger {
	r.tb.Helper()
	all := closedLedgers(r.tb, r.agent.Log())
	require.NotEmpty(r.tb, all, "no ledger was logged")
	for _, l := range all {
		require.True(r.tb, l.balances(), "the ledger at the end does not balance: %+v", l)
		require.Zero(r.tb, l.inMemory, "%+v", l)
	}
	return all[len(all)-1]
}

// newSafeRig is newRig with dead letters in a directory, and an output to which only the inputs' metrics go.
func newSafeRig(tb testing.TB, brokerURL, logsURL, dir, outputLines, dlqLines string) *rig {
	tb.Helper()
	return newRig(tb, brokerURL, logsURL, "", safeLines(dir, outputLines, dlqLines))
}

func safeLines(dir, outputLines, dlqLines string) string {
	return fmt.Sprintf(`
  namedrop = ["internal_*"]
  retry_max = "2s"
%s
  [outputs.victorialogs.dlq]
    directory = %q
%s`, outputLines, dir, dlqLines)
}

// rejected reads with bin/dlq what was set aside.
func rejected(tb testing.TB, dir string) (all []*deadletter.Letter) {
	tb.Helper()
	for line := range strings.Lines(dlqCommand(tb, "cat", filepath.Join(dir, "rejected"), "--json")) {
		var item struct {
			Batch *deadletter.Letter
			Lines []json.RawMessage
		}
		require.NoError(tb, json.Unmarshal([]byte(line), &item))
		require.NotNil(tb, item.Batch, line)
		letter := item.Batch
		letter.Encoding = "identity" // since bin/dlq shows the rows decoded
		for _, row := range item.Lines {
			letter.Body = append(append(letter.Body, row...), '\n')
		}
		all = append(all, letter)
	}
	return all
}

// dlqCommand runs bin/dlq, which must succeed, and returns what it printed.
func dlqCommand(tb testing.TB, args ...string) string {
	tb.Helper()
	path, err := filepath.Abs("../../bin/dlq")
	require.NoError(tb, err)
	_, err = os.Stat(path)
	require.NoError(tb, err, "make build makes bin/dlq")
	cmd := exec.CommandContext(within(tb, patience), path, args...)
	var problems strings.Builder
	cmd.Stderr = &problems
	out, err := cmd.Output()
	require.NoError(tb, err, "bin/dlq %s: %s", strings.Join(args, " "), problems.String())
	return string(out)
}

// requireNoDumps checks that nothing waits in the directory to be restored and nothing is in quarantine.
func requireNoDumps(tb testing.TB, dir string) {
	tb.Helper()
	require.JSONEq(tb, "[]", dlqCommand(tb, "ls", dir, "--json"), "dumps are left")
	require.JSONEq(tb, "[]", dlqCommand(tb, "quarantine", "ls", dir, "--json"), "dumps are in quarantine")
}

// soakDuration is how long a soak runs; 0: this is none.
func soakDuration(tb testing.TB) time.Duration {
	tb.Helper()
	return setting(tb, "SOAK", 0)
}

// setting is a duration from the environment.
func setting(tb testing.TB, name string, fallback time.Duration) time.Duration {
	tb.Helper()
	text := os.Getenv(name)
	if text == "" {
		return fallback
	}
	d, err := time.ParseDuration(text)
	require.NoError(tb, err, "%s = %q: must be a duration such as 10m", name, text)
	return d
}

// soaking chooses how much of something a test does.
func soaking(tb testing.TB, usual, inSoak int) int {
	tb.Helper()
	if soakDuration(tb) > 0 {
		return inSoak
	}
	return usual
}

// seed is SEED from the environment, or a new one; it is logged.
func seed(tb testing.TB) uint64 {
	tb.Helper()
	s := uint64(time.Now().UnixNano())
	if text := os.Getenv("SEED"); text != "" {
		var err error
		s, err = strconv.ParseUint(text, 10, 64)
		require.NoError(tb, err, "SEED = %q: must be a number", text)
	}
	tb.Logf("SEED=%d", s)
	return s
}

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/agentproc"
	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
)

const poisonTopic = "e2e/poison"

// soak is an agent under load whose surroundings fail in every way that they can, in an order that a seed gives.
type soak struct {
	*testing.T
	random          *rand.Rand
	broker          testbroker.Broker
	logs            *vlreceiver.Server
	toBroker, toLog *network
	r               *rig
	filler          string // a file that fills the disk; empty: the disk cannot be filled here
	ends            int    // of agents that were asked to end, and so logged a ledger
	kills, reloads  int
}

// poison is refused by the server always, beside whatever else fails.
var poison = vlreceiver.Fault{
	Kind: vlreceiver.FaultStatus, Status: 400, Holding: `"topic":"` + poisonTopic + `"`,
	Body: "cannot process jsonline request; error: poison",
}

// A random run of all faults, from a seed. SOAK=10m says for how long; make soak does.
func TestSoak(t *testing.T) { //nolint:paralleltest // it takes the whole machine
	duration := soakDuration(t)
	if duration == 0 {
		t.Skip("make soak runs it")
	}
	const rate = 500
	s := &soak{T: t, random: rand.New(rand.NewPCG(seed(t), 0)), broker: brokers["mochi"](t), logs: standIn(t)}
	s.logs.Fail(poison)
	s.toBroker, s.toLog = newNetwork(t, s.broker.URL()), newNetwork(t, s.logs.URL())
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256m"); err == nil {
		t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, 0)) })
		s.filler = filepath.Join(dir, "filler")
	} else {
		t.Logf("without a full disk, since none can be mounted: %v", err)
	}
	letters := filepath.Join(dir, "letters")
	s.r = newRig(t, s.toBroker.url, s.toLog.url, "  keepalive = \"2s\"\n  ping_timeout = \"1s\"\n  connection_timeout = \"2s\"",
		safeLines(letters, "  timeout = \"2s\"\n  retry_budget = \"1s\"", "    capacity = \"256KiB\""))
	s.r.start()
	flow := startFlow(t, s.broker.URL(), rate)
	bad := startFlowOf(t, s.broker.URL(), 1, func(seq int) testbroker.Message {
		return testbroker.Message{Topic: poisonTopic, Payload: fmt.Appendf(nil, `{"seq":%d}`, seq)}
	})
	faults := s.faults()
	for end := time.Now().Add(duration); time.Now().Before(end); {
		s.wait(2000)
		fault := faults[s.random.IntN(len(faults))]
		text := fault.name
		heal := fault.begin(s)
		s.wait(4000)
		if s.random.IntN(3) == 0 {
			text += ", and meanwhile: agent " + s.endAgent()
			s.wait(2000)
		}
		heal()
		t.Logf("%s %s", time.Now().Format("15:04:05.000"), text)
	}
	n, refused := flow.end(), bad.end()
	s.end()
	s.r.start() // and so all has to do with a life that nothing went wrong in
	waitStored(t, s.logs.URL(), n)
	l := s.r.waitLedger(func(l ledger) bool { return l.onDisk == 0 })
	s.r.stop()
	require.Zero(t, l.dropped, "%+v", l)
	times := stored(t, s.logs.URL())
	t.Logf("%d events, %d doubled; %d kills, %d ends, %d reloads", n, requireAll(t, times, n), s.kills, s.ends, s.reloads)
	s.r.requireClosed()
	requireNoDumps(t, letters)
	requireNothingLeft(t, s.broker.URL())

	aside := make(map[int]int)
	for _, letter := range rejected(t, letters) {
		require.Equal(t, "refused_by_server", letter.Reason)
		lines, err := letter.Lines()
		require.NoError(t, err)
		for line := range bytes.Lines(lines) {
			var row struct{ Seq int }
			require.NoError(t, json.Unmarshal(line, &row))
			aside[row.Seq]++
		}
	}
	t.Logf("%d poisoned rows, %d in rejected", refused, len(aside))
	requireAll(t, aside, refused)
}

func (s *soak) wait(mostMilliseconds int) {
	s.Helper()
	pause(s.T, time.Duration(s.random.IntN(mostMilliseconds))*time.Millisecond)
}

// end ends the agent in its own order and checks its ledger.
func (s *soak) end() {
	s.Helper()
	s.r.stop()
	if s.r.logged("Stopping running outputs") > 0 { // it had come so far as to start them
		s.r.requireClosed()
	}
	s.ends++
}

// endAgent ends the agent in some way and starts it again. It does not wait for its connection, which may be cut.
func (s *soak) endAgent() string {
	s.Helper()
	switch s.random.IntN(3) {
	case 0:
		s.r.agent.Kill()
		s.kills++
		s.r.launch()
		return "killed"
	case 1:
		s.end()
		s.r.launch()
		return "ended"
	default:
		require.NoError(s, s.r.agent.WaitFor(within(s, patience), func(*agentproc.Agent) bool {
			return s.r.logged("Loaded outputs") > 0 // before that the signal would kill it
		}))
		require.NoError(s, s.r.agent.Signal(syscall.SIGHUP))
		s.reloads++
		return "reloaded"
	}
}

// soakFault begins something and returns what ends it.
type soakFault struct {
	name  string
	begin func(*soak) (heal func())
}

func (s *soak) faults() (list []soakFault) {
	nothing := func() {}
	list = []soakFault{
		{"nothing", func(*soak) func() { return nothing }},
		{"server away", func(s *soak) func() {
			require.NoError(s, s.logs.Down())
			return func() { require.NoError(s, s.logs.Up()) }
		}},
		{"server restarted", func(s *soak) func() { require.NoError(s, s.logs.Restart(true)); return nothing }},
		{"broker away", func(s *soak) func() {
			require.NoError(s, s.broker.Stop())
			return func() { require.NoError(s, s.broker.Start()) }
		}},
		{"broker and server away", func(s *soak) func() {
			require.NoError(s, s.broker.Stop())
			require.NoError(s, s.logs.Down())
			return func() {
				require.NoError(s, s.broker.Start())
				require.NoError(s, s.logs.Up())
			}
		}},
		{"agent killed", func(s *soak) func() {
			s.r.agent.Kill()
			s.kills++
			s.r.launch()
			return nothing
		}},
	}
	answers := map[string]vlreceiver.Fault{
		"resets": {Kind: vlreceiver.FaultReset}, "does not answer": {Kind: vlreceiver.FaultHang}, "cuts": {Kind: vlreceiver.FaultCut},
		"stores late": {Kind: vlreceiver.FaultLate}, "is slow": {Kind: vlreceiver.FaultSlow, Delay: time.Second},
	}
	for _, status := range []int{401, 404, 429, 500, 503} {
		answers["answers "+strconv.Itoa(status)] = vlreceiver.Fault{Kind: vlreceiver.FaultStatus, Status: status, RetryAfter: "1"}
	}
	for name, fault := range answers {
		list = append(list, soakFault{"server " + name, func(s *soak) func() {
			s.logs.Fail(poison, fault)
			return func() { s.logs.Fail(poison) }
		}})
	}
	ways := map[string]func(*network){
		"cut":    (*network).down,
		"slow":   func(n *network) { n.toxic("latency", `{"latency": 300, "jitter": 200}`) },
		"narrow": func(n *network) { n.toxic("bandwidth", `{"rate": 10}`) },
		"dead":   func(n *network) { n.toxic("timeout", `{"timeout": 0}`) },
		"reset":  func(n *network) { n.toxic("reset_peer", `{"timeout": 100}`) },
		"short":  func(n *network) { n.toxic("limit_data", `{"bytes": 20000}`) },
	}
	for name, fault := range ways {
		for where, choose := range map[string]func(*soak) []*network{
			"broker": func(s *soak) []*network { return []*network{s.toBroker} },
			"server": func(s *soak) []*network { return []*network{s.toLog} },
			"both":   func(s *soak) []*network { return []*network{s.toBroker, s.toLog} },
		} {
			list = append(list, soakFault{"way to " + where + " " + name, func(s *soak) func() {
				for _, way := range choose(s) {
					fault(way)
				}
				return func() {
					for _, way := range choose(s) {
						way.up()
						way.heal()
					}
				}
			}})
		}
	}
	if s.filler != "" {
		list = append(list, soakFault{"disk full and server away", func(s *soak) func() {
			require.NoError(s, s.logs.Down())
			full := &syscall.Statfs_t{}
			require.NoError(s, syscall.Statfs(filepath.Dir(s.filler), full))
			left := 100 << 10 // some batches still fit
			require.NoError(s, os.WriteFile(s.filler, make([]byte, max(0, int(full.Bavail)*int(full.Bsize)-left)), 0o600))
			return func() {
				require.NoError(s, os.Remove(s.filler))
				require.NoError(s, s.logs.Up())
			}
		}})
	}
	slices.SortFunc(list, func(a, b soakFault) int { // maps have no order, and a seed must give the same run
		return strings.Compare(a.name, b.name)
	})
	return list
}

//go:build linux

package execd

import (
	"fmt"
	"iter"
	"os"
	"path/filepath"
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

// chain is a Telegraf without our plugins, with bin/telegraf-execd as its input and as its output, configured by the
// very texts of docs/execd.md.
type chain struct {
	t     *testing.T
	dir   string
	agent *agentproc.Agent
	logs  *vlreceiver.Server
	log   strings.Builder // of agents that have ended
}

func newChain(t *testing.T, brokerURL string) *chain {
	t.Helper()
	logs, err := vlreceiver.Start(vlreceiver.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, logs.Close()) })
	c := &chain{t: t, dir: t.TempDir(), logs: logs}
	text, err := os.ReadFile("../../docs/execd.md")
	require.NoError(t, err)
	replace := strings.NewReplacer("/usr/bin/telegraf-execd", built(t, "bin/telegraf-execd"),
		"/etc/telegraf-victorialogs", c.dir, "/var/lib/telegraf-victorialogs", c.dir,
		"tcp://127.0.0.1:1883", brokerURL, "http://127.0.0.1:9428", logs.URL())
	blocks := strings.Split(string(text), "```toml\n")
	require.Len(t, blocks, 4)
	for i, name := range []string{"telegraf.conf", "inputs.conf", "outputs.conf"} {
		block, _, ended := strings.Cut(blocks[i+1], "```\n")
		require.True(t, ended)
		require.NoError(t, os.WriteFile(filepath.Join(c.dir, name), []byte(replace.Replace(block)), 0o600))
	}
	return c
}

func (c *chain) start() {
	c.t.Helper()
	agent, err := agentproc.Start(agentproc.Options{
		Path: built(c.t, ".build/telegraf-stock"), Configs: []string{filepath.Join(c.dir, "telegraf.conf")},
	})
	require.NoError(c.t, err)
	c.agent = agent
	c.t.Cleanup(agent.Kill)
	c.t.Cleanup(func() {
		if c.t.Failed() {
			c.t.Logf("Telegraf, process %d, logged:\n%s", agent.PID(), agent.Log())
		}
	})
	require.NoError(c.t, agent.WaitFor(within(c.t, patience), func(a *agentproc.Agent) bool {
		return strings.Contains(a.Log(), "and subscribed to")
	}), "%s", agent.Log())
}

// child is the process that Telegraf started with this configuration.
func (c *chain) child(config string) int {
	c.t.Helper()
	ctx := within(c.t, patience)
	for {
		for _, pid := range children(c.t, c.agent.PID()) {
			if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.Contains(string(line), config) {
				return pid
			}
		}
		require.NoError(c.t, ctx.Err(), "Telegraf has no child with %s", config)
		pause(c.t, 10*time.Millisecond)
	}
}

// children are the processes that a process started.
func children(t *testing.T, parent int) (pids []int) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	require.NoError(t, err)
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if fields[1] == strconv.Itoa(parent) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			require.NoError(t, err)
			pids = append(pids, pid)
		}
	}
	return pids
}

func (c *chain) waitEnd() {
	c.t.Helper()
	select {
	case <-c.agent.Ended():
	case <-within(c.t, patience).Done():
		c.t.Fatal("Telegraf does not end")
	}
	c.log.WriteString(c.agent.Log())
}

// text of message number seq: lines, quotes, and each 250th of 200 KB.
func text(seq int) string {
	s := fmt.Sprintf("line one\nline \"two\" with \\ and a tab\t– größer, 🚀 %d", seq)
	if seq%250 == 0 {
		s += strings.Repeat("\n0123456789 \"quoted\" and = , \\", 200_000/30)
	}
	return s
}

func messages(last int) iter.Seq[testbroker.Message] {
	return func(yield func(testbroker.Message) bool) {
		for seq := 1; seq <= last; seq++ {
			payload := fmt.Sprintf(`{"seq":%d,"big":%d,"message":%s}`, seq, uint64(1)<<63+uint64(seq), strconv.Quote(text(seq)))
			if !yield(testbroker.Message{Topic: "tele/device", Payload: []byte(payload)}) {
				return
			}
		}
	}
}

// stored checks the content of each message that is there, and returns how often each is.
func (c *chain) stored() map[int]int {
	c.t.Helper()
	times := make(map[int]int)
	for row := range c.logs.All(vlreceiver.Tenant{}) {
		if row.Fields["topic"] != "tele/device" {
			continue // the hardware
		}
		seq, err := strconv.Atoi(row.Fields["seq"])
		require.NoError(c.t, err)
		if want := text(seq); row.Fields["_msg"] != want { // require would print 200 KB
			c.t.Fatalf("message %d is stored as %.200q", seq, row.Fields["_msg"])
		}
		require.Equal(c.t, strconv.FormatUint(uint64(1)<<63+uint64(seq), 10), row.Fields["big"])
		times[seq]++
	}
	return times
}

// waitStored waits until so many different messages are there.
func (c *chain) waitStored(n int) map[int]int {
	c.t.Helper()
	ctx := within(c.t, 2*patience)
	rows := n
	for {
		err := c.logs.WaitCount(ctx, vlreceiver.Tenant{}, rows)
		times := c.stored()
		if len(times) >= n {
			return times
		}
		if err != nil {
			var missing []int
			for seq := 1; seq <= n && len(missing) < 20; seq++ {
				if times[seq] == 0 {
					missing = append(missing, seq)
				}
			}
			require.Empty(c.t, missing, "%d of %d are there; the first that are not", len(times), n)
		}
		rows = max(rows, c.logs.Count(vlreceiver.Tenant{})) + 1
	}
}

// 20,000 messages go all the way while each part is killed, signalled, or away. None is lost.
func TestNothingIsLost(t *testing.T) {
	t.Parallel()
	const n, rate, away = 20_000, 1000, 30 * time.Second
	broker := testbroker.StartMochi(t, testbroker.MochiOptions{})
	c := newChain(t, broker.URL())
	c.start()
	published := make(chan error, 1)
	go func() {
		_, err := testbroker.Publish(within(t, 4*patience), broker.URL(), testbroker.Opts{QoS: 1, Rate: rate}, messages(n))
		published <- err
	}()
	reached := func(rows int) {
		require.NoError(t, c.logs.WaitCount(within(t, 2*patience), vlreceiver.Tenant{}, rows))
	}
	for round := range 3 {
		reached(500 + 2000*round)
		require.NoError(t, syscall.Kill(c.child("outputs.conf"), syscall.SIGKILL))
		reached(1500 + 2000*round)
		require.NoError(t, syscall.Kill(c.child("inputs.conf"), syscall.SIGKILL))
	}
	reached(7500)
	require.NoError(t, c.agent.Signal(syscall.SIGTERM))
	c.waitEnd()
	c.start()
	reached(9500)
	require.NoError(t, syscall.Kill(-c.agent.PID(), syscall.SIGINT)) // as Ctrl-C does, to all of the group
	c.waitEnd()
	c.start()
	reached(11_500)
	require.NoError(t, syscall.Kill(-c.agent.PID(), syscall.SIGTERM)) // as systemd does
	c.waitEnd()
	c.start()
	reached(13_500)
	require.NoError(t, c.logs.Down())
	pause(t, away/2)
	require.NoError(t, syscall.Kill(c.child("outputs.conf"), syscall.SIGKILL)) // with all of it on disk
	pause(t, away/2)
	require.NoError(t, c.logs.Up())
	require.NoError(t, <-published)
	times := c.waitStored(n)
	require.NoError(t, c.agent.Signal(syscall.SIGTERM))
	c.waitEnd()

	doubled := 0
	for seq := 1; seq <= n; seq++ {
		require.NotZero(t, times[seq], "message %d is lost", seq)
		doubled += times[seq] - 1
	}
	t.Logf("%d of %d came twice, through 7 kills and 3 ends of all", doubled, n)
	left, err := testbroker.Leftover(within(t, patience), broker.URL(), "gateway-7", "tele/device")
	require.NoError(t, err)
	require.Empty(t, left, "the broker still holds messages that were not acknowledged")
	spooled, err := filepath.Glob(filepath.Join(c.dir, "spool", "*.lines"))
	require.NoError(t, err)
	require.Empty(t, spooled)
}

package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return l.Addr().String()
}

// The whole main job, with whatever brokers and servers this machine has.
func TestRun(t *testing.T) {
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	require.NoError(t, err)
	defer func() { require.NoError(t, out.Close()) }()
	err = run(t.Context(), options{
		telegraf: "../../bin/telegraf", config: "../../sample.conf", duration: 5 * time.Second,
		mqttAddr: freeAddr(t), logsAddr: freeAddr(t), out: out,
	})
	text, readErr := os.ReadFile(out.Name())
	require.NoError(t, readErr)
	require.NoError(t, err, "%s", text)
	for _, want := range []string{"MQTT broker", "VictoriaLogs", "published by the devices", "rows stored"} {
		require.Contains(t, string(text), want)
	}
}

func TestRunSaysWhatIsMissing(t *testing.T) {
	err := run(t.Context(), options{
		telegraf: "/nowhere/telegraf", config: "../../sample.conf", mqttAddr: freeAddr(t), logsAddr: freeAddr(t), out: os.Stderr,
	})
	require.ErrorContains(t, err, "make build")
}

// A server that is named but does not answer is an error that names it, not a hang.
func TestRunServerThatIsNotThere(t *testing.T) {
	url := "http://" + freeAddr(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err := run(ctx, options{
		telegraf: "../../bin/telegraf", config: "../../sample.conf", mqttAddr: freeAddr(t), logsURL: url, out: os.Stderr,
	})
	require.ErrorContains(t, err, strings.TrimPrefix(url, "http://"))
}

func TestBalance(t *testing.T) {
	good := ledger{messages: 10, acked: 10, received: 15, delivered: 15}
	ours := totals{published: 10, ours: true}
	for name, c := range map[string]struct {
		ledger ledger
		totals totals
		stored int64
		alone  bool
		wrong  string
	}{
		"all is there":               {good, ours, 15, true, ""},
		"others write, too":          {good, ours, 100, false, ""},
		"others publish, too":        {good, totals{published: 3}, 15, true, ""},
		"a metric is nowhere":        {ledger{10, 10, 16, 15, 0, 0, 0}, ours, 15, true, "16 metrics received, but 15 delivered"},
		"one was dropped":            {ledger{10, 10, 16, 15, 0, 1, 0}, ours, 15, true, "1 dropped"},
		"one was rejected":           {ledger{10, 10, 16, 15, 1, 0, 0}, ours, 15, true, "1 metrics rejected"},
		"one was not acknowledged":   {ledger{10, 9, 15, 15, 0, 0, 0}, ours, 15, true, "9 of 10 messages acknowledged"},
		"one did not arrive":         {good, totals{published: 11, ours: true}, 15, true, "11 messages published and 10 received"},
		"a row is missing":           {good, ours, 14, true, "15 metrics delivered and 14 rows stored"},
		"a row is missing elsewhere": {good, ours, 14, false, "only 14 rows stored"},
		"a row is there twice":       {good, ours, 16, true, "15 metrics delivered and 16 rows stored"},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.ledger.balance(c.totals, c.stored, c.alone)
			if c.wrong == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, c.wrong)
			}
		})
	}
}

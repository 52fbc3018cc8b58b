package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
)

// network is a way to a server that can be cut and made slow.
type network struct {
	tb    testing.TB
	proxy *toxiproxy.Proxy
	url   string // of the server by this way
	cut   bool
}

func newNetwork(tb testing.TB, serverURL string) *network {
	tb.Helper()
	address, err := url.Parse(serverURL)
	require.NoError(tb, err)
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(prometheus.NewRegistry()), zerolog.Nop())
	n := &network{tb: tb, proxy: toxiproxy.NewProxy(server, "way", "127.0.0.1:0", address.Host)}
	require.NoError(tb, n.proxy.Start())
	tb.Cleanup(n.proxy.Stop)
	n.url = address.Scheme + "://" + n.proxy.Listen
	return n
}

// down breaks all connections and takes no more.
func (n *network) down() {
	if !n.cut {
		n.proxy.Stop()
		n.cut = true
	}
}

func (n *network) up() {
	n.tb.Helper()
	if n.cut {
		require.NoError(n.tb, n.proxy.Start())
		n.cut = false
	}
}

// toxic changes how bytes pass: in the direction of the server (upstream) and from it (downstream).
func (n *network) toxic(kind, attributes string) {
	n.tb.Helper()
	for _, stream := range []string{"upstream", "downstream"} {
		_, err := n.proxy.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(
			`{"name": "%[1]s-%[2]s", "type": %[1]q, "stream": %[2]q, "attributes": %[3]s}`, kind, stream, attributes)))
		require.NoError(n.tb, err)
	}
}

// heal takes all toxics away.
func (n *network) heal() { n.proxy.Toxics.ResetToxics(n.tb.Context()) }

// The ways to broker and server are cut, slow and dead under load. The ledger is the same.
func TestNetwork(t *testing.T) {
	t.Parallel()
	const rate = 500
	for _, c := range []struct {
		name  string
		fault func(*network)
	}{
		{"cut", (*network).down},
		{"slow", func(n *network) { n.toxic("latency", `{"latency": 300, "jitter": 200}`) }},
		{"narrow", func(n *network) { n.toxic("bandwidth", `{"rate": 4}`) }},
		{"in small pieces", func(n *network) { n.toxic("slicer", `{"average_size": 50, "size_variation": 40, "delay": 1000}`) }},
		{"dead", func(n *network) { n.toxic("timeout", `{"timeout": 0}`) }},
		{"reset", func(n *network) { n.toxic("reset_peer", `{"timeout": 200}`) }},
		{"ends after some bytes", func(n *network) { n.toxic("limit_data", `{"bytes": 5000}`) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			broker := brokers["mochi"](t)
			logs := standIn(t)
			toBroker, toLogs := newNetwork(t, broker.URL()), newNetwork(t, logs.URL())
			dir := t.TempDir()
			r := newRig(t, toBroker.url, toLogs.url, "  keepalive = \"2s\"\n  ping_timeout = \"1s\"\n  connection_timeout = \"2s\"",
				safeLines(dir, "  timeout = \"1s\"\n  retry_budget = \"1s\"", ""))
			r.start()
			flow := startFlow(t, broker.URL(), rate)
			for _, ways := range [][]*network{{toLogs}, {toBroker}, {toLogs, toBroker}} {
				pause(t, 500*time.Millisecond)
				for _, way := range ways {
					c.fault(way)
				}
				pause(t, 2500*time.Millisecond)
				for _, way := range ways {
					way.up()
					way.heal()
				}
			}
			r.settled(flow.end(), logs, broker, dir)
		})
	}
}

// settled checks that all n events have arrived, and that the agent, which is stopped, and the broker have nothing left.
func (r *rig) settled(n int, logs *vlreceiver.Server, broker testbroker.Broker, dir string) {
	r.tb.Helper()
	waitStored(r.tb, logs.URL(), n)
	l := r.waitLedger(func(l ledger) bool { return l.onDisk == 0 && l.received >= int64(n) })
	require.Zero(r.tb, l.rejected+l.dropped, "%+v", l)
	inDoubt := int(r.agent.Self(doubts))
	r.stop()
	doubled := requireAll(r.tb, stored(r.tb, logs.URL()), n)
	r.tb.Logf("%d of %d doubled; %d batches possibly, %d batches went to disk; %+v", doubled, n, inDoubt,
		r.agent.SelfTotal("internal_victorialogs.batches_dumped"), l)
	received := max(l.received, r.requireClosed().received) // the broker may send again what came after the ledger
	require.LessOrEqual(r.tb, doubled, int(received)-n+inDoubt*mostInRequest, "sent again by the broker, or possibly by the agent")
	requireNoDumps(r.tb, dir)
	requireNothingLeft(r.tb, broker.URL())
}

// Broker and server are both restarted at once, again and again.
func TestBothRestart(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, broker testbroker.Broker) {
		random := rand.New(rand.NewPCG(seed(t), 0))
		logs := standIn(t)
		dir := t.TempDir()
		r := newSafeRig(t, broker.URL(), logs.URL(), dir, "  retry_budget = \"500ms\"", "")
		r.start()
		flow := startFlow(t, broker.URL(), 1000)
		for range 3 {
			pause(t, time.Duration(500+random.IntN(1000))*time.Millisecond)
			require.NoError(t, logs.Down())
			require.NoError(t, broker.Stop())
			pause(t, time.Duration(random.IntN(2000))*time.Millisecond)
			require.NoError(t, broker.Start())
			require.NoError(t, logs.Up())
		}
		r.settled(flow.end(), logs, broker, dir)
	})
}

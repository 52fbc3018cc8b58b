package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"

	"github.com/edgetide/telegraf-victorialogs/internal/agentproc"
	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
)

// Each page on migration is followed: its configurations are run as they stand there, but for addresses and paths. Where it
// has a stock one, that runs first, is stopped, and what is published meanwhile arrives with ours.
func TestMigrationPages(t *testing.T) {
	t.Parallel()
	block := regexp.MustCompile("(?s)\n```toml\n(.*?)```")
	pages, err := filepath.Glob("../../docs/migration/*.md")
	require.NoError(t, err)
	require.NotEmpty(t, pages)
	for _, page := range pages {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		var before, after []string
		for _, found := range block.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(found[1], ourInput) {
				after = append(after, found[1])
			} else {
				before = append(before, stockConfigurations(found[1])...)
			}
		}
		require.NotEmpty(t, after, page)
		name := strings.TrimSuffix(filepath.Base(page), ".md")
		for _, ours := range after {
			for _, stock := range append(before, "")[:max(1, len(before))] {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					follow(t, stock, ours)
				})
			}
		}
	}
}

// stockConfigurations are the input with each of its outputs. outputs.elasticsearch wants more of a server at its start than
// the stand-in has.
func stockConfigurations(text string) (configurations []string) {
	input, outputs, _ := strings.Cut(text, "[[outputs.")
	for output := range strings.SplitSeq(outputs, "[[outputs.") {
		if !strings.HasPrefix(output, "elasticsearch") {
			configurations = append(configurations, input+"[[outputs."+output)
		}
	}
	return configurations
}

func follow(t *testing.T, stock, ours string) {
	t.Helper()
	logs, broker := standIn(t), testbroker.StartMochi(t, testbroker.MochiOptions{})
	dir := t.TempDir()
	users := filepath.Join(dir, "users")
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(users, []byte("sensor:"+string(hash)+"\n"), 0o600))
	places := strings.NewReplacer(
		"tcp://127.0.0.1:1883", broker.URL(), "tcp://0.0.0.0:1883", "tcp://127.0.0.1:0", "/etc/telegraf/mqtt-users", users,
		"http://127.0.0.1:9428", logs.URL(), "/var/lib/telegraf/dead-letters", filepath.Join(dir, "dead-letters"),
	)
	start := func(text, ready string) *agentproc.Agent {
		path := filepath.Join(dir, "telegraf.conf")
		text = "[agent]\n  flush_interval = \"200ms\"\n  skip_processors_after_aggregators = true\n" + places.Replace(text)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		agent, err := agentproc.Start(agentproc.Options{Path: telegraf(t), Configs: []string{path}})
		require.NoError(t, err)
		t.Cleanup(agent.Kill)
		require.NoError(t, agent.WaitFor(within(t, patience), func(a *agentproc.Agent) bool {
			return strings.Contains(a.Log(), ready)
		}), "%s", agent.Log())
		return agent
	}
	topic := "zigbee2mqtt/kitchen"
	if strings.Contains(ours, "site/+/+/log") {
		topic = "site/berlin/press/log"
	}
	publish := func(url, user, text string) {
		options := mqtt.NewClientOptions().AddBroker(url).SetUsername(user).SetPassword("secret").SetAutoReconnect(false)
		client := mqtt.NewClient(options)
		defer client.Disconnect(0)
		token := client.Connect()
		require.True(t, token.WaitTimeout(patience))
		require.NoError(t, token.Error())
		token = client.Publish(topic, 1, false, fmt.Sprintf(`{"msg":%q,"ts":%d}`, text, time.Now().Unix()))
		require.True(t, token.WaitTimeout(patience))
		require.NoError(t, token.Error())
	}
	arrived := func(text string) func() bool {
		return func() bool {
			return slices.ContainsFunc(logs.Rows(vlreceiver.Tenant{}), func(r vlreceiver.Row) bool {
				return strings.Contains(fmt.Sprint(r.Fields), text)
			})
		}
	}
	if stock != "" {
		agent := start(stock, "Connected")
		require.Eventually(t, func() bool { // it says so before it is subscribed
			publish(broker.URL(), "", "before")
			return arrived("before")()
		}, patience, 100*time.Millisecond)
		require.NoError(t, agent.Stop(within(t, patience)))
		publish(broker.URL(), "", "meanwhile")
	}
	if strings.Contains(ours, "listen = ") {
		agent := start(ours, "Listening for MQTT devices on ")
		_, rest, _ := strings.Cut(agent.Log(), "Listening for MQTT devices on ")
		address, _, _ := strings.Cut(rest, "\n")
		publish("tcp://"+address, "sensor", "after")
	} else {
		start(ours, "and subscribed to")
		publish(broker.URL(), "", "after")
	}
	require.Eventually(t, arrived("after"), patience, 10*time.Millisecond)
	if stock != "" {
		require.Eventually(t, arrived("meanwhile"), patience, 10*time.Millisecond)
	}
}

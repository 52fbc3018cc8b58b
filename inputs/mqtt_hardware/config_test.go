package mqtt_hardware

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/models"
	"github.com/influxdata/telegraf/persister"
	"github.com/influxdata/telegraf/plugins/common/tls"
	_ "github.com/influxdata/telegraf/plugins/parsers/json" // for data_format = "json"
	"github.com/influxdata/telegraf/testutil"
)

// loadConfig reads a configuration as the agent does.
func loadConfig(t *testing.T, text string) (*models.RunningInput, *MQTTHardware) {
	t.Helper()
	c := config.NewConfig()
	require.NoError(t, c.LoadConfigData([]byte(text), "test.conf"))
	require.Empty(t, c.UnusedFields)
	require.Len(t, c.Inputs, 1)
	p, ok := c.Inputs[0].Input.(*MQTTHardware)
	require.True(t, ok)
	return c.Inputs[0], p
}

func TestConfigWrongOption(t *testing.T) {
	unreadable := filepath.Join(t.TempDir(), "missing.pem")
	noCertificate := filepath.Join(t.TempDir(), "empty.pem")
	require.NoError(t, os.WriteFile(noCertificate, []byte("nothing"), 0o600))
	tests := []struct {
		name   string
		change func(p *MQTTHardware)
		says   []string // key, value, remedy
	}{
		{"nothing to do", func(p *MQTTHardware) { p.Topics = nil }, []string{"topics", "hardware", "set one"}},
		{"hardware", func(p *MQTTHardware) { p.Hardware = []string{"fam"} }, []string{"hardware", `"fam"`, "known are"}},
		{"topic empty", func(p *MQTTHardware) { p.Topics = []string{""} }, []string{"topics", `""`, "empty"}},
		{"topic with # inside", func(p *MQTTHardware) { p.Topics = []string{"a/#/b"} }, []string{"topics", `"a/#/b"`, "at the end"}},
		{"topic with + inside", func(p *MQTTHardware) { p.Topics = []string{"a+"} }, []string{"topics", `"a+"`, "alone"}},
		{"qos above", func(p *MQTTHardware) { p.QoS = 3 }, []string{"qos = 3", "0, 1 or 2"}},
		{"qos below", func(p *MQTTHardware) { p.QoS = -1 }, []string{"qos = -1", "0, 1 or 2"}},
		{"no client_id", func(p *MQTTHardware) { p.PersistentSession = true }, []string{"client_id", `""`, "must be set", "persistent_session"}},
		{"connection_timeout", func(p *MQTTHardware) { p.ConnectionTimeout = 0 }, []string{"connection_timeout", `"0s"`, "1s", "30s"}},
		{"keepalive zero", func(p *MQTTHardware) { p.KeepAlive = 0 }, []string{"keepalive", `"0s"`, "1s", "60s"}},
		{"keepalive negative", func(p *MQTTHardware) { p.KeepAlive = -1 }, []string{"keepalive", `"-1ns"`, "1s"}},
		{"keepalive broken", func(p *MQTTHardware) { p.KeepAlive = config.Duration(1500 * time.Millisecond) }, []string{"keepalive", `"1.5s"`, "whole seconds"}},
		{"keepalive long", func(p *MQTTHardware) { p.KeepAlive = config.Duration(19 * time.Hour) }, []string{"keepalive", `"19h0m0s"`, "65535"}},
		{"ping_timeout", func(p *MQTTHardware) { p.PingTimeout = -1 }, []string{"ping_timeout", `"-1ns"`, "1s", "10s"}},
		{"max_undelivered_messages zero", func(p *MQTTHardware) { p.MaxUndeliveredMessages = 0 }, []string{"max_undelivered_messages = 0", "1 or more"}},
		{"max_undelivered_messages negative", func(p *MQTTHardware) { p.MaxUndeliveredMessages = -5 }, []string{"max_undelivered_messages = -5", "1 or more"}},
		{"no servers", func(p *MQTTHardware) { p.Servers = []string{} }, []string{"servers", "[]", "tcp://127.0.0.1:1883"}},
		{"scheme", func(p *MQTTHardware) { p.Servers = []string{"http://x:1"} }, []string{"servers", `"http://x:1"`, "tcp://"}},
		{"no host", func(p *MQTTHardware) { p.Servers = []string{"tcp://"} }, []string{"servers", `"tcp://"`, "tcp://127.0.0.1:1883"}},
		{"no port", func(p *MQTTHardware) { p.Servers = []string{"tcp://broker"} }, []string{"servers", `"tcp://broker"`, "port", "tcp://127.0.0.1:1883"}},
		{"port beyond", func(p *MQTTHardware) { p.Servers = []string{"tcp://broker:99999"} }, []string{"servers", `"tcp://broker:99999"`, "tcp://127.0.0.1:1883"}},
		{"no URL", func(p *MQTTHardware) { p.Servers = []string{"tcp://a b:1"} }, []string{"servers", "a b", "tcp://127.0.0.1:1883"}},
		{"unix without a path", func(p *MQTTHardware) { p.Servers = []string{"unix://"} }, []string{"servers", `"unix://"`}},
		{"credentials", func(p *MQTTHardware) { p.Servers = []string{"tcp://me:secret@broker:1"} }, []string{"servers", "broker", "username and password"}},
		{"password alone", func(p *MQTTHardware) { p.Password = config.NewSecret([]byte("x")) }, []string{"username", "password"}},
		{"unreadable CA", func(p *MQTTHardware) { p.TLSCA = unreadable }, []string{"tls_ca", unreadable, "readable PEM"}},
		{"empty CA", func(p *MQTTHardware) { p.TLSCA = noCertificate }, []string{"tls_ca", noCertificate, "PEM"}},
		{"certificate without key", func(p *MQTTHardware) { p.TLSCert = noCertificate }, []string{"tls_key", noCertificate}},
		{"topic_parsing", func(p *MQTTHardware) {
			p.TopicParsing = []TopicParsing{{}, {Topic: "a/b", Tags: "x"}}
		}, []string{"topic_parsing, entry 2", "tags", `"x"`, "as many as"}},
		{"data_format without parsers", func(p *MQTTHardware) { p.DataFormat = "json" }, []string{"data_format", `"json"`, "leave it out"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := New()
			p.Topics, p.Log, p.Statistics = []string{"#"}, &testutil.CaptureLogger{}, statistics(t)
			tt.change(p)
			err := p.Init()
			require.Error(t, err)
			for _, part := range tt.says {
				require.ErrorContains(t, err, part)
			}
			require.NotContains(t, err.Error(), "secret")
			require.NotContains(t, err.Error(), "\n")
		})
	}
}

func TestConfigServers(t *testing.T) {
	tests := []struct {
		server string
		tls    bool
		want   string
	}{
		{"tcp://broker:1883", false, "tcp://broker:1883"},
		{"mqtt://broker:1883", false, "mqtt://broker:1883"},
		{"ssl://broker:8883", false, "ssl://broker:8883"},
		{"mqtts://[::1]:8883", false, "mqtts://[::1]:8883"},
		{"ws://broker", false, "ws://broker"},
		{"wss://broker/mqtt", false, "wss://broker/mqtt"},
		{"unix:///run/mqtt.sock", false, "unix:///run/mqtt.sock"},
		{"broker:1883", false, "tcp://broker:1883"},
		{"127.0.0.1:1883", false, "tcp://127.0.0.1:1883"},
		{"broker:8883", true, "ssl://broker:8883"},
	}
	for _, tt := range tests {
		p := New()
		p.Servers = []string{tt.server}
		servers, err := p.serverURLs(tt.tls)
		require.NoError(t, err, tt.server)
		require.Equal(t, tt.want, servers[0].String())
	}
}

func TestConfigMistakesOfTheLoader(t *testing.T) {
	for name, lines := range map[string]string{
		"unknown key":    "topiks = [\"#\"]",
		"wrong type":     "qos = \"one\"",
		"bad duration":   "keepalive = \"soon\"",
		"unreadable CA":  "tls_ca = \"/no/such/file\"",
		"unknown format": "data_format = \"morse\"",
	} {
		t.Run(name, func(t *testing.T) {
			err := config.NewConfig().LoadConfigData([]byte("[[inputs.mqtt_hardware]]\n"+lines+"\n"), "test.conf")
			require.Error(t, err)
			if key, _, _ := strings.Cut(lines, " "); key != "data_format" { // for which Telegraf says "parser not found"
				require.Contains(t, strings.ToLower(err.Error()), key)
			}
		})
	}
}

func TestConfigSample(t *testing.T) {
	running, p := loadConfig(t, New().SampleConfig())
	require.NoError(t, running.Init())
	want := New()
	want.Servers = []string{"tcp://127.0.0.1:1883"}
	want.Topics = []string{"#"}
	want.Hardware = slices.Sorted(maps.Keys(sources))
	require.Equal(t, options(want), options(p))
}

// The options that the sample shows as comments, taken out of the comments, are what New has.
func TestConfigSampleShowsDefaults(t *testing.T) {
	var text strings.Builder
	shown := 0
	option := regexp.MustCompile(`^  # ([a-z_]+ = .*)$`)
	for line := range strings.Lines(New().SampleConfig()) {
		if strings.Contains(line, "topic_parsing]]") {
			break // an example, and the last thing
		}
		if found := option.FindStringSubmatch(strings.TrimRight(line, "\n")); found != nil && !strings.HasPrefix(found[1], "tls_") {
			shown++
			line = found[1] + "\n"
		}
		text.WriteString(line)
	}
	_, p := loadConfig(t, text.String())
	want := New()
	want.ListenPasswords = map[string]*config.Secret{}
	want.Servers = []string{"tcp://127.0.0.1:1883"}
	want.Topics = []string{"#"}
	want.Hardware = slices.Sorted(maps.Keys(sources))
	topic := "topic" // stands for none, which means the same
	want.TopicTag = &topic
	require.Equal(t, options(want), options(p))
	require.Greater(t, shown, 10)
}

// options are the plugin's options by their keys; the secrets by what they hold.
func options(p *MQTTHardware) map[string]any {
	values := make(map[string]any)
	collectOptions(reflect.ValueOf(p).Elem(), values)
	values["tls"] = p.ClientConfig
	return values
}

func collectOptions(v reflect.Value, values map[string]any) {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if field.Anonymous && field.Type != reflect.TypeFor[tls.ClientConfig]() {
			collectOptions(v.Field(i), values)
		}
		key := field.Tag.Get("toml")
		if key == "" || key == "-" {
			continue
		}
		value := v.Field(i).Interface()
		if secret, ok := value.(config.Secret); ok {
			value = secret.Empty()
		}
		if list, ok := value.([]string); ok && len(list) == 0 {
			value = []string(nil) // the sample shows an empty list
		}
		values[key] = value
	}
}

// Every option is in the sample.
func TestConfigSampleIsComplete(t *testing.T) {
	for key := range options(New()) {
		if key != "tls" {
			require.Regexp(t, `(?m)^\s*(# )?(\[\[inputs\.mqtt_hardware\.)?`+key+`( =|\]\])`, New().SampleConfig())
		}
	}
}

func TestConfigTopicTwice(t *testing.T) {
	p := New()
	p.Topics, p.Log = []string{"b", "a", "b"}, testutil.Logger{}
	require.NoError(t, p.Init())
	require.Equal(t, []string{"b", "a"}, p.session.topics)
}

// A user of mqtt_consumer changes the plugin's name and goes on.
func TestConfigOfMQTTConsumer(t *testing.T) {
	source, err := os.ReadFile(filepath.Join(moduleDir(t), "plugins", "inputs", "mqtt_consumer", "sample.conf"))
	require.NoError(t, err)
	stock := strings.ReplaceAll(string(source), "inputs.mqtt_consumer", "inputs.mqtt_hardware")
	t.Run("as it is", func(t *testing.T) {
		running, p := loadConfig(t, stock)
		require.NoError(t, running.Init())
		require.Equal(t, []string{"telegraf/host01/cpu", "telegraf/+/mem", "sensors/#"}, p.Topics)
		require.Equal(t, "influx", p.DataFormat)
	})
	t.Run("every option", func(t *testing.T) {
		text := regexp.MustCompile(`(?m)^(\s*)#( +)([a-z_]+ =|\[)`).ReplaceAllString(stock, "$1$2$3")
		text = strings.ReplaceAll(text, "key = type", `key = "int"`)
		text = regexp.MustCompile(`(?m)^\s*tls_.*$`).ReplaceAllString(text, "")
		_, p := loadConfig(t, text)
		require.Len(t, p.TopicParsing, 1)
		require.Equal(t, map[string]string{"key": "int"}, p.TopicParsing[0].Types)
		require.False(t, p.Username.Empty())
		require.NotNil(t, p.TopicTag)
	})
}

// moduleDir is where the Telegraf that this is built with lies.
func moduleDir(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/influxdata/telegraf").Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}

// The agent keeps a plugin's state by its ID, which Telegraf derives from all of its options unless the plugin has one
// of its own. The state is there for a configuration whose topics changed.
func TestConfigStateSurvivesChangedTopics(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state")
	const text = "[[inputs.mqtt_hardware]]\n  persistent_session = true\n  client_id = \"me\"\n"
	states := func(topics string) (*persister.Persister, *MQTTHardware) {
		running, p := loadConfig(t, text+"  topics = ["+topics+"]\n")
		require.NoError(t, running.Init())
		store := &persister.Persister{Filename: file}
		require.NoError(t, store.Init())
		require.NoError(t, store.Register(running.ID(), p))
		return store, p
	}
	store, _ := states(`"old/#"`)
	require.NoError(t, store.Store())
	store, p := states(`"new/#"`)
	require.NoError(t, store.Load())
	require.Equal(t, []string{"old/#"}, p.session.known)
}

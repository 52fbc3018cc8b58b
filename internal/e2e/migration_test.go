package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/agentproc"
	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
)

const (
	stockInput = "inputs.mqtt_consumer"
	ourInput   = "inputs.mqtt_hardware"
)

// migration is a configuration of mqtt_consumer, what is published, and the metrics that come of it. Lines of both are
// indented as they like; metrics without a time are of the present.
type migration struct {
	name     string   // without a comma, which --config would take for the end of a path
	config   string   // tcp, private, tls, mutual and ws, in braces, are listeners' host:port; {pki} holds certificates
	messages []string // topic, blank, payload; with "retained " in front they are there before the agent
	metrics  string
	ours     string // what mqtt_hardware gives instead, where its README says so
}

var migrations = []migration{
	{
		name: "the sample",
		config: `
			[[inputs.mqtt_consumer]]
			  servers = ["tcp://{tcp}"]
			  topics = ["telegraf/host01/cpu", "telegraf/+/mem", "sensors/#"]
			  data_format = "influx"`,
		messages: []string{
			"telegraf/host01/cpu cpu,core=0 idle=87.5 1653579140440951943",
			"telegraf/host02/mem mem used=9007199254740993i,free=1i 1653579153147395661\nswap used=0i 1653579153147395662",
			"telegraf/host02/cpu cpu,core=0 idle=1",
			"sensors/cellar/door door open=true,by=\"badge \\\"7\\\"\"",
		},
		metrics: `
			cpu,core=0,topic=telegraf/host01/cpu idle=87.5 1653579140440951943
			mem,topic=telegraf/host02/mem free=1i,used=9007199254740993i 1653579153147395661
			swap,topic=telegraf/host02/mem used=0i 1653579153147395662
			door,topic=sensors/cellar/door by="badge \"7\"",open=true`,
	},
	{
		name: "json a broker that is away and all that a connection can be told",
		config: `
			[[inputs.mqtt_consumer]]
			  servers = ["tcp://127.0.0.1:1", "tcp://{tcp}"]
			  topics = ["plant/#"]
			  topic_tag = "from"
			  qos = 2
			  connection_timeout = "5s"
			  keepalive = "7s"
			  ping_timeout = "3s"
			  max_undelivered_messages = 2
			  client_id = "boiler-room"
			  client_trace = true
			  data_format = "json"
			  tag_keys = ["unit"]
			  json_string_fields = ["state"]
			  json_name_key = "kind"
			  json_time_key = "at"
			  json_time_format = "2006-01-02T15:04:05Z07:00"`,
		messages: []string{
			`plant/boiler {"kind":"boiler","unit":"b1","state":"on","temp":{"in":71.5,"out":55},"at":"2024-05-06T07:08:09Z"}`,
			`plant/pumps [{"kind":"pump","rpm":900,"at":"2024-05-06T07:08:10Z"},{"kind":"pump","rpm":1,"at":"2024-05-06T07:08:11Z"}]`,
			`plant/pumps [{"kind":"pump","rpm":2,"at":"2024-05-06T07:08:12Z"}]`,
		},
		metrics: `
			boiler,from=plant/boiler,unit=b1 state="on",temp_in=71.5,temp_out=55 1714979289000000000
			pump,from=plant/pumps rpm=900 1714979290000000000
			pump,from=plant/pumps rpm=1 1714979291000000000
			pump,from=plant/pumps rpm=2 1714979292000000000`,
	},
	{
		name: "value and the README's topic_parsing",
		config: `
			[[inputs.mqtt_consumer]]
			  servers = ["tcp://{tcp}"]
			  topics = ["telegraf/+/cpu/23"]
			  data_format = "value"
			  data_type = "float"
			  [[inputs.mqtt_consumer.topic_parsing]]
			    topic = "telegraf/one/cpu/23"
			    measurement = "_/_/measurement/_"
			    tags = "tag/_/_/_"
			    fields = "_/_/_/test"
			    [inputs.mqtt_consumer.topic_parsing.types]
			      test = "int"`,
		messages: []string{"telegraf/one/cpu/23 45", "telegraf/two/cpu/23 4.5"},
		metrics: `
			cpu,tag=telegraf,topic=telegraf/one/cpu/23 test=23i,value=45
			mqtt_consumer,topic=telegraf/two/cpu/23 value=4.5`,
	},
	{
		name: "json_v2 no topic_tag and a password",
		config: `
			[[inputs.mqtt_consumer]]
			  servers = ["tcp://{private}"]
			  topics = ["zigbee2mqtt/+"]
			  topic_tag = ""
			  username = "telegraf"
			  password = "metricsmetricsmetricsmetrics"
			  qos = 1
			  data_format = "json_v2"
			  [[inputs.mqtt_consumer.json_v2]]
			    measurement_name = "climate"
			    [[inputs.mqtt_consumer.json_v2.object]]
			      path = "@this"
			      tags = ["room"]
			      excluded_keys = ["linkquality"]
			    [[inputs.mqtt_consumer.json_v2.field]]
			      path = "battery"
			      rename = "charge"
			      type = "uint"`,
		messages: []string{`zigbee2mqtt/a {"room":"attic","battery":88,"humidity":61.42,"linkquality":134,"color":{"x":0.5}}`},
		metrics:  `climate,room=attic battery=88,charge=88u,color_x=0.5,humidity=61.42`,
	},
	{
		name: "the README's pivot",
		config: `
			[[inputs.mqtt_consumer]]
			  servers = ["tcp://{tcp}"]
			  topics = ["/sensors/#"]
			  topic_tag = ""
			  data_format = "value"
			  data_type = "float"
			  [[inputs.mqtt_consumer.topic_parsing]]
			    topic = "/sensors/#"
			    measurement = "/measurement/_/_/_/_"
			    tags = "/_/site/version/device_name/field"
			[[processors.pivot]]
			  tag_key = "field"
			  value_key = "value"`,
		messages: []string{"/sensors/CLE/v1/device5/temp 390", "/sensors/CLE/v1/device5/rpm 45.0", "/sensors/CLE/v1/device5/ph 1.45"},
		metrics: `
			sensors,device_name=device5,site=CLE,version=v1 temp=390
			sensors,device_name=device5,site=CLE,version=v1 rpm=45
			sensors,device_name=device5,site=CLE,version=v1 ph=1.45`,
	},
	{
		name: "a shared subscription with a session and topics of any length",
		config: `
			[[inputs.mqtt_consumer]]
			  servers = ["tcp://{tcp}"]
			  topics = ["$share/loggers/site/#"]
			  qos = 1
			  persistent_session = true
			  client_id = "logger-1"
			  data_format = "value"
			  data_type = "string"
			  value_field_name = "text"
			  [[inputs.mqtt_consumer.topic_parsing]]
			    topic = "site/#/line/+"
			    measurement = "#/measurement/_"
			    tags = "_/plant/#"
			    fields = "#/_/number"
			    [inputs.mqtt_consumer.topic_parsing.types]
			      number = "uint"
			  [[inputs.mqtt_consumer.topic_parsing]]
			    topic = "site/+/temperature"
			    tags = "_/plant/_"
			    fields = "_/_/kind"`,
		messages: []string{"site/north/hall/line/18446744073709551615 running", "site/south/temperature warm", "site/x y", "other/x y"},
		metrics: `
			line,plant=north,topic=site/north/hall/line/18446744073709551615 number=18446744073709551615u,text="running"
			mqtt_consumer,plant=south,topic=site/south/temperature kind="temperature",text="warm"
			mqtt_consumer,topic=site/x text="y"`,
	},
	{
		name: "ssl with a certificate and logfmt",
		config: `
			[[inputs.mqtt_consumer]]
			  servers = ["ssl://{mutual}"]
			  topics = ["log/+"]
			  tls_ca = "{pki}/cacert.pem"
			  tls_cert = "{pki}/clientcert.pem"
			  tls_key = "{pki}/clientkey.pem"
			  data_format = "logfmt"`,
		messages: []string{"log/pump level=info msg=\"pump started\" pressure=4.25\nlevel=warn n=7"},
		metrics: `
			mqtt_consumer,topic=log/pump level="info",msg="pump started",pressure=4.25
			mqtt_consumer,topic=log/pump level="warn",n=7i`,
	},
	{
		name: "ssl without verification and what every plugin can be told",
		config: `
			[[inputs.mqtt_consumer]]
			  alias = "meters"
			  name_prefix = "meter_"
			  name_override = "reading"
			  fieldexclude = ["raw"]
			  servers = ["ssl://{tls}"]
			  topics = ["meter/+/+"]
			  insecure_skip_verify = true
			  data_format = "json"
			  tagexclude = ["topic"]
			  [inputs.mqtt_consumer.tags]
			    street = "Elm"
			  [inputs.mqtt_consumer.tagdrop]
			    house = ["13"]
			  [[inputs.mqtt_consumer.topic_parsing]]
			    topic = "meter/+/+"
			    tags = "_/house/meter"`,
		messages: []string{`meter/12/gas {"m3":40217.3,"raw":1}`, `meter/13/gas {"m3":1}`},
		metrics:  `meter_reading,house=12,meter=gas,street=Elm m3=40217.3`,
	},
	{
		name: "host and port alone with TLS and xpath_json",
		config: `
			[[inputs.mqtt_consumer]]
			  servers = ["{tls}"]
			  topics = ["shop/+/+"]
			  tls_ca = "{pki}/cacert.pem"
			  data_format = "xpath_json"
			  [[inputs.mqtt_consumer.xpath]]
			    metric_name = "'order'"
			    metric_selection = "/orders/*"
			    timestamp = "time"
			    timestamp_format = "unix"
			    [inputs.mqtt_consumer.xpath.tags]
			      sku = "sku"
			    [inputs.mqtt_consumer.xpath.fields]
			      price = "number(price)"`,
		messages: []string{`shop/a/b {"orders":[{"sku":"x","price":1.5,"time":1714979289},{"sku":"y","price":2,"time":1714979290}]}`},
		metrics: `
			order,sku=x,topic=shop/a/b price=1.5 1714979289000000000
			order,sku=y,topic=shop/a/b price=2 1714979290000000000`,
	},
	{
		name: "a websocket and csv",
		config: `
			[[inputs.mqtt_consumer]]
			  servers = ["ws://{ws}/mqtt"]
			  topics = ["table"]
			  data_format = "csv"
			  csv_header_row_count = 1
			  csv_measurement_column = "what"
			  csv_tag_columns = ["where"]
			  csv_timestamp_column = "when"
			  csv_timestamp_format = "unix"`,
		messages: []string{"table what,where,when,n\nflow,a,1714979289,1\nflow,b,1714979290,2.5\n"},
		metrics: `
			flow,topic=table,where=a n=1i 1714979289000000000
			flow,topic=table,where=b n=2.5 1714979290000000000`,
	},
	{
		name: "host and port alone and what the README says to be different",
		config: `
			[[inputs.mqtt_consumer]]
			  servers = ["{tcp}"]
			  topics = ["room/#", "room/+/door"]
			  data_format = "json"
			  [[inputs.mqtt_consumer.topic_parsing]]
			    topic = "room/+"
			    fields = "_/number"
			    [inputs.mqtt_consumer.topic_parsing.types]
			      number = "int"`,
		messages: []string{
			`retained room/1 {"seats":10}`, `room/2 {"seats":20}`, `room/attic {"seats":30}`, `room/2 seats`, `room/2 []`, `room/2/door {"open":1}`,
		},
		metrics: `
			mqtt_consumer,topic=room/1 number=1i,seats=10
			mqtt_consumer,topic=room/2 number=2i,seats=20
			mqtt_consumer,topic=room/2/door open=1
			mqtt_consumer,topic=room/2/door open=1`,
		ours: `
			mqtt_hardware,topic=room/1 number=1i,retained=true,seats=10
			mqtt_hardware,topic=room/2 number=2i,seats=20
			mqtt_hardware,topic=room/attic error="…",number="attic",seats=30
			mqtt,topic=room/2 error="…",message="seats",number=2i
			mqtt,topic=room/2 error="…",message="[]",number=2i
			mqtt_hardware,topic=room/2/door open=1`,
	},
}

// A user of mqtt_consumer changes the plugin's name and goes on: metrics are what they were, but for a name that was the plugin's.
func TestMigration(t *testing.T) {
	t.Parallel()
	for _, m := range migrations {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			if m.ours == "" {
				m.ours = strings.ReplaceAll(m.metrics, "mqtt_consumer", "mqtt_hardware")
			}
			m.requireMetrics(t, stockInput, m.metrics)
			m.requireMetrics(t, ourInput, m.ours)
		})
	}
}

// requireMetrics runs the configuration with the plugin.
func (m *migration) requireMetrics(t *testing.T, plugin, metrics string) {
	t.Helper()
	var want []string
	for line := range strings.Lines(metrics) {
		if line = strings.TrimSpace(line); line != "" {
			want = append(want, line)
		}
	}
	b := startListeners(t)
	var live []string
	for _, message := range m.messages {
		if early, ok := strings.CutPrefix(message, "retained "); ok {
			publish(t, b.url(), testbroker.Opts{QoS: 1}, slices.Values([]testbroker.Message{parseMessage(early, true)}))
		} else {
			live = append(live, message)
		}
	}
	began := time.Now()
	a := startConsumer(t, b.replace(strings.ReplaceAll(m.config, stockInput, plugin)))
	select {
	case <-b.subscribed:
	case <-a.Ended():
		require.Fail(t, "telegraf ended", "%s", a.Log())
	case <-time.After(patience):
		require.Fail(t, "not subscribed", "%s", a.Log())
	}
	publish(t, b.url(), testbroker.Opts{QoS: 1}, func(yield func(testbroker.Message) bool) {
		for _, message := range live {
			if !yield(parseMessage(message, false)) {
				return
			}
		}
	})
	a.wait(len(want))
	require.NoError(t, a.Stop(within(t, patience)))
	require.ElementsMatch(t, want, a.metrics(began), "%s\n%s", plugin, a.Log())
}

func parseMessage(text string, retained bool) testbroker.Message {
	topic, payload, _ := strings.Cut(text, " ")
	return testbroker.Message{Topic: topic, Payload: []byte(payload), Retained: retained}
}

// consumer is an agent that writes metrics to a file.
type consumer struct {
	*agentproc.Agent
	t    *testing.T
	file string
}

func startConsumer(t *testing.T, config string) *consumer {
	t.Helper()
	dir := t.TempDir()
	c := &consumer{t: t, file: filepath.Join(dir, "metrics")}
	path := filepath.Join(dir, "telegraf.conf")
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, `
[agent]
  omit_hostname = true
  flush_interval = "100ms"
  skip_processors_after_aggregators = true
[[outputs.file]]
  files = [%q]
  data_format = "influx"
  influx_sort_fields = true
  influx_uint_support = true
%s
`, c.file, config), 0o600))
	var err error
	c.Agent, err = agentproc.Start(agentproc.Options{Path: telegraf(t), Configs: []string{path}})
	require.NoError(t, err)
	t.Cleanup(c.Kill)
	return c
}

// wait waits until so many metrics are written.
func (c *consumer) wait(metrics int) {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		content, err := os.ReadFile(c.file)
		return err == nil && bytes.Count(content, []byte("\n")) >= metrics
	}, patience, 20*time.Millisecond, "%s", c.Log())
}

var errorField = regexp.MustCompile(`error="(?:[^"\\]|\\.)*"`)

// metrics are the lines, without a time that is not before began, and without what an error says.
func (c *consumer) metrics(began time.Time) (lines []string) {
	c.t.Helper()
	content, err := os.ReadFile(c.file)
	require.NoError(c.t, err)
	for line := range strings.Lines(string(content)) {
		line = strings.TrimSuffix(line, "\n")
		end := strings.LastIndexByte(line, ' ')
		ns, err := strconv.ParseInt(line[end+1:], 10, 64)
		require.NoError(c.t, err, line)
		if ns >= began.UnixNano() {
			line = line[:end]
		}
		lines = append(lines, errorField.ReplaceAllString(line, `error="…"`))
	}
	return lines
}

// listenersBroker is a mochi that listens in every way that servers can name.
type listenersBroker struct {
	mochi.HookBase
	addresses  map[string]string
	pki        string
	subscribed chan struct{} // closed
	once       sync.Once
}

func startListeners(t *testing.T) *listenersBroker {
	t.Helper()
	b := &listenersBroker{addresses: make(map[string]string), subscribed: make(chan struct{})}
	module, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/influxdata/telegraf").Output()
	require.NoError(t, err)
	b.pki = filepath.Join(strings.TrimSpace(string(module)), "testutil", "pki")
	pair, err := tls.LoadX509KeyPair(filepath.Join(b.pki, "servercert.pem"), filepath.Join(b.pki, "serverkey.pem"))
	require.NoError(t, err)
	authority, err := os.ReadFile(filepath.Join(b.pki, "cacert.pem"))
	require.NoError(t, err)
	secure := &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	require.True(t, secure.ClientCAs.AppendCertsFromPEM(authority))
	mutual := secure.Clone()
	mutual.ClientAuth = tls.RequireAndVerifyClientCert

	server := mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, server.AddHook(b, nil))
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b.addresses["ws"] = free.Addr().String() // which a websocket's listener would not tell
	require.NoError(t, free.Close())
	require.NoError(t, server.AddListener(listeners.NewWebsocket(listeners.Config{ID: "ws", Address: b.addresses["ws"]})))
	for id, config := range map[string]*tls.Config{"tcp": nil, "private": nil, "tls": secure, "mutual": mutual} {
		l := listeners.NewTCP(listeners.Config{ID: id, Address: "127.0.0.1:0", TLSConfig: config})
		require.NoError(t, server.AddListener(l))
		b.addresses[id] = l.Address()
	}
	require.NoError(t, server.Serve())
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	return b
}

func (b *listenersBroker) url() string { return "tcp://" + b.addresses["tcp"] }

func (b *listenersBroker) replace(config string) string {
	config = strings.ReplaceAll(config, "{pki}", b.pki)
	for id, address := range b.addresses {
		config = strings.ReplaceAll(config, "{"+id+"}", address)
	}
	return config
}

func (*listenersBroker) ID() string { return "migration" }

func (*listenersBroker) Provides(b byte) bool {
	return b == mochi.OnConnectAuthenticate || b == mochi.OnACLCheck || b == mochi.OnSubscribed
}

func (*listenersBroker) OnConnectAuthenticate(c *mochi.Client, p packets.Packet) bool {
	return c.Net.Listener != "private" ||
		string(p.Connect.Username) == "telegraf" && string(p.Connect.Password) == "metricsmetricsmetricsmetrics"
}

func (*listenersBroker) OnACLCheck(*mochi.Client, string, bool) bool { return true }

func (b *listenersBroker) OnSubscribed(*mochi.Client, packets.Packet, []byte) {
	b.once.Do(func() { close(b.subscribed) })
}

// The name is changed while the broker keeps the session: what waits for mqtt_consumer goes to mqtt_hardware.
func TestMigrationTakesTheSessionOver(t *testing.T) {
	t.Parallel()
	const n = 50
	each(t, func(t *testing.T, broker testbroker.Broker) {
		config := fmt.Sprintf(`
[[inputs.mqtt_consumer]]
  servers = [%q]
  topics = ["e2e/#"]
  qos = 1
  persistent_session = true
  client_id = %q
  data_format = "json"
`, broker.URL(), clientID)
		stock := startConsumer(t, config)
		require.NoError(t, stock.WaitFor(within(t, patience), func(a *agentproc.Agent) bool { return strings.Contains(a.Log(), "Connected") }))
		require.Eventually(t, func() bool { // it logs that before it is subscribed
			publish(t, broker.URL(), testbroker.Opts{QoS: 1}, events(1, 1))
			_, err := os.Stat(stock.file)
			return err == nil && len(stock.metrics(time.Now())) > 0
		}, patience, 100*time.Millisecond)
		require.NoError(t, stock.Stop(within(t, patience)))
		publish(t, broker.URL(), testbroker.Opts{QoS: 1}, events(2, n))

		ours := startConsumer(t, strings.ReplaceAll(config, stockInput, ourInput))
		ours.wait(n - 1)
		require.NoError(t, ours.Stop(within(t, patience)))
		all := strings.Join(ours.metrics(time.Now()), "\n")
		for seq := 2; seq <= n; seq++ {
			require.Equal(t, 1, strings.Count(all, fmt.Sprintf(",seq=%d,", seq)), "event %d", seq)
		}
		requireNothingLeft(t, broker.URL())
	})
}

package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// way is one way of bringing MQTT messages into VictoriaLogs: a program and its configuration.
type way struct {
	name      string
	what      string // for the document
	program   func(options) string
	configure func(site) string
	arguments func(configPath string) []string
	file      string // the configuration's name, whose end some programs go by
	slow      bool   // it is so slow that it is given fewer messages
	realOnly  bool   // the stand-in does not speak its protocol
	untested  bool   // nobody has run this adapter yet
	listens   bool   // it is a broker itself, at site.broker
}

// site is what an agent is put between.
type site struct {
	broker     string // URL
	logs       string // URL
	persistent bool   // the broker is to keep what comes while the agent is away, and acknowledgements mean "stored"
	dead       string // directory of dead letters; empty: none
	underWay   int    // messages that Telegraf may have unacknowledged; 0: its default, 1000
}

// limit is underWay as a line of an input's configuration.
func (s site) limit() string {
	if s.underWay == 0 {
		return ""
	}
	return fmt.Sprintf("  max_undelivered_messages = %d\n", s.underWay)
}

const (
	ours  = "ours"
	loki  = "stock, outputs.loki"
	plain = "stock, outputs.http"
	bulk  = "stock, outputs.elasticsearch"
)

func our(o options) string   { return o.telegraf }
func stock(o options) string { return o.stock }

func telegrafArguments(configPath string) []string { return []string{"--config", configPath} }

const agentLines = `[agent]
  hostname = "edge"
  interval = "1h"
  skip_processors_after_aggregators = true
`

// oursConfig is the defaults, with nothing but addresses and names.
func oursConfig(s site) string {
	text := agentLines + fmt.Sprintf(`
[[inputs.mqtt_hardware]]
  servers = [%q]
  topics = ["bench/#"]
  hardware = []
  client_id = "bench-ours"
  persistent_session = %t
%s[[outputs.victorialogs]]
  url = %q
`, s.broker, s.persistent, s.limit(), s.logs)
	if s.dead != "" {
		text += fmt.Sprintf("  [outputs.victorialogs.dlq]\n    directory = %q\n    max_size = \"64GiB\"\n", s.dead)
	}
	return text
}

// stockConfig is mqtt_consumer, and an output. Without a persistent session it acknowledges before anything is written; with
// one it would wait for flush_interval at each window of the broker's.
func stockConfig(output func(site) string) func(site) string {
	return func(s site) string {
		return agentLines + `  flush_interval = "100ms"
` + fmt.Sprintf(`
[[inputs.mqtt_consumer]]
  servers = [%q]
  topics = ["bench/#"]
  client_id = "bench-stock"
  qos = 1
  persistent_session = %t
%s  data_format = "json_v2"
  [[inputs.mqtt_consumer.json_v2]]
    measurement_name = "mqtt"
    [[inputs.mqtt_consumer.json_v2.object]]
      path = "@this"
`, s.broker, s.persistent, s.limit()) + output(s)
	}
}

func lokiOutput(s site) string {
	return fmt.Sprintf(`
[[outputs.loki]]
  domain = %q
  endpoint = "/insert/loki/api/v1/push"
`, s.logs)
}

// plainOutput is what VictoriaLogs documents: a request for each message.
func plainOutput(s site) string {
	return fmt.Sprintf(`
[[outputs.http]]
  url = "%s/insert/jsonline?_msg_field=fields.state&_time_field=timestamp&_stream_fields=tags.host"
  data_format = "json"
  use_batch_format = false
`, s.logs)
}

func bulkOutput(s site) string {
	return fmt.Sprintf(`
[[outputs.elasticsearch]]
  urls = ["%s/insert/elasticsearch"]
  timeout = "1m"
  enable_sniffer = false
  health_check_interval = "0s"
  index_name = "device_log-%%Y.%%m.%%d"
  manage_template = false
  template_name = "telegraf"
  overwrite_template = false
  [outputs.elasticsearch.headers]
    "VL-Msg-Field" = "mqtt.state"
    "VL-Time-Field" = "@timestamp"
    "VL-Stream-Fields" = "tag.host"
`, s.logs)
}

// telegrafWays are ours and what stock Telegraf has.
func telegrafWays() []way {
	const file = "telegraf.conf"
	return []way{
		{
			name: ours, program: our, configure: oursConfig, arguments: telegrafArguments, file: file,
			what: "`inputs.mqtt_hardware` and `outputs.victorialogs` with their defaults",
		},
		{
			name: loki, program: stock, configure: stockConfig(lokiOutput), arguments: telegrafArguments, file: file,
			what: "`inputs.mqtt_consumer` (json_v2, QoS 1) and `outputs.loki`, stock Telegraf's best route",
		},
		{
			name: plain, program: stock, configure: stockConfig(plainOutput), arguments: telegrafArguments, file: file, slow: true,
			what: "the same input and `outputs.http` as VictoriaLogs documents it, a request for each message",
		},
		{
			name: bulk, program: stock, configure: stockConfig(bulkOutput), arguments: telegrafArguments, file: file, realOnly: true,
			what: "the same input and `outputs.elasticsearch` as VictoriaLogs documents it; the stand-in does not speak it",
		},
	}
}

// peers are other agents that are taken along where they are on PATH. Their configurations follow their documentation.
func peers() []way {
	const notRun = "; its adapter is untested"
	return []way{
		{
			name: "fluent-bit", file: "fluent-bit.yaml", listens: true, untested: true,
			what:      "its MQTT input is a broker itself, and its HTTP output" + notRun,
			arguments: func(configPath string) []string { return []string{"-c", configPath} },
			configure: func(s site) string {
				return fmt.Sprintf(`service:
  flush: 0.1
pipeline:
  inputs:
    - name: mqtt
      listen: 127.0.0.1
      port: %s
  outputs:
    - name: http
      match: '*'
      host: 127.0.0.1
      port: %s
      uri: /insert/jsonline?_time_field=date&_msg_field=state&_stream_fields=topic
      format: json_lines
      json_date_key: date
      json_date_format: iso8601
      compress: gzip
`, port(s.broker), port(s.logs))
			},
		},
		{
			name: "vector", file: "vector.yaml", untested: true,
			what:      "its source `mqtt` and its sink `http`" + notRun,
			arguments: func(configPath string) []string { return []string{"--config", configPath} },
			configure: func(s site) string {
				return fmt.Sprintf(`data_dir: %s
sources:
  mqtt:
    type: mqtt
    host: 127.0.0.1
    port: %s
    topic: bench/#
    client_id: bench-vector
    decoding: {codec: json}
sinks:
  logs:
    type: http
    inputs: [mqtt]
    uri: %s/insert/jsonline?_time_field=timestamp&_msg_field=state&_stream_fields=topic
    encoding: {codec: json}
    framing: {method: newline_delimited}
    compression: zstd
    batch: {timeout_secs: 0.1}
    acknowledgements: {enabled: true}
`, s.dead, port(s.broker), s.logs)
			},
		},
		{
			name: "redpanda-connect", file: "connect.yaml", untested: true,
			what:      "its input `mqtt` and its output `http_client`" + notRun,
			arguments: func(configPath string) []string { return []string{"run", configPath} },
			configure: func(s site) string {
				return fmt.Sprintf(`http: {enabled: false}
input:
  mqtt:
    urls: [%q]
    topics: ["bench/#"]
    client_id: bench-connect
    qos: 1
output:
  http_client:
    url: %s/insert/jsonline?_msg_field=state
    verb: POST
    headers: {Content-Type: application/stream+json}
    batching:
      count: 1000
      period: 100ms
      processors:
        - archive: {format: lines}
`, s.broker, s.logs)
			},
		},
	}
}

// ways are all that can run here.
func ways(o options) []way {
	all := telegrafWays()
	if o.short {
		return all // a smoke test is of what everybody has
	}
	for _, peer := range peers() {
		if path, err := exec.LookPath(peer.name); err == nil {
			peer.program = func(options) string { return path }
			all = append(all, peer)
		}
	}
	return all
}

func wayNamed(name string) way {
	for _, w := range telegrafWays() {
		if w.name == name {
			return w
		}
	}
	panic("no way is named " + name)
}

func port(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }

func configPath(dir string, w way) string { return filepath.Join(dir, w.file) }

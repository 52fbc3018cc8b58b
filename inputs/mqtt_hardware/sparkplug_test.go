package mqtt_hardware

import (
	"fmt"
	"maps"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/influxdata/telegraf"
)

// What Sparkplug's payloads become is in testcases/sparkplug_b; here is what is hostile, large or rare.

const (
	nodeBirth  = "spBv1.0/plant/NBIRTH/edge"
	nodeData   = "spBv1.0/plant/NDATA/edge"
	nodeDeath  = "spBv1.0/plant/NDEATH/edge"
	deviceData = "spBv1.0/plant/DDATA/edge/press"
)

func sparkplugMetrics(t *testing.T, p *MQTTHardware, topic, text string) ([]telegraf.Metric, bool) {
	t.Helper()
	return p.parse(sparkplugPayload(t, text), topic, "", eventTime)
}

// What is no Sparkplug B but happens to look like fields of a later version is kept.
func TestSparkplugNothingKnown(t *testing.T) {
	p := newPlugin(t, func(*MQTTHardware) {})
	metrics, malformed := p.parse([]byte("\x61abcdefgh"), deviceData, "", eventTime)
	require.True(t, malformed)
	require.Len(t, metrics, 1)
	require.Equal(t, toBase64([]byte("\x61abcdefgh")), metrics[0].Fields()["payload_base64"])
	require.Contains(t, metrics[0].Fields(), "error")
}

// An event with more fields than fit is followed by another of the same time.
func TestSparkplugManyMetrics(t *testing.T) {
	p := newPlugin(t, func(*MQTTHardware) {})
	var text strings.Builder
	text.WriteString("timestamp: 1714979202000 seq: 1\n")
	const count = 2000
	for i := range count {
		fmt.Fprintf(&text, "metrics { name: \"m%d\" datatype: 3 int_value: %d }\n", i, i)
	}
	metrics, malformed := sparkplugMetrics(t, p, nodeBirth, text.String())
	require.False(t, malformed)
	require.Len(t, metrics, 3)
	all := make(fields)
	for _, m := range metrics {
		requireValid(t, m)
		require.LessOrEqual(t, len(m.FieldList()), maxFields)
		require.Equal(t, int64(1714979202000), m.Time().UnixMilli())
		require.Equal(t, int64(1), m.Fields()["seq"])
		maps.Copy(all, m.Fields())
	}
	require.Len(t, all, count+1)
	require.Equal(t, int64(count-1), all[fmt.Sprintf("m%d", count-1)])
}

func TestSparkplugManyTimes(t *testing.T) {
	p := newPlugin(t, func(*MQTTHardware) {})
	var text strings.Builder
	for i := range maxEvents + 100 {
		fmt.Fprintf(&text, "metrics { name: \"m\" timestamp: %d int_value: 1 }\n", 1714979202000+int64(i))
	}
	metrics, malformed := sparkplugMetrics(t, p, nodeData, text.String())
	require.True(t, malformed)
	require.Len(t, metrics, maxEvents+1)
	require.True(t, metrics[maxEvents].HasField("payload_base64"), "and the whole payload")
}

// Short payloads that ask for much: of names, of text, of time.
func TestSparkplugAmplification(t *testing.T) {
	long := strings.Repeat("n", 60_000)
	aliases := strings.Repeat("metrics { alias: 1 int_value: 1 }\n", 20_000)
	nested := "template_value { metrics { name: \"a\" int_value: 1 } }"
	for range maxDepth + 5 {
		nested = "template_value { metrics { name: \"a\" " + nested + " } }"
	}
	properties := "keys: \"k\" values { int_value: 1 }"
	for range maxDepth + 5 {
		properties = "keys: \"k\" values { propertyset_value { " + properties + " } }"
	}
	bits := fmt.Sprintf(`\x00\x00\x08\x00%s`, strings.Repeat(`\xff`, 512<<10/8))
	tests := []struct {
		name, text string
		malformed  bool
	}{
		{"a long name by its alias", aliases, true},
		{"members of a template with a long name", `metrics { name: "` + long + `" template_value { ` +
			strings.Repeat(`metrics { name: "m" int_value: 1 } `, 20_000) + `} }`, true},
		{"properties of a long name", `metrics { name: "` + long + `" int_value: 1 properties { ` +
			strings.Repeat(`keys: "k" values { int_value: 1 } `, 20_000) + `} }`, true},
		{"a template that says its version often", `metrics { name: "` + long + `" template_value { ` +
			`is_definition: true ` + strings.Repeat(`parameters { name: "p" int_value: 1 } `, 20_000) + `} }`, true},
		{"deep templates", `metrics { name: "a" ` + nested + ` }`, true},
		{"deep properties", `metrics { name: "a" int_value: 1 properties { ` + properties + ` } }`, true},
		{"bits", strings.Repeat(`metrics { name: "b" datatype: 32 bytes_value: "`+bits+`" } `, 10), false},
		{"null metrics with a long alias", strings.ReplaceAll(aliases, "int_value: 1", "is_null: true"), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPlugin(t, func(*MQTTHardware) {})
			_, malformed := sparkplugMetrics(t, p, nodeBirth, `metrics { name: "`+long+`" alias: 1 int_value: 1 }`)
			require.False(t, malformed)
			payload := sparkplugPayload(t, tt.text)
			metrics := fuzzPayload(t, p, payload, nodeData)
			require.Equal(t, tt.malformed, metrics[len(metrics)-1].HasField("error"))
			text := 0
			for _, m := range metrics {
				for _, field := range m.FieldList() {
					if value, ok := field.Value.(string); ok {
						text += len(value)
					}
				}
			}
			require.LessOrEqual(t, text, 25*len(payload)+256<<10)
		})
	}
}

func TestSparkplugOdd(t *testing.T) {
	tests := []struct {
		name      string
		payload   []byte
		want      fields // of the first event
		malformed bool
	}{
		{"nothing but a time", sparkplugPayload(t, `timestamp: 1714979202000`), fields{"message": "NDATA"}, false},
		{"empty", nil, fields{"message": "NDATA"}, false},
		{"no value", sparkplugPayload(t, `metrics { name: "a" datatype: 3 }`), fields{"is_null": `["a"]`}, false},
		{"no name and no alias", sparkplugPayload(t, `metrics { int_value: 1 }`), fields{
			"alias_0": int64(1), "unresolved_aliases": int64(1),
		}, false},
		{"names that are the reader's own", sparkplugPayload(t, `seq: 1 metrics { name: "seq" int_value: 7 }`), fields{
			"seq": int64(7), "seq_2": int64(1),
		}, false},
		{"the same name twice", sparkplugPayload(t, `metrics { name: "a" int_value: 1 } metrics { name: "a" int_value: 2 }`), fields{
			"a": int64(1), "a_2": int64(2),
		}, false},
		{"another value than the type says", sparkplugPayload(t, `metrics { name: "a" datatype: 12 int_value: 1 }`), fields{"a": int64(1)}, false},
		{"an integer of its own width", sparkplugPayload(t, `metrics { name: "a" datatype: 1 int_value: 255 }`), fields{"a": int64(-1)}, false},
		{"a boolean as a number", sparkplugPayload(t, `metrics { name: "a" datatype: 11 int_value: 1 }`), fields{"a": true}, false},
		{"a date far away", sparkplugPayload(t, `metrics { name: "a" datatype: 13 long_value: 18446744073709551615 }`), fields{
			"a": uint64(math.MaxUint64),
		}, false},
		{"a time far away", sparkplugPayload(t, `metrics { name: "a" timestamp: 18446744073709551615 int_value: 1 }`), fields{
			"a": int64(1),
		}, true},
		{"a name that is no UTF-8", protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), []byte("\x0a\x01\xff\x50\x01")), fields{
			"\ufffd": int64(1),
		}, false},
		{"text that is no UTF-8", protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), []byte("\x0a\x01a\x7a\x01\xff")), fields{
			"a": "/w==",
		}, false},
		{"a value of another wire type", protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), []byte("\x0a\x01a\x52\x01x")), nil, true},
		{"properties without values", sparkplugPayload(t, `metrics { name: "a" int_value: 1 properties { keys: "k" } }`), fields{"a": int64(1)}, true},
		{"a list of property sets", sparkplugPayload(t, `metrics { name: "a" int_value: 1 properties { keys: "k" values {
			propertysets_value { propertyset { keys: "x" values { int_value: 1 } } propertyset { keys: "x" values { is_null: true } } } } } }`), fields{
			"a": int64(1), "a.properties.k.0.x": int64(1),
		}, false},
		{"fields that nobody knows", protowire.AppendVarint(protowire.AppendTag(sparkplugPayload(t, `metrics { name: "a" int_value: 1 }`),
			900, protowire.VarintType), 1), fields{"a": int64(1)}, false},
		{"body and uuid", sparkplugPayload(t, `uuid: "u" body: "\x00"`), fields{"uuid": "u", "body": "AA=="}, false},
		{"JSON", []byte(`{"a":1}`), nil, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPlugin(t, func(*MQTTHardware) {})
			metrics, malformed := p.parse(tt.payload, nodeData, "", eventTime)
			for _, m := range metrics {
				requireValid(t, m)
			}
			require.Equal(t, tt.malformed, malformed)
			got := metrics[0].Fields()
			if tt.want == nil {
				require.Contains(t, got, "error")
				return
			}
			require.Equal(t, tt.want, got)
		})
	}
}

// payload_format asks for Sparkplug B where the topic does not.
func TestSparkplugOtherTopics(t *testing.T) {
	p := newPlugin(t, func(p *MQTTHardware) { p.PayloadFormat = formatSparkplug })
	metrics, malformed := sparkplugMetrics(t, p, "plant/edge", `metrics { name: "a" alias: 1 int_value: 1 } metrics { alias: 1 int_value: 2 }`)
	require.False(t, malformed)
	require.Equal(t, fields{"a": int64(1), "alias_1": int64(2), "unresolved_aliases": int64(1)}, metrics[0].Fields())
	require.Empty(t, metrics[0].Tags())

	metrics, _ = sparkplugMetrics(t, p, "site-1/"+nodeData, `metrics { name: "a" int_value: 1 }`)
	require.Equal(t, map[string]string{"group": "plant", "node": "edge", "message_type": "NDATA"}, metrics[0].Tags())
	require.EqualValues(t, 1, p.payloads.unresolved.Get())
}

func TestBirths(t *testing.T) {
	name := func(b *births, topic string, alias uint64) string {
		name, _, _ := b.find(parseSparkplugTopic(topic)).resolve(sparkplugMetric{alias: alias, hasAlias: true})
		return name
	}
	born := func(session uint64, names ...string) *birth {
		b := newBirth()
		b.add(sparkplugMetric{name: "bdSeq", value: wireField{bits: session}})
		for i, name := range names {
			b.add(sparkplugMetric{name: name, alias: uint64(i), hasAlias: true})
		}
		return b
	}
	device := newBirth()
	device.add(sparkplugMetric{name: "d", hasAlias: true})

	b := newBirths(maxBirthBytes)
	require.Empty(t, name(b, nodeData, 0))
	b.replace(parseSparkplugTopic(nodeBirth), born(1, "a", "b"))
	b.replace(parseSparkplugTopic("spBv1.0/plant/DBIRTH/edge/press"), device)
	require.Equal(t, "b", name(b, nodeData, 1))
	require.Equal(t, "d", name(b, deviceData, 0))

	b.replace(parseSparkplugTopic(nodeBirth), born(1, "c")) // asked for again in the same session
	require.Equal(t, "c", name(b, nodeData, 0))
	require.Empty(t, name(b, nodeData, 1))
	require.Equal(t, "d", name(b, deviceData, 0))

	b.end(parseSparkplugTopic(nodeDeath), born(0))
	require.Equal(t, "c", name(b, nodeData, 0), "the death of an earlier session")

	b.replace(parseSparkplugTopic(nodeBirth), born(2, "e"))
	require.Equal(t, "e", name(b, nodeData, 0))
	require.Empty(t, name(b, deviceData, 0), "another session, in which the device was not born yet")

	b.replace(parseSparkplugTopic("spBv1.0/plant/DBIRTH/edge/press"), device)
	b.end(parseSparkplugTopic("spBv1.0/plant/DDEATH/edge/press"), newBirth())
	require.Empty(t, name(b, deviceData, 0))
	require.Equal(t, "e", name(b, nodeData, 0))

	b.end(parseSparkplugTopic(nodeDeath), born(2))
	require.Empty(t, name(b, nodeData, 0))
	require.Empty(t, b.nodes)
	require.Zero(t, b.size)
}

// Whatever is born, memory stays bounded, and who is heard of stays known.
func TestBirthsAreBounded(t *testing.T) {
	b := newBirths(100_000)
	for i := range 10_000 {
		topic := parseSparkplugTopic(fmt.Sprintf("spBv1.0/plant/NBIRTH/edge-%d", i))
		told := newBirth()
		told.add(sparkplugMetric{name: strings.Repeat("n", i%500), alias: 1, hasAlias: true})
		b.replace(topic, told)
		require.LessOrEqual(t, b.size, 100_000)
		require.NotNil(t, b.find(parseSparkplugTopic("spBv1.0/plant/NDATA/edge-0")), "asked for all the time")
	}
	require.Greater(t, len(b.nodes), 50)
	sum := 0
	for _, n := range b.nodes {
		sum += n.size
	}
	require.Equal(t, sum, b.size)

	huge := newBirth()
	huge.size = 1 << 30
	b.replace(parseSparkplugTopic(nodeBirth), huge)
	require.Nil(t, b.find(parseSparkplugTopic(nodeData)))
	require.Zero(t, b.size)
}

func FuzzReadSparkplug(f *testing.F) {
	topics := []string{nodeBirth, nodeData, nodeDeath, deviceData, "spBv1.0/plant/DBIRTH/edge/press", "spBv1.0/STATE/host", "other"}
	for i, text := range []string{
		`timestamp: 1714979202000 seq: 1 metrics { name: "bdSeq" datatype: 8 long_value: 3 } metrics { name: "a" alias: 1 datatype: 1 int_value: 255 }`,
		`metrics { alias: 1 int_value: 7 is_historical: true timestamp: 1 } metrics { alias: 2 is_null: true }`,
		`metrics { name: "t" template_value { version: "1" metrics { name: "m" float_value: nan } parameters { name: "p" type: 3 int_value: 1 } } }`,
		`metrics { name: "d" dataset_value { columns: "c" types: 13 rows { elements { long_value: 1 } elements { } } } metadata { size: 1 } }`,
		`metrics { name: "p" double_value: inf properties { keys: "k" values { propertyset_value { keys: "x" values { string_value: "y" } } } } }`,
		`metrics { name: "b" datatype: 32 bytes_value: "\x0c\x00\x00\x00\x34\xd0" } metrics { name: "s" datatype: 33 bytes_value: "a\x00" }`,
		`metrics { name: "f" datatype: 30 bytes_value: "\x00\x00\xc0\x7f" } uuid: "u" body: "b"`,
	} {
		f.Add(uint8(i), sparkplugPayload(f, text), uint8(1), sparkplugPayload(f, `metrics { alias: 1 int_value: 1 }`))
	}
	p := newPlugin(f, func(p *MQTTHardware) { p.PayloadFormat = formatSparkplug })
	f.Fuzz(func(t *testing.T, which1 uint8, first []byte, which2 uint8, second []byte) {
		fuzzPayload(t, p, first, topics[int(which1)%len(topics)])
		fuzzPayload(t, p, second, topics[int(which2)%len(topics)])
		require.LessOrEqual(t, p.payloads.births.size, maxBirthBytes)
	})
}

package mqtt_hardware

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/metric"
	"github.com/influxdata/telegraf/testutil"
)

// The cases up to "$SYS" are those of MQTT 3.1.1 section 4.7, in its order.
func TestMatchesTopic(t *testing.T) {
	tests := []struct {
		filter, topic string
		want          bool
	}{
		{"sport/tennis/player1/#", "sport/tennis/player1", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/ranking", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true},
		{"sport/#", "sport", true},
		{"#", "sport/tennis", true},
		{"sport/tennis/+", "sport/tennis/player1", true},
		{"sport/tennis/+", "sport/tennis/player2", true},
		{"sport/tennis/+", "sport/tennis/player1/ranking", false},
		{"sport/+", "sport", false},
		{"sport/+", "sport/", true},
		{"+/tennis/#", "sport/tennis/x/y", true},
		{"sport/+/player1", "sport/tennis/player1", true},
		{"+/+", "/finance", true},
		{"/+", "/finance", true},
		{"+", "/finance", false},
		{"#", "$SYS/broker", false},
		{"+/monitor/Clients", "$SYS/monitor/Clients", false},
		{"$SYS/#", "$SYS/broker/load", true},
		{"$SYS/monitor/+", "$SYS/monitor/Clients", true},
		{"+", "$SYS", false},
		{"a/#", "a/$SYS", true},

		{"a", "a", true},
		{"a", "A", false},
		{"a", "a/", false},
		{"a/", "a", false},
		{"a/", "a/", true},
		{"/a", "a", false},
		{"a/b", "a/b", true},
		{"a/b", "a", false},
		{"a", "a/b", false},
		{"a/#", "b", false},
		{"a/#", "ab", false},
		{"a/#", "a/", true},
		{"a/b/#", "a", false},
		{"a/+/#", "a", false},
		{"a/+/#", "a/b", true},
		{"a/+/#", "a/b/c/d", true},
		{"+/#", "a", true},
		{"+", "a", true},
		{"+/+", "a", false},
		{"+/+", "a/b", true},
		{"+/+", "a/b/c", false},
		{"+/+", "//", false},
		{"+/+/+", "//", true},
		{"a//b", "a//b", true},
		{"a/+/b", "a//b", true},
		{"a//b", "a/b", false},
		{"käse/+", "käse/größe", true},

		{"$share/group/a/+", "a/b", true},
		{"$share/group/a/+", "b/b", false},
		{"$share/group/#", "a", true},
		{"$share/group/#", "$SYS/x", false},
		{"$share/group/$SYS/#", "$SYS/x", true},
		{"$share/group//a", "/a", true},
		{"$queue/a/#", "a/b", true},
		{"$queue/a/#", "b", false},
	}
	for _, tt := range tests {
		require.Equal(t, tt.want, matchesTopic(tt.filter, tt.topic), "filter %q, topic %q", tt.filter, tt.topic)
	}
}

func TestCheckFilter(t *testing.T) {
	for _, filter := range []string{
		"#", "+", "a", "/", "//", "a/", "/a", "+/+", "a/#", "+/#", "a/+/b", "$SYS/#", "$share/g/a/#", "$queue/a", "a b", "größe/+",
		strings.Repeat("a", math.MaxUint16),
	} {
		require.NoError(t, checkFilter(filter), "%.40q", filter)
	}
	for _, filter := range []string{
		"", "a#", "a/#/b", "#/a", "##", "a/b#", "a+", "+a", "a/+b/c", "++", "a/#/",
	} {
		require.Error(t, checkFilter(filter), "%q", filter)
	}
}

// MQTT 3.1.1 section 4.7.3 forbids U+0000 and more than 65535 bytes, MQTT 5 section 4.8.2 says what $share needs. NUL and
// what is no UTF-8 make mochi and Mosquitto close the connection at each try. The MQTT library writes the length of a
// longer one wrongly, and both then subscribe to something else without a word, as Mosquitto does with these of $share.
func TestCheckFilterFindsWhatFailsLater(t *testing.T) {
	for name, filter := range map[string]string{
		"NUL":                       "a\x00b",
		"65536 bytes":               strings.Repeat("a", math.MaxUint16+1),
		"no UTF-8":                  "a\xff",
		"share without a filter":    "$share/g",
		"share, filter empty":       "$share/g/",
		"share, group empty":        "$share//a",
		"share, group has wildcard": "$share/+/a",
	} {
		t.Run(name, func(t *testing.T) { require.Error(t, checkFilter(filter)) })
	}
}

// topicCase is a topic taken apart. The metric begins as cpu value=45.
type topicCase struct {
	name   string
	config TopicParsing
	topic  string
	want   telegraf.Metric
}

func parsed(name string, tags map[string]string, more fields) telegraf.Metric {
	m := metric.New(name, tags, fields{"value": 45}, eventTime)
	for key, value := range more {
		m.AddField(key, value)
	}
	return m
}

var number1 = map[string]string{"testNumber": "int"}

// The first is the example in the README of Telegraf's mqtt_consumer, those called "stock" are from its tests.
var topicCases = []topicCase{
	{
		"README",
		TopicParsing{"telegraf/one/cpu/23", "_/_/measurement/_", "tag/_/_/_", "_/_/_/test", map[string]string{"test": "int"}},
		"telegraf/one/cpu/23",
		parsed("cpu", map[string]string{"tag": "telegraf"}, fields{"test": 23}),
	},
	{
		"README, pivot, with the topic that it leaves out",
		TopicParsing{"/sensors/#", "/measurement/_/_/_/_", "/_/site/version/device_name/field", "", nil},
		"/sensors/CLE/v1/device5/temp",
		parsed("sensors", map[string]string{"site": "CLE", "version": "v1", "device_name": "device5", "field": "temp"}, nil),
	},
	{
		"stock: configured",
		TopicParsing{"telegraf/123/test", "_/_/measurement", "testTag/_/_", "_/testNumber/_", number1},
		"telegraf/123/test",
		parsed("test", map[string]string{"testTag": "telegraf"}, fields{"testNumber": 123}),
	},
	{
		"stock: with wildcard",
		TopicParsing{"telegraf/+/test/hello", "_/_/measurement/_", "testTag/_/_/_", "_/testNumber/_/testString", number1},
		"telegraf/123/test/hello",
		parsed("test", map[string]string{"testTag": "telegraf"}, fields{"testNumber": 123, "testString": "hello"}),
	},
	{
		"stock: without fields",
		TopicParsing{"telegraf/+/test/hello", "_/_/measurement/_", "testTag/_/_/_", "", number1},
		"telegraf/123/test/hello",
		parsed("test", map[string]string{"testTag": "telegraf"}, nil),
	},
	{
		"stock: without measurement",
		TopicParsing{"telegraf/+/test/hello", "", "testTag/_/_/_", "_/testNumber/_/testString", number1},
		"telegraf/123/test/hello",
		parsed("cpu", map[string]string{"testTag": "telegraf"}, fields{"testNumber": 123, "testString": "hello"}),
	},
	{
		"stock: slash in front",
		TopicParsing{"/telegraf/+/test/hello", "/_/_/measurement/_", "/testTag/_/_/_", "/_/testNumber/_/testString", number1},
		"/telegraf/123/test/hello",
		parsed("test", map[string]string{"testTag": "telegraf"}, fields{"testNumber": 123, "testString": "hello"}),
	},
	{
		"stock: variable length",
		TopicParsing{"/telegraf/#/test/hello", "/#/measurement/_", "/testTag/#/moreTag/_/_", "/_/testNumber/#/testString", number1},
		"/telegraf/123/foo/test/hello",
		parsed("test", map[string]string{"testTag": "telegraf", "moreTag": "foo"}, fields{"testNumber": 123, "testString": "hello"}),
	},
	{
		"stock: variable length, too short",
		TopicParsing{"/telegraf/#", "/#/measurement/_", "/testTag/#/moreTag/_/_", "/_/testNumber/#/testString", number1},
		"/telegraf/123",
		parsed("cpu", nil, nil),
	},
	{
		"variable length takes none",
		TopicParsing{"a/#/b", "#/measurement", "first/#", "", nil},
		"a/b",
		parsed("b", map[string]string{"first": "a"}, nil),
	},
	{
		"another topic",
		TopicParsing{"a/+/c", "_/measurement/_", "", "", nil},
		"a/b/d",
		parsed("cpu", nil, nil),
	},
	{
		"another topic behind the #",
		TopicParsing{"a/#/c", "#/measurement", "", "", nil},
		"a/b/c/d",
		parsed("cpu", nil, nil),
	},
	{
		"too long",
		TopicParsing{"a/+", "_/measurement", "", "", nil},
		"a/b/c",
		parsed("cpu", nil, nil),
	},
	{
		"a literal that stands twice",
		TopicParsing{"a/+/a", "_/measurement/_", "", "", nil},
		"b/x/a",
		parsed("cpu", nil, nil),
	},
	{
		"hash alone",
		TopicParsing{"#", "_/measurement/#", "tag/#", "#/last", nil},
		"x/y/z",
		parsed("y", map[string]string{"tag": "x"}, fields{"last": "z"}),
	},
	{
		"types",
		TopicParsing{"+/+/+/+", "", "", "i/u/f/s", map[string]string{"i": "int", "u": "uint", "f": "float"}},
		"-9223372036854775808/18446744073709551615/2.5/text",
		parsed("cpu", nil, fields{"i": int64(math.MinInt64), "u": uint64(math.MaxUint64), "f": 2.5, "s": "text"}),
	},
}

func TestTopicParsing(t *testing.T) {
	for _, tt := range topicCases {
		t.Run(tt.name, func(t *testing.T) {
			p, err := newTopicParser(tt.config)
			require.NoError(t, err)
			m := parsed("cpu", nil, nil)
			require.NoError(t, p.apply(m, strings.Split(tt.topic, "/")))
			testutil.RequireMetricEqual(t, tt.want, m)
		})
	}
}

// What cannot be converted is kept as text, and the metric says so; stock mqtt_consumer logs it and drops the field.
func TestTopicParsingConversionFails(t *testing.T) {
	tests := []struct{ kind, level string }{
		{"int", "1.5"}, {"int", ""}, {"int", "9223372036854775808"}, {"uint", "-1"}, {"float", "warm"},
	}
	for _, tt := range tests {
		p, err := newTopicParser(TopicParsing{Topic: "+", Fields: "f", Types: map[string]string{"f": tt.kind}})
		require.NoError(t, err)
		m := parsed("cpu", nil, nil)
		require.ErrorContains(t, p.apply(m, []string{tt.level}), `field "f"`)
		require.Equal(t, fields{"value": int64(45), "f": tt.level}, m.Fields(), "%s of %q", tt.kind, tt.level)
	}
}

func TestTopicParsingConfiguration(t *testing.T) {
	tests := []struct {
		name   string
		config TopicParsing
		says   []string
	}{
		{
			"stock: fields of another length",
			TopicParsing{Topic: "telegraf/+/test/hello", Fields: "_/_/testNumber:int/_/testString:string"},
			[]string{"fields", "5 levels", "4"},
		},
		{"tags of another length", TopicParsing{Topic: "a/b", Tags: "tag"}, []string{"tags", `"tag"`, "2"}},
		{"measurement of another length", TopicParsing{Topic: "a/b", Measurement: "m/_/_"}, []string{"measurement", "3", "2"}},
		{"two measurements", TopicParsing{Topic: "a/b", Measurement: "m/m"}, []string{"measurement", `"m/m"`, "one"}},
		{"two hashes in topic", TopicParsing{Topic: "a/#/b/#"}, []string{"topic", `"a/#/b/#"`, "once"}},
		{"two hashes in tags", TopicParsing{Topic: "a/#", Tags: "#/b/#"}, []string{"tags", "once"}},
		{"unknown type", TopicParsing{Topic: "a", Fields: "f", Types: map[string]string{"f": "bool"}}, []string{"types", "f", `"bool"`, `"int"`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := newTopicParser(tt.config)
			for _, part := range tt.says {
				require.ErrorContains(t, err, part)
			}
		})
	}
}

func FuzzTopicParsing(f *testing.F) {
	for _, tt := range topicCases {
		f.Add(tt.config.Topic, tt.config.Measurement, tt.config.Tags, tt.config.Fields, tt.topic)
	}
	f.Fuzz(func(t *testing.T, topic, measurement, tags, fieldPattern, name string) {
		p, err := newTopicParser(TopicParsing{Topic: topic, Measurement: measurement, Tags: tags, Fields: fieldPattern})
		if err != nil {
			return
		}
		require.NoError(t, p.apply(parsed("cpu", nil, nil), strings.Split(name, "/")))
	})
}

// Each of them matches, no other filter of that many levels does, and there is an end to their number.
func TestFiltersFor(t *testing.T) {
	filters := filtersFor("a/b/c")
	require.ElementsMatch(t, []string{
		"#", "a/#", "+/#", "a/b/#", "a/+/#", "+/b/#", "+/+/#",
		"a/b/c", "a/b/+", "a/+/c", "a/+/+", "+/b/c", "+/b/+", "+/+/c", "+/+/+",
		"a/b/c/#", "a/b/+/#", "a/+/c/#", "a/+/+/#", "+/b/c/#", "+/b/+/#", "+/+/c/#", "+/+/+/#",
	}, filters)
	for _, topic := range []string{"a/b/c", "x", "/", "a//b", "1/2/3/4/5/6/7/8/9"} {
		filters := filtersFor(topic)
		require.Contains(t, filters, topic)
		require.Less(t, len(filters), 250, topic)
		for _, filter := range filters {
			require.True(t, matchesTopic(filter, topic), "%q for %q", filter, topic)
			require.NoError(t, checkFilter(filter))
		}
	}
}

package mqtt_hardware

import (
	"encoding/base64"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/bufbuild/protocompile"
	"github.com/eclipse/paho.golang/paho"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/plugins/parsers/influx"
	influxserializer "github.com/influxdata/telegraf/plugins/serializers/influx"
	"github.com/influxdata/telegraf/testutil"
)

var update = flag.Bool("update", false, "write what the payload cases give into their expected.out; read the difference before you keep it")

// TestPayloadCases reads the messages of each directory in testcases that has a messages.txt, with the plugin's options
// of its options.toml, if there is one, and compares with its expected.out. A message is
//
//	topic: the/topic
//	content_type: application/cbor
//	encoding: hex
//
//	the payload
//	---
//
// with the last two lines of the header where they are needed. Lines that begin with # in front of the payload are
// comments. The encoding is text without its last line break, or quoted (as in Go), hex (with spaces and comments),
// base64, or sparkplug: the text form of a Payload of sparkplug_b.proto.
func TestPayloadCases(t *testing.T) {
	files, err := filepath.Glob("testcases/*/messages.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		dir := filepath.Dir(file)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			options, err := os.ReadFile(filepath.Join(dir, "options.toml"))
			if err != nil {
				require.ErrorIs(t, err, os.ErrNotExist)
			}
			running, p := loadConfig(t, "[[inputs.mqtt_hardware]]\n  topics = [\"#\"]\n"+string(options))
			require.NoError(t, running.Init())
			var got []telegraf.Metric
			for _, m := range readMessages(t, file) {
				metrics, malformed := p.makeMetrics(typed(m.payload, m.topic, m.contentType))
				faulty := false
				for _, one := range metrics {
					requireValid(t, one)
					faulty = faulty || one.HasField("error")
				}
				require.Equal(t, malformed, faulty, m.topic)
				got = append(got, metrics...)
			}

			expected := filepath.Join(dir, "expected.out")
			if *update {
				s := &influxserializer.Serializer{SortFields: true, UintSupport: true}
				require.NoError(t, s.Init())
				text, err := s.SerializeBatch(got)
				require.NoError(t, err)
				require.NoError(t, os.WriteFile(expected, text, 0o600))
			}
			parser := &influx.Parser{}
			require.NoError(t, parser.Init())
			text, err := os.ReadFile(expected)
			require.NoError(t, err)
			want, err := parser.Parse(text)
			require.NoError(t, err)
			testutil.RequireMetricsEqual(t, want, got, testutil.IgnoreType())
		})
	}
}

type payloadMessage struct {
	topic, contentType string
	payload            []byte
}

func readMessages(t *testing.T, file string) (messages []payloadMessage) {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	for text := range strings.SplitSeq(string(content), "\n---\n") {
		m := payloadMessage{}
		encoding := "text"
		for text != "" {
			var line string
			line, text, _ = strings.Cut(text, "\n")
			key, value, _ := strings.Cut(line, ": ")
			switch {
			case strings.HasPrefix(line, "#"):
			case key == "topic":
				m.topic = value
			case key == "content_type":
				m.contentType = value
			case key == "encoding":
				encoding = value
			case line == "" && m.topic != "":
				m.payload = decodePayload(t, encoding, strings.TrimSuffix(text, "\n"))
				text = ""
			default:
				require.Empty(t, line, "%s: what is this?", file)
			}
		}
		if m.topic != "" {
			messages = append(messages, m)
		}
	}
	require.NotEmpty(t, messages)
	return messages
}

func decodePayload(tb testing.TB, encoding, text string) []byte {
	tb.Helper()
	payload := []byte(text)
	var err error
	switch encoding {
	case "text":
	case "quoted":
		var unquoted string
		unquoted, err = strconv.Unquote(text)
		payload = []byte(unquoted)
	case "hex":
		var digits strings.Builder
		for line := range strings.SplitSeq(text, "\n") {
			line, _, _ = strings.Cut(line, "#")
			digits.WriteString(strings.ReplaceAll(line, " ", ""))
		}
		payload, err = hex.DecodeString(digits.String())
	case "base64":
		payload, err = base64.StdEncoding.DecodeString(text)
	case "sparkplug":
		payload = sparkplugPayload(tb, text)
	default:
		require.Fail(tb, "unknown encoding", encoding)
	}
	require.NoError(tb, err, text)
	return payload
}

// sparkplugPayload makes the bytes of a Payload in protobuf's text form.
func sparkplugPayload(tb testing.TB, text string) []byte {
	tb.Helper()
	compiler := protocompile.Compiler{Resolver: &protocompile.SourceResolver{}}
	files, err := compiler.Compile(tb.Context(), "sparkplug_b.proto")
	require.NoError(tb, err)
	message := dynamicpb.NewMessage(files[0].Messages().ByName("Payload"))
	require.NoError(tb, prototext.Unmarshal([]byte(text), message), text)
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
	require.NoError(tb, err)
	return payload
}

// typed is a message as MQTT 5 brings it.
func typed(payload []byte, topic, contentType string) *message {
	return &message{payload: payload, topic: topic, at: eventTime, properties: &paho.PublishProperties{ContentType: contentType}}
}

// plainMessage is one as MQTT 3.1.1 brings it.
func plainMessage(payload []byte, topic string) *message {
	return &message{payload: payload, topic: topic, at: eventTime}
}

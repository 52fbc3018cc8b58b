package mqtt_hardware

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/eclipse/paho.golang/paho"
	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/plugins/parsers/influx"
	influxserializer "github.com/influxdata/telegraf/plugins/serializers/influx"
	"github.com/influxdata/telegraf/testutil"

	"github.com/edgetide/telegraf-victorialogs/internal/devicecases"
)

var update = flag.Bool("update", false, "write what the payload cases give into their expected.out; read the difference before you keep it")

// TestPayloadCases reads the messages of each directory in testcases that has a messages.txt, whose form is devicecases',
// with the plugin's options of its options.toml, if there is one, and compares with its expected.out.
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
			messages, err := devicecases.Read(file)
			require.NoError(t, err)
			for _, m := range messages {
				metrics, malformed := p.makeMetrics(typed(m.Payload, m.Topic, m.ContentType))
				faulty := false
				for _, one := range metrics {
					requireValid(t, one)
					faulty = faulty || one.HasField("error")
				}
				require.Equal(t, malformed, faulty, m.Topic)
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

// sparkplugPayload makes the bytes of a Payload in protobuf's text form.
func sparkplugPayload(tb testing.TB, text string) []byte {
	tb.Helper()
	payload, err := devicecases.Sparkplug(".", text)
	require.NoError(tb, err, text)
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

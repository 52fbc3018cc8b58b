package mqtt_hardware

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/metric"
	"github.com/influxdata/telegraf/models"
	"github.com/influxdata/telegraf/plugins/parsers/json_v2"
	"github.com/influxdata/telegraf/testutil"

	"github.com/edgetide/telegraf-victorialogs/bench/firehose"
)

const sensorPayload = `{"temperature":21.5,"humidity":47.1,"battery_mv":2987,"linkquality":120,"state":"ON","seq":10000000}`

// delivering is a Telegraf that delivers each metric at once.
type delivering struct{ telegraf.Accumulator }

func (delivering) SetPrecision(time.Duration)                    {}
func (delivering) AddMetric(m telegraf.Metric)                   { m.Accept() }
func (delivering) AddError(error)                                {}
func (delivering) WithTracking(int) telegraf.TrackingAccumulator { return nil }

// BenchmarkPublishToAdd is the whole way of a QoS 1 message of 100 bytes in the input: from the socket of a broker that costs
// next to nothing to AddMetric, and its acknowledgement back. cpu-us/op is the time of all goroutines, the broker's included.
func BenchmarkPublishToAdd(b *testing.B) {
	broker, err := firehose.Listen()
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, broker.Close()) })
	p := newPlugin(b, func(p *MQTTHardware) {
		p.Servers, p.Topics = []string{broker.URL()}, []string{"bench/#"}
		p.Log = testutil.Logger{Quiet: true}
	})
	require.NoError(b, p.Start(delivering{}))
	b.Cleanup(p.Stop)
	_, err = broker.WaitSubscribed(b.Context())
	require.NoError(b, err)
	payload := []byte(sensorPayload)
	load := firehose.Load{N: 1000, Message: func(int) (string, []byte) { return "bench/kitchen", payload }}
	require.NoError(b, broker.Send(b.Context(), load))

	b.ReportAllocs()
	load.N = b.N
	begin := cpuTime()
	b.ResetTimer()
	require.NoError(b, broker.Send(b.Context(), load))
	b.StopTimer()
	b.ReportMetric(float64(cpuTime()-begin)/float64(b.N)/1e3, "cpu-us/op")
}

// BenchmarkSensorPayload reads the same payload alone: into a metric, and with what else could read it.
func BenchmarkSensorPayload(b *testing.B) {
	payload := []byte(sensorPayload)
	run := func(name string, read func() error) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(payload)))
			for b.Loop() {
				if err := read(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	p := newPlugin(b, func(*MQTTHardware) {})
	run("ours", func() error {
		p.makeMetrics(plainMessage(payload, "bench/kitchen"))
		return nil
	})
	run("encoding_json", func() error {
		var fields map[string]any
		if err := json.Unmarshal(payload, &fields); err != nil {
			return err
		}
		metric.New("mqtt", map[string]string{"topic": "bench/kitchen"}, fields, time.Now())
		return nil
	})
	parser := &json_v2.Parser{Configs: []json_v2.Config{{MeasurementName: "mqtt", JSONObjects: []json_v2.Object{{Path: "@this"}}}}}
	parser.Log = testutil.Logger{Quiet: true}
	running := models.NewRunningParser(parser, &models.ParserConfig{DataFormat: "json_v2"})
	require.NoError(b, running.Init())
	run("telegraf_json_v2", func() error {
		_, err := running.Parse(payload)
		return err
	})
	text := strings.Clone(sensorPayload)
	run("copy", func() error {
		text = string(payload)
		return nil
	})
	require.Len(b, text, 100)
}

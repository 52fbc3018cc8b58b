package victorialogs

import (
	"bytes"
	stdgzip "compress/gzip"
	"fmt"
	"io"
	"testing"

	kgzip "github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/testutil"
)

// scattered makes of numbers in turn some of no order, whose digits do not compress.
func scattered(n int) uint32 {
	h := uint32(n) * 2654435761
	h ^= h >> 15
	h *= 2246822519
	h ^= h >> 13
	return h
}

// sensorMetric is what mqtt_hardware makes of a sensor's message of 100 bytes; its values differ from one to the next.
func sensorMetric(n int) telegraf.Metric {
	h := scattered(n)
	return newMetric("mqtt", map[string]string{"host": "edge", "topic": "plant/zigbee2mqtt/kitchen"}, pairs(
		"temperature", 10+float64(h>>8%200)/10, "humidity", 30+float64(h>>4%600)/10, "battery_mv", int64(2900+h>>12%200),
		"linkquality", int64(100+h>>24%100), "state", "ON", "seq", int64(n)))
}

// BenchmarkCompress compresses batches with what we use, and with what we could: the time of a row, and the bytes that are
// left of it.
func BenchmarkCompress(b *testing.B) {
	type writer interface {
		io.WriteCloser
		Reset(w io.Writer)
	}
	stream := func(w writer, err error) func(b *testing.B, dst, lines []byte) []byte {
		return func(b *testing.B, dst, lines []byte) []byte {
			b.Helper()
			require.NoError(b, err)
			out := bytes.NewBuffer(dst)
			w.Reset(out)
			_, err := w.Write(lines)
			require.NoError(b, err)
			require.NoError(b, w.Close())
			return out.Bytes()
		}
	}
	all := func(level zstd.EncoderLevel) func(b *testing.B, dst, lines []byte) []byte {
		w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1))
		return func(b *testing.B, dst, lines []byte) []byte {
			b.Helper()
			require.NoError(b, err)
			return w.EncodeAll(lines, dst)
		}
	}
	own := func(name string) func(b *testing.B, dst, lines []byte) []byte {
		e, err := newEncoding(name)
		return func(b *testing.B, dst, lines []byte) []byte {
			b.Helper()
			require.NoError(b, err)
			return e.compress(dst, lines)
		}
	}
	ways := []struct {
		name     string
		compress func(b *testing.B, dst, lines []byte) []byte
	}{
		{"ours_zstd", own("zstd")},
		{"ours_gzip", own("gzip")},
		{"zstd_fastest", all(zstd.SpeedFastest)},
		{"zstd_default", all(zstd.SpeedDefault)},
		{"zstd_better", all(zstd.SpeedBetterCompression)},
		{"gzip_6", stream(kgzip.NewWriterLevel(io.Discard, 6))},
		{"stdlib_gzip_1", stream(stdgzip.NewWriterLevel(io.Discard, 1))},
		{"stdlib_gzip_6", stream(stdgzip.NewWriterLevel(io.Discard, 6))},
		{"snappy", func(_ *testing.B, dst, lines []byte) []byte { return s2.EncodeSnappy(dst[:cap(dst)], lines) }},
		{"copy", func(_ *testing.B, dst, lines []byte) []byte { return append(dst, lines...) }},
	}
	for _, rows := range []int{1, 10, 100, 5000} {
		var lines []byte
		e := newEncoder()
		for n := range rows {
			var err error
			lines, err = e.appendLine(lines, sensorMetric(n), received2024)
			require.NoError(b, err)
		}
		for _, way := range ways {
			b.Run(fmt.Sprintf("rows=%d/%s", rows, way.name), func(b *testing.B) {
				buffer := make([]byte, 0, 2*len(lines)+1024)
				var out []byte
				b.ReportAllocs()
				for b.Loop() {
					out = way.compress(b, buffer, lines)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*rows), "ns/row")
				b.ReportMetric(float64(len(out))/float64(rows), "B/row")
			})
		}
	}
}

// waiting is a tracked metric whose input wants to know nothing.
type waiting struct{ telegraf.Metric }

func (waiting) Accept()                             {}
func (waiting) Reject()                             {}
func (waiting) Drop()                               {}
func (waiting) TrackingID() telegraf.TrackingID     { return 1 }
func (waiting) TrackingData() telegraf.TrackingData { return nil }
func (w waiting) Unwrap() telegraf.Metric           { return w.Metric }

// BenchmarkAddSensor is Add for a sensor's message, which somebody waits for or not; what follows a batch runs beside it.
func BenchmarkAddSensor(b *testing.B) {
	for _, tracked := range []bool{false, true} {
		b.Run(fmt.Sprintf("tracked=%t", tracked), func(b *testing.B) {
			r := prepare()
			r.Log = testutil.Logger{Quiet: true}
			require.NoError(b, r.Init())
			r.delivery.target.transport = &static{}
			require.NoError(b, r.Connect())
			metrics := make([]telegraf.Metric, 4096)
			for n := range metrics {
				if metrics[n] = sensorMetric(n); tracked {
					metrics[n] = waiting{metrics[n]}
				}
			}
			n := 0
			b.ReportAllocs()
			for b.Loop() {
				r.Add(metrics[n%len(metrics)])
				n++
			}
			b.StopTimer()
			b.ReportMetric(float64(dropped(r))/float64(b.N), "dropped/op")
			require.NoError(b, r.Close())
		})
	}
}

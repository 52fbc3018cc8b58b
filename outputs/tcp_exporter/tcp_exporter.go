// Package tcp_exporter is the Telegraf output outputs.tcp_exporter: a live view for whoever connects.
//
// It listens on TCP and streams each metric to every client, the moment that it leaves the processors
// (telegraf.AggregatingOutput). The stream is that of metrics-exporter-tcp, which package wire describes, so its terminal
// dashboard metrics-observer reads it, as bin/telegraf-tap does; or it is text of one of Telegraf's serializers.
//
// What it promises: a metric is encoded once for all clients, and not at all while nobody is connected. A client never
// holds up Telegraf or another client: one that reads too slowly loses its oldest events, which are counted, and one that
// takes nothing for write_timeout is closed. Metadata goes before the first event that it is about and is never dropped, and
// no frame is ever cut. Memory is bounded: by buffer_size events, which all clients share, and what each is being written.
//
// What it does not promise is delivery. It accepts every metric at once, so that no input waits for somebody who watches.
//
// Add and Write may be called concurrently with each other, and never wait for the network.
package tcp_exporter

import (
	"crypto/tls"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/filter"
	telegraftls "github.com/influxdata/telegraf/plugins/common/tls"
	"github.com/influxdata/telegraf/plugins/outputs"
	"github.com/influxdata/telegraf/selfstat"

	"github.com/edgetide/telegraf-victorialogs/internal/tlsconf"
	"github.com/edgetide/telegraf-victorialogs/outputs/tcp_exporter/wire"
)

//go:embed sample.conf
var sampleConfig string

// TCPExporter is the plugin. Its exported fields are its options.
type TCPExporter struct {
	Listen          string          `toml:"listen"`
	Format          string          `toml:"format"`
	DataFormat      string          `toml:"data_format"`
	BufferSize      int             `toml:"buffer_size"`
	MaxClients      int             `toml:"max_clients"`
	WriteTimeout    config.Duration `toml:"write_timeout"`
	Snapshot        bool            `toml:"snapshot"`
	SnapshotSeries  int             `toml:"snapshot_series"`
	HistogramFields []string        `toml:"histogram_fields"`
	NameOverride    string          `toml:"name_override"`
	NamePrefix      string          `toml:"name_prefix"`
	NameSuffix      string          `toml:"name_suffix"`
	Describe        []Description   `toml:"describe"`
	telegraftls.ServerConfig

	Log        telegraf.Logger     `toml:"-"`
	Statistics *selfstat.Collector `toml:"-"`

	makeSerializer telegraf.SerializerFunc // of data_format; nil where the host makes none
	stream         *stream
	encoder        encoder
	server         *server
	listener       net.Listener // nil while it is not connected
}

// Description is what is known of a series beyond what its metrics tell.
type Description struct {
	Name        string `toml:"name"`
	Type        string `toml:"type"`
	Unit        string `toml:"unit"`
	Description string `toml:"description"`
}

// New returns the plugin with its defaults.
func New() *TCPExporter {
	return &TCPExporter{
		Listen:         "127.0.0.1:5000",
		BufferSize:     1024,
		MaxClients:     64,
		WriteTimeout:   config.Duration(10 * time.Second),
		SnapshotSeries: 10000,
	}
}

func init() {
	outputs.Add("tcp_exporter", func() telegraf.Output { return New() })
}

// SampleConfig returns the documented configuration.
func (*TCPExporter) SampleConfig() string { return sampleConfig }

// SetSerializerFunc is called by Telegraf, which makes serializers of data_format and their own options.
func (t *TCPExporter) SetSerializerFunc(f telegraf.SerializerFunc) { t.makeSerializer = f }

// TLSConfig is called by Telegraf while it loads the configuration, so that a wrong tls_… option fails there.
func (t *TCPExporter) TLSConfig() (*tls.Config, error) { return tlsconf.Server(&t.ServerConfig) }

// Init checks the options and prepares the stream; nothing starts yet.
func (t *TCPExporter) Init() error {
	if err := t.check(); err != nil {
		return err
	}
	tlsConfig, err := t.TLSConfig()
	if err != nil {
		return err
	}
	if t.Statistics == nil { // hosts other than the agent set none
		t.Statistics = selfstat.NewCollector(nil)
	}
	counts := newStats(t.Statistics)
	var last *snapshot
	if t.Snapshot {
		last = newSnapshot(t.SnapshotSeries)
	}
	t.stream = newStream(t.BufferSize, last)
	t.server = &server{
		log: t.Log, stats: counts, stream: t.stream, tls: tlsConfig, maxClients: t.MaxClients, writeTimeout: time.Duration(t.WriteTimeout),
	}
	return t.newEncoder(counts)
}

// check finds the first option that cannot work, and says which, and what would.
func (t *TCPExporter) check() error {
	_, port, err := net.SplitHostPort(t.Listen)
	if _, e := strconv.ParseUint(port, 10, 16); err != nil || e != nil {
		return fmt.Errorf(`listen = %q: must be an address and a port, such as "127.0.0.1:5000", or ":5000" for all addresses`, t.Listen)
	}
	for _, n := range []struct {
		key         string
		value, most int
		what        string
	}{
		{"buffer_size", t.BufferSize, 1_000_000, "messages"},
		{"max_clients", t.MaxClients, 10_000, "clients"},
		{"snapshot_series", t.SnapshotSeries, 1_000_000, "series"},
	} {
		if n.value < 1 || n.value > n.most {
			return fmt.Errorf("%s = %d: must be from 1 to %d %s", n.key, n.value, n.most, n.what)
		}
	}
	if t.WriteTimeout <= 0 {
		return fmt.Errorf(`write_timeout = %q: must be longer than zero, such as "10s"`, time.Duration(t.WriteTimeout))
	}
	if slices.Contains(t.HistogramFields, "") {
		return fmt.Errorf("histogram_fields = %q: must not hold an empty name", t.HistogramFields)
	}
	return t.checkDescriptions()
}

// The units that clients know.
var units = []string{
	"count", "percent", "seconds", "milliseconds", "microseconds", "nanoseconds", "tebibytes", "gibibytes", "mebibytes", "kibibytes",
	"bytes", "terabits_per_second", "gigabits_per_second", "megabits_per_second", "kilobits_per_second", "bits_per_second",
	"count_per_second",
}

var types = map[string]wire.Metadata_MetricType{
	"counter": wire.Metadata_COUNTER, "gauge": wire.Metadata_GAUGE, "histogram": wire.Metadata_HISTOGRAM,
}

func (t *TCPExporter) checkDescriptions() error {
	seen := make(map[string]bool)
	for _, d := range t.Describe {
		if d.Name == "" {
			return errors.New(`describe: name = "": must be the name of series, such as "cpu_usage_idle"`)
		}
		if seen[d.Name] {
			return fmt.Errorf("describe: name = %q: must not be described twice", d.Name)
		}
		seen[d.Name] = true
		if _, ok := types[d.Type]; !ok && d.Type != "" {
			return fmt.Errorf(`describe: type = %q of %q: must be "counter", "gauge" or "histogram", or be left out`, d.Type, d.Name)
		}
		if d.Unit != "" && !slices.Contains(units, d.Unit) {
			return fmt.Errorf("describe: unit = %q of %q: must be left out, or one of %s", d.Unit, d.Name, strings.Join(units, ", "))
		}
	}
	return nil
}

func (t *TCPExporter) newEncoder(counts *stats) error {
	renamed := naming{override: t.NameOverride, prefix: t.NamePrefix, suffix: t.NameSuffix}
	format := t.Format
	if format == "" {
		format = t.DataFormat
	}
	if format != "" && format != "protobuf" || t.DataFormat != "" {
		serializer, err := t.newSerializer(format)
		if err != nil {
			return err
		}
		t.encoder = &serialized{naming: renamed, serializer: serializer, stats: counts}
		if format == "influx" || format == "json" {
			t.server.probe = []byte("\n") // an empty line
		}
		return nil
	}
	histograms, err := filter.Compile(t.HistogramFields)
	if err != nil {
		return fmt.Errorf("histogram_fields = %q: %w; must be names of fields or series, which may hold * and ?", t.HistogramFields, err)
	}
	e := &events{naming: renamed, histograms: histograms, described: make(map[string]Description), stats: counts}
	for _, d := range t.Describe {
		e.described[d.Name] = d
	}
	for _, d := range t.Describe {
		if d.Type != "" && !e.describe(t.stream, d.Name, types[d.Type]) {
			return fmt.Errorf("describe: there is no room for %q; all descriptions together must be at most %d bytes", d.Name, maxMetadata)
		}
	}
	t.encoder, t.server.probe = e, wire.EmptyEvent
	return nil
}

// Connect listens. A port that is taken is an error, which Telegraf tries again once.
func (t *TCPExporter) Connect() error {
	listener, err := net.Listen("tcp", t.Listen) //nolint:noctx // it does not wait
	if err != nil {
		return fmt.Errorf("listen = %q: %w; must be an address of this machine and a port that is free", t.Listen, err)
	}
	if address, ok := listener.Addr().(*net.TCPAddr); ok && !address.IP.IsLoopback() && t.server.tls == nil {
		t.Log.Warnf("listen = %q: whoever reaches %s sees the metrics; set tls_cert, tls_key and tls_allowed_cacerts, or listen on "+
			"127.0.0.1", t.Listen, address)
	}
	t.listener = listener
	t.stream.open()
	t.server.start(listener)
	t.Log.Infof("Listening on %s", listener.Addr())
	return nil
}

// Add streams the metric and accepts it. It is called on the goroutine that feeds all outputs and never waits.
func (t *TCPExporter) Add(m telegraf.Metric) {
	t.stream.publish(t.encoder, m)
	m.Accept()
}

// Push returns nothing: what was added is on its way, so the agent has nothing to write.
func (*TCPExporter) Push() []telegraf.Metric { return nil }

// Reset does nothing, for the same reason.
func (*TCPExporter) Reset() {}

// Write is for hosts that do not call Add.
func (t *TCPExporter) Write(metrics []telegraf.Metric) error {
	for _, m := range metrics {
		t.stream.publish(t.encoder, m)
	}
	return nil
}

// Close frees the port and ends all connections, after clients had a moment to take what was still on its way.
func (t *TCPExporter) Close() error {
	if t.listener == nil {
		return nil
	}
	t.listener = nil
	return t.server.close()
}

// naming changes the names of measurements, as Telegraf would.
type naming struct{ override, prefix, suffix string }

func (n naming) apply(name string) string {
	if n.override != "" {
		name = n.override
	}
	if n.prefix != "" || n.suffix != "" {
		name = n.prefix + name + n.suffix
	}
	return name
}

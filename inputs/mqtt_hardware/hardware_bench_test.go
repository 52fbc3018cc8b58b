package mqtt_hardware

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/models"
	"github.com/influxdata/telegraf/plugins/inputs"
	_ "github.com/influxdata/telegraf/plugins/inputs/cpu"
	_ "github.com/influxdata/telegraf/plugins/inputs/disk"
	_ "github.com/influxdata/telegraf/plugins/inputs/diskio"
	_ "github.com/influxdata/telegraf/plugins/inputs/mem"
	_ "github.com/influxdata/telegraf/plugins/inputs/net"
	_ "github.com/influxdata/telegraf/plugins/inputs/swap"
	_ "github.com/influxdata/telegraf/plugins/inputs/system"
	_ "github.com/influxdata/telegraf/plugins/inputs/temp"
	"github.com/influxdata/telegraf/testutil"
)

// BenchmarkHardware takes one sample of all sources, and beside it what stock Telegraf needs for the part of them that
// it has. On this host, and with the sysfs and procfs of a machine of testcases_machines (from a file system of disks:
// the kernel's own are slower to read where a driver asks its device).
func BenchmarkHardware(b *testing.B) {
	stock := []string{"cpu", "disk", "diskio", "mem", "net", "swap", "system", "temp"}
	same := []string{"cpu", "disk", "disk_io", "load", "memory", "network", "swap", "temperature", "uptime"}
	for _, on := range []string{"", "server", "laptop"} {
		name := "this_host"
		if on != "" {
			name = on
		}
		b.Run(name, func(b *testing.B) {
			if on != "" {
				newMachine(b, "testcases_machines/"+on)
			}
			for _, layout := range []string{layoutSplit, layoutWide} {
				b.Run("all/"+layout, func(b *testing.B) {
					benchSample(b, slices.Sorted(maps.Keys(sources)), layout)
				})
			}
			b.Run("as_stock/split", func(b *testing.B) { benchSample(b, same, layoutSplit) })
			b.Run("stock", func(b *testing.B) { benchStock(b, stock) })
			b.Run("burst", benchBurst)
		})
	}
}

func benchSample(b *testing.B, names []string, layout string) {
	b.Helper()
	hw, err := newHardware(names, HardwareOptions{Layout: layout})
	require.NoError(b, err)
	acc := &testutil.Accumulator{Discard: true}
	log := &testutil.CaptureLogger{}
	hw.sample(acc, log) // leaves out what this host does not have
	perSample(b, func() { hw.sample(acc, log) })
}

func benchStock(b *testing.B, names []string) {
	b.Helper()
	var all []telegraf.Input
	for _, name := range names {
		input := inputs.Inputs[name]()
		models.SetLoggerOnPlugin(input, testutil.Logger{Quiet: true})
		if i, ok := input.(telegraf.Initializer); ok {
			require.NoError(b, i.Init())
		}
		all = append(all, input)
	}
	acc := &testutil.Accumulator{Discard: true}
	perSample(b, func() {
		for _, input := range all {
			_ = input.Gather(acc) // an absence, which each of them reports every time
		}
	})
}

func benchBurst(b *testing.B) {
	s, err := newScope(HardwareOptions{})
	require.NoError(b, err)
	burst := newBurst(s, slices.Collect(maps.Keys(burstFields)), time.Second)
	burst.sample(b.Context())
	perSample(b, func() { burst.sample(b.Context()) })
}

// perSample reports the CPU time of the process, garbage collection included, beside the time.
func perSample(b *testing.B, sample func()) {
	b.Helper()
	b.ReportAllocs()
	begin := cpuTime()
	for b.Loop() {
		sample()
	}
	b.ReportMetric(float64(cpuTime()-begin)/float64(b.N)/1e6, "cpu-ms/op")
}

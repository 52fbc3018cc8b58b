package mqtt_hardware

import (
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/plugins/parsers/influx"
	"github.com/influxdata/telegraf/testutil"
)

// host is a made-up /proc and /sys that the test can change between samples.
type host struct {
	t   *testing.T
	dir string
	acc testutil.Accumulator
	log testutil.CaptureLogger
}

// newHost starts with these files, by paths such as proc/loadavg.
func newHost(t *testing.T, files map[string]string) *host {
	t.Helper()
	h := &host{t: t, dir: t.TempDir()}
	t.Setenv("HOST_PROC", filepath.Join(h.dir, "proc"))
	t.Setenv("HOST_SYS", filepath.Join(h.dir, "sys"))
	for name, text := range files {
		h.write(name, text)
	}
	return h
}

func (h *host) write(name, text string) {
	h.t.Helper()
	name = filepath.Join(h.dir, name)
	require.NoError(h.t, os.MkdirAll(filepath.Dir(name), 0o700))
	require.NoError(h.t, os.WriteFile(name, []byte(text), 0o600))
}

// sample returns what this one sample gave.
func (h *host) sample(hw *hardware) []*testutil.Metric {
	h.acc.ClearMetrics()
	hw.sample(&h.acc, &h.log)
	return h.acc.Metrics
}

func (h *host) errors() []string {
	var texts []string
	for _, err := range h.acc.Errors {
		texts = append(texts, err.Error())
	}
	return texts
}

func (h *host) logged() []string {
	var texts []string
	for _, m := range h.log.Messages() {
		texts = append(texts, fmt.Sprintf("%c! %s", m.Level, m.Text))
	}
	return texts
}

func mustHardware(tb testing.TB, names ...string) *hardware {
	tb.Helper()
	hw, err := newHardware(names)
	require.NoError(tb, err)
	return hw
}

// tagValues returns the values of a tag in the order of the metrics.
func tagValues(metrics []*testutil.Metric, tag string) []string {
	var values []string
	for _, m := range metrics {
		values = append(values, m.Tags[tag])
	}
	return values
}

func TestHardwareSources(t *testing.T) {
	all := slices.Collect(maps.Keys(sources))
	tests := []struct {
		name    string
		sources []string
		err     string
	}{
		{name: "none"},
		{name: "all", sources: all},
		{
			name:    "unknown",
			sources: []string{"cpu", "fam"},
			err: `hardware: unknown source "fam": known are ` +
				`cpu, disk, disk_io, load, memory, network, swap, temperature`,
		},
		{
			name:    "twice",
			sources: []string{"cpu", "load", "cpu"},
			err:     `hardware: source "cpu" is listed twice: list it once`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := newHardware(tt.sources)
			if tt.err == "" {
				require.NoError(t, err)
			} else {
				require.EqualError(t, err, tt.err)
			}
		})
	}
}

// TestHardwareCases samples the proc and sys of each directory in testcases/hardware and compares with its
// expected.out. cpu and disk are not in it: the one needs two samples, the other asks the kernel itself.
func TestHardwareCases(t *testing.T) {
	dirs, err := filepath.Glob("testcases/hardware/*")
	require.NoError(t, err)
	require.NotEmpty(t, dirs)
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Setenv("HOST_PROC", filepath.Join(dir, "proc"))
			t.Setenv("HOST_SYS", filepath.Join(dir, "sys"))

			parser := &influx.Parser{}
			require.NoError(t, parser.Init())
			expected, err := testutil.ParseMetricsFromFile(filepath.Join(dir, "expected.out"), parser)
			require.NoError(t, err)

			var acc testutil.Accumulator
			hw := mustHardware(t, "memory", "swap", "load", "disk_io", "network", "temperature")
			hw.sample(&acc, &testutil.CaptureLogger{})
			require.Empty(t, acc.Errors)
			testutil.RequireMetricsEqual(t, expected, acc.GetTelegrafMetrics(),
				testutil.IgnoreTime(), testutil.IgnoreType(), testutil.SortMetrics())
		})
	}
}

func TestHardwareKinds(t *testing.T) {
	t.Setenv("HOST_PROC", "testcases/hardware/gateway/proc")
	t.Setenv("HOST_SYS", "testcases/hardware/gateway/sys")
	var acc testutil.Accumulator
	mustHardware(t, "memory", "swap", "load", "disk_io", "network", "temperature").sample(&acc, &testutil.CaptureLogger{})

	counters := map[string][]string{}
	for _, m := range acc.Metrics {
		if m.Type == telegraf.Counter {
			counters[m.Measurement] = slices.Sorted(maps.Keys(m.Fields))
		} else {
			require.Equal(t, telegraf.Gauge, m.Type, m.Measurement)
		}
	}
	require.Equal(t, map[string][]string{
		"hardware_swap": {"in", "out"},
		"hardware_disk_io": {
			"io_time", "merged_reads", "merged_writes", "read_bytes", "read_time", "reads",
			"weighted_io_time", "write_bytes", "write_time", "writes",
		},
		"hardware_network": {
			"bytes_recv", "bytes_sent", "drop_in", "drop_out", "err_in", "err_out", "packets_recv", "packets_sent",
		},
	}, counters)
}

func TestHardwareCPU(t *testing.T) {
	const idle = "cpu1 0 0 0 500 0 0 0 0 0 0\n"
	usage := func(shares map[string]float64) map[string]float64 {
		all := map[string]float64{
			"usage_user": 0, "usage_system": 0, "usage_idle": 0, "usage_nice": 0, "usage_iowait": 0, "usage_irq": 0,
			"usage_softirq": 0, "usage_steal": 0, "usage_guest": 0, "usage_guest_nice": 0,
		}
		maps.Copy(all, shares)
		return all
	}
	// The columns are user nice system idle iowait irq softirq steal guest guest_nice.
	tests := []struct {
		name          string
		before, after string
		want          map[string]map[string]float64 // by cpu
	}{
		{
			name:   "every mode, guest counted once",
			before: "cpu  100 100 100 1000 100 100 100 100 50 10\ncpu0 100 100 100 1000 100 100 100 100 50 10\n",
			after:  "cpu  300 200 150 1500 120 110 115 105 150 30\ncpu0 100 100 100 1100 100 100 100 100 50 10\n",
			want: map[string]map[string]float64{
				"cpu-total": usage(map[string]float64{
					"usage_user": 100. / 9, "usage_nice": 80. / 9, "usage_system": 50. / 9, "usage_idle": 500. / 9,
					"usage_iowait": 20. / 9, "usage_irq": 10. / 9, "usage_softirq": 15. / 9, "usage_steal": 5. / 9,
					"usage_guest": 100. / 9, "usage_guest_nice": 20. / 9,
				}),
				"cpu0": usage(map[string]float64{"usage_idle": 100}),
			},
		},
		{
			name:   "no time has passed",
			before: "cpu  1 2 3 4 5 6 7 8 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n",
			after:  "cpu  1 2 3 4 5 6 7 8 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n",
		},
		{
			name:   "a counter wraps on one core",
			before: "cpu  0 0 0 100 0 0 0 0 0 0\ncpu0 0 0 0 100 90 0 0 0 0 0\n" + idle,
			after:  "cpu  100 0 0 200 0 0 0 0 0 0\ncpu0 50 0 0 200 3 0 0 0 0 0\ncpu1 0 0 0 600 0 0 0 0 0 0\n",
			want: map[string]map[string]float64{
				"cpu-total": usage(map[string]float64{"usage_user": 50, "usage_idle": 50}),
				"cpu1":      usage(map[string]float64{"usage_idle": 100}),
			},
		},
		{
			name:   "guest ahead of user",
			before: "cpu  0 0 0 0 0 0 0 0 0 0\n" + idle,
			after:  "cpu  1 0 0 9 0 0 0 0 2 0\n" + idle,
			want: map[string]map[string]float64{
				"cpu-total": usage(map[string]float64{"usage_idle": 90, "usage_guest": 20}),
			},
		},
		{
			name:   "a core comes online",
			before: "cpu  0 0 0 0 0 0 0 0 0 0\n",
			after:  "cpu  0 0 0 9 0 0 0 0 0 0\n" + idle,
			want:   map[string]map[string]float64{"cpu-total": usage(map[string]float64{"usage_idle": 100})},
		},
		{
			name:   "no numbers",
			before: "cpu  0 0 0 0 0 0 0 0 0 0\n" + idle,
			after:  "cpu  NaN 0 0 9 0 0 0 0 0 0\ncpu1 x\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t, map[string]string{"proc/stat": tt.before + "intr 1 2 3\n"})
			hw := mustHardware(t, "cpu") // takes the baseline
			h.write("proc/stat", tt.after+"intr 4 5 6\n")

			metrics := h.sample(hw)
			require.Empty(t, h.errors())
			require.Empty(t, h.logged())
			require.ElementsMatch(t, slices.Collect(maps.Keys(tt.want)), tagValues(metrics, "cpu"))
			for _, m := range metrics {
				require.Equal(t, "hardware_cpu", m.Measurement)
				require.Equal(t, telegraf.Gauge, m.Type)
				require.InDeltaMapValues(t, tt.want[m.Tags["cpu"]], m.Fields, 1e-6, m.Tags["cpu"])
			}

			// The next interval starts from this sample, whatever became of it.
			h.write("proc/stat", "cpu  1000 0 0 10000 100 100 100 100 1000 100\n")
			h.sample(hw)
			h.write("proc/stat", "cpu  1100 0 0 10300 100 100 100 100 1000 100\n")
			metrics = h.sample(hw)
			require.Len(t, metrics, 1)
			require.InDelta(t, 25, metrics[0].Fields["usage_user"], 1e-6)
		})
	}
}

func TestHardwareDisk(t *testing.T) {
	data, elsewhere := t.TempDir(), t.TempDir()
	const filesystems = "nodev\tproc\nnodev\ttmpfs\nnodev\toverlay\nnodev\tnfs4\n\text4\n\tbtrfs\n\tsquashfs\n"
	mount := func(root, path, fstype, device string) string {
		return fmt.Sprintf("36 35 98:0 %s %s rw,noatime - %s %s rw\n", root, path, fstype, device)
	}
	tests := []struct {
		name      string
		mountinfo string
		want      []map[string]string
		err       string
	}{
		{
			name: "local file systems only",
			mountinfo: mount("/", "/proc", "proc", "proc") +
				mount("/", "/tmp", "tmpfs", "tmpfs") +
				mount("/", "/snap/core/1", "squashfs", "/dev/loop0") +
				mount("/", "/mnt/dead", "nfs4", "server:/export") +
				mount("/", "/", "ext4", "/dev/sda1") +
				mount("/", data, "btrfs", "/dev/mmcblk0p2"),
			want: []map[string]string{
				{"path": "/", "device": "sda1", "fstype": "ext4"},
				{"path": data, "device": "mmcblk0p2", "fstype": "btrfs"},
			},
		},
		{
			name: "a device once, the whole of it",
			mountinfo: mount("/", "/", "ext4", "/dev/sda1") +
				mount("/sub", elsewhere, "ext4", "/dev/sdb1") +
				mount("/", data, "ext4", "/dev/sdb1") +
				mount("/", elsewhere, "ext4", "/dev/sdb1"),
			want: []map[string]string{
				{"path": "/", "device": "sda1", "fstype": "ext4"},
				{"path": data, "device": "sdb1", "fstype": "ext4"},
			},
		},
		{
			name: "a container's root",
			mountinfo: mount("/", elsewhere, "overlay", "overlay") +
				mount("/", "/", "overlay", "overlay") +
				mount("/var/lib/x", data, "ext4", "/dev/sda1"),
			want: []map[string]string{
				{"path": data, "device": "sda1", "fstype": "ext4"},
				{"path": "/", "device": "overlay", "fstype": "overlay"},
			},
		},
		{
			name: "one mount cannot be read",
			mountinfo: mount("/", filepath.Join(data, "gone"), "ext4", "/dev/sdb1") +
				mount("/", "/", "ext4", "/dev/sda1"),
			want: []map[string]string{{"path": "/", "device": "sda1", "fstype": "ext4"}},
			err:  "hardware: reading disk: " + filepath.Join(data, "gone") + ": no such file or directory",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t, map[string]string{"proc/filesystems": filesystems, "proc/1/mountinfo": tt.mountinfo})
			hw := mustHardware(t, "disk")
			h.sample(hw)
			var tags []map[string]string
			for _, m := range h.sample(hw) {
				require.Equal(t, "hardware_disk", m.Measurement)
				require.Equal(t, telegraf.Gauge, m.Type)
				tags = append(tags, m.Tags)
				require.Equal(t, []string{
					"free", "inodes_free", "inodes_total", "inodes_used", "inodes_used_percent", "total", "used",
					"used_percent",
				}, slices.Sorted(maps.Keys(m.Fields)))
				require.Positive(t, m.Fields["total"])
			}
			require.Equal(t, tt.want, tags)
			if tt.err == "" {
				require.Empty(t, h.errors())
			} else {
				require.Equal(t, []string{tt.err}, h.errors(), "once in two samples")
			}
		})
	}
}

func TestHardwareAbsentSourceIsReportedOnce(t *testing.T) {
	// load is always there: gopsutil asks sysinfo(2) where /proc/loadavg is missing.
	for _, name := range []string{"cpu", "disk", "disk_io", "memory", "network", "swap", "temperature"} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, nil)
			hw := mustHardware(t, name, "load")
			for range 3 {
				metrics := h.sample(hw)
				require.Len(t, metrics, 1)
				require.Equal(t, "hardware_load", metrics[0].Measurement)
			}
			require.Empty(t, h.errors())
			require.Len(t, h.logged(), 1)
			require.Contains(t, h.logged()[0], "I! hardware: "+name+" is not sampled: ")

			// It is not looked at again.
			require.Len(t, hw.active, 1)
			require.Equal(t, "load", hw.active[0].name)
		})
	}
}

func TestHardwareKernelWithoutSwap(t *testing.T) {
	h := newHost(t, map[string]string{"proc/meminfo": "MemTotal: 8 kB\nSwapTotal: 0 kB\n", "proc/vmstat": "pgfault 1\n"})
	require.Empty(t, h.sample(mustHardware(t, "swap")))
	require.Empty(t, h.errors())
	require.Len(t, h.logged(), 1)
}

func TestHardwareFailureIsReportedOnChange(t *testing.T) {
	const (
		header = "Inter-| Receive | Transmit\n face |bytes | bytes\n"
		good   = header + "eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"
		bad    = header + "eth0: many\n"
		half   = good + "eth1: many\n"
		reason = `hardware: reading network: strconv.ParseUint: parsing "many": invalid syntax`
		again  = "I! hardware: reading network works again"
	)
	h := newHost(t, map[string]string{"proc/net/dev": good})
	hw := mustHardware(t, "network")
	steps := []struct {
		file    string
		metrics int
		errors  []string // so far
		logged  []string // so far
	}{
		{file: good, metrics: 1},
		{file: bad, metrics: 0, errors: []string{reason}},
		{file: bad, metrics: 0, errors: []string{reason}},
		{file: half, metrics: 1, errors: []string{reason}},
		{file: good, metrics: 1, errors: []string{reason}, logged: []string{again}},
		{file: good, metrics: 1, errors: []string{reason}, logged: []string{again}},
		{file: half, metrics: 1, errors: []string{reason, reason}, logged: []string{again}},
	}
	for i, step := range steps {
		h.write("proc/net/dev", step.file)
		require.Len(t, h.sample(hw), step.metrics, "step %d", i)
		require.Equal(t, step.errors, h.errors(), "step %d", i)
		require.Equal(t, step.logged, h.logged(), "step %d", i)
	}

	// What was there and is gone has failed: it may come back.
	h = newHost(t, map[string]string{"proc/net/dev": good})
	hw = mustHardware(t, "network")
	require.Len(t, h.sample(hw), 1)
	require.NoError(t, os.Remove(filepath.Join(h.dir, "proc/net/dev")))
	require.Empty(t, h.sample(hw))
	require.Len(t, h.errors(), 1)
	h.write("proc/net/dev", good)
	require.Len(t, h.sample(hw), 1)
	require.Equal(t, []string{again}, h.logged())
}

func TestHardwareSomeSensorsFail(t *testing.T) {
	h := newHost(t, map[string]string{
		"sys/class/hwmon/hwmon0/name":        "iwlwifi_1\n",
		"sys/class/hwmon/hwmon0/temp1_input": "off\n",
		"sys/class/hwmon/hwmon1/temp1_input": "20000\n", // of a sensor without a name
		"sys/class/hwmon/hwmon2/name":        "k10temp\n",
		"sys/class/hwmon/hwmon2/temp1_input": "40000\n",
		"sys/class/hwmon/hwmon2/temp2_input": "NaN\n",
		"sys/class/hwmon/hwmon2/temp3_input": "41000\n",
	})
	hw := mustHardware(t, "temperature")
	for range 2 {
		require.Equal(t, []string{"k10temp", "k10temp_3"}, tagValues(h.sample(hw), "sensor"))
	}
	require.Equal(t, []string{
		`hardware: reading temperature: 2 sensors cannot be read, the first because of: ` +
			`strconv.ParseFloat: parsing "off": invalid syntax`,
	}, h.errors())
	require.Empty(t, h.logged())
}

func TestHardwareNoSensorWorksYet(t *testing.T) {
	h := newHost(t, map[string]string{"sys/class/hwmon/hwmon0/temp1_input": "20000\n"})
	hw := mustHardware(t, "temperature")
	require.Empty(t, h.sample(hw))
	require.Len(t, h.errors(), 1, "a sensor that fails is not absent")

	h.write("sys/class/hwmon/hwmon0/name", "late\n")
	require.Equal(t, []string{"late"}, tagValues(h.sample(hw), "sensor"))
	require.Equal(t, []string{"I! hardware: reading temperature works again"}, h.logged())
}

func TestHardwareGarbage(t *testing.T) {
	tests := []struct {
		source, file, text string
		err                string
		fields             []string // of the one metric that is still given
	}{
		{source: "load", file: "proc/loadavg", text: "", err: "index out of range"},
		{source: "load", file: "proc/loadavg", text: "NaN 1 Inf 1/2 3\n", fields: []string{"load5"}},
		{source: "memory", file: "proc/meminfo", text: "", err: "the total is missing"},
		{source: "memory", file: "proc/meminfo", text: "\x00\xff::\n\n", err: "the total is missing"},
		{source: "memory", file: "proc/meminfo", text: "MemTotal: much kB\n", err: "invalid syntax"},
		{source: "swap", file: "proc/meminfo", text: "SwapTotal: -1 kB\n", err: "invalid syntax"},
		{source: "network", file: "proc/net/dev", text: "", err: "a kernel file is not as expected"},
		{source: "network", file: "proc/net/dev", text: "\n\neth0: 1 2\n", err: "index out of range"},
		{source: "disk_io", file: "proc/diskstats", text: "8 0 sda 1 2 3 4 5 6 7 8 9 -10 11\n", err: "invalid syntax"},
		{source: "disk", file: "proc/1/mountinfo", text: "x\n", err: "invalid mountinfo line"},
		{source: "disk", file: "proc/1/mountinfo", text: "x - y\n", err: "index out of range"},
		{source: "temperature", file: "sys/class/hwmon/hwmon0/temp1_input", text: "warm", err: "invalid syntax"},
		{source: "temperature", file: "sys/class/hwmon/hwmon0/temp1_input", text: "Inf"},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s %q", tt.source, tt.text), func(t *testing.T) {
			h := newHost(t, map[string]string{
				"proc/filesystems":            "\text4\n",
				"proc/vmstat":                 "pswpin 1\n",
				"sys/class/hwmon/hwmon0/name": "cpu\n",
				tt.file:                       tt.text,
			})
			hw := mustHardware(t, tt.source)
			for range 2 {
				metrics := h.sample(hw)
				if tt.fields == nil {
					require.Empty(t, metrics)
				} else {
					require.Len(t, metrics, 1)
					require.Equal(t, tt.fields, slices.Sorted(maps.Keys(metrics[0].Fields)))
				}
			}
			if tt.err == "" {
				require.Empty(t, h.errors())
			} else {
				require.Len(t, h.errors(), 1)
				require.True(t, strings.HasPrefix(h.errors()[0], "hardware: reading "+tt.source+": "), h.errors()[0])
				require.Contains(t, h.errors()[0], tt.err)
			}
			require.Empty(t, h.logged())
		})
	}
}

// preciseAccumulator notes the precision that was asked for.
type preciseAccumulator struct {
	testutil.Accumulator
	precision time.Duration
}

func (a *preciseAccumulator) SetPrecision(d time.Duration) { a.precision = d }

// TestHardwareThisHost samples the machine that the test runs on.
func TestHardwareThisHost(t *testing.T) {
	t.Setenv("HOST_PROC", "")
	t.Setenv("HOST_SYS", "")
	var acc preciseAccumulator
	hw := mustHardware(t, slices.Sorted(maps.Keys(sources))...)

	start := time.Now()
	hw.sample(&acc, &testutil.CaptureLogger{})
	hw.sample(&acc, &testutil.CaptureLogger{})
	end := time.Now()

	require.Empty(t, acc.Errors)
	require.Equal(t, time.Nanosecond, acc.precision)
	for _, name := range []string{"hardware_memory", "hardware_load", "hardware_network"} {
		require.True(t, acc.HasMeasurement(name), name)
	}
	for _, m := range acc.Metrics {
		require.False(t, m.Time.Before(start) || m.Time.After(end), m.Measurement)
		for field, value := range m.Fields {
			name := m.Measurement + " " + field
			if f, ok := value.(float64); ok {
				require.False(t, math.IsNaN(f) || math.IsInf(f, 0), name)
				if strings.Contains(field, "percent") || strings.HasPrefix(field, "usage_") {
					require.GreaterOrEqual(t, f, 0., name)
					require.LessOrEqual(t, f, 100+1e-6, name)
				}
			} else {
				require.IsType(t, uint64(0), value, name)
			}
		}
	}
}

func BenchmarkHardwareSample(b *testing.B) {
	hw := mustHardware(b, slices.Sorted(maps.Keys(sources))...)
	acc := &testutil.Accumulator{Discard: true}
	log := &testutil.CaptureLogger{}
	hw.sample(acc, log) // leaves out what this host does not have
	b.ReportAllocs()
	for b.Loop() {
		hw.sample(acc, log)
	}
}

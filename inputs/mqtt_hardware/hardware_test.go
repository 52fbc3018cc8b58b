package mqtt_hardware

import (
	"context"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shirou/gopsutil/v4/disk"
	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/config"
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
	hw, err := newHardware(names, HardwareOptions{})
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
				`battery, cpu, disk, disk_io, fan, load, memory, network, power, pressure, swap, temperature, ` +
				`throttling, uptime, voltage`,
		},
		{
			name:    "twice",
			sources: []string{"cpu", "load", "cpu"},
			err:     `hardware: source "cpu" is listed twice: list it once`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := newHardware(tt.sources, HardwareOptions{})
			if tt.err == "" {
				require.NoError(t, err)
			} else {
				require.EqualError(t, err, tt.err)
			}
		})
	}
}

func TestHardwareKinds(t *testing.T) {
	newMachine(t, "testcases_machines/laptop")
	var acc testutil.Accumulator
	mustHardware(t, "memory", "swap", "load", "disk_io", "network", "temperature", "battery", "pressure", "throttling").
		sample(&acc, &testutil.CaptureLogger{})

	counters := map[string][]string{}
	for _, m := range acc.Metrics {
		if m.Type == telegraf.Counter {
			counters[m.Measurement] = slices.Sorted(maps.Keys(m.Fields))
		} else {
			require.Equal(t, telegraf.Gauge, m.Type, m.Measurement)
		}
	}
	require.Equal(t, map[string][]string{
		"hardware_swap":       {"in", "out"},
		"hardware_pressure":   {"full_total", "some_total"},
		"hardware_throttling": {"core_throttles", "package_throttles"},
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
			"usage_user": 0, "usage_system": 0, "usage_idle": 0, "usage_active": 0, "usage_nice": 0, "usage_iowait": 0, "usage_irq": 0,
			"usage_softirq": 0, "usage_steal": 0, "usage_guest": 0, "usage_guest_nice": 0,
		}
		maps.Copy(all, shares)
		all["usage_active"] = 100 - all["usage_idle"]
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
				if m.Tags["cpu"] == cpuTotal {
					require.EqualValues(t, strings.Count(tt.after, "cpu")-1, m.Fields["count"])
					delete(m.Fields, "count")
				}
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
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		if name == "load" {
			continue
		}
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
		`hardware: reading temperature: 3 cannot be read, the first because of: ` +
			h.dir + `/sys/class/hwmon/hwmon0/temp1_input: "off" is no number`,
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
		{source: "temperature", file: "sys/class/hwmon/hwmon0/temp1_input", text: "warm", err: "is no number"},
		{source: "temperature", file: "sys/class/hwmon/hwmon0/temp1_input", text: "Inf", err: "is no number"},
		{source: "temperature", file: "sys/class/hwmon/hwmon0/temp1_input", text: "", err: "is no number"},
		{source: "uptime", file: "proc/uptime", text: "", err: "is no number"},
		{source: "pressure", file: "proc/pressure/cpu", text: "\n", err: "no pressure"},
		{source: "battery", file: "sys/class/power_supply/BAT0/capacity", text: "much", err: "is no number"},
		{source: "throttling", file: "sys/devices/platform/soc/soc:firmware/get_throttled", text: "x", err: "hexadecimal"},
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

func TestHardwareOptions(t *testing.T) {
	for _, tt := range []struct {
		options HardwareOptions
		err     string
	}{
		{HardwareOptions{Layout: "tall"}, `layout = "tall": must be "split" or "wide"`},
		{
			HardwareOptions{BurstInterval: config.Duration(time.Millisecond)},
			`burst_interval = "1ms": must be 0s, which turns it off, or 100ms or longer`,
		},
		{HardwareOptions{BurstInterval: -1}, `burst_interval = "-1ns"`},
		{HardwareOptions{HardwareMountsExclude: []string{"/[", "/a*"}}, `hardware_mounts_exclude = ["/[" "/a*"]`},
	} {
		_, err := newHardware([]string{"cpu"}, tt.options)
		require.ErrorContains(t, err, tt.err)
	}
}

func TestHardwareOptionsInConfiguration(t *testing.T) {
	c := config.NewConfig()
	require.NoError(t, c.LoadConfigData([]byte(`
		[[inputs.mqtt_hardware]]
		hardware = ["cpu"]
		layout = "wide"
		burst_interval = "1s"
		hardware_devices = ["eth*"]
		hardware_mounts_exclude = ["/boot*"]
		hardware_sensors = ["coretemp*"]
	`), "test.conf"))
	p, ok := c.Inputs[0].Input.(*MQTTHardware)
	require.True(t, ok)
	require.Equal(t, HardwareOptions{
		Layout:                layoutWide,
		BurstInterval:         config.Duration(time.Second),
		HardwareDevices:       []string{"eth*"},
		HardwareMountsExclude: []string{"/boot*"},
		HardwareSensors:       []string{"coretemp*"},
	}, p.HardwareOptions)
}

func TestHardwareFilters(t *testing.T) {
	m := newMachine(t, "testcases_machines/laptop")
	names := func(options HardwareOptions, kinds ...string) []string {
		s, err := newScope(options)
		require.NoError(t, err)
		s.usage = m.scope().usage
		hw, err := newHardwareIn(s, kinds, options)
		require.NoError(t, err)
		m.change()
		var acc testutil.Accumulator
		hw.sample(&acc, &testutil.CaptureLogger{})
		require.Empty(t, acc.Errors)
		var got []string
		for _, metric := range acc.Metrics {
			for _, tag := range []string{"cpu", "name", "interface", "path", "battery", "sensor"} {
				if v := metric.Tags[tag]; v != "" && !slices.Contains(got, v) {
					got = append(got, v)
				}
			}
		}
		return got
	}
	require.Equal(t, []string{"wlp0s20f3", "nvme0n1", "BAT0"},
		names(HardwareOptions{HardwareDevices: []string{"wl*", "nvme*", "BAT0"}}, "network", "disk_io", "battery", "throttling"))
	require.Equal(t, []string{"/boot/efi"}, names(HardwareOptions{HardwareMountsExclude: []string{"/"}}, "disk"))
	require.Equal(t, []string{"thinkpad_fan1", "acpitz", "x86_pkg_temp", "TSKN"}, names(HardwareOptions{
		HardwareSensors:        []string{"*fan1", "acpitz", "x86*", "TSK?", "core*"},
		HardwareSensorsExclude: []string{"coretemp_*"},
	}, "fan", "temperature"))
	m.copy(m.dir)
	require.Equal(t, []string{"cpu-total"}, names(HardwareOptions{HardwareDevicesExclude: []string{"cpu*"}}, "cpu"))
}

// What is left out is not read: a read may hang, or wake a disk.
func TestHardwareFiltersBeforeReading(t *testing.T) {
	newMachine(t, "testcases_machines/laptop")
	s, err := newScope(HardwareOptions{HardwareMountsExclude: []string{"/boot*"}})
	require.NoError(t, err)
	var asked []string
	s.usage = func(_ context.Context, path string) (*disk.UsageStat, error) {
		asked = append(asked, path)
		return &disk.UsageStat{Total: 1}, nil
	}
	_, err = diskSource(s)(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"/"}, asked)
}

func TestHardwareKeepsNames(t *testing.T) {
	drive := func(n string) map[string]string {
		return map[string]string{"sys/class/hwmon/" + n + "/name": "nvme", "sys/class/hwmon/" + n + "/temp1_input": "1000"}
	}
	files := drive("hwmon1")
	maps.Copy(files, drive("hwmon2"))
	maps.Copy(files, drive("hwmon3"))
	h := newHost(t, files)
	hw := mustHardware(t, "temperature")
	require.Equal(t, []string{"nvme", "nvme_2", "nvme_3"}, tagValues(h.sample(hw), "sensor"))
	require.NoError(t, os.RemoveAll(filepath.Join(h.dir, "sys/class/hwmon/hwmon1")))
	require.Equal(t, []string{"nvme_2", "nvme_3"}, tagValues(h.sample(hw), "sensor"))
	require.Equal(t, []string{"I! hardware: temperature: nvme is gone"}, h.logged())
	h.write("sys/class/hwmon/hwmon4/name", "nvme")
	h.write("sys/class/hwmon/hwmon4/temp1_input", "1000")
	require.Equal(t, []string{"nvme_2", "nvme_3", "nvme"}, tagValues(h.sample(hw), "sensor"))
	require.Len(t, h.logged(), 1)
	require.Empty(t, h.errors())
}

func TestHardwareWideContinues(t *testing.T) {
	var acc testutil.Accumulator
	now := time.Now()
	w := wideEvent{acc: &acc, time: now}
	for i := range 400 {
		w.add("network", reading{label: "interface", name: fmt.Sprintf("eth%d", i), counters: map[string]any{
			"a": uint64(1), "b": uint64(2), "c": uint64(3),
		}})
	}
	w.add("battery", reading{label: "battery", name: "BAT0", about: map[string]string{"type": "Battery"}})
	w.close()
	require.Len(t, acc.Metrics, 2)
	require.Len(t, acc.Metrics[0].Fields, 900)
	require.Len(t, acc.Metrics[1].Fields, 300)
	for _, m := range acc.Metrics {
		require.Equal(t, "hardware", m.Measurement)
		require.Equal(t, now, m.Time)
		require.Empty(t, m.Tags)
	}
}

func TestHardwareThrottlingUpstreamDriver(t *testing.T) {
	h := newHost(t, map[string]string{
		"sys/class/hwmon/hwmon0/name":            "cpu_thermal",
		"sys/class/hwmon/hwmon1/name":            "rpi_volt",
		"sys/class/hwmon/hwmon1/in0_lcrit_alarm": "1",
	})
	metrics := h.sample(mustHardware(t, "throttling"))
	require.Len(t, metrics, 1)
	require.Equal(t, map[string]any{"under_voltage": uint64(1)}, metrics[0].Fields)
}

// The mean of equal values is that value, whatever their sum rounds to.
func TestHardwareBurstMeanStaysWithin(t *testing.T) {
	const steady = 39.05
	k := &peak{min: steady, max: steady, last: steady}
	for range 10 {
		k.sum += steady
		k.count++
	}
	require.NotEqual(t, steady, k.sum/float64(k.count), "or this shows nothing")
	readings := peaks{"temperature": {"chip": k}}.addTo("temperature", nil)
	require.Equal(t, steady, readings[0].gauges["temp_mean"]) //nolint:testifylint // exactly
}

func TestHardwareBurst(t *testing.T) {
	h := newHost(t, map[string]string{
		"proc/stat":                            "cpu  0 0 0 0 0 0 0 0 0 0\n",
		"proc/meminfo":                         "MemTotal: 100 kB\nMemAvailable: 50 kB\n",
		"sys/class/hwmon/hwmon0/name":          "chip",
		"sys/class/hwmon/hwmon0/temp1_input":   "40000",
		"sys/class/powercap/rapl:0/name":       "package-0",
		"sys/class/powercap/rapl:0/energy_uj":  "0",
		"sys/class/thermal/thermal_zone0/type": "zone",
		"sys/class/thermal/thermal_zone0/temp": "30000",
		"sys/class/hwmon/hwmon0/in0_input":     "1000",
	})
	fields := func(metrics []*testutil.Metric, name string) map[string]any {
		all := map[string]any{}
		for _, m := range metrics {
			if m.Measurement == name && m.Tags["sensor"] != "zone" {
				maps.Copy(all, m.Fields)
			}
		}
		return all
	}
	synctest.Test(t, func(t *testing.T) {
		p := New()
		p.Topics = nil
		p.Hardware = []string{"cpu", "memory", "power", "temperature", "voltage"}
		p.BurstInterval = config.Duration(time.Second)
		p.Log = &h.log
		require.NoError(t, p.Init())
		require.NoError(t, p.Start(&h.acc))
		defer p.Stop()
		<-time.After(500 * time.Millisecond)
		gather := func() []*testutil.Metric {
			h.acc.ClearMetrics()
			require.NoError(t, p.Gather(&h.acc))
			require.Empty(t, h.acc.Errors)
			return h.acc.Metrics
		}
		require.NotContains(t, fields(gather(), "hardware_temperature"), "temp_min", "nothing read yet")

		// In the three seconds: 40, 70 and 55 degrees; 10, 90 and 50 % of cpu; 5, 20 and 2 W.
		second := func(temp, active, idle, joules, available int) {
			h.write("sys/class/hwmon/hwmon0/temp1_input", fmt.Sprint(temp*1000))
			h.write("proc/stat", fmt.Sprintf("cpu  %d 0 0 %d 0 0 0 0 0 0\n", active, idle))
			h.write("sys/class/powercap/rapl:0/energy_uj", fmt.Sprint(joules*1_000_000))
			h.write("proc/meminfo", fmt.Sprintf("MemTotal: 100 kB\nMemAvailable: %d kB\n", available))
			<-time.After(time.Second)
			synctest.Wait()
		}
		second(40, 10, 90, 5, 50)
		second(70, 100, 100, 25, 10)
		second(55, 150, 150, 27, 40)
		metrics := gather()
		near := func(want map[string]any, measurement string) {
			got := fields(metrics, measurement)
			for field, value := range want {
				require.InDelta(t, value, got[field], 1e-6, measurement+" "+field)
			}
		}
		near(map[string]any{"temp": 55, "temp_min": 40, "temp_max": 70, "temp_mean": 55, "temp_last": 55}, "hardware_temperature")
		near(map[string]any{
			"usage_active": 50, "usage_active_min": 10, "usage_active_max": 90, "usage_active_mean": 50, "usage_active_last": 50,
		}, "hardware_cpu")
		near(map[string]any{"watts_min": 2, "watts_max": 20, "watts_mean": 9, "watts_last": 2, "watts": 9}, "hardware_power")
		near(map[string]any{"used_percent": 60, "used_percent_min": 50, "used_percent_max": 90}, "hardware_memory")
		require.Equal(t, map[string]any{"volts": 1.}, fields(metrics, "hardware_voltage"))

		// A new interval begins, and the peaks of a sensor that is gone meanwhile are still given.
		second(60, 150, 250, 28, 40)
		require.NoError(t, os.Remove(filepath.Join(h.dir, "sys/class/hwmon/hwmon0/temp1_input")))
		metrics = gather()
		require.Equal(t, map[string]any{"temp_min": 60., "temp_max": 60., "temp_mean": 60., "temp_last": 60.},
			fields(metrics, "hardware_temperature"))

		p.Stop()
		p.Stop()
		<-time.After(time.Minute) // and nothing is left to run
		require.NotContains(t, fields(gather(), "hardware_memory"), "used_percent_min")
	})
}

package mqtt_hardware

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/shirou/gopsutil/v4/disk"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/filter"
)

// What leaves, by source. Field names are those of Telegraf's stock inputs cpu, mem, swap, system, disk, diskio, net
// and temp where these have such a field; the others name their unit. The measurement is hardware_ and the source's
// name. A metric has one kind, so a source with gauges and counters gives two metrics with the same name, tags and time.
//
//	source       tags                 fields                                         kind     type     unit
//	-----------  -------------------  ---------------------------------------------  -------  -------  ---------------
//	cpu          cpu: cpu-total,      usage_user, _system, _idle, _nice, _iowait,    gauge    float64  percent of that
//	             cpu0, cpu1, …        _irq, _softirq, _steal, _guest, _guest_nice,                     cpu's time since
//	                                  _active (all but idle)                                           the last sample
//	                                  frequency_mhz (cpu-total: the mean)            gauge    float64  megahertz
//	             cpu-total alone      count                                          gauge    uint64   cpus online
//	memory       –                    used_percent, available_percent                gauge    float64  percent of total
//	                                  huge_pages_total, huge_pages_free              gauge    uint64   pages
//	                                  all others                                     gauge    uint64   bytes
//	swap         –                    used_percent                                   gauge    float64  percent of total
//	                                  total, used, free                              gauge    uint64   bytes
//	                                  in, out                                        counter  uint64   bytes
//	load         –                    load1, load5, load15                           gauge    float64  runnable tasks
//	uptime       –                    seconds                                        gauge    float64  seconds
//	pressure     resource: cpu,       some_avg10, _avg60, _avg300, full_avg10, …     gauge    float64  percent of time
//	             memory, io, irq      some_total, full_total                         counter  uint64   microseconds
//	disk         path, device,        used_percent, inodes_used_percent              gauge    float64  percent
//	             fstype               total, used, free (to ordinary users)          gauge    uint64   bytes
//	                                  inodes_total, inodes_used, inodes_free         gauge    uint64   inodes
//	disk_io      name                 reads, writes, merged_reads, merged_writes     counter  uint64   operations
//	                                  read_bytes, write_bytes                        counter  uint64   bytes
//	                                  read_time, write_time, io_time,                counter  uint64   milliseconds
//	                                  weighted_io_time
//	                                  iops_in_progress                               gauge    uint64   operations
//	network      interface            bytes_sent, bytes_recv                         counter  uint64   bytes
//	                                  packets_sent, packets_recv, err_in, err_out,   counter  uint64   packets
//	                                  drop_in, drop_out
//	                                  speed (of the link, where it is known)         gauge    uint64   megabits/second
//	temperature  sensor, device       temp; high, critical where there is a limit    gauge    float64  degrees Celsius
//	fan          sensor, device       rpm; low                                       gauge    float64  rotations/minute
//	voltage      sensor, device       volts; low, high, critical                     gauge    float64  volts
//	power        sensor, device       watts; high, critical. RAPL: the mean since    gauge    float64  watts
//	                                  the last sample
//	battery      battery, type        percent                                        gauge    float64  percent of full
//	                                  volts, amps, watts                             gauge    float64  as named
//	                                  energy_wh, energy_full_wh,                     gauge    float64  watt-hours
//	                                  energy_full_design_wh
//	                                  charge_ah, charge_full_ah,                     gauge    float64  ampere-hours
//	                                  charge_full_design_ah
//	                                  temp                                           gauge    float64  degrees Celsius
//	                                  time_to_empty, time_to_full                    gauge    float64  seconds
//	                                  cycles                                         gauge    float64  charge cycles
//	                                  online                                         gauge    float64  0 or 1
//	                                  status, health                                 gauge    string   the kernel's word
//	throttling   – (Raspberry Pi)     under_voltage, frequency_capped, throttled,    gauge    uint64   0 or 1
//	                                  soft_temperature_limit; each with _occurred:
//	                                  since boot
//	             cpu                  core_throttles, package_throttles              counter  uint64   times
//
// With burst_interval there are also, as gauges over the interval, _min, _max, _mean and _last of the fields in
// burstFields.
//
// The roots are HOST_PROC and HOST_SYS, as gopsutil names them, instead of /proc and /sys where these environment
// variables are set, as in a container that shows the host's own.
var sources = map[string]func(*scope) source{
	"battery":     batterySource,
	"cpu":         cpuSource,
	"disk":        diskSource,
	"disk_io":     diskIOSource,
	"fan":         fanSource,
	"load":        stateless(readLoad),
	"memory":      stateless(readMemory),
	"network":     networkSource,
	"power":       powerSource,
	"pressure":    stateless(readPressure),
	"swap":        stateless(readSwap),
	"temperature": temperatureSource,
	"throttling":  throttlingSource,
	"uptime":      stateless(readUptime),
	"voltage":     voltageSource,
}

// source reads one kind of hardware now. It may return an error together with the readings that did succeed, and
// returns errNone when it looked in the right place and this host has nothing there.
type source func(context.Context) ([]reading, error)

// reading is what a source found about one device. label and name are the tag that tells the device from the others of
// its kind, and empty where there is only one; about says more of it.
type reading struct {
	label, name string
	about       map[string]string
	gauges      map[string]any
	counters    map[string]any
}

func (r reading) tags() map[string]string {
	tags := map[string]string{}
	maps.Copy(tags, r.about)
	if r.label != "" {
		tags[r.label] = r.name
	}
	return tags
}

var errNone = errors.New("this host has none")

func stateless(s source) func(*scope) source { return func(*scope) source { return s } }

// HardwareOptions say how what hardware lists is sampled.
type HardwareOptions struct {
	Layout                 string          `toml:"layout"`
	BurstInterval          config.Duration `toml:"burst_interval"`
	HardwareDevices        []string        `toml:"hardware_devices"`
	HardwareDevicesExclude []string        `toml:"hardware_devices_exclude"`
	HardwareMounts         []string        `toml:"hardware_mounts"`
	HardwareMountsExclude  []string        `toml:"hardware_mounts_exclude"`
	HardwareSensors        []string        `toml:"hardware_sensors"`
	HardwareSensorsExclude []string        `toml:"hardware_sensors_exclude"`
}

// Values of layout; empty is split.
const (
	layoutSplit = "split"
	layoutWide  = "wide"
)

// scope is what the sources look at. What it leaves out is not read at all: a mount that hangs or a disk that a read
// would spin up can be excluded.
type scope struct {
	devices filter.Filter // cores, disks of disk_io, interfaces, batteries
	mounts  filter.Filter
	sensors filter.Filter
	usage   func(context.Context, string) (*disk.UsageStat, error)
	burst   bool // reads for the burst sampler, which takes burstFields alone
}

func newScope(o HardwareOptions) (*scope, error) {
	s := &scope{usage: disk.UsageWithContext}
	for _, f := range []struct {
		key              string
		into             *filter.Filter
		include, exclude []string
	}{
		{"hardware_devices", &s.devices, o.HardwareDevices, o.HardwareDevicesExclude},
		{"hardware_mounts", &s.mounts, o.HardwareMounts, o.HardwareMountsExclude},
		{"hardware_sensors", &s.sensors, o.HardwareSensors, o.HardwareSensorsExclude},
	} {
		var err error
		if *f.into, err = filter.NewIncludeExcludeFilter(f.include, f.exclude); err != nil {
			return nil, fmt.Errorf("%s = %q, %s_exclude = %q: %w; must be globs such as \"nvme*\" or \"cpu[0-9]*\"",
				f.key, f.include, f.key, f.exclude, err)
		}
	}
	return s, nil
}

// hardware samples the sources it was made for. It keeps no file open, and its one goroutine is the burst sampler's.
// sample must not be called concurrently with itself.
//
// A source that this host does not have is logged once and not read again until the next start. Any other failure is
// reported when it begins and when it ends, and whatever could be read meanwhile is still sampled. So is a sensor or a
// battery that is there no longer.
type hardware struct {
	active []*sampled
	wide   bool
	burst  *burst // nil without burst_interval
}

type sampled struct {
	name    string
	read    source
	worked  bool // has given something, so it is there: a failure is no absence
	failing bool // reported, so it is not reported again
	known   map[string]bool
}

// newHardware checks the names of the sources and the options, and takes the baseline of those sources that report a
// change since the last sample, so that already the first sample has a value for them.
func newHardware(names []string, o HardwareOptions) (*hardware, error) {
	s, err := newScope(o)
	if err != nil {
		return nil, err
	}
	return newHardwareIn(s, names, o)
}

func newHardwareIn(scope *scope, names []string, o HardwareOptions) (*hardware, error) {
	if o.Layout != "" && o.Layout != layoutSplit && o.Layout != layoutWide {
		return nil, fmt.Errorf("layout = %q: must be %q or %q", o.Layout, layoutSplit, layoutWide)
	}
	if d := time.Duration(o.BurstInterval); d != 0 && d < leastCPUSpan {
		return nil, fmt.Errorf("burst_interval = %q: must be 0s, which turns it off, or %s or longer", d, leastCPUSpan)
	}
	h := &hardware{wide: o.Layout == layoutWide}
	for i, name := range names {
		start, known := sources[name]
		if !known {
			return nil, fmt.Errorf("hardware: unknown source %q: known are %s",
				name, strings.Join(slices.Sorted(maps.Keys(sources)), ", "))
		}
		if slices.Contains(names[:i], name) {
			return nil, fmt.Errorf("hardware: source %q is listed twice: list it once", name)
		}
		h.active = append(h.active, &sampled{name: name, read: start(scope), known: map[string]bool{}})
	}
	if o.BurstInterval != 0 {
		h.burst = newBurst(scope, names, time.Duration(o.BurstInterval))
	}
	return h, nil
}

// sample reads each source once, in the order they were listed; all that it gives has the time at which it began. A
// read that hangs in the kernel holds it up.
func (h *hardware) sample(acc telegraf.Accumulator, log telegraf.Logger) {
	acc.SetPrecision(time.Nanosecond) // Gather's accumulator rounds to the interval's unit, explicit times too

	now := time.Now()
	event := wideEvent{acc: acc, time: now}
	peaks := h.burst.take()
	present := make([]*sampled, 0, len(h.active))
	for _, s := range h.active {
		readings, stays := s.sample(acc, log)
		if stays {
			present = append(present, s)
		}
		for _, r := range peaks.addTo(s.name, readings) {
			dropNonFinite(r.gauges)
			if h.wide {
				event.add(s.name, r)
				continue
			}
			if len(r.gauges) > 0 {
				acc.AddGauge("hardware_"+s.name, r.gauges, r.tags(), now)
			}
			if len(r.counters) > 0 {
				acc.AddCounter("hardware_"+s.name, r.counters, r.tags(), now)
			}
		}
	}
	event.close()
	h.active = present
}

// wideEvent gathers a sample into one event: the metric hardware without tags, and each field's name led by its source
// and device, as in network.eth0.bytes_recv. A sample with more fields than a row may have continues in a further event.
type wideEvent struct {
	acc    telegraf.Accumulator
	time   time.Time
	fields map[string]any
}

func (w *wideEvent) add(kind string, r reading) {
	if len(r.gauges)+len(r.counters) == 0 {
		return
	}
	if len(w.fields)+len(r.gauges)+len(r.counters)+len(r.about) > maxFields {
		w.close()
	}
	if w.fields == nil {
		w.fields = map[string]any{}
	}
	prefix := kind + "."
	if r.name != "" && r.name != cpuTotal {
		prefix += r.name + "."
	}
	for name, value := range r.about {
		w.fields[prefix+name] = value
	}
	for name, value := range r.gauges {
		w.fields[prefix+name] = value
	}
	for name, value := range r.counters {
		w.fields[prefix+name] = value
	}
}

func (w *wideEvent) close() {
	if len(w.fields) > 0 {
		w.acc.AddFields("hardware", w.fields, nil, w.time)
	}
	w.fields = nil
}

// sample reports also whether the source is to be read again.
func (s *sampled) sample(acc telegraf.Accumulator, log telegraf.Logger) (readings []reading, stays bool) {
	readings, err := guarded(context.Background(), s.read)
	if !s.worked && len(readings) == 0 && isAbsence(err) {
		log.Infof("hardware: %s is not sampled: %v", s.name, err)
		return nil, false
	}
	s.worked = s.worked || err == nil || len(readings) > 0
	if err != nil && !s.failing {
		acc.AddError(fmt.Errorf("hardware: reading %s: %w", s.name, err))
	}
	if err == nil && s.failing {
		log.Infof("hardware: reading %s works again", s.name)
	}
	s.failing = err != nil
	s.miss(readings, err, log)
	return readings, true
}

// miss logs what was there and has gone without an error. Interfaces and mounts come and go as a matter of course.
func (s *sampled) miss(readings []reading, err error, log telegraf.Logger) {
	now := map[string]bool{}
	for _, r := range readings {
		if r.label == "sensor" || r.label == "battery" {
			now[r.name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.known)) {
		switch {
		case now[name]:
		case err != nil:
			now[name] = true // perhaps it is what failed, and was reported
		default:
			log.Infof("hardware: %s: %s is gone", s.name, name)
		}
	}
	s.known = now
}

// guarded makes an error of a panic: gopsutil takes the shape of kernel files for granted (an empty /proc/loadavg is
// an index out of range), and a panic in Gather ends Telegraf.
func guarded(ctx context.Context, read source) (readings []reading, err error) {
	defer func() {
		if p := recover(); p != nil {
			readings, err = nil, fmt.Errorf("a kernel file is not as expected: %v", p)
		}
	}()
	return read(ctx)
}

func isAbsence(err error) bool {
	return errors.Is(err, errNone) || errors.Is(err, fs.ErrNotExist) ||
		// gopsutil's error for a platform it cannot read this on is internal to it.
		err != nil && strings.Contains(err.Error(), "not implemented yet")
}

// found is a source's result: the readings, and the first of the failures that left others out. It is errNone when
// there was neither.
func found(readings []reading, failures []error) ([]reading, error) {
	switch {
	case len(failures) == 1:
		return readings, failed{failures[0]}
	case len(failures) > 1:
		return readings, failed{fmt.Errorf("%d cannot be read, the first because of: %w", len(failures), failures[0])}
	case len(readings) == 0:
		return nil, errNone
	}
	return readings, nil
}

// failed hides from isAbsence what it wraps: a missing file of one device does not mean that there are no devices.
type failed struct{ err error }

func (f failed) Error() string { return f.err.Error() }

// dropNonFinite removes what no receiver can store.
func dropNonFinite(fields map[string]any) {
	maps.DeleteFunc(fields, func(_ string, v any) bool {
		f, ok := v.(float64)
		return ok && (math.IsNaN(f) || math.IsInf(f, 0))
	})
}

func percent(part, whole uint64) float64 {
	if whole == 0 {
		return 0
	}
	return 100 * float64(part) / float64(whole)
}

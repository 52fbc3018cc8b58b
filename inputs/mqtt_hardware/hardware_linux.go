package mqtt_hardware

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
	"github.com/prometheus/procfs/sysfs"
)

// What gopsutil does not read, or not enough of: gopsutil knows no fans, voltages or power, and leaves out the thermal
// zones once there is one hwmon chip. prometheus/procfs reads pressure and throttle counts. Its readers of thermal
// zones, RAPL, batteries and frequencies are not used: one file of garbage costs them all devices, and they read
// several times the files that are needed. These files hold one number or one word each.

func rootDir(variable, otherwise string) string {
	if dir := os.Getenv(variable); dir != "" {
		return dir
	}
	return otherwise
}

func sysPath(elements ...string) string {
	return filepath.Join(append([]string{rootDir("HOST_SYS", "/sys")}, elements...)...)
}

// attribute reads a file of sysfs. There is none, without an error, also where the driver says that it has no value.
func attribute(elements ...string) (text string, ok bool, err error) {
	path := filepath.Join(elements...)
	text, err = readSmall(path)
	if err == nil {
		return strings.TrimSpace(text), true, nil
	}
	for _, absence := range []error{
		fs.ErrNotExist, syscall.ENODATA, syscall.ENODEV, syscall.ENXIO, syscall.EINVAL, syscall.EOPNOTSUPP,
	} {
		if errors.Is(err, absence) {
			return "", false, nil
		}
	}
	return "", false, fmt.Errorf("%s: %w", path, err)
}

// readSmall makes three system calls of os.ReadFile's seven, which most of a sample's time would go to: it registers
// files of sysfs for polling, asks for their size, which is not theirs, and reads until the end. A value comes whole.
func readSmall(path string) (string, error) {
	again := func(call func() (int, error)) (n int, err error) {
		for n, err = call(); errors.Is(err, syscall.EINTR); n, err = call() {
		}
		return n, err
	}
	file, err := again(func() (int, error) { return syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0) })
	if err != nil {
		return "", err
	}
	defer func() { _ = syscall.Close(file) }() // nothing was written
	var value [256]byte
	n, err := again(func() (int, error) { return syscall.Read(file, value[:]) })
	if err != nil {
		return "", err
	}
	return string(value[:n]), nil
}

// quantity reads an attribute that is an integer, and divides it by the scale that makes it the unit we want.
func quantity(scale float64, elements ...string) (value float64, ok bool, err error) {
	text, ok, err := attribute(elements...)
	if !ok {
		return 0, false, err
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, false, fmt.Errorf("%s: %.40q is no number", filepath.Join(elements...), text)
	}
	return float64(n) / scale, true, nil
}

// listed returns what a directory holds, so that 10 comes after 2; nothing where there is no such directory.
func listed(elements ...string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(elements...))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.SortStableFunc(names, func(a, b string) int { return len(a) - len(b) }) // ReadDir sorts by name
	return names, nil
}

// cpuFrequency: https://docs.kernel.org/admin-guide/pm/cpufreq.html, in kHz.
func cpuFrequency(name string) (mhz float64, ok bool, err error) {
	return quantity(1000, sysPath("devices/system/cpu", name, "cpufreq/scaling_cur_freq"))
}

// linkSpeed: https://docs.kernel.org/admin-guide/abi-testing.html, /sys/class/net/<iface>/speed; -1 or EINVAL where
// the link is down or has no speed.
func linkSpeed(name string) (mbit uint64, ok bool, err error) {
	speed, ok, err := quantity(1, sysPath("class/net", name, "speed"))
	if speed <= 0 {
		ok = false
	}
	return uint64(max(0, speed)), ok, err
}

// readUptime reads what gopsutil asks sysinfo(2) for, which does not know HOST_PROC.
func readUptime(context.Context) ([]reading, error) {
	path := filepath.Join(rootDir("HOST_PROC", "/proc"), "uptime")
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	text, _, _ := strings.Cut(string(content), " ")
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return nil, fmt.Errorf("%s: %.40q is no number", path, text)
	}
	return []reading{{gauges: map[string]any{"seconds": seconds}}}, nil
}

// readPressure: https://docs.kernel.org/accounting/psi.html. A kernel may have the files and refuse to read them
// (psi=0).
func readPressure(context.Context) ([]reading, error) {
	proc, err := procfs.NewFS(rootDir("HOST_PROC", "/proc"))
	if err != nil {
		return nil, err
	}
	var readings []reading
	var failures []error
	for _, resource := range []string{"cpu", "memory", "io", "irq"} {
		stats, err := proc.PSIStatsForResource(resource)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.EOPNOTSUPP) {
				failures = append(failures, fmt.Errorf("%s: %w", resource, err))
			}
			continue
		}
		r := reading{label: "resource", name: resource, gauges: map[string]any{}, counters: map[string]any{}}
		for prefix, line := range map[string]*procfs.PSILine{"some_": stats.Some, "full_": stats.Full} {
			if line != nil {
				r.gauges[prefix+"avg10"] = line.Avg10
				r.gauges[prefix+"avg60"] = line.Avg60
				r.gauges[prefix+"avg300"] = line.Avg300
				r.counters[prefix+"total"] = line.Total
			}
		}
		if len(r.gauges) == 0 {
			failures = append(failures, fmt.Errorf("%s: the file holds no pressure", resource))
			continue
		}
		readings = append(readings, r)
	}
	return found(readings, failures)
}

// hwmonKind is how https://docs.kernel.org/hwmon/sysfs-interface.html names one kind of channel: temp1_input.
type hwmonKind struct {
	prefix string
	field  string
	scale  float64
	limits map[string]string // by suffix; a limit of 0 is none
}

var (
	hwmonTemperature = hwmonKind{"temp", "temp", 1000, map[string]string{"_max": "high", "_crit": "critical"}}
	hwmonFan         = hwmonKind{"fan", "rpm", 1, map[string]string{"_min": "low"}}
	hwmonVoltage     = hwmonKind{"in", "volts", 1000, map[string]string{"_min": "low", "_max": "high", "_crit": "critical"}}
	hwmonPower       = hwmonKind{"power", "watts", 1e6, map[string]string{"_max": "high", "_crit": "critical"}}
)

func fanSource(s *scope) source     { return hwmonFan.source(s) }
func voltageSource(s *scope) source { return hwmonVoltage.source(s) }

func (k hwmonKind) source(s *scope) source {
	h := sensorScan{scope: s}
	return func(context.Context) ([]reading, error) {
		h.begin()
		h.hwmon(k)
		return found(h.readings, h.failures)
	}
}

// sensorScan collects the sensors of one kind. It lives as long as the source; all but names and scope is of one sample.
type sensorScan struct {
	scope    *scope
	names    map[string]string // of the sensors now, by path
	before   map[string]string // of those in the sample before
	taken    map[string]bool   // names, now and before
	chips    map[string]bool   // that have a sensor of the kind
	readings []reading
	failures []error
}

func (h *sensorScan) begin() {
	h.names, h.before = map[string]string{}, h.names
	h.taken, h.chips = map[string]bool{}, map[string]bool{}
	for _, name := range h.before {
		h.taken[name] = true
	}
	h.readings, h.failures = nil, nil
}

// name returns a name that no other sensor has: two NVMe drives are nvme_composite and nvme_composite_2. They keep their
// names while one of them fails or is gone. wanted is whether the user wants it.
func (h *sensorScan) name(path, base string) (name string, wanted bool) {
	name = h.before[path]
	if !strings.HasPrefix(name, base) || name == "" {
		name = base
		for n := 2; h.taken[name]; n++ {
			name = fmt.Sprintf("%s_%d", base, n)
		}
	}
	h.taken[name] = true
	h.names[path] = name
	return name, h.scope.sensors.Match(name)
}

func (h *sensorScan) fail(err error) {
	if err != nil {
		h.failures = append(h.failures, err)
	}
}

func (h *sensorScan) hwmon(k hwmonKind) {
	chips, err := listed(sysPath("class/hwmon"))
	h.fail(err)
	for _, chip := range chips {
		dir := sysPath("class/hwmon", chip)
		files, err := listed(dir)
		h.fail(err)
		if !slices.Contains(files, "name") { // the drivers of old have all in the device's directory
			if older, _ := listed(dir, "device"); slices.Contains(older, "name") {
				dir, files = filepath.Join(dir, "device"), older
			}
		}
		channels := k.channels(files)
		if len(channels) == 0 {
			continue
		}
		name, ok, err := attribute(dir, "name")
		if !ok {
			h.fail(errors.Join(err, fmt.Errorf("%s has no name", dir)))
			continue
		}
		h.chips[name] = true
		device := ""
		if target, err := os.Readlink(filepath.Join(dir, "device")); err == nil {
			device = filepath.Base(target)
		}
		for _, channel := range channels {
			h.channel(k, dir, files, channel, name, device)
		}
	}
}

// channels returns temp1_input and so on. Of power some chips measure the average alone.
func (k hwmonKind) channels(files []string) []string {
	var channels []string
	for _, file := range files {
		rest, ok := strings.CutPrefix(file, k.prefix)
		n, kind, _ := strings.Cut(rest, "_")
		if _, err := strconv.ParseUint(n, 10, 16); !ok || err != nil {
			continue
		}
		if kind == "input" || k.prefix == "power" && kind == "average" && !slices.Contains(files, k.prefix+n+"_input") {
			channels = append(channels, file)
		}
	}
	return channels
}

func (h *sensorScan) channel(k hwmonKind, dir string, files []string, channel, chip, device string) {
	base, _, _ := strings.Cut(channel, "_")
	sensor := chip
	label, ok := "", false
	if slices.Contains(files, base+"_label") {
		label, ok, _ = attribute(dir, base+"_label")
	}
	switch {
	case ok && label != "":
		sensor += "_" + strings.ReplaceAll(strings.ToLower(label), " ", "_")
	case k.prefix != hwmonTemperature.prefix:
		sensor += "_" + base
	case base != "temp1": // stock temp's name for the one temperature of a chip is the chip's
		sensor += strings.Replace(base, "temp", "_", 1)
	}
	sensor, wanted := h.name(filepath.Join(dir, base), sensor)
	if !wanted {
		return
	}
	if slices.Contains(files, base+"_fault") {
		if fault, _, _ := quantity(1, dir, base+"_fault"); fault != 0 {
			return
		}
	}
	value, ok, err := quantity(k.scale, dir, channel)
	h.fail(err)
	if !ok {
		return
	}
	r := reading{label: "sensor", name: sensor, gauges: map[string]any{k.field: value}}
	if device != "" {
		r.about = map[string]string{"device": device}
	}
	if !h.scope.burst {
		for suffix, field := range k.limits {
			if slices.Contains(files, base+suffix) {
				limit, _, err := quantity(k.scale, dir, base+suffix)
				h.fail(err)
				if limit != 0 {
					r.gauges[field] = limit
				}
			}
		}
	}
	h.readings = append(h.readings, r)
}

// temperatureSource reads hwmon and, of the thermal zones, those that the kernel does not show in hwmon too, as it
// does under the zone's type with each - made a _.
func temperatureSource(s *scope) source {
	h := sensorScan{scope: s}
	return func(context.Context) ([]reading, error) {
		h.begin()
		h.hwmon(hwmonTemperature)
		zones, err := listed(sysPath("class/thermal"))
		h.fail(err)
		for _, zone := range zones {
			if strings.HasPrefix(zone, "thermal_zone") {
				h.zone(sysPath("class/thermal", zone))
			}
		}
		return found(h.readings, h.failures)
	}
}

// zone: https://docs.kernel.org/driver-api/thermal/sysfs-api.html.
func (h *sensorScan) zone(dir string) {
	kind, ok, err := attribute(dir, "type")
	if !ok {
		h.fail(errors.Join(err, fmt.Errorf("%s has no type", dir)))
		return
	}
	if h.chips[strings.ReplaceAll(kind, "-", "_")] {
		return
	}
	sensor, wanted := h.name(dir, kind)
	if !wanted {
		return
	}
	value, ok, err := quantity(1000, dir, "temp")
	h.fail(err)
	if !ok {
		return
	}
	r := reading{label: "sensor", name: sensor, gauges: map[string]any{"temp": value}}
	h.readings = append(h.readings, r)
	if h.scope.burst {
		return
	}
	for n := 0; ; n++ {
		point := fmt.Sprintf("trip_point_%d", n)
		trip, ok, err := attribute(dir, point+"_type")
		h.fail(err)
		if !ok {
			return
		}
		field := map[string]string{"hot": "high", "critical": "critical"}[trip]
		if field == "" {
			continue
		}
		limit, _, err := quantity(1000, dir, point+"_temp")
		h.fail(err)
		if limit > 0 {
			r.gauges[field] = limit
		}
	}
}

// Bounds of a RAPL power that makes sense. The counter advances each millisecond. No package or platform draws more
// than the most: the counter began anew, as after a suspend, which looks like a wrap-around.
const (
	leastEnergySpan = 50 * time.Millisecond
	mostWatts       = 2000
)

// powerSource reads hwmon's power, and the power of each RAPL zone from its energy counter and that of the sample
// before; the first is taken here.
func powerSource(s *scope) source {
	last := map[string]energy{} // by zone
	h := sensorScan{scope: s}
	read := func(context.Context) ([]reading, error) {
		h.begin()
		h.hwmon(hwmonPower)
		zones, err := listed(sysPath("class/powercap"))
		h.fail(err)
		for _, zone := range zones {
			h.rapl(zone, last)
		}
		return found(h.readings, h.failures)
	}
	_, _ = guarded(context.Background(), read)
	return read
}

type energy struct {
	joules float64
	at     time.Time
}

// rapl: https://docs.kernel.org/power/powercap/powercap.html. Zones are intel-rapl:0 and, within it, intel-rapl:0:1;
// AMD's have the same names.
func (h *sensorScan) rapl(zone string, last map[string]energy) {
	dir := sysPath("class/powercap", zone)
	control, place, ok := strings.Cut(zone, ":")
	name, named, err := attribute(dir, "name")
	h.fail(err)
	if !ok || !named {
		return // a control type, or none of these
	}
	sensor := strings.TrimPrefix(control, "intel-")
	if parent, _, within := strings.Cut(place, ":"); within {
		above, _, err := attribute(sysPath("class/powercap", control+":"+parent), "name")
		h.fail(err)
		sensor += "_" + above
	}
	sensor, wanted := h.name(dir, strings.ReplaceAll(strings.ToLower(sensor+"_"+name), "-", "_"))
	if !wanted {
		return
	}
	joules, ok, err := quantity(1e6, dir, "energy_uj")
	h.fail(err)
	if !ok {
		return
	}
	now, r := time.Now(), reading{label: "sensor", name: sensor, gauges: map[string]any{}}
	was, before := last[zone]
	span := now.Sub(was.at)
	if before && span < leastEnergySpan {
		h.readings = append(h.readings, r)
		return
	}
	last[zone] = energy{joules, now}
	used := joules - was.joules
	if used < 0 {
		most, ok, err := quantity(1e6, dir, "max_energy_range_uj")
		h.fail(err)
		if !ok || most < was.joules {
			before = false
		}
		used += most
	}
	if watts := used / span.Seconds(); before && watts <= mostWatts {
		r.gauges["watts"] = watts
	}
	h.readings = append(h.readings, r)
}

// supplyNumbers are fields of battery: https://docs.kernel.org/power/power_supply_class.html.
var supplyNumbers = []struct {
	file, field string
	scale       float64
}{
	{"capacity", "percent", 1},
	{"voltage_now", "volts", 1e6},
	{"current_now", "amps", 1e6},
	{"power_now", "watts", 1e6},
	{"energy_now", "energy_wh", 1e6},
	{"energy_full", "energy_full_wh", 1e6},
	{"energy_full_design", "energy_full_design_wh", 1e6},
	{"charge_now", "charge_ah", 1e6},
	{"charge_full", "charge_full_ah", 1e6},
	{"charge_full_design", "charge_full_design_ah", 1e6},
	{"temp", "temp", 10},
	{"time_to_empty_now", "time_to_empty", 1},
	{"time_to_full_now", "time_to_full", 1},
	{"cycle_count", "cycles", 1},
	{"online", "online", 1},
}

// batterySource reads batteries and what charges them.
func batterySource(s *scope) source {
	return func(context.Context) ([]reading, error) {
		supplies, err := listed(sysPath("class/power_supply"))
		if err != nil {
			return nil, err
		}
		var readings []reading
		var failures []error
		for _, name := range supplies {
			if !s.devices.Match(name) {
				continue
			}
			dir := sysPath("class/power_supply", name)
			r := reading{label: "battery", name: name, gauges: map[string]any{}}
			for _, n := range supplyNumbers {
				value, ok, err := quantity(n.scale, dir, n.file)
				if err != nil {
					failures = append(failures, err)
				}
				if ok {
					r.gauges[n.field] = value
				}
			}
			for _, word := range []string{"status", "health"} {
				if text, ok, _ := attribute(dir, word); ok && text != "" {
					r.gauges[word] = text
				}
			}
			if kind, ok, _ := attribute(dir, "type"); ok {
				r.about = map[string]string{"type": kind}
			}
			readings = append(readings, r)
		}
		return found(readings, failures)
	}
}

// throttleBits are those of the Raspberry Pi's firmware that speak of now; those of since boot are 16 higher:
// https://www.raspberrypi.com/documentation/computers/os.html#get_throttled
var throttleBits = []string{"under_voltage", "frequency_capped", "throttled", "soft_temperature_limit"}

// throttlingSource reads the Raspberry Pi's flags and the counts of x86's cpus.
func throttlingSource(s *scope) source {
	return func(context.Context) ([]reading, error) {
		var readings []reading
		var failures []error
		flags, err := firmwareFlags()
		if err != nil {
			failures = append(failures, err)
		}
		if len(flags) > 0 {
			readings = append(readings, reading{gauges: flags})
		}

		sys, err := sysfs.NewFS(sysPath())
		if err != nil {
			return readings, err
		}
		cpus, err := sys.CPUs()
		if err != nil {
			return readings, err
		}
		for _, c := range cpus {
			name := "cpu" + c.Number()
			if !s.devices.Match(name) {
				continue
			}
			t, err := c.ThermalThrottle()
			switch {
			case err == nil:
				readings = append(readings, reading{label: "cpu", name: name, counters: map[string]any{
					"core_throttles":    t.CoreThrottleCount,
					"package_throttles": t.PackageThrottleCount,
				}})
			case !errors.Is(err, fs.ErrNotExist):
				failures = append(failures, fmt.Errorf("%s: %w", name, err))
			}
		}
		return found(readings, failures)
	}
}

// firmwareFlags reads what Raspberry Pi's own kernel shows, a number in hexadecimal, or else the one flag that the
// upstream driver raspberrypi-hwmon has.
func firmwareFlags() (map[string]any, error) {
	files, err := filepath.Glob(sysPath("devices/platform/s*/s*:firmware/get_throttled"))
	if err != nil {
		return nil, err
	}
	flags := map[string]any{}
	if len(files) > 0 {
		text, ok, err := attribute(files[0])
		if !ok {
			return nil, err
		}
		bits, err := strconv.ParseUint(strings.TrimPrefix(text, "0x"), 16, 32)
		if err != nil {
			return nil, fmt.Errorf("%s: %.40q is no hexadecimal number", files[0], text)
		}
		for i, name := range throttleBits {
			flags[name] = bits >> i & 1
			flags[name+"_occurred"] = bits >> (16 + i) & 1
		}
		return flags, nil
	}
	chips, err := listed(sysPath("class/hwmon"))
	if err != nil {
		return nil, err
	}
	for _, chip := range chips {
		dir := sysPath("class/hwmon", chip)
		if name, _, _ := attribute(dir, "name"); name == "rpi_volt" {
			alarm, ok, err := quantity(1, dir, "in0_lcrit_alarm")
			if ok {
				flags["under_voltage"] = uint64(min(1, max(0, alarm)))
			}
			return flags, err
		}
	}
	return flags, nil
}

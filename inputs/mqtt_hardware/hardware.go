package mqtt_hardware

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/shirou/gopsutil/v4/cpu"
	"github.com/shirou/gopsutil/v4/disk"
	"github.com/shirou/gopsutil/v4/load"
	"github.com/shirou/gopsutil/v4/mem"
	"github.com/shirou/gopsutil/v4/net"
	"github.com/shirou/gopsutil/v4/sensors"

	"github.com/influxdata/telegraf"
)

// What leaves, by source. Field names are those of Telegraf's stock inputs cpu, mem, swap, system, disk, diskio, net
// and temp. The measurement is hardware_ and the source's name. A metric has one kind, so a source with gauges and
// counters gives two metrics with the same name, tags and time.
//
//	source       tags                 fields                                         kind     type     unit
//	-----------  -------------------  ---------------------------------------------  -------  -------  ---------------
//	cpu          cpu: cpu-total,      usage_user, _system, _idle, _nice, _iowait,    gauge    float64  percent of that
//	             cpu0, cpu1, …        _irq, _softirq, _steal, _guest, _guest_nice                      cpu's time since
//	                                                                                                   the last sample
//	memory       –                    used_percent, available_percent                gauge    float64  percent of total
//	                                  huge_pages_total, huge_pages_free              gauge    uint64   pages
//	                                  all others                                     gauge    uint64   bytes
//	swap         –                    used_percent                                   gauge    float64  percent of total
//	                                  total, used, free                              gauge    uint64   bytes
//	                                  in, out                                        counter  uint64   bytes
//	load         –                    load1, load5, load15                           gauge    float64  runnable tasks
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
//	temperature  sensor               temp; high, critical where the sensor has      gauge    float64  degrees Celsius
//	                                  such a limit
//
// gopsutil, which reads all this, looks into HOST_PROC and HOST_SYS instead of /proc and /sys where these environment
// variables are set, as in a container that shows the host's own.
var sources = map[string]func() source{
	"cpu":         cpuSource,
	"disk":        stateless(readDisk),
	"disk_io":     stateless(readDiskIO),
	"load":        stateless(readLoad),
	"memory":      stateless(readMemory),
	"network":     stateless(readNetwork),
	"swap":        stateless(readSwap),
	"temperature": stateless(readTemperature),
}

// source reads one kind of hardware now. It may return an error together with the readings that did succeed, and
// returns errNone when it looked in the right place and this host has nothing there.
type source func(context.Context) ([]reading, error)

// reading is what a source found about one device.
type reading struct {
	tags     map[string]string
	gauges   map[string]any
	counters map[string]any
}

var errNone = errors.New("this host has none")

func stateless(s source) func() source { return func() source { return s } }

// hardware samples the sources it was made for. It starts no goroutine and keeps no file open. sample must not be
// called concurrently with itself.
//
// A source that this host does not have is logged once and not read again until the next start. Any other failure is
// reported when it begins and when it ends, and whatever could be read meanwhile is still sampled.
type hardware struct {
	active []*sampled
}

type sampled struct {
	name    string
	read    source
	worked  bool // has given something, so it is there: a failure is no absence
	failing bool // reported, so it is not reported again
}

// newHardware checks the names of the sources and takes the baseline of those that report a change since the last
// sample, so that already the first sample has a value for them.
func newHardware(names []string) (*hardware, error) {
	h := &hardware{}
	for _, name := range names {
		start, known := sources[name]
		if !known {
			return nil, fmt.Errorf("hardware: unknown source %q: known are %s",
				name, strings.Join(slices.Sorted(maps.Keys(sources)), ", "))
		}
		if slices.ContainsFunc(h.active, func(s *sampled) bool { return s.name == name }) {
			return nil, fmt.Errorf("hardware: source %q is listed twice: list it once", name)
		}
		h.active = append(h.active, &sampled{name: name, read: start()})
	}
	return h, nil
}

// sample reads each source once, in the order they were listed. A read that hangs in the kernel holds it up.
func (h *hardware) sample(acc telegraf.Accumulator, log telegraf.Logger) {
	acc.SetPrecision(time.Nanosecond) // Gather's accumulator rounds to the interval's unit, explicit times too

	present := make([]*sampled, 0, len(h.active))
	for _, s := range h.active {
		if s.sample(acc, log) {
			present = append(present, s)
		}
	}
	h.active = present
}

// sample reports whether the source is to be read again.
func (s *sampled) sample(acc telegraf.Accumulator, log telegraf.Logger) bool {
	readings, err := guarded(context.Background(), s.read)
	now := time.Now()
	for _, r := range readings {
		if dropNonFinite(r.gauges); len(r.gauges) > 0 {
			acc.AddGauge("hardware_"+s.name, r.gauges, r.tags, now)
		}
		if len(r.counters) > 0 {
			acc.AddCounter("hardware_"+s.name, r.counters, r.tags, now)
		}
	}

	if !s.worked && len(readings) == 0 && isAbsence(err) {
		log.Infof("hardware: %s is not sampled: %v", s.name, err)
		return false
	}
	s.worked = s.worked || err == nil || len(readings) > 0
	if err != nil && !s.failing {
		acc.AddError(fmt.Errorf("hardware: reading %s: %w", s.name, err))
	}
	if err == nil && s.failing {
		log.Infof("hardware: reading %s works again", s.name)
	}
	s.failing = err != nil
	return true
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

// cpuSource compares each cpu's times with those of the sample before; the first is taken here.
func cpuSource() source {
	last := map[string]cpu.TimesStat{}
	read := func(ctx context.Context) ([]reading, error) {
		times, err := cpuTimes(ctx)
		var readings []reading
		for _, now := range times {
			if was, ok := last[now.CPU]; ok {
				if usage := cpuUsage(was, now); usage != nil {
					readings = append(readings, reading{tags: map[string]string{"cpu": now.CPU}, gauges: usage})
				}
			}
			last[now.CPU] = now
		}
		return readings, err
	}
	_, _ = guarded(context.Background(), read) // a failure shows again in the first sample
	baseline := time.Now()
	return func(ctx context.Context) ([]reading, error) {
		// The kernel counts in steps of 10 ms. Only the first sample can come too soon for them, as in telegraf --test.
		if wait := leastCPUSpan - time.Since(baseline); wait > 0 {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
			}
		}
		return read(ctx)
	}
}

const leastCPUSpan = 100 * time.Millisecond

// cpuTimes returns the time that all cpus together and each of them have spent by mode since boot.
func cpuTimes(ctx context.Context) ([]cpu.TimesStat, error) {
	total, errTotal := cpu.TimesWithContext(ctx, false)
	each, errEach := cpu.TimesWithContext(ctx, true)
	times := slices.Concat(total, each)
	err := errors.Join(errTotal, errEach)
	if err == nil && len(times) == 0 {
		err = errNone // gopsutil keeps the reason to itself
	}
	return times, err
}

// cpuUsage returns the percentages between two samples of one cpu; nil when no time has passed between them, or when
// a counter went backwards (iowait may, see proc(5)) and the shares would not mean anything.
func cpuUsage(was, now cpu.TimesStat) map[string]any {
	d := cpu.TimesStat{
		User:      now.User - was.User,
		System:    now.System - was.System,
		Idle:      now.Idle - was.Idle,
		Nice:      now.Nice - was.Nice,
		Iowait:    now.Iowait - was.Iowait,
		Irq:       now.Irq - was.Irq,
		Softirq:   now.Softirq - was.Softirq,
		Steal:     now.Steal - was.Steal,
		Guest:     now.Guest - was.Guest,
		GuestNice: now.GuestNice - was.GuestNice,
	}
	least := min(d.User, d.System, d.Idle, d.Nice, d.Iowait, d.Irq, d.Softirq, d.Steal, d.Guest, d.GuestNice)
	// Guest time is not added: the kernel counts it in user and nice already.
	total := d.User + d.System + d.Idle + d.Nice + d.Iowait + d.Irq + d.Softirq + d.Steal
	if least < 0 || total <= 0 {
		return nil
	}
	return map[string]any{
		// Not below zero: the kernel does not update a mode and its guest share in one step.
		"usage_user":       100 * max(0, d.User-d.Guest) / total,
		"usage_system":     100 * d.System / total,
		"usage_idle":       100 * d.Idle / total,
		"usage_nice":       100 * max(0, d.Nice-d.GuestNice) / total,
		"usage_iowait":     100 * d.Iowait / total,
		"usage_irq":        100 * d.Irq / total,
		"usage_softirq":    100 * d.Softirq / total,
		"usage_steal":      100 * d.Steal / total,
		"usage_guest":      100 * d.Guest / total,
		"usage_guest_nice": 100 * d.GuestNice / total,
	}
}

// readMemory leaves out what stock mem has of 32-bit kernels (high_, low_) and of vmalloc, and the swap totals, which
// are in swap.
func readMemory(ctx context.Context) ([]reading, error) {
	vm, err := mem.VirtualMemoryWithContext(ctx)
	if err != nil {
		return nil, err
	}
	if vm.Total == 0 {
		return nil, errors.New("the total is missing")
	}
	// Under lxcfs available can exceed total, and gopsutil's own used then wraps around.
	available := min(vm.Available, vm.Total)
	used := vm.Total - available
	return []reading{{gauges: map[string]any{
		"total":             vm.Total,
		"available":         available,
		"available_percent": percent(available, vm.Total),
		"used":              used,
		"used_percent":      percent(used, vm.Total),
		"free":              vm.Free,
		"active":            vm.Active,
		"inactive":          vm.Inactive,
		"buffered":          vm.Buffers,
		"cached":            vm.Cached,
		"shared":            vm.Shared,
		"mapped":            vm.Mapped,
		"slab":              vm.Slab,
		"sreclaimable":      vm.Sreclaimable,
		"sunreclaim":        vm.Sunreclaim,
		"page_tables":       vm.PageTables,
		"dirty":             vm.Dirty,
		"write_back":        vm.WriteBack,
		"commit_limit":      vm.CommitLimit,
		"committed_as":      vm.CommittedAS,
		"swap_cached":       vm.SwapCached,
		"huge_page_size":    vm.HugePageSize,
		"huge_pages_total":  vm.HugePagesTotal,
		"huge_pages_free":   vm.HugePagesFree,
	}}}, nil
}

// readSwap reports zeros where no swap is on, since it can be switched on at any time. Only a kernel without swap has
// none.
func readSwap(ctx context.Context) ([]reading, error) {
	swap, err := mem.SwapMemoryWithContext(ctx)
	if err != nil {
		return nil, err
	}
	total, free := swap.Total, swap.Free
	if runtime.GOOS == "linux" {
		// gopsutil asks sysinfo(2) for these two, which knows neither HOST_PROC nor a container's limits (lxcfs).
		vm, err := mem.VirtualMemoryWithContext(ctx)
		if err != nil {
			return nil, err
		}
		total, free = vm.SwapTotal, vm.SwapFree
		if total == 0 {
			if _, err := mem.SwapDevicesWithContext(ctx); errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
	}
	free = min(free, total)
	return []reading{{
		gauges: map[string]any{
			"total":        total,
			"free":         free,
			"used":         total - free,
			"used_percent": percent(total-free, total),
		},
		counters: map[string]any{
			"in":  swap.Sin,
			"out": swap.Sout,
		},
	}}, nil
}

func readLoad(ctx context.Context) ([]reading, error) {
	avg, err := load.AvgWithContext(ctx)
	if err != nil {
		return nil, err
	}
	return []reading{{gauges: map[string]any{
		"load1":  avg.Load1,
		"load5":  avg.Load5,
		"load15": avg.Load15,
	}}}, nil
}

// readDisk reports each mounted local file system once.
func readDisk(ctx context.Context) ([]reading, error) {
	mounts, err := localMounts(ctx)
	if err != nil {
		return nil, err
	}
	var readings []reading
	var failures []error
	for _, m := range mounts {
		u, err := disk.UsageWithContext(ctx, m.Mountpoint)
		if err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", m.Mountpoint, err))
			continue
		}
		if u.Total == 0 {
			continue // it has no size, so it stores nothing
		}
		readings = append(readings, reading{
			tags: map[string]string{
				"path":   m.Mountpoint,
				"device": strings.TrimPrefix(m.Device, "/dev/"),
				"fstype": m.Fstype,
			},
			gauges: map[string]any{
				"total":               u.Total,
				"used":                u.Used,
				"free":                u.Free,
				"used_percent":        u.UsedPercent,
				"inodes_total":        u.InodesTotal,
				"inodes_used":         u.InodesUsed,
				"inodes_free":         u.InodesFree,
				"inodes_used_percent": u.InodesUsedPercent,
			},
		})
	}
	err = errors.Join(failures...)
	if err == nil && len(readings) == 0 {
		err = errNone
	}
	return readings, err
}

// pseudoFS are file systems that gopsutil takes for local disks but that never fill up: read-only images, and what
// BSD and macOS mount besides disks. On Linux, gopsutil leaves out itself what the kernel calls "nodev": proc, sysfs,
// tmpfs, devtmpfs, cgroup, overlay, fuse (not fuseblk), nfs, cifs and their like.
var pseudoFS = map[string]bool{
	"cramfs": true, "erofs": true, "iso9660": true, "romfs": true, "squashfs": true,
	"autofs": true, "devfs": true, "fdescfs": true, "linprocfs": true, "linsysfs": true, "nfs": true, "nullfs": true,
	"procfs": true, "smbfs": true, "tmpfs": true,
}

// localMounts lists one mount for each local device, and a container's overlay if that is its "/". Network file
// systems are left out also because statfs(2) on a dead one hangs.
func localMounts(ctx context.Context) ([]disk.PartitionStat, error) {
	parts, err := disk.PartitionsWithContext(ctx, false)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(parts, func(p disk.PartitionStat) bool { return p.Mountpoint == "/" }) {
		all, err := disk.PartitionsWithContext(ctx, true)
		if err != nil {
			return nil, err
		}
		for _, p := range all {
			if p.Mountpoint == "/" && p.Fstype == "overlay" {
				parts = append(parts, p)
			}
		}
	}

	var mounts []disk.PartitionStat
	for _, p := range parts {
		if pseudoFS[p.Fstype] {
			continue
		}
		i := slices.IndexFunc(mounts, func(m disk.PartitionStat) bool { return m.Device == p.Device })
		switch {
		case i < 0:
			mounts = append(mounts, p)
		case slices.Contains(mounts[i].Opts, "bind") && !slices.Contains(p.Opts, "bind"):
			mounts[i] = p // the whole file system says more than a directory of it that is mounted elsewhere
		}
	}
	return mounts, nil
}

// readDiskIO leaves out loop and ram devices. gopsutil leaves out devices that never did any I/O.
func readDiskIO(ctx context.Context) ([]reading, error) {
	devices, err := disk.IOCountersWithContext(ctx)
	var readings []reading
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		if strings.HasPrefix(name, "loop") || strings.HasPrefix(name, "ram") {
			continue
		}
		d := devices[name]
		readings = append(readings, reading{
			tags: map[string]string{"name": name},
			counters: map[string]any{
				"reads":            d.ReadCount,
				"writes":           d.WriteCount,
				"merged_reads":     d.MergedReadCount,
				"merged_writes":    d.MergedWriteCount,
				"read_bytes":       d.ReadBytes,
				"write_bytes":      d.WriteBytes,
				"read_time":        d.ReadTime,
				"write_time":       d.WriteTime,
				"io_time":          d.IoTime,
				"weighted_io_time": d.WeightedIO,
			},
			gauges: map[string]any{"iops_in_progress": d.IopsInProgress},
		})
	}
	if err == nil && len(readings) == 0 {
		err = errNone
	}
	return readings, err
}

// readNetwork reports every interface, lo too.
func readNetwork(ctx context.Context) ([]reading, error) {
	interfaces, err := net.IOCountersWithContext(ctx, true)
	var readings []reading
	for _, i := range interfaces {
		readings = append(readings, reading{
			tags: map[string]string{"interface": i.Name},
			counters: map[string]any{
				"bytes_sent":   i.BytesSent,
				"bytes_recv":   i.BytesRecv,
				"packets_sent": i.PacketsSent,
				"packets_recv": i.PacketsRecv,
				"err_in":       i.Errin,
				"err_out":      i.Errout,
				"drop_in":      i.Dropin,
				"drop_out":     i.Dropout,
			},
		})
	}
	if err == nil && len(readings) == 0 {
		err = errNone
	}
	return readings, err
}

// readTemperature tells sensors that the kernel gives the same name (two NVMe drives) apart by a number in the order
// of reading: nvme_composite, nvme_composite_2. The number keeps their rows apart, it does not identify a device: when
// one of them cannot be read, those after it move up.
func readTemperature(ctx context.Context) ([]reading, error) {
	temperatures, err := sensors.TemperaturesWithContext(ctx)
	var readings []reading
	count := map[string]int{}
	for _, t := range temperatures {
		sensor := t.SensorKey
		count[sensor]++
		if n := count[sensor]; n > 1 {
			sensor = fmt.Sprintf("%s_%d", sensor, n)
		}
		fields := map[string]any{"temp": t.Temperature}
		if t.High != 0 { // gopsutil's zero means unknown
			fields["high"] = t.High
		}
		if t.Critical != 0 {
			fields["critical"] = t.Critical
		}
		readings = append(readings, reading{tags: map[string]string{"sensor": sensor}, gauges: fields})
	}

	var warnings *sensors.Warnings
	if errors.As(err, &warnings) && len(warnings.List) > 0 {
		// Not wrapped: a missing file of one sensor does not mean that there are no sensors.
		err = fmt.Errorf("%d sensors cannot be read, the first because of: %s",
			len(warnings.List), warnings.List[0].Error())
	}
	if err == nil && len(readings) == 0 {
		err = errNone
	}
	return readings, err
}

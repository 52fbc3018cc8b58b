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
)

// cpuTotal is the name of all cpus together.
const cpuTotal = "cpu-total"

// cpuSource compares each cpu's times with those of the sample before; the first is taken here.
func cpuSource(s *scope) source {
	last := map[string]cpu.TimesStat{}
	read := func(ctx context.Context) ([]reading, error) {
		times, err := cpuTimes(ctx)
		var readings []reading
		for _, now := range times {
			if was, ok := last[now.CPU]; ok && (now.CPU == cpuTotal || s.devices.Match(now.CPU)) {
				if usage := cpuUsage(was, now); usage != nil {
					readings = append(readings, reading{label: "cpu", name: now.CPU, gauges: usage})
				}
			}
			last[now.CPU] = now
		}
		if s.burst {
			return readings, err
		}
		if len(readings) > 0 && readings[0].name == cpuTotal {
			readings[0].gauges["count"] = uint64(len(times[1:]))
		}
		return readings, errors.Join(err, addFrequencies(readings))
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

// addFrequencies adds the frequency of each core, and in cpu-total their mean.
func addFrequencies(readings []reading) error {
	var failures []error
	var sum, cores float64
	for _, r := range readings {
		if r.name == cpuTotal {
			continue
		}
		mhz, ok, err := cpuFrequency(r.name)
		if err != nil {
			failures = append(failures, err)
		}
		if ok {
			r.gauges["frequency_mhz"] = mhz
			sum, cores = sum+mhz, cores+1
		}
	}
	if cores > 0 && readings[0].name == cpuTotal {
		readings[0].gauges["frequency_mhz"] = sum / cores
	}
	if len(failures) == 0 {
		return nil
	}
	_, err := found(readings, failures)
	return err
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
	if math.IsNaN(least) || least < 0 || total <= 0 {
		return nil
	}
	return map[string]any{
		// Not below zero: the kernel does not update a mode and its guest share in one step.
		"usage_user":       100 * max(0, d.User-d.Guest) / total,
		"usage_system":     100 * d.System / total,
		"usage_idle":       100 * d.Idle / total,
		"usage_active":     100 * (total - d.Idle) / total,
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

func diskSource(s *scope) source {
	return func(ctx context.Context) ([]reading, error) { return readDisk(ctx, s) }
}

// readDisk reports each mounted local file system once.
func readDisk(ctx context.Context, s *scope) ([]reading, error) {
	mounts, err := localMounts(ctx)
	if err != nil {
		return nil, err
	}
	var readings []reading
	var failures []error
	for _, m := range mounts {
		if !s.mounts.Match(m.Mountpoint) {
			continue
		}
		u, err := s.usage(ctx, m.Mountpoint)
		if err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", m.Mountpoint, err))
			continue
		}
		if u.Total == 0 {
			continue // it has no size, so it stores nothing
		}
		readings = append(readings, reading{
			label: "path",
			name:  m.Mountpoint,
			about: map[string]string{
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
	return found(readings, failures)
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

func diskIOSource(s *scope) source {
	return func(ctx context.Context) ([]reading, error) { return readDiskIO(ctx, s) }
}

// readDiskIO leaves out loop and ram devices. gopsutil leaves out devices that never did any I/O.
func readDiskIO(ctx context.Context, s *scope) ([]reading, error) {
	devices, err := disk.IOCountersWithContext(ctx)
	var readings []reading
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		if strings.HasPrefix(name, "loop") || strings.HasPrefix(name, "ram") || !s.devices.Match(name) {
			continue
		}
		d := devices[name]
		readings = append(readings, reading{
			label: "name",
			name:  name,
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

func networkSource(s *scope) source {
	return func(ctx context.Context) ([]reading, error) { return readNetwork(ctx, s) }
}

// readNetwork reports every interface, lo too.
func readNetwork(ctx context.Context, s *scope) ([]reading, error) {
	interfaces, err := net.IOCountersWithContext(ctx, true)
	var readings []reading
	var failures []error
	if err != nil {
		failures = append(failures, err)
	}
	for _, i := range interfaces {
		if !s.devices.Match(i.Name) {
			continue
		}
		gauges := map[string]any{}
		speed, ok, err := linkSpeed(i.Name)
		if err != nil {
			failures = append(failures, err)
		}
		if ok {
			gauges["speed"] = speed
		}
		readings = append(readings, reading{
			label:  "interface",
			name:   i.Name,
			gauges: gauges,
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
	if len(readings) == 0 && err != nil {
		return nil, err // which may be that there is no such file
	}
	return found(readings, failures)
}

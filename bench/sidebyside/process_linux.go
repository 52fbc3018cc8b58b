package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime reads the CPU-time clock of a process, which counts nanoseconds where /proc/PID/stat counts 10 ms.
func cpuTime(pid int) (time.Duration, error) {
	const sched = 2 // CPUCLOCK_SCHED: user and system time as the scheduler counts it; see clock_getcpuclockid(3)
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|sched), &t); err != nil { //nolint:gosec // process ids have 22 bits at most
		return 0, fmt.Errorf("reading the CPU time of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// resident is a process's memory in RAM in MiB.
func resident(pid int) (now, peak float64, err error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		kib, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(value, " kB")), 64)
		switch {
		case err != nil:
		case name == "VmRSS":
			now = kib / 1024
		case name == "VmHWM":
			peak = kib / 1024
		}
	}
	if now == 0 || lines.Err() != nil {
		return 0, 0, fmt.Errorf("process %d says nothing of its memory: %w", pid, lines.Err())
	}
	return now, peak, nil
}

// cpuModel is what the machine calls its processor.
func cpuModel() string {
	text, _ := os.ReadFile("/proc/cpuinfo") // unknown is what it then is
	for line := range strings.Lines(string(text)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// load is how many processes wanted a core lately.
func load() string {
	text, _ := os.ReadFile("/proc/loadavg") // likewise
	first, _, _ := strings.Cut(string(text), " ")
	return first
}

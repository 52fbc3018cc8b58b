package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
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

// forget has a file that was written read from the disk again.
func forget(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close())
}

// allCores are those that this process was given when it began.
var allCores = func() (all unix.CPUSet) {
	_ = unix.SchedGetaffinity(0, &all) // none is then as one: nobody is confined
	return all
}()

// confine brings this process, which receives rows, and the servers that it starts onto one core until back is called. What run
// starts has the others. Where there is one core alone all share it.
func confine() (back func() error, err error) {
	if allCores.Count() < 2 {
		return func() error { return nil }, nil
	}
	var one unix.CPUSet
	for core := 0; one.Count() == 0; core++ {
		if allCores.IsSet(core) {
			one.Set(core)
		}
	}
	before := runtime.GOMAXPROCS(1)
	return func() error {
		runtime.GOMAXPROCS(before)
		return bring(allCores)
	}, bring(one)
}

// bring has all threads of this process run on these cores; those that come later inherit it.
func bring(onto unix.CPUSet) error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, thread := range threads {
		id, err := strconv.Atoi(thread.Name())
		if err == nil {
			err = unix.SchedSetaffinity(id, &onto)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) { // it has ended
			return fmt.Errorf("choosing cores: %w", err)
		}
	}
	return nil
}

// startElsewhere starts a program on the cores that confine leaves free.
func startElsewhere(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var here, others unix.CPUSet
	if err := unix.SchedGetaffinity(0, &here); err != nil {
		return err
	}
	if here == allCores {
		return cmd.Start()
	}
	for core := range len(allCores) * 64 {
		if allCores.IsSet(core) && !here.IsSet(core) {
			others.Set(core)
		}
	}
	if err := unix.SchedSetaffinity(0, &others); err != nil { // a program begins where the thread is that starts it
		return err
	}
	return errors.Join(cmd.Start(), unix.SchedSetaffinity(0, &here))
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

// Package agentproc runs bin/telegraf as a process of its own, for the quickstart, the end-to-end tests and the
// benchmarks: with its configuration, its log, and its self-metrics as they come.
package agentproc

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// selfConfig makes the agent print its self-metrics to standard output.
const selfConfig = `
[[inputs.internal]]
  interval = "%[1]s"
  collect_memstats = false
  namepass = ["internal_victorialogs", "internal_mqtt_hardware"]

[[outputs.file]]
  files = ["stdout"]
  data_format = "json"
  flush_interval = "%[1]s"
  namepass = ["internal_victorialogs", "internal_mqtt_hardware"]
`

// Options says what to run. Only Path and Configs are required.
type Options struct {
	Path    string        // of the telegraf binary
	Configs []string      // configuration files
	Env     []string      // added to this process's environment, as KEY=value
	Self    time.Duration // how often Self is refreshed; 0: never
	Dir     string        // for the configuration that Self needs
	OnLog   func(line string)
}

// Agent is a running telegraf. Its methods may be called concurrently.
type Agent struct {
	cmd   *exec.Cmd
	ended chan struct{}

	mu      sync.Mutex
	err     error
	log     bytes.Buffer
	self    map[string]int64
	changed chan struct{} // closed and made anew at each log line and each refresh of self
}

// Start starts the agent.
func Start(o Options) (*Agent, error) {
	args := []string{"--non-strict-env-handling"}
	for _, config := range o.Configs {
		args = append(args, "--config", config)
	}
	if o.Self > 0 {
		path := filepath.Join(o.Dir, "self.conf")
		if err := os.WriteFile(path, fmt.Appendf(nil, selfConfig, o.Self), 0o600); err != nil {
			return nil, err
		}
		args = append(args, "--config", path)
	}
	a := &Agent{ended: make(chan struct{}), self: make(map[string]int64), changed: make(chan struct{})}
	a.cmd = exec.Command(o.Path, args...) //nolint:gosec,noctx // Stop ends it, in its own order
	a.cmd.Env = append(os.Environ(), o.Env...)
	ownProcessGroup(a.cmd)
	stdout, err := a.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	stderr, err := a.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := a.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w; make build builds it", o.Path, err)
	}
	var reading sync.WaitGroup
	reading.Go(func() { a.readSelf(stdout) })
	reading.Go(func() { a.readLog(stderr, o.OnLog) })
	go func() {
		reading.Wait()
		err := a.cmd.Wait()
		a.mu.Lock()
		a.err = err
		a.mu.Unlock()
		close(a.ended)
	}()
	return a, nil
}

func (a *Agent) readLog(r io.Reader, onLog func(string)) {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			a.update(func() { a.log.WriteString(line) })
			if onLog != nil {
				onLog(line)
			}
		}
		if err != nil {
			return
		}
	}
}

func (a *Agent) readSelf(r io.Reader) {
	decoder := json.NewDecoder(r)
	for {
		var m struct {
			Name   string
			Fields map[string]json.Number
			Tags   map[string]string
		}
		if err := decoder.Decode(&m); err != nil {
			_, _ = io.Copy(io.Discard, r) // a full pipe would stop the agent
			return
		}
		a.update(func() {
			for field, value := range m.Fields {
				key := m.Name + "." + field
				if reason := m.Tags["reason"]; reason != "" {
					key += "." + reason
				}
				a.self[key], _ = value.Int64() // self-metrics are integers
			}
		})
	}
}

func (a *Agent) update(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
	close(a.changed)
	a.changed = make(chan struct{})
}

// Self returns a self-metric as it was last printed, such as "internal_victorialogs.metrics_received"; where there is a
// tag reason it follows the name, behind a dot.
func (a *Agent) Self(name string) int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.self[name]
}

// SelfTotal sums a self-metric over its reasons.
func (a *Agent) SelfTotal(name string) (total int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, value := range a.self {
		if key == name || strings.HasPrefix(key, name+".") {
			total += value
		}
	}
	return total
}

// RSS is the memory of the process that is in RAM, in bytes. It is known on Linux alone.
func (a *Agent) RSS() (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.PID()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no VmRSS", a.PID()) // it has ended
}

// Log returns all that was logged so far.
func (a *Agent) Log() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.log.String()
}

// PID is the process's.
func (a *Agent) PID() int { return a.cmd.Process.Pid }

// ErrEnded says that the agent ended while something was waited for.
var ErrEnded = errors.New("telegraf ended")

// WaitFor waits until done returns true, looking again at each log line and each refresh of the self-metrics.
func (a *Agent) WaitFor(ctx context.Context, done func(*Agent) bool) error {
	for {
		a.mu.Lock()
		changed := a.changed
		a.mu.Unlock()
		if done(a) {
			return nil
		}
		select {
		case <-changed:
		case <-a.ended:
			if done(a) {
				return nil
			}
			return fmt.Errorf("%w before what was waited for: %w", ErrEnded, a.err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Ended is closed when the process has ended.
func (a *Agent) Ended() <-chan struct{} { return a.ended }

// Signal sends the signal.
func (a *Agent) Signal(s syscall.Signal) error { return a.cmd.Process.Signal(s) }

// Stop sends SIGTERM and waits for the end; past the context it kills. It returns how the process ended.
func (a *Agent) Stop(ctx context.Context) error {
	_ = a.Signal(syscall.SIGTERM) // one that has ended cannot be signalled
	select {
	case <-a.ended:
	case <-ctx.Done():
		_ = a.cmd.Process.Kill()
		<-a.ended
		return fmt.Errorf("telegraf did not end at SIGTERM: %w", ctx.Err())
	}
	return a.err
}

// CPU is the time that the process has used, once it has ended.
func (a *Agent) CPU() time.Duration {
	<-a.ended
	return a.cmd.ProcessState.UserTime() + a.cmd.ProcessState.SystemTime()
}

// Kill sends SIGKILL and waits for the end.
func (a *Agent) Kill() {
	_ = a.cmd.Process.Kill()
	<-a.ended
}

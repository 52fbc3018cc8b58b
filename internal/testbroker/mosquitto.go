package testbroker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// LookMosquitto finds the mosquitto program.
func LookMosquitto() (path string, ok bool) {
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		const debian = "/usr/sbin/mosquitto" // not in every user's PATH
		path, err = exec.LookPath(debian)
	}
	return path, err == nil
}

// MosquittoOptions configures a [Mosquitto]. Dir is required.
type MosquittoOptions struct {
	// Dir is an existing directory for mosquitto.conf, mosquitto.db and mosquitto.log. Its database is read by Start.
	Dir string
	// Path is the program. Empty means what [LookMosquitto] finds.
	Path string
	// MaxInflight is max_inflight_messages. 0 leaves Mosquitto's default, 20.
	MaxInflight int
	// MaxQueued is max_queued_messages: how many messages wait for one client beyond the window before Mosquitto drops
	// the excess. 0 is unlimited, which is not Mosquitto's default (1000).
	MaxQueued int
	// Autosave is the time between two savings of the database, in whole seconds. 0 means 10 s. It is what Kill can lose.
	Autosave time.Duration
	// Lines are appended to the configuration.
	Lines []string
}

// Mosquitto is a mosquitto process on 127.0.0.1.
type Mosquitto struct {
	opts MosquittoOptions

	mu       sync.Mutex
	port     string // empty before the first Start
	reserved *reservation
	process  *process // nil while stopped
}

// process is one run of the program. Its goroutine ends with it.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // of Wait; to be read after ended
}

var _ Broker = (*Mosquitto)(nil)

// NewMosquitto checks the options. Start starts the process.
func NewMosquitto(opts MosquittoOptions) (*Mosquitto, error) {
	if opts.Path == "" {
		path, ok := LookMosquitto()
		if !ok {
			return nil, errors.New("testbroker: mosquitto is not installed")
		}
		opts.Path = path
	}
	dir, err := filepath.Abs(opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("testbroker: Dir: %w", err)
	}
	info, err := os.Stat(dir)
	switch {
	case opts.Dir == "":
		return nil, errors.New("testbroker: Dir must name a directory for the configuration and the database")
	case err != nil:
		return nil, fmt.Errorf("testbroker: Dir: %w", err)
	case !info.IsDir():
		return nil, fmt.Errorf("testbroker: Dir %s is not a directory", dir)
	case opts.MaxInflight < 0 || opts.MaxQueued < 0 || opts.Autosave < 0:
		return nil, errors.New("testbroker: MaxInflight, MaxQueued and Autosave must not be negative")
	}
	opts.Dir = dir
	if opts.Autosave == 0 {
		opts.Autosave = 10 * time.Second
	}
	return &Mosquitto{opts: opts}, nil
}

// URL is tcp://127.0.0.1:port.
func (m *Mosquitto) URL() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return "tcp://" + m.addr()
}

// Log returns the log of all runs so far.
func (m *Mosquitto) Log() (string, error) {
	b, err := os.ReadFile(m.logPath())
	return string(b), err
}

// Start runs mosquitto and returns after a client could connect. It reads the database of the last run.
func (m *Mosquitto) Start() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.start()
}

// Stop sends SIGTERM, at which Mosquitto saves its database, and waits for the end.
func (m *Mosquitto) Stop() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.end(syscall.SIGTERM)
}

// Kill sends SIGKILL and waits for the end. What came after the last autosave is lost.
func (m *Mosquitto) Kill() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.end(syscall.SIGKILL)
}

// Restart is Stop, then Start, on the same port.
func (m *Mosquitto) Restart() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.end(syscall.SIGTERM); err != nil {
		return err
	}
	return m.start()
}

// Unacked returns errors.ErrUnsupported: Mosquitto tells nobody. See [Leftover].
func (*Mosquitto) Unacked(string) (int, error) {
	return 0, fmt.Errorf("mosquitto does not tell the unacknowledged messages of a client: %w", errors.ErrUnsupported)
}

func (m *Mosquitto) addr() string    { return net.JoinHostPort("127.0.0.1", m.port) }
func (m *Mosquitto) logPath() string { return filepath.Join(m.opts.Dir, "mosquitto.log") }

func (m *Mosquitto) start() error {
	if m.process != nil {
		select {
		case <-m.process.ended: // it crashed; the log says why
			m.process = nil
		default:
			return fmt.Errorf("start mosquitto on %s: %w", m.addr(), ErrRunning)
		}
	}
	if m.port == "" {
		port, reserved, err := reservePort("127.0.0.1")
		if err != nil {
			return err
		}
		m.port, m.reserved = port, reserved
	}
	conf := filepath.Join(m.opts.Dir, "mosquitto.conf")
	if err := os.WriteFile(conf, m.configuration(), 0o600); err != nil {
		return fmt.Errorf("write the configuration of mosquitto: %w", err)
	}

	cmd := exec.CommandContext(context.Background(), m.opts.Path, "-c", conf) //nolint:gosec // G204: the caller names the program; it ends by Stop.
	var output bytes.Buffer                                                   // read after the process ended; the log file has the rest
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start mosquitto: %w", err)
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		p.err = cmd.Wait()
	}()
	m.process = p

	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := m.ready(ctx, p); err != nil {
		endErr := m.end(syscall.SIGKILL)
		text, _ := m.Log() // best effort, for the message only
		return errors.Join(fmt.Errorf("start mosquitto on %s: %w; it said: %s%s", m.addr(), err, output.String(), tail(text)), endErr)
	}
	return nil
}

// ready returns when the broker has answered a CONNECT.
func (m *Mosquitto) ready(ctx context.Context, p *process) error {
	retry := time.NewTicker(10 * time.Millisecond)
	defer retry.Stop()
	for {
		last := knock(ctx, m.addr())
		if last == nil {
			return nil
		}
		select {
		case <-retry.C:
		case <-p.ended:
			return fmt.Errorf("the process ended: %w", errors.Join(p.err, last))
		case <-ctx.Done():
			return fmt.Errorf("no client could connect: %w", last)
		}
	}
}

func (m *Mosquitto) end(signal os.Signal) error {
	p := m.process
	if p == nil {
		return nil
	}
	m.process = nil
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %s to mosquitto: %w", signal, err)
	}
	deadline := time.NewTimer(stopTimeout)
	defer deadline.Stop()
	select {
	case <-p.ended:
		return nil // how it ended is its own affair: we told it to
	case <-deadline.C:
		killErr := p.cmd.Process.Kill()
		<-p.ended
		return errors.Join(fmt.Errorf("mosquitto did not end within %s of %s and was killed", stopTimeout, signal), killErr)
	}
}

func (m *Mosquitto) configuration() []byte {
	var b bytes.Buffer
	line := func(key string, value any) { fmt.Fprintf(&b, "%s %v\n", key, value) }
	if os.Geteuid() == 0 {
		line("user", "root") // user mosquitto could not write into Dir
	}
	line("listener", m.port+" 127.0.0.1")
	line("allow_anonymous", true)
	line("persistence", true)
	line("persistence_location", m.opts.Dir+string(filepath.Separator))
	line("autosave_interval", max(1, int(m.opts.Autosave/time.Second)))
	line("max_queued_messages", m.opts.MaxQueued)
	if m.opts.MaxInflight > 0 {
		line("max_inflight_messages", m.opts.MaxInflight)
	}
	line("log_dest", "file "+m.logPath())
	for _, l := range m.opts.Lines {
		b.WriteString(l + "\n")
	}
	return b.Bytes()
}

func tail(text string) string {
	const keep = 2000
	return strings.TrimSpace(text[max(0, len(text)-keep):])
}

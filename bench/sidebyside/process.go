package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// process is a program that is measured, whichever it is.
type process struct {
	name    string
	started time.Time
	cmd     *exec.Cmd
	ended   chan struct{}

	mu     sync.Mutex
	output bytes.Buffer
	err    error // how it ended
}

// Write takes what the program prints.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.Write(b)
}

func (p *process) printed() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String()
}

// run starts a program. The caller must call stop or kill.
func run(path string, args ...string) (*process, error) {
	p := &process{name: path, cmd: exec.Command(path, args...), ended: make(chan struct{})} //nolint:gosec,noctx // stop ends it
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.started = time.Now()
	if err := startElsewhere(p.cmd); err != nil {
		return nil, fmt.Errorf("starting %s: %w; make bench builds what it needs", path, err)
	}
	go func() {
		err := p.cmd.Wait()
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
		close(p.ended)
	}()
	return p, nil
}

// failed explains an error by what the program printed last.
func (p *process) failed(err error) error {
	text := p.printed()
	const most = 4000
	return fmt.Errorf("%s: %w; it printed:\n%s", p.name, err, text[max(0, len(text)-most):])
}

// stop sends SIGTERM and waits for the end, for as long as anybody would.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // one that has ended cannot be signalled
	select {
	case <-p.ended:
		p.mu.Lock()
		err := p.err
		p.mu.Unlock()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && !exit.Exited() {
			err = nil // the signal's doing
		}
		if err != nil {
			return p.failed(err)
		}
		return nil
	case <-time.After(time.Minute):
		p.kill()
		return p.failed(errors.New("did not end within a minute of SIGTERM"))
	}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // nor killed
	<-p.ended
}

// while cancels the context that it returns when the process ends, so that nobody waits for what it would have done.
func (p *process) while(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-p.ended:
			cancel(fmt.Errorf("%s has ended", p.name))
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

// cpu is the CPU time that the process has used so far, in user and kernel mode, of all threads.
func (p *process) cpu() (time.Duration, error) { return cpuTime(p.cmd.Process.Pid) }

// memory is what of the process is in RAM now, and was at most.
func (p *process) memory() (now, peak float64, err error) { return resident(p.cmd.Process.Pid) }

// pause waits for d, or for the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

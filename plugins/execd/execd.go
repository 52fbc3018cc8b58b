// Package execd hosts our plugins as external plugins of a Telegraf that was built without them: behind its
// inputs.execd or its outputs.execd. One process hosts one or several plugins of one side.
//
//	inputs:   broker, hardware ─ plugins ─ line protocol on standard output ─ inputs.execd
//	outputs:  outputs.execd ─ line protocol on standard input ─ (spool) ─ plugins ─ server
//
// The configuration is read by Telegraf's own config package, so tags, filters, secret stores and environment variables
// are as in Telegraf, and stricter: what Telegraf would ignore without a word is an error.
//
// What it promises as an input: a message is acknowledged to its broker only after its line was written to the pipe in
// full and, on Linux, read by Telegraf. That is all an acknowledgement can mean across execd: what Telegraf does with it
// then is not known here.
//
// What it promises as an output: standard input is always drained, and what was read is in the plugin's hands at once.
// The process ends when standard input does; SIGINT and SIGTERM do not end it before, since Telegraf still has metrics
// to flush when a terminal or systemd signals the whole group. outputs.execd takes a metric for delivered once it is in
// the pipe. So with a spool, and on Linux, kill -9 of this process loses nothing: see spool.go. Without one it loses
// what is in the pipe, and what the plugins have neither delivered nor put on disk.
package execd

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/mattn/go-isatty"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/logger"
	"github.com/influxdata/telegraf/selfstat"
)

// Options say what to host.
type Options struct {
	Configs     []string      // files, and directories whose *.conf are taken
	Spool       string        // directory for what the outputs do not have safe yet; empty: none
	SelfMetrics time.Duration // how often the process's own metrics go where the others go; 0: never
	Unprotected bool          // secrets are in memory that is not locked
	Test        bool          // gather once and print, or check the configuration, and end
}

// ErrConfiguration is wrapped by errors that only another configuration or command line cures.
var ErrConfiguration = errors.New("wrong configuration")

// Run hosts the plugins until standard input ends.
func Run(o Options) (err error) {
	signal.Ignore(syscall.SIGPIPE)  // a pipe without a reader is an error of the write, not the end
	signal.Ignore(gatherSignals...) // unless there are inputs
	log := logToTelegraf()
	defer waitForReader()
	defer func() {
		if err == nil {
			return
		}
		for text := range strings.Lines(err.Error()) { // of several errors each has its line
			log.Error(text)
		}
	}()
	interrupted := interrupts(log)

	var spooled *spool
	if o.Spool != "" && !o.Test { // before all else: from now on nothing that Telegraf writes is lost
		if spooled, err = openSpool(o.Spool, log); err != nil {
			return fmt.Errorf("%w: --spool %s: %w", ErrConfiguration, o.Spool, err)
		}
		defer func() { err = errors.Join(err, spooled.close(err == nil)) }()
	}
	if o.Unprotected {
		config.DisableSecretProtection()
	} else if err := lockable(); err != nil {
		return fmt.Errorf("%w: %w", ErrConfiguration, err)
	}
	c, err := load(o.Configs)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrConfiguration, err)
	}
	logAs(c)
	switch {
	case len(c.Inputs) > 0 && o.Spool != "":
		return fmt.Errorf("%w: --spool is for outputs; the broker keeps what an input has not acknowledged", ErrConfiguration)
	case len(c.Inputs) > 0:
		return runInputs(c, o, interrupted, log)
	default:
		return runOutputs(c, o, spooled, interrupted, log)
	}
}

// interrupts takes SIGINT and SIGTERM. Both say that the end of standard input is near, and only that says that Telegraf
// has written its last. A person at a terminal, where there is no such end, is heard at once.
func interrupts(log telegraf.Logger) <-chan struct{} {
	interrupted, signals := make(chan struct{}), make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	terminal := isatty.IsTerminal(os.Stdin.Fd())
	go func() {
		received := <-signals
		if terminal {
			close(interrupted)
			return
		}
		log.Infof("Received %v; ending when standard input does", received)
		for range signals { // nor at the next
		}
	}()
	return interrupted
}

// waitForReader gives Telegraf time to read the log's last lines: it throws away what it finds in the pipes of a process
// that has ended.
func waitForReader() {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); <-tick.C {
		if isRead(os.Stderr) && isRead(os.Stdout) {
			return
		}
	}
}

// isRead tells that nobody has to be waited for to read what is in a pipe.
func isRead(pipe *os.File) bool { return unreadIn(pipe) == 0 || isAbandoned(pipe) }

// eachSelfMetric gives the process's own metrics every so often, until stop.
func eachSelfMetric(every time.Duration, stop <-chan struct{}, give func(telegraf.Metric)) {
	if every == 0 {
		return
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			for _, m := range selfstat.Metrics() {
				give(m)
			}
		}
	}
}

// stat is a self-metric of the host itself, internal_execd.
func stat(field string) selfstat.Stat {
	return selfstat.Register("execd", field, map[string]string{})
}

// initAll checks the plugins' options; nothing starts yet.
func initAll(c *config.Config) error {
	type plugin interface {
		Init() error
		LogName() string
	}
	check := func(p plugin, source string) error {
		if err := p.Init(); err != nil {
			return fmt.Errorf("%w: %s: %s: %w", ErrConfiguration, source, p.LogName(), err)
		}
		return nil
	}
	var errs []error
	for _, input := range c.Inputs {
		errs = append(errs, check(input, input.Config.Source))
	}
	for _, output := range c.Outputs {
		errs = append(errs, check(output, output.Config.Source))
	}
	return errors.Join(errs...)
}

// newLogger is the host's own.
func newLogger() telegraf.Logger { return logger.New("", "execd", "") }

// Command telegraf-check verifies an installation the whole way, with the configuration that the agent has: that it loads;
// that each broker lets us in and to each topic; that the hardware can be read; that VictoriaLogs takes a row and gives it
// back, and has our time; that the dead letters have a directory, room, and nothing in it that waits for a person.
//
// It prints a line for each step: ok, FAILED or skipped, what was done, and of a failure what to do. It disturbs no agent that
// runs with the same configuration: it logs in with a client id of its own, acknowledges no message, joins no shared
// subscription, takes no lock, and writes nothing into a directory that is in use. It leaves one row in each VictoriaLogs.
//
// Exit codes: 0 when nothing failed; 1 when a fault was found; 2 when it could not run.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/logger"

	"github.com/edgetide/telegraf-victorialogs/inputs/mqtt_hardware"
	"github.com/edgetide/telegraf-victorialogs/outputs/tcp_exporter"
	"github.com/edgetide/telegraf-victorialogs/outputs/victorialogs"
)

// version is set by the linker.
var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)     // the second one ends us at once
	config.DisableSecretProtection() // for the moment that this runs; locked memory is what small machines have little of
	if err := logger.SetupLogging(&logger.Config{Quiet: true}); err != nil {
		fmt.Fprintln(os.Stderr, "telegraf-check:", err)
		os.Exit(exitCannotRun)
	}
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// The exit codes.
const (
	exitFault     = 1
	exitCannotRun = 2
)

// options are what the flags say.
type options struct {
	configs, directories []string
	json, help, version  bool
	nonStrict            bool
	timeout              time.Duration
}

func newFlags() (*options, *pflag.FlagSet) {
	o := &options{}
	f := pflag.NewFlagSet("telegraf-check", pflag.ContinueOnError)
	f.SortFlags = false
	f.Usage = func() {}
	f.StringArrayVar(&o.configs, "config", nil, "configuration `file` or URL; may be repeated; without one, where Telegraf looks")
	f.StringArrayVar(&o.directories, "config-directory", nil, "`directory` with more *.conf files; may be repeated")
	f.BoolVar(&o.nonStrict, "non-strict-env-handling", false, "read environment variables as Telegraf does with this flag")
	f.BoolVar(&o.json, "json", false, "print a JSON array")
	f.DurationVar(&o.timeout, "timeout", 30*time.Second, "how long one step may take")
	f.BoolVar(&o.version, "version", false, "print the version")
	f.BoolVarP(&o.help, "help", "h", false, "show this")
	return o, f
}

func run(ctx context.Context, args []string, out, complaints io.Writer) int {
	o, flags := newFlags()
	err := flags.Parse(args)
	switch {
	case err == nil && flags.NArg() > 0:
		err = fmt.Errorf("%q is no option; name a file with --config", flags.Arg(0))
	case err == nil && o.timeout <= 0:
		err = fmt.Errorf("--timeout is %s; it must be longer than 0s, such as 30s", o.timeout)
	}
	if err != nil {
		fmt.Fprintf(complaints, "telegraf-check: %v; see telegraf-check --help\n", err)
		return exitCannotRun
	}
	if o.help {
		fmt.Fprintf(out, "telegraf-check verifies an installation of inputs.mqtt_hardware, outputs.victorialogs and "+
			"outputs.tcp_exporter.\n\n%s\nIt may run beside the agent, and should run as its user. Exit codes: 0 nothing failed; "+
			"1 a fault was found; 2 it could not run.\n", flags.FlagUsages())
		return 0
	}
	if o.version {
		fmt.Fprintln(out, "telegraf-check", version)
		return 0
	}
	c := &check{timeout: o.timeout, report: &report{out: out, json: o.json, stopped: ctx.Err}}
	if err := c.all(ctx, o); err != nil {
		fmt.Fprintf(complaints, "telegraf-check: %v\n", err)
		return exitCannotRun
	}
	if err := c.report.close(); err != nil {
		fmt.Fprintf(complaints, "telegraf-check: %v\n", err)
		return exitCannotRun
	}
	if c.report.faults > 0 {
		return exitFault
	}
	return 0
}

// check is one run.
type check struct {
	timeout time.Duration // of a step
	report  *report
}

// all goes the way of a metric, from the configuration to the dead letters.
func (c *check) all(ctx context.Context, o *options) error {
	config.NonStrictEnvVarHandling = o.nonStrict
	loaded, err := c.load(ctx, o)
	if err != nil {
		return err
	}
	if !c.configuration(loaded) {
		return nil
	}
	for _, p := range loaded.plugins {
		if !c.initialize(p) {
			continue
		}
		switch plugin := p.plugin.(type) {
		case *mqtt_hardware.MQTTHardware:
			c.input(ctx, p.name, plugin)
		case *victorialogs.VictoriaLogs:
			c.output(ctx, p.name, plugin, loaded.tags)
		case *tcp_exporter.TCPExporter:
			c.exporter(ctx, p.name, plugin)
		}
		if ctx.Err() != nil {
			return errors.Join(errors.New("interrupted"), c.report.close())
		}
	}
	return nil
}

// load waits for the configuration on another goroutine, since a server that is asked for one may never answer and Telegraf's
// package would wait for ever.
func (c *check) load(ctx context.Context, o *options) (*loaded, error) {
	type result struct {
		loaded *loaded
		err    error
	}
	read := make(chan result, 1)
	go func() {
		files, err := find(o.configs, o.directories)
		if err != nil {
			read <- result{err: err}
			return
		}
		l, err := load(files)
		read <- result{l, err}
	}()
	limited, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	select {
	case r := <-read:
		return r.loaded, r.err
	case <-limited.Done():
	}
	if ctx.Err() != nil {
		return nil, errors.New("interrupted")
	}
	return nil, fmt.Errorf("the configuration cannot be read within %s; see that the server which --config names answers", c.timeout)
}

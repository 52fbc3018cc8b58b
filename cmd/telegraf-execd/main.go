// Command telegraf-execd hosts our plugins as external plugins of a Telegraf that was built without them. docs/execd.md
// says how.
//
// Exit codes: 0 when standard input ended and all was done; 1 when something went wrong; 2 when the command line or the
// configuration is wrong.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/pflag"

	"github.com/edgetide/telegraf-victorialogs/plugins/execd"
)

// version is set by the linker.
var version = "unknown"

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, out, complaints io.Writer) (code int) {
	const failed, wrong = 1, 2
	if len(args) == 2 && args[0] == execd.HeirCommand {
		if err := execd.Inherit(args[1]); err != nil {
			return failed // it has nobody to tell
		}
		return 0
	}
	var o execd.Options
	f := pflag.NewFlagSet("telegraf-execd", pflag.ContinueOnError)
	f.SortFlags = false
	f.Usage = func() {}
	f.StringArrayVar(&o.Configs, "config", nil, "configuration: a file, or a directory whose *.conf are taken; may be repeated")
	f.StringVar(&o.Spool, "spool", "", "outputs: directory that keeps what kill -9 of this process would lose")
	f.DurationVar(&o.SelfMetrics, "self-metrics", 0, "how often internal_… metrics go where the others go, such as 10s; 0 for never")
	f.BoolVar(&o.Test, "test", false, "inputs: gather once and print; outputs: check the configuration; connect to nothing, and end")
	f.BoolVar(&o.Unprotected, "unprotected", false, "keep secrets in memory that is not locked, where RLIMIT_MEMLOCK is too low")
	showVersion := f.Bool("version", false, "print the version")
	err := f.Parse(args)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		fmt.Fprintf(out, "telegraf-execd hosts inputs.mqtt_hardware, outputs.victorialogs and others of telegraf-victorialogs behind\n"+
			"Telegraf's inputs.execd and outputs.execd.\n\n%s\nExit codes: 0; 1 something went wrong; 2 the command line or the "+
			"configuration is wrong.\n", f.FlagUsages())
		return 0
	case err == nil && f.NArg() > 0:
		err = fmt.Errorf("%q is no option", f.Arg(0))
	case err == nil && o.SelfMetrics != 0 && o.SelfMetrics < time.Second:
		err = fmt.Errorf("--self-metrics is %s; it must be 1s or longer, or 0", o.SelfMetrics)
	}
	if err != nil {
		fmt.Fprintf(complaints, "E! telegraf-execd: %v; see telegraf-execd --help\n", err)
		return wrong
	}
	if *showVersion {
		fmt.Fprintln(out, "telegraf-execd", version)
		return 0
	}
	switch err := execd.Run(o); {
	case errors.Is(err, execd.ErrConfiguration):
		return wrong
	case err != nil:
		return failed
	}
	return 0
}

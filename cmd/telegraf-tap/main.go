// Command telegraf-tap shows what outputs.tcp_exporter streams, or any other server of metrics-exporter-tcp: as a table that
// refreshes, as lines, or as JSON.
//
// It connects again when the server goes away. What comes over the wire is believed in nothing: lengths are bounded, and
// control characters are escaped before they reach the terminal.
//
// Exit codes: 0; 1 when what comes is no such stream, or the connection ended and --once was given; 2 when it could not run.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/gdamore/tcell/v2"
	"github.com/mattn/go-isatty"
	"github.com/spf13/pflag"

	telegraftls "github.com/influxdata/telegraf/plugins/common/tls"

	"github.com/edgetide/telegraf-victorialogs/internal/tlsconf"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second one ends us at once
	a := &app{out: os.Stdout, err: os.Stderr, terminal: isatty.IsTerminal(os.Stdout.Fd()), screen: tcell.NewScreen}
	os.Exit(a.run(ctx, os.Args[1:]))
}

// app is what the command has of the world.
type app struct {
	out, err io.Writer
	terminal bool // out is one
	screen   func() (tcell.Screen, error)
}

// The exit codes.
const (
	exitStream    = 1
	exitCannotRun = 2
)

// options are what the flags say.
type options struct {
	table, lines, json  bool
	names, labels       []string
	count               uint64
	once, help, withTLS bool
	tls                 telegraftls.ClientConfig
}

func (a *app) run(ctx context.Context, args []string) int {
	o, flags := newFlags()
	if err := flags.Parse(args); err != nil {
		fmt.Fprintf(a.err, "telegraf-tap: %v; see telegraf-tap --help\n", err)
		return exitCannotRun
	}
	if o.help {
		fmt.Fprintf(a.out, "telegraf-tap HOST:PORT shows what outputs.tcp_exporter streams there, live.\n\n%s\n"+
			"In the table: up, down, page up, page down, home and end scroll, s sorts by name or rate, space pauses, q quits.\n",
			flags.FlagUsages())
		return 0
	}
	source, err := a.prepare(o, flags.Args())
	if err != nil {
		fmt.Fprintln(a.err, "telegraf-tap:", err)
		return exitCannotRun
	}
	if o.table {
		err = a.showTable(ctx, source)
	} else {
		err = a.print(ctx, source, o.json)
	}
	switch {
	case err == nil, errors.Is(err, syscall.EPIPE): // as with head, which has seen enough
		return 0
	case errors.Is(err, errScreen):
		fmt.Fprintln(a.err, "telegraf-tap:", err)
		return exitCannotRun
	}
	fmt.Fprintln(a.err, "telegraf-tap:", visible(err.Error()))
	return exitStream
}

func newFlags() (*options, *pflag.FlagSet) {
	o := &options{}
	f := pflag.NewFlagSet("telegraf-tap", pflag.ContinueOnError)
	f.SortFlags = false
	f.Usage = func() {}
	f.BoolVar(&o.table, "table", false, "show a table that refreshes; the default on a terminal")
	f.BoolVar(&o.lines, "lines", false, "print a line for each event; the default elsewhere")
	f.BoolVar(&o.json, "json", false, "print an object for each event, in a line of its own")
	f.StringArrayVar(&o.names, "name", nil, "show series with this `name`, which may hold * and ?; may be repeated")
	f.StringArrayVar(&o.labels, "label", nil, "show series with this label, as `KEY=VALUE`, where the value may hold * and ?; may be repeated, "+
		"and all must be there")
	f.Uint64Var(&o.count, "count", 0, "end after so many events; 0: never")
	f.BoolVar(&o.once, "once", false, "end when the connection does, instead of connecting again")
	f.BoolVar(&o.withTLS, "tls", false, "use TLS; the other TLS flags imply it")
	f.StringVar(&o.tls.TLSCA, "tls-ca", "", "`file` with the authorities to trust, instead of the system's")
	f.StringVar(&o.tls.TLSCert, "tls-cert", "", "`file` with this client's certificate")
	f.StringVar(&o.tls.TLSKey, "tls-key", "", "`file` with its key")
	f.StringVar(&o.tls.ServerName, "tls-server-name", "", "`name` in the server's certificate, if it is not the host's")
	f.BoolVar(&o.tls.InsecureSkipVerify, "insecure-skip-verify", false, "trust any server")
	f.BoolVarP(&o.help, "help", "h", false, "show this")
	return o, f
}

// prepare checks the options and completes them.
func (a *app) prepare(o *options, args []string) (*source, error) {
	if len(args) != 1 {
		return nil, errors.New("say where to connect, as HOST:PORT, such as 127.0.0.1:5000")
	}
	host, port, err := net.SplitHostPort(args[0])
	if number, e := strconv.ParseUint(port, 10, 16); err != nil || e != nil || number == 0 {
		return nil, fmt.Errorf("%q: must be HOST:PORT, such as 127.0.0.1:5000", args[0])
	}
	switch shown := btoi(o.table) + btoi(o.lines) + btoi(o.json); {
	case shown > 1:
		return nil, errors.New("--table, --lines and --json exclude each other; name one of them")
	case o.table && !a.terminal:
		return nil, errors.New("--table needs a terminal; use --lines or --json")
	case shown == 0:
		o.table = a.terminal
	}
	keep, err := newFilter(o.names, o.labels)
	if err != nil {
		return nil, err
	}
	if o.withTLS {
		o.tls.Enable = &o.withTLS
	}
	config, err := tlsconf.Client(&o.tls)
	if err != nil {
		return nil, errors.New(asFlags.Replace(err.Error()))
	}
	if config != nil && config.ServerName == "" {
		config.ServerName = host
	}
	return &source{address: args[0], tls: config, once: o.once, keep: keep, left: o.count, limited: o.count > 0}, nil
}

// asFlags names flags in errors that name options of plugins.
var asFlags = strings.NewReplacer("tls_ca =", "--tls-ca =", "tls_cert =", "--tls-cert =", "tls_key =", "--tls-key =")

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Command dlq looks into, checks, replays and clears the dead letters that package dlq keeps on disk.
//
// ls, cat, verify and quarantine ls read, and nothing else: they take no lock and work beside a running queue. So do replay
// and purge with --dry-run. The other commands need the directory for themselves, and say so when they cannot have it.
//
// Exit codes: 0; 1 when a fault was found, or not all was done; 2 when the command could not run.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/pflag"

	"github.com/edgetide/telegraf-victorialogs/dlq"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second one ends us at once
	a := &app{out: os.Stdout, err: os.Stderr, terminal: isatty.IsTerminal(os.Stderr.Fd())}
	os.Exit(a.run(ctx, os.Args[1:]))
}

// app is what the commands have of the world.
type app struct {
	out      io.Writer
	err      io.Writer
	terminal bool // err is one
}

// The exit codes.
const (
	exitFault     = 1
	exitCannotRun = 2
)

// errFault says that what is wrong was printed already.
var errFault = errors.New("a fault was found")

// command is one of dlq's.
type command struct {
	name     string // as it is typed
	args     string
	what     string
	min, max int // number of arguments
	flags    *pflag.FlagSet
	run      func(ctx context.Context, args []string) error
}

const unlimited = 1 << 30

func newCommand(name, args, what string, least, most int) *command {
	c := &command{name: name, args: args, what: what, min: least, max: most}
	c.flags = pflag.NewFlagSet(name, pflag.ContinueOnError)
	c.flags.SortFlags = false
	c.flags.Usage = func() {}
	return c
}

func (a *app) commands() []*command {
	return []*command{
		a.ls(), a.cat(), a.verify(), a.replay(), a.salvage(), a.purge(),
		a.quarantineLs(), a.quarantineRestore(), a.quarantineRm(), a.demo(),
	}
}

// run runs the command that the arguments name and returns the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	err := a.dispatch(ctx, args)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errFault):
		return exitFault
	}
	fmt.Fprintln(a.err, "dlq:", explain(err))
	return exitCannotRun
}

// explain adds what to do about an error, where we know.
func explain(err error) string {
	text := strings.TrimPrefix(err.Error(), "dlq: ")
	if errors.Is(err, dlq.ErrLocked) {
		text += "; stop it first, or use the commands that only read: ls, cat, verify, quarantine ls"
	}
	return text
}

func (a *app) dispatch(ctx context.Context, args []string) error {
	commands := a.commands()
	if len(args) > 0 && (args[0] == "help" || args[0] == "-h" || args[0] == "--help") {
		a.usage(a.out, commands)
		return nil
	}
	for _, c := range commands {
		rest, ok := cutName(c.name, args)
		if !ok {
			continue
		}
		err := c.flags.Parse(rest)
		if errors.Is(err, pflag.ErrHelp) {
			fmt.Fprintf(a.out, "dlq %s %s\n\n%s\n\n%s", c.name, c.args, c.what, c.flags.FlagUsages())
			return nil
		}
		if err != nil {
			return flagError(c.name, err)
		}
		if n := c.flags.NArg(); n < c.min || n > c.max {
			return fmt.Errorf("usage: dlq %s %s; see dlq %s --help", c.name, c.args, c.name)
		}
		return c.run(ctx, c.flags.Args())
	}
	if len(args) > 0 {
		if group := under(args[0], commands); len(group) > 0 {
			return a.sayWhich(args, group)
		}
		fmt.Fprintf(a.err, "dlq: there is no command %q\n\n", args[0])
	}
	a.usage(a.err, commands)
	return errors.New("say what to do")
}

// under returns the commands whose name is of two words, and this the first.
func under(word string, commands []*command) []*command {
	return slices.DeleteFunc(slices.Clone(commands), func(c *command) bool { return !strings.HasPrefix(c.name, word+" ") })
}

// sayWhich lists the commands that begin with a word, since none was named, or one that there is not.
func (a *app) sayWhich(args []string, group []*command) error {
	switch {
	case len(args) == 1:
		listCommands(a.err, group)
		return fmt.Errorf("%s: say which of these", args[0])
	case slices.Contains([]string{"help", "-h", "--help"}, args[1]):
		listCommands(a.out, group)
		return nil
	}
	listCommands(a.err, group)
	return fmt.Errorf("there is no command %q", args[0]+" "+args[1])
}

// cutName takes a command's name, which may be two words, off the arguments.
func cutName(name string, args []string) (rest []string, ok bool) {
	for i := range args {
		typed := args[0]
		if i == 1 {
			typed += " " + args[1]
		}
		if i < 2 && typed == name {
			return args[i+1:], true
		}
	}
	return nil, false
}

func (*app) usage(w io.Writer, commands []*command) {
	fmt.Fprintln(w, "dlq looks into, checks, replays and clears dead letters on disk.")
	fmt.Fprintln(w)
	listCommands(w, commands)
	fmt.Fprintln(w, "\ndlq COMMAND --help shows the command's flags. Exit code 1: a fault was found, or not all was done; 2: it could not run.")
}

func listCommands(w io.Writer, commands []*command) {
	for _, c := range commands {
		fmt.Fprintf(w, "  dlq %-18s %-24s %s\n", c.name, c.args, c.what)
	}
}

// isDirectory says early that a directory is not there, instead of making it.
func isDirectory(dir string) error {
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is no directory", dir)
	}
	return err
}

// age is how long ago something was, in two units.
func age(since time.Time) string {
	d := time.Since(since)
	const day = 24 * time.Hour
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	case d < day:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
}

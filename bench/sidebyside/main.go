// Command sidebyside measures our plugins and stock Telegraf on the same work, in turn, in one session and several rounds,
// and writes docs/benchmarks.md. What counts is the ratio and not the machine: make bench repeats it anywhere.
//
// Each agent is a real process, between a real broker, or a firehose that costs next to nothing, and the stand-in for
// VictoriaLogs, or a real one where victoria-logs is on PATH. CPU time is the agent process's own, between two moments at
// which nothing is under way, so neither its start nor its neighbours count.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/edgetide/telegraf-victorialogs/internal/vlserver"
)

// options are the flags.
type options struct {
	telegraf, stock string // binaries
	root            string // directory of the module
	out             string // where the document goes; empty: nowhere
	rounds          int
	only            []string // measures; empty: all
	short           bool
	backlog         int64  // bytes of the largest backlog
	profiles        string // directory for CPU profiles; empty: none
}

func main() {
	o := options{root: "."}
	flag.StringVar(&o.telegraf, "telegraf", "bin/telegraf", "the telegraf binary with our plugins")
	flag.StringVar(&o.stock, "stock", ".build/telegraf-stock", "the telegraf binary without them")
	flag.StringVar(&o.out, "out", "", `file for the results; default: docs/benchmarks.md if all is measured in full, otherwise standard output`)
	flag.IntVar(&o.rounds, "rounds", 5, "rounds of the short measures; long ones have up to three")
	only := flag.String("only", "", "measures to run, separated by commas: "+strings.Join(measureNames(), ", "))
	flag.BoolVar(&o.short, "short", false, "a smoke test: one tiny round of each measure")
	backlog := flag.Int64("backlog", 10_240, "size of the largest backlog in MiB; takes as much of the disk with temporary files")
	flag.StringVar(&o.profiles, "profiles", "", "directory for a CPU profile of each agent under full load")
	as := flag.String("send", "", "be a sender instead, as this program starts for itself: ours, or the connections of a bare client")
	to := flag.String("to", "", "URL where that sends to")
	rows := flag.Int("rows", 0, "how many rows it sends")
	flag.Parse()
	o.backlog = *backlog << 20
	if *only != "" {
		o.only = strings.Split(*only, ",")
	}
	if o.out == "" && *only == "" && !o.short {
		o.out = filepath.Join("docs", "benchmarks.md")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if *as != "" {
		err = send(ctx, *as, *to, *rows)
	} else {
		err = bench(ctx, o, os.Stdout, os.Stderr)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "sidebyside:", err)
		os.Exit(1) //nolint:forbidigo // main alone exits, and this is one
	}
}

// session is one run of this program.
type session struct {
	options
	dir      string // for all that is temporary
	built    string // directory of our programs
	progress io.Writer
	results  results
	ways     []way
	real     bool // there is a real VictoriaLogs
	facts    facts
}

// measure is one thing that is measured, in each round by all ways in turn.
type measure struct {
	name   string
	rounds int // at most
	run    func(*session, context.Context, int) error
}

func measures() []measure {
	const all = 1 << 30
	return []measure{
		{"size", 1, (*session).measureSize},
		{"micro", 1, (*session).measureMicro},
		{"startup", all, (*session).measureStartup},
		{"saturation", all, (*session).measureSaturation},
		{"flow", all, (*session).measureFlow},
		{"window", 3, (*session).measureWindow},
		{"latency", 3, (*session).measureLatency},
		{"allocations", 3, (*session).measureAllocations},
		{"idle", 2, (*session).measureIdle},
		{"topics", 3, (*session).measureTopics},
		{"output", 3, (*session).measureOutput},
		{"server", 2, (*session).measureServer},
		{"disk", 1, (*session).measureDisk},
		{"backlog", 1, (*session).measureBacklog},
		{"restore", 2, (*session).measureRestore},
		{"fleet", 1, (*session).measureFleet},
	}
}

func measureNames() (names []string) {
	for _, m := range measures() {
		names = append(names, m.name)
	}
	return names
}

// bench runs the measures and writes the document.
func bench(ctx context.Context, o options, out, progress io.Writer) (err error) {
	for _, name := range o.only {
		if !slices.Contains(measureNames(), name) {
			return fmt.Errorf("-only: there is no measure %q; there are %s", name, strings.Join(measureNames(), ", "))
		}
	}
	if o.rounds < 1 || o.backlog < 1<<20 {
		return errors.New("-rounds and -backlog must be 1 or more")
	}
	if o.short {
		o.rounds, o.backlog = 1, 4<<20
	}
	if err := hasRoom(o); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "sidebyside")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s := &session{options: o, dir: dir, built: filepath.Dir(o.telegraf), progress: progress, results: make(results), ways: ways(o)}
	if err := errors.Join(install(&s.telegraf, dir), install(&s.stock, dir)); err != nil {
		return err
	}
	_, s.real = vlserver.Look()
	s.facts = s.gatherFacts(ctx)
	began := time.Now()
	for _, m := range measures() {
		if len(o.only) > 0 && !slices.Contains(o.only, m.name) {
			continue
		}
		for round := range min(m.rounds, o.rounds) {
			start := time.Now()
			fmt.Fprintf(progress, "%s, round %d\n", m.name, round+1)
			if err := m.run(s, ctx, round); err != nil {
				return fmt.Errorf("measuring %s: %w", m.name, err)
			}
			fmt.Fprintf(progress, "%s took %s; load %s\n", m.name, time.Since(start).Round(100*time.Millisecond), load())
		}
	}
	s.facts.took = time.Since(began)
	s.facts.loadAfter = load()
	document := s.document()
	if o.out == "" {
		_, err = io.WriteString(out, document)
		return err
	}
	return os.WriteFile(o.out, []byte(document), 0o644) //nolint:gosec // to be read by all
}

// install copies a program, and has it read from the disk as after a start of the machine: of a file that was just written
// much more is resident, by how it was written.
func install(program *string, dir string) error {
	content, err := os.ReadFile(*program)
	if err != nil {
		return fmt.Errorf("%w; make bench builds it", err)
	}
	*program = filepath.Join(dir, filepath.Base(*program))
	if err := os.WriteFile(*program, content, 0o755); err != nil { //nolint:gosec // a program
		return err
	}
	return forget(*program)
}

// note records a number and shows it.
func (s *session) note(p point, value float64) {
	s.results.add(p, value)
	name := strings.Join(slices.DeleteFunc([]string{p.measure, p.way, p.at}, func(part string) bool { return part == "" }), ", ")
	fmt.Fprintf(s.progress, "  %-60s %12s %s\n", name, number(value), p.what)
}

// scaled is n, or a little for a smoke test.
func (s *session) scaled(n int) int {
	if s.short {
		return max(1, n/50)
	}
	return n
}

// inTurn calls f for each of them, beginning with another one in each round: nobody always comes after the same.
func inTurn[T any](all []T, round int, f func(T) error) error {
	for i := range all {
		if err := f(all[(i+round)%len(all)]); err != nil {
			return err
		}
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/edgetide/telegraf-victorialogs/dlq"
)

// replayOptions are the flags.
type replayOptions struct {
	url         string
	stdout      bool
	header      headers
	contentType string
	timeout     time.Duration
	rate        float64
	byteRate    float64
	retry       time.Duration
	giveUp      time.Duration
	dryRun      bool
	json        bool
}

func (a *app) replay() *command {
	o := replayOptions{header: headers{}}
	c := newCommand("replay", "DIR [DUMP…]", "deliver the items, oldest first, to a URL or to stdout; what is interrupted goes on later", 1, unlimited)
	f := c.flags
	textFlag(f, &o.url, kindURL, "url", "", checkURL, "POST each item to this URL; the answer must be 2xx. A batch of "+
		"outputs.victorialogs goes to its own path below it, as the plugin would send it")
	f.BoolVar(&o.stdout, "stdout", false, "write items to stdout, with a newline after each; with --json an object for each")
	f.Var(o.header, "header", `a header of each request, such as "Authorization: Bearer …"; may be repeated`)
	textFlag(f, &o.contentType, "type", "content-type", "application/octet-stream", checkHeaderValue, "what the items are that are no batches")
	durationFlag(f, &o.timeout, "timeout", 15*time.Second, 1, "how long a request may take")
	rateFlag(f, &o.rate, "rate", 0, true, "items a second at most, a batch being one; 0: no bound")
	rateFlag(f, &o.byteRate, "bytes-rate", 0, true, "bytes a second at most; 0: no bound")
	durationFlag(f, &o.retry, "retry", time.Second, 1, "how long to wait after a failure")
	durationFlag(f, &o.giveUp, "give-up", time.Minute, 0, "end when nothing was delivered for so long; 0s: never")
	f.BoolVar(&o.dryRun, "dry-run", false, "only print what would be delivered; this works beside a running queue")
	f.BoolVar(&o.json, "json", false, "print JSON")
	c.run = func(ctx context.Context, args []string) error {
		if err := o.check(); err != nil {
			return fmt.Errorf("replay: %w", err)
		}
		if o.dryRun {
			return a.replayDry(o, args[0], args[1:])
		}
		return a.replayAll(ctx, o, args[0], args[1:])
	}
	return c
}

func (o *replayOptions) check() error {
	switch {
	case o.url != "" && o.stdout:
		return errors.New("--url and --stdout exclude each other")
	case o.url == "" && !o.stdout && !o.dryRun:
		return errors.New("say where the items go: --url URL or --stdout")
	}
	return nil
}

// sealed returns the dumps to be replayed.
func sealed(dir string, names []string) ([]dlq.File, error) {
	files, err := list(dir)
	if err != nil {
		return nil, err
	}
	files = slices.DeleteFunc(files, func(f dlq.File) bool { return f.State != dlq.StateSealed })
	if len(names) == 0 {
		return files, nil
	}
	return choose(files, names)
}

func (a *app) replayDry(o replayOptions, dir string, names []string) error {
	files, err := sealed(dir, names)
	if err != nil {
		return err
	}
	if o.json {
		return a.printJSON(lines(files))
	}
	a.printFiles(files)
	var items, bytes uint64
	for _, f := range files {
		items += left(f)
		bytes += f.Bytes
	}
	fmt.Fprintf(a.out, "dry run: would deliver %d items of %d dumps, up to %s", items, len(files), size(bytes))
	var seconds float64
	if o.rate > 0 {
		seconds = float64(items) / o.rate
	}
	if o.byteRate > 0 {
		seconds = max(seconds, float64(bytes)/o.byteRate)
	}
	const year = 365 * 24 * 60 * 60
	switch {
	case seconds > year: // more than a duration may hold, perhaps
		fmt.Fprintf(a.out, ", in no less than %.1f years", seconds/year)
	case seconds > 0:
		fmt.Fprintf(a.out, ", in no less than %s", time.Duration(seconds*float64(time.Second)).Round(time.Second))
	}
	fmt.Fprintln(a.out)
	return nil
}

// replayed is what replay did. Its names in JSON are a contract.
type replayed struct {
	Delivered uint64  `json:"delivered"`
	Bytes     uint64  `json:"bytes"`
	SetAside  uint64  `json:"set_aside"` // items
	Damaged   int     `json:"damaged"`   // dumps, set aside after what could be read of them was delivered
	Left      uint64  `json:"left"`      // items
	LeftDumps int     `json:"left_dumps"`
	Seconds   float64 `json:"seconds"`
	Ended     string  `json:"ended,omitempty"` // why, if not since all was delivered
}

// replay is one run.
type replay struct {
	o      replayOptions
	send   func(ctx context.Context, item []byte) error
	bar    *bar
	giveUp context.CancelCauseFunc

	// What follows is the restorer's goroutine's, and it runs on ours.
	done    replayed
	good    time.Time // the last delivery, or the start
	failing bool
}

func (a *app) replayAll(ctx context.Context, o replayOptions, dir string, names []string) (err error) {
	if err := isDirectory(dir); err != nil {
		return err
	}
	var current source
	out, err := a.newSink(o, &current)
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	defer out.close()
	bar := a.newBar("replay", 0)
	ended := false
	defer func() {
		if !ended {
			bar.end(false)
		}
	}()
	disk, err := dlq.OpenDisk(dir, dlq.DiskOptions{Logger: slog.New(slog.NewTextHandler(bar, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	files, err := sealed(dir, names)
	if err != nil {
		return err
	}
	items, _ := remaining(files)
	bar.total(items)

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := &replay{o: o, send: out.send, bar: bar, giveUp: cancel, good: time.Now()}
	store := &anyVersion{Disk: disk, flush: out.flush, only: files, current: &current, versions: make(map[uint64]string), done: &r.done}
	start := time.Now()
	if err := r.drain(ctx, store); err != nil {
		return err
	}
	r.done.Seconds = time.Since(start).Seconds()
	if files, err = dlq.List(dir); err != nil {
		return err
	}
	files = slices.DeleteFunc(files, func(f dlq.File) bool { return f.State != dlq.StateSealed || !store.wanted(f.Sequence) })
	r.done.Left, r.done.LeftDumps = remaining(files)
	ended = true
	bar.end(r.done.LeftDumps == 0)
	return a.printReplayed(o, r.done)
}

// remaining is how many items are left, of how many dumps.
func remaining(files []dlq.File) (items uint64, dumps int) {
	for _, f := range files {
		items += left(f)
	}
	return items, len(files)
}

// drain delivers until nothing is left or ctx ends, which is no error.
func (r *replay) drain(ctx context.Context, store *anyVersion) error {
	restorer, err := dlq.NewRestorer(store, dlq.DecodeBytes, r.deliver, dlq.RestorerOptions[[]byte]{
		CheckInterval: r.o.retry, ItemsPerSecond: r.o.rate, BytesPerSecond: r.o.byteRate,
		Migrate: nil, // anyVersion has none to migrate
	})
	if err != nil {
		return err
	}
	for {
		err := restorer.Drain(ctx)
		dumps, listErr := store.Dumps()
		switch {
		case ctx.Err() != nil:
			r.done.Ended = "interrupted"
			if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
				r.done.Ended = cause.Error()
			}
			return nil
		case listErr != nil:
			return listErr
		case len(dumps) == 0:
			return nil
		case err != nil:
			r.failed(err)
		}
		timer := time.NewTimer(r.o.retry)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// deliver is the restorer's target. An item that is under way when ctx ends is brought to its end, so that what was noted as
// delivered is what was.
func (r *replay) deliver(ctx context.Context, item []byte) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	err := r.send(context.WithoutCancel(ctx), item)
	if err != nil {
		if final := new(finalError); errors.As(err, &final) {
			r.giveUp(err)
		} else if !errors.Is(err, dlq.ErrPoison) {
			r.failed(err)
		}
		return err
	}
	if r.failing {
		r.bar.note("delivered again")
	}
	r.failing, r.good = false, time.Now()
	r.done.Delivered++
	r.done.Bytes += uint64(len(item))
	r.bar.add(1)
	return nil
}

// failed says once that something fails, and ends the run when it does so for too long.
func (r *replay) failed(err error) {
	if !r.failing {
		r.bar.note("not delivered, and tried again every %s: %v", r.o.retry, err)
	}
	r.failing = true
	if r.o.giveUp > 0 && time.Since(r.good) >= r.o.giveUp {
		r.giveUp(fmt.Errorf("nothing was delivered for %s: %w", r.o.giveUp, err))
	}
}

func (a *app) printReplayed(o replayOptions, done replayed) error {
	out := a.out
	if o.stdout {
		out = a.err
	}
	if o.json {
		b := &app{out: out}
		if err := b.printJSON(done); err != nil {
			return err
		}
	} else {
		if done.Ended != "" {
			fmt.Fprintf(out, "ended early: %s\n", done.Ended)
		}
		if done.Damaged > 0 {
			fmt.Fprintf(out, "%d damaged dumps are in quarantine; what could be read of them was delivered\n", done.Damaged)
		}
		fmt.Fprintf(out, "%d items delivered, %s; %d set aside in quarantine; %d items in %d dumps left\n",
			done.Delivered, size(done.Bytes), done.SetAside, done.Left, done.LeftDumps)
	}
	if done.LeftDumps > 0 || done.SetAside > 0 || done.Damaged > 0 || done.Ended != "" {
		return errFault
	}
	return nil
}

// anyVersion gives the restorer the dumps that are wanted, whatever version they have, since items are passed on as they are.
type anyVersion struct {
	*dlq.Disk
	flush    func() error // makes durable what was delivered
	only     []dlq.File
	current  *source
	versions map[uint64]string
	done     *replayed
}

// source is the dump that is being delivered.
type source struct{ name, version string }

func (s *anyVersion) wanted(sequence uint64) bool {
	return slices.ContainsFunc(s.only, func(f dlq.File) bool { return f.Sequence == sequence })
}

// Dumps returns them without their versions.
func (s *anyVersion) Dumps() ([]dlq.Info, error) {
	dumps, err := s.Disk.Dumps()
	dumps = slices.DeleteFunc(dumps, func(i dlq.Info) bool { return !s.wanted(i.Sequence) })
	for i := range dumps {
		s.versions[dumps[i].Sequence] = dumps[i].Version
		dumps[i].Version = ""
	}
	return dumps, err
}

// QuarantineItems gives the version back.
func (s *anyVersion) QuarantineItems(info dlq.Info, reason string, items [][]byte) error {
	info.Version = s.versions[info.Sequence]
	s.done.SetAside += uint64(len(items))
	return s.Disk.QuarantineItems(info, reason, items)
}

// Quarantine sets a damaged dump aside after what was delivered is durable.
func (s *anyVersion) Quarantine(sequence uint64, reason string) error {
	if err := s.flush(); err != nil {
		return err
	}
	s.done.Damaged++
	return s.Disk.Quarantine(sequence, reason)
}

// Remove removes a dump after what was delivered is durable.
func (s *anyVersion) Remove(sequence uint64) error {
	if err := s.flush(); err != nil {
		return err
	}
	return s.Disk.Remove(sequence)
}

// Open opens a dump whose progress is noted after what was delivered is durable.
func (s *anyVersion) Open(sequence uint64) (dlq.Reader, error) {
	*s.current = source{dumpName(sequence), s.versions[sequence]}
	r, err := s.Disk.Open(sequence)
	return flushingReader{r, s.flush}, err
}

type flushingReader struct {
	dlq.Reader
	flush func() error
}

func (r flushingReader) Progress(delivered uint64) error {
	if err := r.flush(); err != nil {
		return err
	}
	return r.Reader.Progress(delivered)
}

// finalError is one that no later try mends.
type finalError struct{ error }

func (e *finalError) Unwrap() error { return e.error }

// sink is where items go.
type sink struct {
	send  func(ctx context.Context, item []byte) error
	flush func() error
	close func()
}

func (a *app) newSink(o replayOptions, current *source) (sink, error) {
	if o.stdout {
		return a.stdoutSink(o.json, current), nil
	}
	send, closeIdle, err := newPoster(o)
	return sink{send: send, flush: func() error { return nil }, close: closeIdle}, err
}

func (a *app) stdoutSink(asJSON bool, current *source) sink {
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, syscall.SIGPIPE) // so that a reader that goes away is an error, and what it read is noted
	return sink{
		send: func(_ context.Context, item []byte) error {
			var err error
			if asJSON {
				err = newItemLine(current.name, current.version, item).write(a.out)
			} else {
				_, err = a.out.Write(append(item[:len(item):len(item)], '\n'))
			}
			if err != nil {
				return &finalError{err}
			}
			return nil
		},
		flush: func() error { return syncFile(a.out) },
		close: func() { signal.Stop(broken) },
	}
}

// syncFile makes durable what was written, if it goes to a file.
func syncFile(w io.Writer) error {
	f, ok := w.(*os.File)
	if !ok {
		return nil
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return err
	}
	return f.Sync()
}

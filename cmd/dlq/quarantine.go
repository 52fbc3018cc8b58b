package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/edgetide/telegraf-victorialogs/dlq"
)

// quarantined returns what is in quarantine and is meant: by names, or all of it.
func quarantined(dir string, names []string, all bool) ([]dlq.File, error) {
	if len(names) == 0 && !all {
		return nil, errors.New("name the dumps, or say --all; see quarantine ls")
	}
	if len(names) > 0 && all {
		return nil, errors.New("names and --all exclude each other")
	}
	files, err := list(dir)
	if err != nil {
		return nil, err
	}
	files = slices.DeleteFunc(files, func(f dlq.File) bool { return f.State != dlq.StateQuarantined })
	if all {
		return files, nil
	}
	return choose(files, names)
}

func (a *app) quarantineLs() *command {
	c := newCommand("quarantine ls", "DIR", "list what was set aside, and why", 1, 1)
	asJSON := c.flags.Bool("json", false, "print a JSON array")
	c.run = func(_ context.Context, args []string) error {
		files, err := quarantined(args[0], nil, true)
		if err != nil {
			return err
		}
		if *asJSON {
			return a.printJSON(lines(files))
		}
		a.printFiles(files)
		if len(files) == 0 {
			fmt.Fprintln(a.out, "nothing is in quarantine")
		}
		return nil
	}
	return c
}

// moved is what became of a dump in quarantine. Its names in JSON are a contract.
type moved struct {
	Name  string `json:"name"`
	To    string `json:"to,omitempty"`
	Items uint64 `json:"items"`
}

func (a *app) quarantineRestore() *command {
	c := newCommand("quarantine restore", "DIR NAME…|--all", "put dumps back among those to be restored", 1, unlimited)
	o := restoreOptions{}
	all := c.flags.Bool("all", false, "all that is in quarantine")
	c.flags.BoolVar(&o.again, "again", false, "damaged ones, too: what can be read of them, whether it was restored before or not")
	textFlag(c.flags, &o.version, "version", "version", "", checkVersion, "give them this version, so that a queue of this version restores them")
	asJSON := c.flags.Bool("json", false, "print a JSON array")
	c.run = func(ctx context.Context, args []string) error {
		o.setVersion = c.flags.Changed("version")
		files, err := quarantined(args[0], args[1:], *all)
		if err != nil {
			return err
		}
		done := []moved{}
		var failures []error
		for _, f := range files {
			to, items, err := a.restore(ctx, args[0], f, o)
			if errors.Is(err, dlq.ErrLocked) {
				return err
			}
			if err != nil {
				failures = append(failures, fmt.Errorf("%s: %w", f.Name, err))
				continue
			}
			done = append(done, moved{Name: f.Name, To: to, Items: items})
		}
		return a.printMoved(done, failures, *asJSON)
	}
	return c
}

func (a *app) printMoved(done []moved, failures []error, asJSON bool) error {
	if asJSON {
		if err := a.printJSON(done); err != nil {
			return err
		}
	} else {
		for _, m := range done {
			if m.To == "" {
				fmt.Fprintf(a.out, "removed %s with %d items\n", m.Name, m.Items)
				continue
			}
			fmt.Fprintf(a.out, "%s is %s now, to be restored with %d items\n", m.Name, m.To, m.Items)
		}
	}
	for _, err := range failures {
		fmt.Fprintln(a.err, "dlq:", err)
	}
	if len(failures) > 0 {
		return errFault
	}
	return nil
}

type restoreOptions struct {
	again      bool
	version    string
	setVersion bool
}

// restore puts a dump back: under its own name if that is free and the dump is whole, or else its items under a new number.
func (a *app) restore(ctx context.Context, dir string, f dlq.File, o restoreOptions) (to string, items uint64, err error) {
	report, err := f.Verify()
	if err != nil {
		return "", 0, err
	}
	whole := len(report.Faults) == 0 && path.Ext(f.Name) == ".dump"
	switch {
	case report.Items == 0:
		return "", 0, errors.New("nothing in it can be read")
	case !whole && !o.again && undelivered(f):
		return "", 0, fmt.Errorf("it is damaged, and nothing says that it was restored before it was set aside: %q. --again restores "+
			"what can be read, %d items", f.Why, report.Items)
	case !whole && !o.again:
		return "", 0, fmt.Errorf("it is damaged, and set aside for this: %q. What can be read of it was most likely restored before it "+
			"was set aside; --again restores that once more", f.Why)
	case !whole && f.Version == "" && !o.setVersion:
		return "", 0, errors.New("its header does not say its version; say with --version which the queue has, as ls shows it for other dumps")
	}
	if whole && (!o.setVersion || o.version == f.Version) {
		to, err = moveBack(dir, f)
		if !errors.Is(err, errTaken) {
			return to, report.Items, err
		}
	}
	if !o.setVersion {
		o.version = f.Version
	}
	return a.copyBack(ctx, dir, f, o.version)
}

// undelivered reports that nothing says that a dump was restored before it was set aside: that was for its version, as it is
// when the header is lost, or somebody put it there.
func undelivered(f dlq.File) bool { return f.Why == "" || strings.HasPrefix(f.Why, "version ") }

// errTaken says that another dump has the number.
var errTaken = errors.New("the number is taken")

func moveBack(dir string, f dlq.File) (to string, err error) {
	unlock, err := lock(dir)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	files, err := dlq.List(dir)
	if err != nil {
		return "", err
	}
	for _, other := range files {
		if other.Sequence == f.Sequence && other.State != dlq.StateQuarantined {
			return "", errTaken
		}
	}
	to = path.Base(f.Name)
	if _, err := os.Lstat(filepath.Join(dir, to)); !errors.Is(err, fs.ErrNotExist) {
		return "", errTaken
	}
	if err := removeProgress(dir, f); err != nil { // it begins anew
		return "", err
	}
	if err := os.Rename(filepath.Join(dir, f.Name), filepath.Join(dir, to)); err != nil {
		return "", err
	}
	if err := errors.Join(syncDirectory(dir), syncDirectory(filepath.Join(dir, path.Dir(f.Name)))); err != nil {
		return "", err
	}
	return to, removeReason(dir, f)
}

func removeReason(dir string, f dlq.File) error {
	err := os.Remove(filepath.Join(dir, f.Name+".reason"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// copyBack writes the items that can be read into a new dump, and removes the file only after that is durable.
func (a *app) copyBack(ctx context.Context, dir string, f dlq.File, version string) (to string, items uint64, err error) {
	disk, err := dlq.OpenDisk(dir, dlq.DiskOptions{Version: version, Logger: a.logger()})
	if err != nil {
		return "", 0, err
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	if items, err = appendAll(ctx, disk, f); err != nil {
		return "", 0, err
	}
	if err := disk.Seal(ctx, dlq.ReasonForced); err != nil {
		return "", 0, err
	}
	dumps, err := disk.Dumps()
	if err != nil {
		return "", 0, err
	}
	newest := slices.MaxFunc(dumps, func(a, b dlq.Info) int { return cmp.Compare(a.Sequence, b.Sequence) })
	if err := removeAside(dir, f); err != nil {
		return "", 0, err
	}
	return dumpName(newest.Sequence), items, syncDirectory(filepath.Join(dir, path.Dir(f.Name)))
}

// dumpName is the file of a sealed dump.
func dumpName(sequence uint64) string { return fmt.Sprintf("%020d.dump", sequence) }

func appendAll(ctx context.Context, disk *dlq.Disk, f dlq.File) (items uint64, err error) {
	r, err := f.Open()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for {
		block, err := r.Next()
		if errors.Is(err, io.EOF) {
			return items, nil
		}
		if err != nil {
			return items, err
		}
		for item, _, ok := block.Cut(); ok; item, _, ok = block.Cut() {
			if _, err := disk.Append(ctx, item); err != nil {
				return items, err
			}
			items++
		}
	}
}

func (a *app) quarantineRm() *command {
	c := newCommand("quarantine rm", "DIR NAME…|--all", "remove dumps from quarantine for good", 1, unlimited)
	all := c.flags.Bool("all", false, "all that is in quarantine")
	asJSON := c.flags.Bool("json", false, "print a JSON array")
	c.run = func(_ context.Context, args []string) (err error) {
		dir := args[0]
		files, err := quarantined(dir, args[1:], *all)
		if err != nil {
			return err
		}
		unlock, err := lock(dir)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, unlock()) }()
		done := []moved{}
		var failures []error
		for _, f := range files {
			if err := removeAside(dir, f); err != nil {
				failures = append(failures, err)
				continue
			}
			done = append(done, moved{Name: f.Name, Items: f.Items})
		}
		if len(done) > 0 {
			failures = append(failures, syncDirectory(filepath.Join(dir, path.Dir(done[0].Name))))
		}
		return a.printMoved(done, slices.DeleteFunc(failures, func(err error) bool { return err == nil }), *asJSON)
	}
	return c
}

// removeAside removes a dump from quarantine, and its reason.
func removeAside(dir string, f dlq.File) error {
	if err := os.Remove(filepath.Join(dir, f.Name)); err != nil {
		return err
	}
	return removeReason(dir, f)
}

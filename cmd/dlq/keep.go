package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/edgetide/telegraf-victorialogs/dlq"
)

func (a *app) salvage() *command {
	c := newCommand("salvage", "DIR", "seal what a process left open that died; a queue does so itself when it starts", 1, 1)
	asJSON := c.flags.Bool("json", false, "print a JSON object")
	c.run = func(_ context.Context, args []string) error {
		dir := args[0]
		if err := isDirectory(dir); err != nil {
			return err
		}
		before, err := dlq.List(dir)
		if err != nil {
			return err
		}
		if err := openAndClose(dir, a.logger()); err != nil {
			return err
		}
		after, err := dlq.List(dir)
		if err != nil {
			return err
		}
		s := compare(before, after)
		if *asJSON {
			err = a.printJSON(s)
		} else {
			a.printSalvaged(s)
		}
		if err == nil && s.faulty() {
			return errFault
		}
		return err
	}
	return c
}

// openAndClose has a Disk salvage.
func openAndClose(dir string, logger *slog.Logger) error {
	d, err := dlq.OpenDisk(dir, dlq.DiskOptions{Logger: logger})
	if err != nil {
		return err
	}
	return d.Close()
}

// salvaged is what salvage did. Its names in JSON are a contract.
type salvaged struct {
	Salvaged []line   `json:"salvaged"`
	SetAside []line   `json:"set_aside"`
	Removed  []string `json:"removed"` // nothing was in it
}

func compare(before, after []dlq.File) salvaged {
	s := salvaged{Salvaged: []line{}, SetAside: []line{}, Removed: []string{}}
	was := make(map[string]bool)
	for _, f := range before {
		was[f.Name] = true
	}
	kept := make(map[uint64]bool)
	for i, f := range after {
		kept[f.Sequence] = true
		switch {
		case was[f.Name]:
		case f.State == dlq.StateQuarantined:
			s.SetAside = append(s.SetAside, lines(after[i:i+1])...)
		default:
			s.Salvaged = append(s.Salvaged, lines(after[i:i+1])...)
		}
	}
	for _, f := range before {
		if !kept[f.Sequence] {
			s.Removed = append(s.Removed, f.Name)
		}
	}
	return s
}

// faulty reports that more was damaged than a process leaves that dies while it writes.
func (s salvaged) faulty() bool {
	return slices.ContainsFunc(s.SetAside, func(l line) bool { return path.Ext(l.Name) != ".tail" })
}

func (a *app) printSalvaged(s salvaged) {
	for _, l := range s.Salvaged {
		fmt.Fprintf(a.out, "salvaged %s with %d items\n", l.Name, l.Items)
	}
	for _, l := range s.SetAside {
		fmt.Fprintf(a.out, "set aside %s: %s\n", l.Name, l.Why)
	}
	for _, name := range s.Removed {
		fmt.Fprintf(a.out, "removed %s: nothing was in it\n", name)
	}
	if len(s.Salvaged)+len(s.SetAside)+len(s.Removed) == 0 {
		fmt.Fprintln(a.out, "nothing to salvage")
	}
}

func (a *app) purge() *command {
	c := newCommand("purge", "DIR --older-than AGE", "remove sealed dumps that are older, delivered or not", 1, 1)
	olderThan := new(time.Duration)
	durationFlag(c.flags, olderThan, "older-than", 0, 0, "remove dumps that were begun longer ago, such as 24h or 7d; 0s: all; required")
	dryRun := c.flags.Bool("dry-run", false, "only print what would be removed")
	asJSON := c.flags.Bool("json", false, "print a JSON array of what was removed")
	c.run = func(_ context.Context, args []string) error {
		if !c.flags.Changed("older-than") {
			return errors.New("purge: --older-than must say how old, such as --older-than 24h or 7d; nothing was removed")
		}
		removed, err := purge(args[0], *olderThan, *dryRun)
		if err != nil && len(removed) == 0 {
			return err
		}
		if *asJSON {
			return errors.Join(err, a.printJSON(lines(removed)))
		}
		a.printFiles(removed)
		items, bytes := uint64(0), int64(0)
		for _, f := range removed {
			items += left(f)
			bytes += f.Size
		}
		fmt.Fprintf(a.out, "%sremoved %d dumps with %d undelivered items, %s on disk\n", would(*dryRun), len(removed), items, size(bytes))
		return err
	}
	return c
}

func would(dryRun bool) string {
	if dryRun {
		return "dry run: would have "
	}
	return ""
}

// purge returns what it removed, also when it cannot go on.
func purge(dir string, olderThan time.Duration, dryRun bool) (removed []dlq.File, err error) {
	if !dryRun {
		unlock, err := lock(dir)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, unlock()) }()
	}
	files, err := dlq.List(dir)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if f.State != dlq.StateSealed || time.Since(f.Created) < olderThan {
			continue
		}
		if !dryRun {
			if err := os.Remove(filepath.Join(dir, f.Name)); err != nil {
				return removed, err
			}
			if err := removeProgress(dir, f); err != nil {
				return removed, err
			}
		}
		removed = append(removed, f)
	}
	if len(removed) > 0 && !dryRun {
		err = syncDirectory(dir)
	}
	return removed, err
}

func lock(dir string) (unlock func() error, err error) {
	if err := isDirectory(dir); err != nil {
		return nil, err
	}
	return dlq.Lock(dir)
}

// removeProgress removes what says how much of a dump was delivered.
func removeProgress(dir string, f dlq.File) error {
	base := path.Base(f.Name)
	err := os.Remove(filepath.Join(dir, base[:len(base)-len(path.Ext(base))]+".progress"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// syncDirectory makes what was moved and removed in a directory durable.
func syncDirectory(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // directories cannot be synced there
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// logger is for what the library has to say while a command runs.
func (a *app) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

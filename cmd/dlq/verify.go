package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/edgetide/telegraf-victorialogs/dlq"
)

func (a *app) verify() *command {
	c := newCommand("verify", "DIR", "read every block of every dump, those in quarantine too; exit code 1 if one is damaged", 1, 1)
	asJSON := c.flags.Bool("json", false, "print a JSON array")
	c.run = func(ctx context.Context, args []string) error {
		files, err := dlq.List(args[0])
		if err != nil {
			return err
		}
		checks, err := checkAll(ctx, files)
		if err != nil {
			return err
		}
		if *asJSON {
			err = a.printJSON(checks)
		} else {
			a.printChecks(checks)
		}
		if err == nil && faulty(checks) > 0 {
			return errFault
		}
		return err
	}
	return c
}

// check is what verify says of a dump. Its names in JSON are a contract.
type check struct {
	Name   string    `json:"name"`
	State  dlq.State `json:"state"`
	Items  uint64    `json:"items"` // that are whole
	Bytes  uint64    `json:"bytes"`
	Torn   int64     `json:"torn_bytes"` // being written, or was when the process died
	Faults []string  `json:"faults"`
}

func checkAll(ctx context.Context, files []dlq.File) ([]check, error) {
	checks := make([]check, 0, len(files))
	for _, f := range files {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		r, err := f.Verify()
		if errors.Is(err, fs.ErrNotExist) {
			continue // restored meanwhile
		}
		if err != nil { // nor can a restorer read it
			r.Faults = append(r.Faults, err)
		}
		c := check{Name: f.Name, State: f.State, Items: r.Items, Bytes: r.Bytes, Torn: r.Torn, Faults: []string{}}
		for _, fault := range r.Faults {
			c.Faults = append(c.Faults, fault.Error())
		}
		checks = append(checks, c)
	}
	return checks, nil
}

func faulty(checks []check) (n int) {
	for _, c := range checks {
		if len(c.Faults) > 0 {
			n++
		}
	}
	return n
}

func (a *app) printChecks(checks []check) {
	var items, bytes uint64
	for _, c := range checks {
		items += c.Items
		bytes += c.Bytes
		for _, fault := range c.Faults {
			fmt.Fprintf(a.out, "FAULT %s: %s\n", c.Name, fault)
		}
		if c.Torn > 0 {
			fmt.Fprintf(a.out, "note  %s: %d bytes at its end are being written, or were when its process died\n", c.Name, c.Torn)
		}
	}
	fmt.Fprintf(a.out, "%d dumps read, %d with faults; %d items of %s are whole\n", len(checks), faulty(checks), items, size(bytes))
}

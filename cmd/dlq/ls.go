package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/progress"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/edgetide/telegraf-victorialogs/dlq"
)

func (a *app) ls() *command {
	c := newCommand("ls", "DIR", "list the dumps, those to be restored first", 1, 1)
	asJSON := c.flags.Bool("json", false, "print a JSON array")
	c.run = func(_ context.Context, args []string) error {
		files, err := list(args[0])
		if err != nil {
			return err
		}
		if *asJSON {
			return a.printJSON(lines(files))
		}
		a.printFiles(files)
		a.printTotals(files)
		return nil
	}
	return c
}

// list returns the dumps, and counts what is in those whose footer does not say.
func list(dir string) ([]dlq.File, error) {
	files, err := dlq.List(dir)
	if err != nil {
		return nil, err
	}
	for i, f := range files {
		if f.Reason != 0 {
			continue
		}
		report, err := f.Verify()
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone meanwhile: it holds nothing for us
		}
		if err != nil {
			return nil, err
		}
		files[i].Items, files[i].Bytes = report.Items, report.Bytes
	}
	return files, nil
}

// line is a dump in JSON. Its names are a contract.
type line struct {
	Name      string    `json:"name"`
	Sequence  uint64    `json:"sequence"`
	State     dlq.State `json:"state"`
	Reason    string    `json:"reason,omitempty"` // why it was sealed
	Why       string    `json:"why,omitempty"`    // why it was set aside
	Version   string    `json:"version"`
	Items     uint64    `json:"items"`
	Delivered uint64    `json:"delivered"`
	Bytes     uint64    `json:"bytes"` // of items
	Size      int64     `json:"size"`  // of the file
	Created   time.Time `json:"created"`
	Age       float64   `json:"age_seconds"`
	Damaged   bool      `json:"damaged"`
}

func lines(files []dlq.File) []line {
	lines := make([]line, 0, len(files))
	for _, f := range files {
		l := line{
			Name: f.Name, Sequence: f.Sequence, State: f.State, Why: f.Why, Version: f.Version, Items: f.Items,
			Delivered: f.Delivered, Bytes: f.Bytes, Size: f.Size, Created: f.Created.UTC(),
			Age: time.Since(f.Created).Seconds(), Damaged: f.Damaged,
		}
		if f.Reason != 0 {
			l.Reason = f.Reason.String()
		}
		lines = append(lines, l)
	}
	return lines
}

func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func (a *app) printFiles(files []dlq.File) {
	if len(files) == 0 {
		return
	}
	t := table.NewWriter()
	t.SetOutputMirror(a.out)
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft = ""
	style.Box.PaddingRight = "  "
	t.SetStyle(style)
	t.SuppressTrailingSpaces()
	t.SetColumnConfigs([]table.ColumnConfig{
		{Name: "items", Align: text.AlignRight, AlignHeader: text.AlignRight},
		{Name: "bytes", Align: text.AlignRight, AlignHeader: text.AlignRight},
		{Name: "age", Align: text.AlignRight, AlignHeader: text.AlignRight},
	})
	t.AppendHeader(table.Row{"name", "state", "reason", "version", "items", "bytes", "age"})
	for _, f := range files {
		items := strconv.FormatUint(f.Items, 10)
		if f.Delivered > 0 {
			items = fmt.Sprintf("%d of %d left", left(f), f.Items)
		}
		t.AppendRow(table.Row{f.Name, string(f.State), oneLine(reason(f)), oneLine(f.Version), items, size(f.Bytes), age(f.Created)})
	}
	t.Render()
}

// reason is why a dump is where it is.
func reason(f dlq.File) string {
	switch {
	case f.State == dlq.StateQuarantined:
		return f.Why
	case f.Damaged:
		return "damaged"
	case f.Reason != 0:
		return f.Reason.String()
	}
	return "-"
}

// left is how many items are to be delivered.
func left(f dlq.File) uint64 { return f.Items - min(f.Items, f.Delivered) }

func size[T int64 | uint64](bytes T) string {
	return progress.FormatBytes(int64(bytes))
}

// oneLine makes a text that somebody else wrote fit to be printed to a terminal.
func oneLine(s string) string {
	if !printable(s) {
		return strconv.QuoteToGraphic(s)
	}
	return s
}

func (a *app) printTotals(files []dlq.File) {
	var count [3]int
	var items uint64
	var bytes int64
	for _, f := range files {
		switch f.State {
		case dlq.StateSealed:
			count[0]++
			items += left(f)
			bytes += f.Size
		case dlq.StateOpen:
			count[1]++
			bytes += f.Size
		case dlq.StateQuarantined:
			count[2]++
			bytes += f.Size
		}
	}
	if len(files) > 0 {
		fmt.Fprintln(a.out)
	}
	fmt.Fprintf(a.out, "%d to be restored with %d items, %d open, %d in quarantine; %s on disk\n",
		count[0], items, count[1], count[2], size(bytes))
}

// choose returns the files that names mean: a number, or a name with or without what stands before and behind the number.
func choose(files []dlq.File, names []string) ([]dlq.File, error) {
	var chosen []dlq.File
	for _, name := range names {
		found := false
		for _, f := range files {
			if means(name, f) {
				chosen, found = append(chosen, f), true
			}
		}
		if !found {
			return nil, fmt.Errorf("there is no dump %q; see ls", name)
		}
	}
	return chosen, nil
}

func means(name string, f dlq.File) bool {
	if name == f.Name || name == path.Base(f.Name) && !strings.Contains(name, "/") {
		return true
	}
	sequence, err := strconv.ParseUint(name, 10, 64)
	return err == nil && sequence == f.Sequence
}

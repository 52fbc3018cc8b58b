package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// The outcomes of a step.
const (
	ok      = "ok"
	failed  = "FAILED"
	skipped = "skipped" // it does not apply, or cannot be known from here; the text says why
)

// step is one line. Its names in JSON are a contract.
type step struct {
	Status string `json:"status"`
	Plugin string `json:"plugin"` // empty for the configuration as a whole
	Step   string `json:"step"`
	Text   string `json:"text"`
	Todo   string `json:"todo,omitempty"` // of a failure
}

// report prints each step when it is known, or all of them as a JSON array at the end.
type report struct {
	out     io.Writer
	json    bool
	stopped func() error // not nil once we were interrupted: what fails then says nothing about the installation
	steps   []step
	faults  int
}

func (r *report) ok(plugin, name, format string, args ...any) {
	r.add(step{Status: ok, Plugin: plugin, Step: name, Text: fmt.Sprintf(format, args...)})
}

func (r *report) skipped(plugin, name, format string, args ...any) {
	r.add(step{Status: skipped, Plugin: plugin, Step: name, Text: fmt.Sprintf(format, args...)})
}

func (r *report) failed(plugin, name, todo, format string, args ...any) {
	r.faults++
	r.add(step{Status: failed, Plugin: plugin, Step: name, Text: fmt.Sprintf(format, args...), Todo: todo})
}

func (r *report) add(s step) {
	if r.stopped() != nil {
		return
	}
	r.steps = append(r.steps, s)
	if r.json {
		return
	}
	line := fmt.Sprintf("%-7s  %-22s %-13s %s", s.Status, s.Plugin, s.Step, s.Text)
	if s.Todo != "" {
		line += "; to do: " + s.Todo
	}
	fmt.Fprintln(r.out, visible(line))
}

func (r *report) close() error {
	if !r.json {
		return nil
	}
	e := json.NewEncoder(r.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if r.steps == nil {
		r.steps = []step{}
	}
	return e.Encode(r.steps)
}

// visible keeps a line a line, and the terminal's state its own, whatever a server said.
func visible(text string) string {
	var b strings.Builder
	for _, c := range text {
		if unicode.IsPrint(c) {
			b.WriteRune(c)
			continue
		}
		quoted := strconv.QuoteRune(c)
		b.WriteString(quoted[1 : len(quoted)-1])
	}
	return b.String()
}

// shown is a time that something took, as people read it.
func shown(d time.Duration) string {
	if d < 10*time.Millisecond {
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(time.Millisecond).String()
}

package main

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/mattn/go-isatty"
)

// screen shows one line that changes, with lines that stay above it. Where the output is no terminal, the line is
// printed every few seconds instead.
type screen struct {
	out      *os.File
	terminal bool

	mu    sync.Mutex
	shown bool
	next  time.Time
}

func newScreen(out *os.File) *screen { return &screen{out: out, terminal: isatty.IsTerminal(out.Fd())} }

const (
	eraseLine = "\r\x1b[2K"
	width     = 160 // characters; a terminal that wraps would leave the line's beginning behind
)

// live replaces the line.
func (s *screen) live(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if runes := []rune(line); len(runes) > width {
		line = string(runes[:width-1]) + "…"
	}
	if s.terminal {
		fmt.Fprint(s.out, eraseLine, line)
		s.shown = true
		return
	}
	if now := time.Now(); now.After(s.next) {
		s.next = now.Add(5 * time.Second)
		fmt.Fprintln(s.out, line)
	}
}

// print adds a line that stays.
func (s *screen) print(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shown {
		fmt.Fprint(s.out, eraseLine)
	}
	fmt.Fprintln(s.out, line)
}

// end leaves the line as it is.
func (s *screen) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shown {
		fmt.Fprintln(s.out)
	}
}

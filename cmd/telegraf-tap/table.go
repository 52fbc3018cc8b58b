package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gdamore/tcell/v2"

	"github.com/edgetide/telegraf-victorialogs/outputs/tcp_exporter/wire"
)

const refresh = 250 * time.Millisecond

var errScreen = errors.New("cannot show a table")

// table is the series as they were last seen. The source fills it, the screen's loop draws it.
type table struct {
	// Of the screen's loop alone.
	byRate, paused bool
	top            int    // first row on the screen
	shown          []*row // in their order
	shownByRate    bool   // which it was

	mu     sync.Mutex // guards what follows, and in rows what changes
	rows   map[string]*row
	added  []*row // not shown yet
	bytes  int    // of the series' names
	more   int    // events of series that there was no room for
	events uint64
	state  string // of the connection
}

func newTable() *table { return &table{rows: make(map[string]*row), state: "connecting"} }

// event implements sink.
func (t *table) event(e event) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events++
	key := e.kind.String() + e.series()
	r, ok := t.rows[key]
	if !ok {
		if len(t.rows) >= maxNames || t.bytes+len(key) > maxBytes {
			t.more++
			return nil
		}
		t.bytes += len(key)
		r = &row{series: key[len(e.kind.String()):], kind: e.kind}
		t.rows[key] = r
		t.added = append(t.added, r)
	}
	r.update(e, time.Now())
	return nil
}

// status implements sink.
func (t *table) status(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state = text
}

// row is one series.
type row struct {
	series string // as kind, it does not change
	kind   wire.Metadata_MetricType
	order  float64 // the rate as the screen's loop last saw it; it alone uses this

	unit string

	value float64
	seen  time.Time
	rate  float64 // a second: what a counter grew, and else updates

	// A point is taken at most once a second; it is what a counter grew a second, and else the last value.
	points  [points]float64
	filled  int
	point   time.Time // when the last one was begun
	base    float64   // a counter's value then
	updates float64   // since then
}

const points = 20

func (r *row) update(e event, now time.Time) {
	switch e.operation {
	case "increment_counter", "increment_gauge":
		r.value += e.value
	case "decrement_gauge":
		r.value -= e.value
	default:
		r.value = e.value
	}
	r.unit, r.seen = clean(e.unit), now
	first := r.point.IsZero()
	if first {
		r.point, r.base = now, r.value
	}
	r.updates++
	passed := now.Sub(r.point).Seconds()
	counter := r.kind == wire.Metadata_COUNTER
	switch {
	case first && !counter:
		r.push(r.value)
	case passed < 1 && !counter:
		r.points[points-1] = r.value
	case passed >= 1:
		r.rate = r.updates / passed
		if counter {
			grown := r.value - r.base
			if grown < 0 { // it began anew
				grown = r.value
			}
			r.rate = grown / passed
			r.push(r.rate)
		} else {
			r.push(r.value)
		}
		r.point, r.base, r.updates = now, r.value, 0
	}
}

func (r *row) push(v float64) {
	copy(r.points[:], r.points[1:])
	r.points[points-1] = v
	r.filled = min(r.filled+1, points)
}

// sparkline draws the points between the least and the greatest of them.
func (r *row) sparkline() string {
	bars := []rune("▁▂▃▄▅▆▇█")
	shown := r.points[points-r.filled:]
	least, most := math.Inf(1), math.Inf(-1)
	for _, v := range shown {
		least, most = min(least, v), max(most, v)
	}
	line := []rune(strings.Repeat(" ", points-r.filled))
	for _, v := range shown {
		level := 0
		if part := (v - least) / (most - least); part > 0 { // false also for what is no number
			level = min(int(part*8), 7)
		}
		line = append(line, bars[level])
	}
	return string(line)
}

// showTable draws the table until the context ends, the user quits, or the source does.
func (a *app) showTable(ctx context.Context, s *source) error {
	screen, err := a.screen()
	if err == nil {
		err = screen.Init()
	}
	if err != nil {
		return fmt.Errorf("%w: %w; use --lines", errScreen, err)
	}
	defer screen.Fini()
	ctx, cancel := context.WithCancel(ctx)
	t := newTable()
	ended := make(chan error, 1)
	go func() { ended <- s.run(ctx, t) }()
	keys, quit := make(chan tcell.Event), make(chan struct{})
	go screen.ChannelEvents(keys, quit)
	defer close(quit)

	tick := time.NewTicker(refresh)
	defer tick.Stop()
	t.draw(screen, time.Now())
	for {
		select {
		case err := <-ended:
			cancel()
			return err
		case key := <-keys:
			if !t.key(screen, key) {
				cancel()
				<-ended
				return nil
			}
			t.draw(screen, time.Now())
		case <-tick.C:
			if !t.paused {
				t.draw(screen, time.Now())
			}
		}
	}
}

// key does what a key says; it reports whether to go on.
func (t *table) key(screen tcell.Screen, e tcell.Event) bool {
	if _, ok := e.(*tcell.EventResize); ok {
		screen.Sync()
		return true
	}
	k, ok := e.(*tcell.EventKey)
	if !ok {
		return e != nil // nil: the screen is gone
	}
	_, height := screen.Size()
	page := max(height-headLines, 1)
	switch k.Key() {
	case tcell.KeyCtrlC, tcell.KeyEscape:
		return false
	case tcell.KeyUp:
		t.top--
	case tcell.KeyDown:
		t.top++
	case tcell.KeyPgUp:
		t.top -= page
	case tcell.KeyPgDn:
		t.top += page
	case tcell.KeyHome:
		t.top = 0
	case tcell.KeyEnd:
		t.top = math.MaxInt32
	case tcell.KeyRune:
		switch k.Rune() {
		case 'q':
			return false
		case 's':
			t.byRate = !t.byRate
		case ' ':
			t.paused = !t.paused
		}
	}
	return true
}

const headLines = 2

// sort puts rows in their order. While it compares them, events come in.
func (t *table) sort() {
	t.mu.Lock()
	sorted := !t.byRate && !t.shownByRate && len(t.added) == 0
	t.shown, t.added, t.shownByRate = append(t.shown, t.added...), nil, t.byRate
	if t.byRate {
		for _, r := range t.shown {
			r.order = r.rate
		}
	}
	t.mu.Unlock()
	if sorted {
		return
	}
	slices.SortFunc(t.shown, func(a, b *row) int {
		if t.byRate && a.order != b.order {
			return cmp.Compare(b.order, a.order)
		}
		return cmp.Or(strings.Compare(a.series, b.series), cmp.Compare(a.kind, b.kind))
	})
}

// draw draws what there is room for.
func (t *table) draw(screen tcell.Screen, now time.Time) {
	t.sort()
	t.put(screen, now)
	screen.Show() // waits for the terminal
}

func (t *table) put(screen tcell.Screen, now time.Time) {
	screen.Clear()
	width, height := screen.Size()
	layout := newLayout(width)
	t.top = max(min(t.top, len(t.shown)-max(height-headLines, 1)), 0)

	t.mu.Lock()
	defer t.mu.Unlock()
	head := fmt.Sprintf("%s   %d series, %d events", visible(t.state), len(t.rows), t.events)
	if t.more > 0 {
		head += fmt.Sprintf(", %d more of series that there is no room for", t.more)
	}
	if t.paused {
		head += "   PAUSED"
	}
	screen.PutStr(0, 0, head)
	bold := tcell.StyleDefault.Bold(true).Reverse(true)
	putRow(screen, 1, width, "SERIES", layout.columns("RATE/s", "LAST", "AGE", strings.Repeat(" ", points)), bold)
	for y, r := range t.shown[t.top:] {
		if y+headLines >= height {
			break
		}
		last := short(r.value)
		if r.unit != "" {
			last += " " + abbreviation(r.unit)
		}
		style := tcell.StyleDefault
		if now.Sub(r.seen) > time.Minute {
			style = style.Dim(true)
		}
		putRow(screen, y+headLines, width, r.series, layout.columns(short(r.rate), last, age(now.Sub(r.seen)), r.sparkline()), style)
	}
}

// layout says which columns there is room for beside the series, without whose names the others tell nothing.
type layout struct {
	rate, age bool
	spark     int // points
}

// seriesWidth is what the series has before another column has anything.
const seriesWidth = 40

func newLayout(width int) (l layout) {
	left := width - seriesWidth - 16 // of the last value, which is always there
	take := func(n int) bool {
		if left < n {
			return false
		}
		left -= n
		return true
	}
	l.rate = take(11)
	l.age = l.rate && take(6)
	if l.age {
		l.spark = max(min(left-2, points), 0)
	}
	return l
}

func (l layout) columns(rate, last, age, spark string) string {
	line := fmt.Sprintf("  %14s", last)
	if l.rate {
		line = fmt.Sprintf("  %9s", rate) + line
	}
	if l.age {
		line += fmt.Sprintf("  %4s", age)
	}
	if l.spark > 0 {
		r := []rune(spark)
		line += "  " + string(r[len(r)-l.spark:])
	}
	return line
}

// putRow puts the series at the left, and the columns over it at the right.
func putRow(screen tcell.Screen, y, width int, series, columns string, style tcell.Style) {
	screen.PutStrStyled(0, y, series+strings.Repeat(" ", width), style)
	screen.PutStrStyled(max(width-len([]rune(columns)), 0), y, columns, style)
}

// short is a number in at most 9 characters.
func short(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return formatValue(v)
	case a == math.Trunc(a) && a < 1e8:
		return fmt.Sprintf("%.0f", v)
	case a >= 1e8 || a < 1e-3:
		return fmt.Sprintf("%.3g", v)
	case a >= 1000:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// abbreviation is a unit in few characters.
func abbreviation(unit string) string {
	switch unit {
	case "percent":
		return "%"
	case "seconds":
		return "s"
	case "milliseconds":
		return "ms"
	case "microseconds":
		return "µs"
	case "nanoseconds":
		return "ns"
	case "bytes":
		return "B"
	case "kibibytes":
		return "KiB"
	case "mebibytes":
		return "MiB"
	case "gibibytes":
		return "GiB"
	case "tebibytes":
		return "TiB"
	case "count":
		return ""
	}
	r := []rune(unit)
	return string(r[:min(len(r), 4)])
}

func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return fmt.Sprintf("%dh", d/time.Hour)
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"html/template"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/prometheus/prometheus/promql"
)

// dashboard is what we draw of one.
type dashboard struct {
	Title  string
	Panels []panel
}

type panel struct {
	Type, Title string
	GridPos     struct{ X, Y, W, H int }
	FieldConfig struct {
		Defaults struct{ Unit string }
	}
	Targets []struct{ Expr, LegendFormat string }
}

func readDashboard(path string) (d dashboard, err error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return d, err
	}
	err = json.Unmarshal(content, &d)
	return d, err
}

// What Grafana's grid is like: 24 columns, and rows of 30 px with 8 px between them.
const (
	columns      = 24
	columnWidth  = 62
	rowHeight    = 30
	gap          = 8
	header       = 64
	legendHeight = 17 // of a line of it
	letterWidth  = 6.3
	axisWidth    = 54
	titleHeight  = 30
	timeHeight   = 20
)

// settled is the window of rates, and so the time until they are right; Grafana takes four scrapes, too.
const settled = 4 * scrapes

var colors = []string{"#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#fade2a"}

// box is a panel on the page.
type box struct {
	Title                    string
	Row                      bool
	Left, Top, Width, Height int
	Lines                    []line
	Grid                     []tick
	Times                    []tick
	AwayX, AwayWidth         float64
	PlotTop, PlotBottom      float64
	PlotLeft, PlotRight      float64
	Stat                     string
	StatName                 string
	Good                     bool
}

type line struct {
	Name, Color, Path, Area, Value string
}

type tick struct {
	At   float64
	Text string
}

// page is all of it.
type page struct {
	Title, Run    string
	Width, Height int
	Boxes         []box
}

func draw(ctx context.Context, d dashboard, seen recording) (content []byte, width, height int, err error) {
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e7, Timeout: time.Minute, LookbackDelta: 5 * scrapes})
	defer func() { _ = engine.Close() }()
	p := page{
		Title: d.Title, Width: columns*columnWidth + gap,
		Run: fmt.Sprintf("%s to %s UTC", seen.begin.UTC().Format("2006-01-02 15:04:05"), seen.end.UTC().Format("15:04:05")),
	}
	for _, panel := range d.Panels {
		b := box{
			Title: panel.Title, Row: panel.Type == "row",
			Left: panel.GridPos.X*columnWidth + gap, Top: panel.GridPos.Y*(rowHeight+gap) + header,
			Width: panel.GridPos.W*columnWidth - gap, Height: panel.GridPos.H*(rowHeight+gap) - gap,
		}
		p.Height = max(p.Height, b.Top+b.Height+gap)
		var all []promql.Series
		var names []string
		for _, target := range panel.Targets {
			found, err := ask(ctx, engine, seen, target.Expr)
			if err != nil {
				return nil, 0, 0, fmt.Errorf("%s: %w", panel.Title, err)
			}
			for _, s := range found {
				all = append(all, s)
				names = append(names, legend(target.LegendFormat, s))
			}
		}
		b.plot(seen, panel, all, names)
		p.Boxes = append(p.Boxes, b)
	}
	var out bytes.Buffer
	err = layout.Execute(&out, p)
	return out.Bytes(), p.Width, p.Height, err
}

// ask evaluates an expression as Grafana would, for all hosts.
func ask(ctx context.Context, engine *promql.Engine, seen recording, expr string) (promql.Matrix, error) {
	expr = strings.NewReplacer("$host", ".*", "$__rate_interval", settled.String()).Replace(expr)
	query, err := engine.NewRangeQuery(ctx, seen.data, nil, expr, seen.begin.Add(settled), seen.end, scrapes)
	if err != nil {
		return nil, err
	}
	defer query.Close()
	found, err := query.Exec(ctx).Matrix()
	if err != nil {
		return nil, err
	}
	kept := make(promql.Matrix, len(found)) // the query's own memory is used again
	for i, s := range found {
		kept[i] = promql.Series{Metric: s.Metric.Copy(), Floats: slices.Clone(s.Floats)}
	}
	return kept, nil
}

var placeholder = regexp.MustCompile(`\{\{(\w+)\}\}`)

func legend(format string, s promql.Series) string {
	return strings.TrimSpace(placeholder.ReplaceAllStringFunc(format, func(found string) string {
		return s.Metric.Get(strings.Trim(found, "{}"))
	}))
}

// plot makes lines of series.
func (b *box) plot(seen recording, p panel, all []promql.Series, names []string) {
	b.PlotLeft, b.PlotRight = axisWidth, float64(b.Width)-16
	legendLines, used := 1, 0.0
	for _, name := range names {
		needs := float64(utf8.RuneCountInString(name))*letterWidth + 36
		if used += needs; used > float64(b.Width) {
			legendLines, used = legendLines+1, needs
		}
	}
	b.PlotTop, b.PlotBottom = titleHeight+6, float64(b.Height-legendLines*legendHeight-timeHeight-6)
	if p.Type == "stat" {
		b.PlotLeft, b.PlotRight, b.PlotTop, b.PlotBottom = 0, float64(b.Width), float64(b.Height)*0.66, float64(b.Height)
	}
	unit := p.FieldConfig.Defaults.Unit
	top := 0.0
	for _, s := range all {
		for _, f := range s.Floats {
			top = max(top, f.F)
		}
	}
	step := niceStep(top/4, unit)
	top = max(1, math.Ceil(top/step*1.0001)) * step
	begin, length := seen.begin.Add(settled), seen.end.Sub(seen.begin.Add(settled)).Seconds()
	x := func(at time.Time) float64 {
		return b.PlotLeft + at.Sub(begin).Seconds()/length*(b.PlotRight-b.PlotLeft)
	}
	y := func(v float64) float64 { return b.PlotBottom - v/top*(b.PlotBottom-b.PlotTop) }
	for v := 0.0; v <= top*1.0001; v += step {
		b.Grid = append(b.Grid, tick{y(v), format(v, unit)})
	}
	every := time.Minute
	if b.Width < 5*columnWidth {
		every = 2 * time.Minute
	}
	for at := begin.Truncate(every).Add(every); at.Before(seen.end); at = at.Add(every) {
		b.Times = append(b.Times, tick{x(at), at.UTC().Format("15:04")})
	}
	b.AwayX, b.AwayWidth = x(seen.away), x(seen.back)-x(seen.away)
	for i, s := range all {
		l := line{Name: names[i], Color: colors[i%len(colors)]}
		var path, area strings.Builder
		var last time.Time
		from := 0.0
		for _, f := range s.Floats {
			at := time.UnixMilli(f.T)
			px, py := x(at), y(f.F)
			if last.IsZero() || at.Sub(last) > scrapes*3/2 { // a gap
				if !last.IsZero() {
					fmt.Fprintf(&area, "L%.1f %.1fL%.1f %.1fZ", x(last), b.PlotBottom, from, b.PlotBottom)
				}
				fmt.Fprintf(&path, "M%.1f %.1fh0.1", px, py)
				fmt.Fprintf(&area, "M%.1f %.1f", px, py)
				from = px
			} else {
				fmt.Fprintf(&path, "L%.1f %.1f", px, py)
				fmt.Fprintf(&area, "L%.1f %.1f", px, py)
			}
			last = at
		}
		if !last.IsZero() {
			fmt.Fprintf(&area, "L%.1f %.1fL%.1f %.1fZ", x(last), b.PlotBottom, from, b.PlotBottom)
		}
		l.Path, l.Area = path.String(), area.String()
		b.Lines = append(b.Lines, l)
	}
	if p.Type == "stat" && len(all) > 0 {
		last := all[0].Floats[len(all[0].Floats)-1].F
		b.Stat, b.StatName, b.Good = format(last, unit), names[0], last >= 1
	}
}

// niceStep is a round number, not less than the rough one.
func niceStep(rough float64, unit string) float64 {
	if rough <= 0 {
		return 1
	}
	if unit == "ns" && rough >= float64(time.Second) {
		for _, seconds := range []float64{1, 2, 5, 10, 15, 30, 60, 120, 300, 600} {
			if step := seconds * float64(time.Second); step >= rough {
				return step
			}
		}
	}
	base, bases := 10.0, []float64{1, 2, 2.5, 5, 10}
	if unit == "bytes" {
		base, bases = 1024, []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024}
	}
	scale := math.Pow(base, math.Floor(math.Log(rough)/math.Log(base)))
	for _, b := range bases {
		if b*scale >= rough*0.9999 {
			return b * scale
		}
	}
	return base * scale
}

// format is a value as Grafana shows it.
func format(v float64, unit string) string {
	scaled := func(by float64, names ...string) string {
		i := 0
		for ; v >= by && i < len(names)-1; i++ {
			v /= by
		}
		return strings.TrimSpace(strconv.FormatFloat(math.Round(v*100)/100, 'f', -1, 64) + " " + names[i])
	}
	switch unit {
	case "bool_yes_no":
		if v >= 1 {
			return "Yes"
		}
		return "No"
	case "bytes":
		return scaled(1024, "B", "KiB", "MiB", "GiB", "TiB")
	case "Bps":
		return scaled(1000, "B/s", "kB/s", "MB/s", "GB/s")
	case "cps":
		return scaled(1000, "c/s", "Kc/s", "Mc/s")
	case "ns":
		if v >= float64(time.Minute) {
			v /= float64(time.Minute)
			return scaled(math.Inf(1), "min")
		}
		return scaled(1000, "ns", "µs", "ms", "s")
	}
	return scaled(1000, "", "K", "Mil", "Bil")
}

var layout = template.Must(template.New("").Parse(`<!DOCTYPE html>
<meta charset="utf-8">
<title>{{.Title}}</title>
<style>
  body { margin: 0; background: #111217; color: #ccccdc; font: 12px Inter, "DejaVu Sans", sans-serif; width: {{.Width}}px; height: {{.Height}}px; position: relative; overflow: hidden }
  header { position: absolute; left: 8px; right: 8px; top: 0; height: 56px; display: flex; align-items: center; gap: 14px }
  header b { font-size: 19px; font-weight: 500 }
  header span { color: #9a9aa8 }
  header i { margin-left: auto; font-style: normal; display: flex; align-items: center; gap: 8px }
  header i::before { content: ""; width: 22px; height: 12px; background: #f2495c33; border: 1px solid #f2495c66 }
  section { position: absolute; box-sizing: border-box; background: #181b1f; border: 1px solid #25272e; border-radius: 2px }
  section.row { background: none; border: none; font-size: 15px; line-height: 30px }
  section.row::before { content: "⌄ "; color: #9a9aa8 }
  h2 { position: absolute; margin: 0; left: 10px; top: 8px; font-size: 13px; font-weight: 500; white-space: nowrap }
  svg { position: absolute; left: 0; top: 0 }
  text { fill: #9a9aa8; font-size: 10.5px }
  footer { position: absolute; left: 12px; right: 8px; bottom: 5px; display: flex; flex-wrap: wrap; column-gap: 14px; line-height: 17px; white-space: nowrap; font-size: 11px }
  footer i { display: inline-block; width: 14px; height: 3px; border-radius: 2px; margin-right: 5px; vertical-align: middle }
  .none { position: absolute; inset: 0; display: flex; align-items: center; justify-content: center; color: #9a9aa8; font-size: 14px }
  .stat { position: absolute; inset: 0; top: 30px; display: flex; flex-direction: column; align-items: center; justify-content: center; color: #fff; gap: 6px; padding-bottom: 50px }
  .stat b { font-size: 44px; font-weight: 500 }
  .good { background: #3a8a3f } .bad { background: #b3283d }
</style>
<header><b>{{.Title}}</b><span>host: All</span><span>{{.Run}}</span><span>drawn by deploy/grafana/draw, not by Grafana</span><i>the server was away</i></header>
{{range .Boxes}}<section class="{{if .Row}}row{{else if .Stat}}{{if .Good}}good{{else}}bad{{end}}{{end}}" style="left:{{.Left}}px;top:{{.Top}}px;width:{{.Width}}px;height:{{.Height}}px">
{{if .Row}}{{.Title}}{{else}}<h2>{{.Title}}</h2>
{{$b := .}}{{if .Stat}}<svg width="{{.Width}}" height="{{.Height}}">{{range .Lines}}<path d="{{.Area}}" fill="#ffffff33"/><path d="{{.Path}}" fill="none" stroke="#ffffff99"/>{{end}}</svg>
<div class="stat">{{.StatName}}<b>{{.Stat}}</b></div>
{{else if .Lines}}<svg width="{{.Width}}" height="{{.Height}}">
<rect x="{{.AwayX}}" y="{{.PlotTop}}" width="{{.AwayWidth}}" height="{{.PlotHeight}}" fill="#f2495c" fill-opacity=".13"/>
{{range .Grid}}<path d="M{{$b.PlotLeft}} {{.At}}H{{$b.PlotRight}}" stroke="#2c2f38"/><text x="{{$b.PlotLeft}}" dx="-6" y="{{.At}}" dy="3.5" text-anchor="end">{{.Text}}</text>{{end}}
{{range .Times}}<path d="M{{.At}} {{$b.PlotTop}}V{{$b.PlotBottom}}" stroke="#23262d"/><text x="{{.At}}" y="{{$b.PlotBottom}}" dy="14" text-anchor="middle">{{.Text}}</text>{{end}}
{{range .Lines}}<path d="{{.Area}}" fill="{{.Color}}" fill-opacity=".1"/>{{end}}{{range .Lines}}<path d="{{.Path}}" fill="none" stroke="{{.Color}}" stroke-width="1.4" stroke-linejoin="round"/>{{end}}
</svg><footer>{{range .Lines}}<span><i style="background:{{.Color}}"></i>{{.Name}}</span>{{end}}</footer>
{{else}}<div class="none">No data</div>{{end}}{{end}}</section>
{{end}}`))

// PlotHeight is for the page.
func (b box) PlotHeight() float64 { return b.PlotBottom - b.PlotTop }

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// What is measured of agents that have nothing to do.
const (
	binarySize = "MB"
	startTime  = "ms to SUBSCRIBE"
	idleShare  = "% of a core"
)

// measureSize: of the binaries, both stripped and with the same of Telegraf's plugins.
func (s *session) measureSize(context.Context, int) error {
	for _, w := range []way{wayNamed(ours), wayNamed(loki)} {
		info, err := os.Stat(w.program(s.options))
		if err != nil {
			return err
		}
		s.note(point{"size", w.name, "", binarySize}, float64(info.Size())/1e6)
	}
	programs, err := os.ReadDir(s.built)
	if err != nil {
		return err
	}
	for _, p := range programs {
		info, err := p.Info()
		if err != nil {
			return err
		}
		if name := p.Name(); name != filepath.Base(s.telegraf) {
			s.facts.programs = append(s.facts.programs, fmt.Sprintf("%s %.1f MB", name, float64(info.Size())/1e6))
		}
	}
	return nil
}

// measureStartup: from the start of the process until its SUBSCRIBE is with the broker, and the memory that it has then.
func (s *session) measureStartup(ctx context.Context, round int) error {
	return inTurn([]way{wayNamed(ours), wayNamed(loki)}, round, func(w way) error {
		return s.between(ctx, w, false, func(ctx context.Context, a *agent, f *hose) error {
			ctx, cancel := a.while(ctx)
			defer cancel()
			at, err := f.WaitSubscribed(ctx)
			if err != nil {
				return a.failed(err)
			}
			s.note(point{"startup", w.name, "", startTime}, float64(at.Sub(a.started).Microseconds())/1e3)
			now, _, err := a.memory()
			if err != nil {
				return err
			}
			s.note(point{"startup", w.name, "", memory}, now)
			return nil
		})
	})
}

const oursSampling = `
[[inputs.mqtt_hardware]]
  topics = []
  hardware = ["battery", "cpu", "disk", "disk_io", "fan", "load", "memory", "network", "power", "pressure", "swap",
    "temperature", "throttling", "uptime", "voltage"]
  interval = "1s"
[[outputs.victorialogs]]
  url = %q
`

// stockSampling is what stock Telegraf has of the same.
const stockSampling = `
[[inputs.cpu]]
  interval = "1s"
[[inputs.disk]]
  interval = "1s"
[[inputs.diskio]]
  interval = "1s"
[[inputs.mem]]
  interval = "1s"
[[inputs.net]]
  interval = "1s"
  ignore_protocol_stats = true
[[inputs.swap]]
  interval = "1s"
[[inputs.system]]
  interval = "1s"
[[inputs.temp]]
  interval = "1s"
[[outputs.loki]]
  domain = %q
  endpoint = "/insert/loki/api/v1/push"
`

// measureIdle: no messages, one sample of the hardware each second.
func (s *session) measureIdle(ctx context.Context, round int) error {
	lasts := 15 * time.Second
	if s.short {
		lasts = 2 * time.Second
	}
	return inTurn([]way{wayNamed(ours), wayNamed(loki)}, round, func(w way) (err error) {
		logs, err := newStandIn(false)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, logs.Close()) }()
		sampling := stockSampling
		if w.name == ours {
			sampling = oursSampling
		}
		w.configure = func(at site) string {
			return agentLines + "  flush_interval = \"1s\"\n" + fmt.Sprintf(sampling, at.logs)
		}
		a, err := s.start(w, nil, logs, site{}, false)
		if err != nil {
			return err
		}
		defer a.kill()
		ctx, cancel := a.while(ctx)
		defer cancel()
		if err := logs.wait(ctx, 1); err != nil {
			return a.failed(err)
		}
		if err := pause(ctx, min(lasts, 2*time.Second)); err != nil { // past what follows a start
			return a.failed(err)
		}
		before, err := a.cpu()
		if err != nil {
			return err
		}
		began := time.Now()
		if err := pause(ctx, lasts); err != nil {
			return a.failed(err)
		}
		after, err := a.cpu()
		if err != nil {
			return err
		}
		s.note(point{"idle", w.name, "", idleShare}, 100*(after-before).Seconds()/time.Since(began).Seconds())
		now, _, err := a.memory()
		if err != nil {
			return err
		}
		s.note(point{"idle", w.name, "", memory}, now)
		return a.end()
	})
}

// heap is what a Go runtime has allocated since its start.
type heap struct{ mallocs, bytes float64 }

var heapLine = regexp.MustCompile(`(?m)^# (Mallocs|TotalAlloc) = (\d+)$`)

func (a *agent) heap(ctx context.Context) (h heap, err error) {
	text, err := a.ask(ctx, "/debug/pprof/allocs?debug=1")
	if err != nil {
		return h, err
	}
	for _, match := range heapLine.FindAllStringSubmatch(string(text), -1) {
		value, err := strconv.ParseFloat(match[2], 64)
		switch {
		case err != nil:
			return h, err
		case match[1] == "Mallocs":
			h.mallocs = value
		default:
			h.bytes = value
		}
	}
	if h.mallocs == 0 || h.bytes == 0 {
		return h, errors.New("the profiler tells nothing of allocations")
	}
	return h, nil
}

// fileName makes one of a way's name.
func fileName(name string) string {
	return strings.Map(func(r rune) rune {
		if r == ' ' || r == ',' || r == '/' {
			return '-'
		}
		return r
	}, name)
}

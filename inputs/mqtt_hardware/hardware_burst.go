package mqtt_hardware

import (
	"context"
	"slices"
	"sync"
	"time"
)

// burstFields are what the burst sampler reads, by source: one field of each device.
var burstFields = map[string]string{
	"cpu":         "usage_active",
	"memory":      "used_percent",
	"power":       "watts",
	"temperature": "temp",
}

// burst reads some sources faster than the gather interval and keeps the extremes until take. Its sources are its own,
// so that the spans of cpu and power are burst intervals. Errors are left to the gathered sample, which reads the same.
type burst struct {
	every time.Duration
	reads map[string]source // touched by the goroutine alone, once it runs

	mu    sync.Mutex
	peaks peaks

	cancel context.CancelFunc // nil: not running
	run    sync.WaitGroup
}

// peaks are by source and device.
type peaks map[string]map[string]*peak

type peak struct {
	of                  reading // for its tags
	min, max, sum, last float64
	count               int
}

// newBurst is nil when names holds nothing that it reads.
func newBurst(s *scope, names []string, every time.Duration) *burst {
	own := *s
	own.burst = true
	b := &burst{every: every, reads: map[string]source{}, peaks: peaks{}}
	for kind := range burstFields {
		if slices.Contains(names, kind) {
			b.reads[kind] = sources[kind](&own)
		}
	}
	if len(b.reads) == 0 {
		return nil
	}
	return b
}

// start, stop and take do nothing on nil. start is not called twice without a stop between.
func (b *burst) start() {
	if b == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel = cancel
	b.run.Go(func() {
		ticker := time.NewTicker(b.every)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				b.sample(ctx)
			}
		}
	})
}

// stop returns when the goroutine has ended.
func (b *burst) stop() {
	if b == nil || b.cancel == nil {
		return
	}
	b.cancel()
	b.cancel = nil
	b.run.Wait()
}

func (b *burst) sample(ctx context.Context) {
	for kind, read := range b.reads {
		readings, _ := guarded(ctx, read)
		b.mu.Lock()
		for _, r := range readings {
			dropNonFinite(r.gauges)
			if value, ok := r.gauges[burstFields[kind]].(float64); ok {
				b.peaks.note(kind, r, value)
			}
		}
		b.mu.Unlock()
	}
}

func (p peaks) note(kind string, r reading, value float64) {
	if p[kind] == nil {
		p[kind] = map[string]*peak{}
	}
	k := p[kind][r.name]
	if k == nil {
		k = &peak{of: reading{label: r.label, name: r.name, about: r.about}, min: value, max: value}
		p[kind][r.name] = k
	}
	k.min, k.max = min(k.min, value), max(k.max, value)
	k.sum += value
	k.count++
	k.last = value
}

// take returns what was noted since the last take.
func (b *burst) take() peaks {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	taken := b.peaks
	b.peaks = peaks{}
	return taken
}

// addTo adds the peaks of this kind to its readings, and a reading for each device that has only peaks now.
func (p peaks) addTo(kind string, readings []reading) []reading {
	field := burstFields[kind]
	for name, k := range p[kind] {
		i := slices.IndexFunc(readings, func(r reading) bool { return r.name == name })
		if i < 0 {
			i = len(readings)
			readings = append(readings, k.of)
		}
		if readings[i].gauges == nil {
			readings[i].gauges = map[string]any{}
		}
		readings[i].gauges[field+"_min"] = k.min
		readings[i].gauges[field+"_max"] = k.max
		readings[i].gauges[field+"_mean"] = min(max(k.sum/float64(k.count), k.min), k.max) // which rounding may leave
		readings[i].gauges[field+"_last"] = k.last
	}
	return readings
}

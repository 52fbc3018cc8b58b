package execd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/metric"
	"github.com/influxdata/telegraf/models"
	"github.com/influxdata/telegraf/selfstat"
)

// outputHost gives what comes on standard input to outputs.
type outputHost struct {
	outputs   []*models.RunningOutput
	tags      map[string]string // [global_tags]
	log       telegraf.Logger
	read      selfstat.Stat // metrics
	malformed selfstat.Stat // lines
	replayed  selfstat.Stat // metrics, from the spool

	mu     sync.Mutex // held while a metric is given to the outputs, which do not expect two at a time
	logged time.Time  // when a malformed line was logged last
}

func runOutputs(c *config.Config, o Options, spooled *spool, interrupted <-chan struct{}, log telegraf.Logger) error {
	if err := initAll(c); err != nil {
		return err
	}
	if o.Test {
		log.Infof("The configuration of %d outputs is right; nothing was sent", len(c.Outputs))
		return nil
	}
	h := &outputHost{
		outputs: c.Outputs, tags: c.Tags, log: log,
		read: stat("metrics_read"), malformed: stat("lines_malformed"), replayed: stat("metrics_replayed"),
	}
	for i, output := range h.outputs {
		if err := output.Connect(); err != nil {
			for _, connected := range h.outputs[:i] {
				connected.Close()
			}
			return fmt.Errorf("%s: %w", output.LogName(), err)
		}
	}
	stop := make(chan struct{})
	var running sync.WaitGroup
	for _, output := range h.outputs {
		running.Go(func() { h.flush(output, flushInterval(c, output), stop) })
	}
	running.Go(func() { eachSelfMetric(o.SelfMetrics, stop, h.add) })

	ended := make(chan error, 1) // nobody may be left to take it
	go func() { ended <- h.readAll(spooled) }()
	var err error
	select {
	case err = <-ended:
	case <-interrupted:
	}
	close(stop)
	running.Wait()
	if spooled != nil {
		spooled.closing()
	}
	for _, output := range h.outputs {
		h.write(output.Write, output)
		output.Close()
	}
	log.Infof("Ended: %d metrics read from standard input and %d from the spool, %d lines malformed", h.read.Get(),
		h.replayed.Get(), h.malformed.Get())
	return err
}

// readAll reads what earlier lives left in the spool, and then standard input to its end.
func (h *outputHost) readAll(spooled *spool) error {
	if spooled == nil {
		return h.readFrom(os.Stdin, nil, h.read)
	}
	for _, path := range spooled.left {
		j, err := spooled.replay(path)
		if err != nil {
			return err
		}
		if j == nil {
			continue
		}
		h.log.Infof("Replaying %s, which an earlier process could not finish", path)
		if err := h.readFrom(j, j, h.replayed); err != nil {
			return err
		}
		j.ended()
	}
	return h.readFrom(spooled.own, spooled.own, h.read)
}

// readFrom gives all metrics of a source to the outputs. The journal, if there is one, hears which are safe.
func (h *outputHost) readFrom(source io.Reader, j *journal, count selfstat.Stat) error {
	l := newLines(source)
	for {
		m, err := l.next()
		var broken noLine
		switch {
		case err == nil:
			count.Incr(1)
			if j != nil {
				m, _ = metric.WithTracking(m, j.begin(l.parsed))
			}
			h.add(m)
		case errors.As(err, &broken):
			if l.isCut() {
				h.log.Warn("Leaving out the beginning of a line, in which the process that wrote it ended; outputs.execd " +
					"writes a metric again when only a part of it got through")
			} else {
				h.reportMalformed(broken)
			}
			if j != nil {
				j.skip(l.parsed)
			}
		case errors.Is(err, io.EOF):
			return nil
		default:
			return fmt.Errorf("reading metrics: %w", err)
		}
	}
}

// reportMalformed counts a line, and logs the first within a minute.
func (h *outputHost) reportMalformed(err error) {
	h.malformed.Incr(1)
	if now := time.Now(); now.Sub(h.logged) > time.Minute {
		h.logged = now
		h.log.Errorf("Leaving out a line that cannot be read: %v; more like it are counted in lines_malformed", err)
	}
}

// add gives a metric to all outputs, as Telegraf does.
func (h *outputHost) add(m telegraf.Metric) {
	for name, value := range h.tags {
		if !m.HasTag(name) {
			m.AddTag(name, value)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	last := len(h.outputs) - 1
	for _, output := range h.outputs[:last] {
		output.AddMetric(m)
	}
	h.outputs[last].AddMetricNoCopy(m)
}

func flushInterval(c *config.Config, output *models.RunningOutput) time.Duration {
	if output.Config.FlushInterval > 0 {
		return output.Config.FlushInterval
	}
	return time.Duration(c.Agent.FlushInterval)
}

// flush is for outputs that do not take each metric at once.
func (h *outputHost) flush(output *models.RunningOutput, every time.Duration, stop <-chan struct{}) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			h.write(output.Write, output)
		case <-output.BatchReady:
			h.write(output.WriteBatch, output)
		}
	}
}

func (h *outputHost) write(write func() error, output *models.RunningOutput) {
	if err := write(); err != nil {
		h.log.Errorf("Writing to %s: %v", output.LogName(), err)
	}
}

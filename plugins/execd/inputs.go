package execd

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/agent"
	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/models"
)

// partingTime is how long inputs may take to end when nobody reads any more. Then the process ends without them: their brokers
// keep what was not acknowledged.
const partingTime = 500 * time.Millisecond

// runInputs runs inputs until standard input ends or nobody reads standard output any more.
func runInputs(c *config.Config, o Options, interrupted <-chan struct{}, log telegraf.Logger) error {
	if err := initAll(c); err != nil {
		return err
	}
	metrics := make(chan telegraf.Metric, 100)
	writer := newWriter(os.Stdout, log)
	if o.Test {
		writer.prefix = "> "
		return testInputs(c, writer, metrics)
	}
	written := make(chan error, 1)
	go func() { written <- writer.run(metrics) }()

	var started []*models.RunningInput
	end := func() error {
		stopped := make(chan struct{})
		go func() {
			for _, input := range started {
				input.Stop()
			}
			close(stopped)
		}()
		select {
		case <-stopped:
		case <-writer.broken: // what they wait for will never be read
			select {
			case <-stopped:
			case <-time.After(partingTime):
				return writer.err
			}
		}
		close(metrics)
		return <-written
	}
	for _, input := range c.Inputs {
		if err := input.Start(agent.NewAccumulator(input, metrics)); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", input.LogName(), err), end())
		}
		started = append(started, input)
	}

	stop := make(chan struct{})
	var gathering sync.WaitGroup
	asked := make([]chan struct{}, len(c.Inputs))
	for i, input := range c.Inputs {
		asked[i] = make(chan struct{}, 1)
		acc := agent.NewAccumulator(input, metrics)
		acc.SetPrecision(precision(c, input))
		gather := func() {
			if err := input.Gather(acc); err != nil {
				acc.AddError(err)
			}
		}
		gathering.Go(func() { gatherLoop(interval(c, input), asked[i], stop, gather) })
	}
	gathering.Go(func() {
		eachSelfMetric(o.SelfMetrics, stop, func(m telegraf.Metric) { metrics <- m })
	})

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, gatherSignals...)
	defer signal.Stop(signals)
	lines, ended := make(chan struct{}), make(chan struct{})
	go watchStdin(lines, ended)
	log.Infof("Started %d inputs", len(started))
	for running := true; running; {
		select {
		case <-signals:
			askAll(asked)
		case <-lines:
			askAll(asked)
		case <-ended:
			running = false
		case <-interrupted:
			running = false
		case <-writer.broken:
			running = false
		}
	}
	close(stop)
	gathering.Wait()
	return end()
}

// testInputs gathers once. No input is started: a second client with the same client_id would take the session from the
// first.
func testInputs(c *config.Config, w *writer, metrics chan telegraf.Metric) error {
	written := make(chan error, 1)
	go func() { written <- w.run(metrics) }()
	var errs []error
	for _, input := range c.Inputs {
		acc := agent.NewAccumulator(input, metrics)
		acc.SetPrecision(precision(c, input))
		if err := input.Input.Gather(acc); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", input.LogName(), err))
		}
	}
	close(metrics)
	return errors.Join(append(errs, <-written)...)
}

// watchStdin reports each line, with which inputs.execd asks for metrics, and the end.
func watchStdin(lines, ended chan<- struct{}) {
	defer close(ended)
	buffer := make([]byte, 512)
	for {
		n, err := os.Stdin.Read(buffer)
		if n > 0 {
			select {
			case lines <- struct{}{}:
			default: // it is being told already
			}
		}
		if err != nil {
			return
		}
	}
}

// askAll asks all inputs to gather; one that has not begun with the last time gathers once.
func askAll(inputs []chan struct{}) {
	for _, asked := range inputs {
		select {
		case asked <- struct{}{}:
		default:
		}
	}
}

// gatherLoop gathers when asked, and each interval, unless that is 0.
func gatherLoop(every time.Duration, asked, stop <-chan struct{}, gather func()) {
	var tick <-chan time.Time
	if every > 0 {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		tick = ticker.C
	}
	for {
		select {
		case <-stop:
			return
		case <-asked:
		case <-tick:
		}
		gather()
	}
}

func interval(c *config.Config, input *models.RunningInput) time.Duration {
	if input.Config.Interval > 0 {
		return input.Config.Interval
	}
	return time.Duration(c.Agent.Interval)
}

func precision(c *config.Config, input *models.RunningInput) time.Duration {
	for _, p := range []time.Duration{input.Config.Precision, time.Duration(c.Agent.Precision)} {
		if p > 0 {
			return p
		}
	}
	return time.Nanosecond
}

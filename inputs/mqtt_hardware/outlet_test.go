package mqtt_hardware

import (
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/selfstat"
)

// outlet stands for Telegraf behind the input: it takes metrics and accepts, rejects or holds them, as the test says.
type outlet struct {
	telegraf.Accumulator // the plugin calls nothing else

	mu      sync.Mutex
	verdict func(m telegraf.Metric) // what becomes of a metric; nil: it is held
	gate    chan struct{}           // AddMetric waits until this is closed
	metrics []telegraf.Metric       // all, in order
	held    []telegraf.Metric
	most    int // that were held at once
	ended   bool
	late    int // came after the plugin's Stop had returned
}

var (
	accept = func(m telegraf.Metric) { m.Accept() }
	reject = func(m telegraf.Metric) { m.Reject() }
)

func (*outlet) SetPrecision(time.Duration) {}

func (o *outlet) AddMetric(m telegraf.Metric) {
	o.mu.Lock()
	gate := o.gate
	o.mu.Unlock()
	if gate != nil {
		<-gate
	}
	o.mu.Lock()
	if o.ended {
		o.late++
	}
	o.metrics = append(o.metrics, m)
	verdict := o.verdict
	if verdict == nil {
		o.held = append(o.held, m)
		o.most = max(o.most, len(o.held))
	}
	o.mu.Unlock()
	if verdict != nil {
		verdict(m)
	}
}

// set says what becomes of metrics from now on, and of those that are held.
func (o *outlet) set(verdict func(telegraf.Metric)) {
	o.mu.Lock()
	o.verdict = verdict
	held := o.held
	if verdict != nil {
		o.held = nil
	}
	o.mu.Unlock()
	if verdict != nil {
		for _, m := range held {
			verdict(m)
		}
	}
}

// settle gives a verdict on what is held, and goes on holding.
func (o *outlet) settle(verdict func(telegraf.Metric)) {
	o.mu.Lock()
	held := o.held
	o.held = nil
	o.mu.Unlock()
	for _, m := range held {
		verdict(m)
	}
}

// release accepts the oldest n of what is held.
func (o *outlet) release(n int) {
	o.mu.Lock()
	n = min(n, len(o.held))
	released := o.held[:n]
	o.held = o.held[n:]
	o.mu.Unlock()
	for _, m := range released {
		m.Accept()
	}
}

// block makes AddMetric wait until the returned function is called.
func (o *outlet) block() (unblock func()) {
	gate := make(chan struct{})
	o.mu.Lock()
	defer o.mu.Unlock()
	o.gate = gate
	return sync.OnceFunc(func() {
		o.mu.Lock()
		o.gate = nil
		o.mu.Unlock()
		close(gate)
	})
}

func (o *outlet) all() []telegraf.Metric {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]telegraf.Metric(nil), o.metrics...)
}

func (o *outlet) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.metrics)
}

// texts are the fields called message, in the order in which they came.
func (o *outlet) texts() []string {
	texts := []string{}
	for _, m := range o.all() {
		text, _ := m.GetField("message")
		s, _ := text.(string)
		texts = append(texts, s)
	}
	return texts
}

func (o *outlet) highest() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.most
}

// end is called once the plugin's Stop has returned.
func (o *outlet) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
}

func (o *outlet) lateCount() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.late
}

var instances atomic.Int64

// statistics are one instance's own: the registry behind them is the process's.
func statistics(t *testing.T) *selfstat.Collector {
	t.Helper()
	c := selfstat.NewCollector(map[string]string{"test": t.Name(), "instance": strconv.FormatInt(instances.Add(1), 10)})
	t.Cleanup(c.UnregisterAll)
	return c
}

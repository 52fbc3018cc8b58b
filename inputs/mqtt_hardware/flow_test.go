package mqtt_hardware

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/metric"
	"github.com/influxdata/telegraf/testutil"
)

// publish is a PUBLISH as the MQTT library hands it over.
type publish struct {
	dup     bool // the broker sends it again
	topic   string
	payload string
	qos     byte
	id      uint16
	acks    atomic.Int32
	stuck   chan struct{} // if set, Ack waits for it, as on a connection that takes nothing
}

func (p *publish) Duplicate() bool   { return p.dup }
func (*publish) Retained() bool      { return false }
func (p *publish) Qos() byte         { return p.qos }
func (p *publish) Topic() string     { return p.topic }
func (p *publish) MessageID() uint16 { return p.id }
func (p *publish) Payload() []byte   { return []byte(p.payload) }
func (p *publish) acked() int        { return int(p.acks.Load()) }

func (p *publish) Ack() {
	if p.stuck != nil {
		<-p.stuck
	}
	p.acks.Add(1)
}

func qos0(payload string) *publish { return &publish{topic: "t", payload: payload} }

func qos1(id uint16, payload string) *publish {
	return &publish{topic: "t", payload: payload, qos: 1, id: id}
}

// repeat is a message that the broker sends again.
func repeat(id uint16, payload string) *publish {
	p := qos1(id, payload)
	p.dup = true
	return p
}

// running is a flow with its two goroutines, between a connection and an outlet that the test plays.
type running struct {
	*flow
	out    *outlet
	number int    // of the connection
	halt   func() // ends the goroutines
	log    *testutil.CaptureLogger
}

func run(t *testing.T, maxUndelivered int) *running {
	t.Helper()
	r := &running{out: &outlet{}, log: &testutil.CaptureLogger{}}
	r.flow = newFlow(newStats(statistics(t)), r.log, maxUndelivered)
	r.makeMetrics = func(m *message) ([]telegraf.Metric, bool) {
		return []telegraf.Metric{readEvent(m.payload, m.at)}, false
	}
	r.wants = func(topic string) bool { return topic == "t" }
	r.acc = r.out
	stop := make(chan struct{})
	var goroutines sync.WaitGroup
	goroutines.Go(func() { r.feed(stop) })
	goroutines.Go(func() { r.acknowledge(stop) })
	r.halt = sync.OnceFunc(func() { close(stop); goroutines.Wait() })
	t.Cleanup(r.halt)
	r.connect(false)
	return r
}

func (r *running) connect(sessionPresent bool) {
	r.number = r.connecting()
	r.connected(sessionPresent, direct)
}

func (r *running) disconnect() { r.disconnected(r.number) }

func (r *running) get(messages ...*publish) {
	for _, m := range messages {
		r.receive(r.number, m)
	}
	synctest.Wait()
}

// pass lets time go by.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (r *running) settle(verdict func(telegraf.Metric)) {
	r.out.settle(verdict)
	synctest.Wait()
}

func TestFlowAcknowledgesAfterDelivery(t *testing.T) {
	for _, qos := range []byte{1, 2} {
		t.Run(fmt.Sprintf("QoS %d", qos), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := run(t, 10)
				m := qos1(7, "one")
				m.qos = qos
				r.get(m)
				pass(time.Hour)
				require.Equal(t, []string{"one"}, r.out.texts())
				require.Zero(t, m.acked(), "before its delivery")
				require.EqualValues(t, 1, r.stats.unacked.Get())

				r.settle(accept)
				require.Equal(t, 1, m.acked())
				require.EqualValues(t, 1, r.stats.received.Get())
				require.EqualValues(t, 1, r.stats.acked.Get())
				require.EqualValues(t, 0, r.stats.unacked.Get())
				require.EqualValues(t, 3, r.stats.payloadBytes.Get())
			})
		})
	}
}

func TestFlowAcknowledgesWhenAllMetricsAreDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, 10)
		r.makeMetrics = func(m *message) ([]telegraf.Metric, bool) {
			return []telegraf.Metric{metric.New(m.topic, nil, fields{"n": 1}, m.at), metric.New(m.topic, nil, fields{"n": 2}, m.at)}, false
		}
		m := qos1(7, "two")
		r.get(m)
		held := r.out.all()
		require.Len(t, held, 2)
		held[0].Accept()
		synctest.Wait()
		require.Zero(t, m.acked())
		held[1].Accept()
		synctest.Wait()
		require.Equal(t, 1, m.acked())
	})
}

// The metric that a filter or a processor drops on purpose is done with.
func TestFlowAcknowledgesWhatWasDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, 10)
		r.out.set(func(m telegraf.Metric) { m.Drop() })
		m := qos1(7, "one")
		r.get(m)
		require.Equal(t, 1, m.acked())
	})
}

func TestFlowHandsRejectedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, 10)
		start := time.Now()
		var tries []time.Duration
		r.out.set(func(m telegraf.Metric) {
			tries = append(tries, time.Since(start))
			m.Reject()
		})
		m := qos1(7, "one")
		r.get(m)
		pass(10 * time.Minute)
		require.Greater(t, len(tries), 10)
		for i := 1; i < len(tries); i++ {
			gap := tries[i] - tries[i-1]
			require.LessOrEqual(t, gap, lastRetry)
			if i > 1 {
				before := tries[i-1] - tries[i-2]
				require.True(t, gap > before || gap == lastRetry, "tries at %v do not back off", tries)
			}
		}
		require.Zero(t, m.acked())
		require.EqualValues(t, len(tries)-1, r.stats.redelivered.Get())
		require.EqualValues(t, 1, r.stats.received.Get())

		r.out.set(accept)
		pass(lastRetry)
		require.Equal(t, 1, m.acked())
		require.Equal(t, len(tries)+1, r.out.count(), "delivered once")

		// The next one that is rejected begins with a short wait again.
		r.out.set(nil)
		r.get(qos1(8, "two"))
		r.settle(reject)
		before := r.out.count()
		pass(firstRetry)
		require.Equal(t, before+1, r.out.count())
	})
}

func TestFlowRetryKeepsTheTimeOfReceipt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, 10)
		start := time.Now()
		r.get(qos1(7, "one"))
		pass(time.Minute)
		r.settle(reject)
		pass(time.Minute)
		for _, m := range r.out.all() {
			require.Equal(t, start, m.Time().Local())
		}
		require.Equal(t, 2, r.out.count())
	})
}

func TestFlowHoldsTheWindow(t *testing.T) {
	const window, sent = 5, 100
	synctest.Test(t, func(t *testing.T) {
		r := run(t, window)
		for i := range uint16(sent) {
			r.get(qos1(i+1, strconv.Itoa(int(i))))
		}
		require.Equal(t, window, r.out.count())
		for round := 1; r.stats.acked.Get() < sent; round++ {
			require.Less(t, round, sent, "no progress")
			if round%3 == 0 {
				r.settle(reject) // a rejected message keeps its place
				pass(lastRetry)
			}
			r.settle(accept)
		}
		require.Equal(t, window, r.out.highest())
		require.EqualValues(t, sent, r.stats.acked.Get())
		require.EqualValues(t, 0, r.stats.unacked.Get())
	})
}

func TestFlowDoesNotTrackQoS0(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, 2)
		for i := range 10 {
			r.get(qos0(strconv.Itoa(i)))
		}
		require.Equal(t, 10, r.out.count(), "the window is not for them")
		for _, m := range r.out.all() {
			_, tracked := m.(telegraf.TrackingMetric)
			require.False(t, tracked)
		}
		require.EqualValues(t, 0, r.stats.unacked.Get())
	})
}

// The handler of the MQTT library also carries the answers to pings.
func TestFlowReceiveDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, 5)
		unblock := r.out.block()
		t.Cleanup(unblock)
		stuck := &publish{topic: "unwanted", qos: 1, id: 60_000, stuck: make(chan struct{})} // acknowledged at once
		r.get(stuck)
		start := time.Now()
		for i := range uint16(1000) {
			r.receive(r.number, qos1(i+1, "x"))
		}
		r.disconnect()
		r.number = r.connecting()
		r.receive(r.number, repeat(1, "x"))
		r.connected(true, direct)
		require.Equal(t, start, time.Now())
		require.Zero(t, r.out.count())

		close(stuck.stuck)
		r.out.set(accept)
		unblock()
		synctest.Wait()
		require.Equal(t, 1000, r.out.count())
	})
}

func TestFlowRecognisesRepeats(t *testing.T) {
	tests := []struct {
		name    string
		present bool // the broker kept the session
		again   *publish
		want    []string // delivered
	}{
		{"repeated", true, qos1(7, "one"), []string{"one"}},
		{"same id, other content", true, qos1(7, "other"), []string{"one", "other"}},
		{"same content, other id", true, qos1(8, "one"), []string{"one", "one"}},
		{"same id, other topic", true, &publish{topic: "t2", payload: "one", qos: 1, id: 7}, []string{"one", "one"}},
		{"QoS 0 has no id", true, &publish{topic: "t", payload: "one"}, []string{"one", "one"}},
		{"the session is gone", false, qos1(7, "one"), []string{"one", "one"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := run(t, 10)
				r.wants = func(string) bool { return true }
				first := qos1(7, "one")
				r.get(first)
				r.disconnect()
				r.connect(tt.present)
				again := &publish{topic: tt.again.topic, payload: tt.again.payload, qos: tt.again.qos, id: tt.again.id, dup: true}
				r.get(again)
				r.settle(accept)
				require.Equal(t, tt.want, r.out.texts())
				require.Zero(t, first.acked(), "on a connection that is gone")
				if tt.again.qos > 0 {
					require.Equal(t, 1, again.acked(), "on the new connection")
				}
				if len(tt.want) == 1 {
					require.EqualValues(t, 1, r.stats.repeated.Get())
				}

				// Nothing is left that a later message could be mistaken for.
				r.out.set(accept)
				before := r.out.count()
				next := &publish{topic: tt.again.topic, payload: tt.again.payload, qos: 1, id: tt.again.id}
				if tt.again.qos > 0 {
					r.get(next)
					require.Equal(t, before+1, r.out.count(), "a new message with the same id and content")
					require.Equal(t, 1, next.acked())
				}
			})
		})
	}
}

// With QoS 2 the broker repeats a message until it has our PUBREC, which it says with PUBREL.
func TestFlowRepeatOfWhatWasAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, 10)
		r.unreleased = make(map[uint16]*message)
		r.out.set(accept)
		qos2 := func() *publish {
			p := repeat(7, "one") // Mosquitto sets DUP also on what it never sent
			p.qos = 2
			return p
		}
		first := qos2()
		r.get(first)
		require.Equal(t, 1, first.acked())
		r.disconnect()
		r.connect(true)
		again := qos2()
		r.get(again)
		require.Equal(t, 1, again.acked(), "PUBREC once more")
		require.Equal(t, []string{"one"}, r.out.texts(), "and not delivered again")

		r.released(r.number, 7)
		r.get(qos2())
		require.Equal(t, []string{"one", "one"}, r.out.texts(), "a new message with the same id and content")
	})
}

func TestFlowRepeatOfWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, 1)
		first, second := qos1(1, "one"), qos1(2, "two")
		r.get(first, second) // the second waits in the queue
		for range 3 {
			r.disconnect()
			r.connect(true)
			first, second = repeat(1, "one"), repeat(2, "two")
			r.get(first, second)
		}
		r.settle(accept)
		r.settle(accept)
		require.Equal(t, []string{"one", "two"}, r.out.texts())
		require.Equal(t, 1, first.acked())
		require.Equal(t, 1, second.acked())
	})
}

func TestFlowRepeatOfWhatWasRejected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, 10)
		r.get(qos1(1, "one"))
		r.settle(reject)
		r.disconnect()
		r.connect(true)
		again := repeat(1, "one")
		r.get(again)
		pass(lastRetry)
		require.Equal(t, []string{"one", "one"}, r.out.texts(), "handed again once")
		r.settle(accept)
		require.Equal(t, 1, again.acked())
	})
}

func TestFlowDeliveredWhileDisconnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, 1)
		first := qos1(7, "one")
		r.get(first)
		r.disconnect()
		r.settle(accept)
		require.Zero(t, first.acked())

		// Meanwhile it does not take the place of others.
		r.connect(true)
		other := repeat(8, "two") // Mosquitto sets DUP also on what it never sent
		r.get(other)
		r.settle(accept)
		require.Equal(t, 1, other.acked())

		again := repeat(7, "one")
		r.get(again)
		require.Equal(t, 1, again.acked(), "when it is repeated")
		require.Equal(t, []string{"one", "two"}, r.out.texts(), "and not delivered again")
		require.EqualValues(t, 0, r.stats.unacked.Get())
		require.Zero(t, r.drain(t.Context()))
	})
}

// A broker that crashed and restored an older state uses identifiers again for messages that it takes for new. They are new,
// even where they say the same as those that it has forgotten.
func TestFlowBrokerForgot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, 10)
		r.get(qos1(1, "ON"), qos1(2, "ON"), qos1(3, "OFF"))
		r.disconnect()
		r.settle(accept)
		r.connect(true)
		one, two := qos1(1, "ON"), qos1(2, "OFF")
		r.get(one, two)
		r.settle(accept)
		require.Equal(t, []string{"ON", "ON", "OFF", "ON", "OFF"}, r.out.texts())
		require.Equal(t, 1, one.acked())
		require.Equal(t, 1, two.acked())
		require.EqualValues(t, 0, r.stats.unacked.Get(), "the third, which nobody will repeat, included")
	})
}

// QoS 0 messages need no place among those that wait for their acknowledgement.
func TestFlowFullWindowDoesNotHoldUpQoS0(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, 1)
		r.get(qos1(1, "one"), qos1(2, "two"), qos0("loose"))
		require.Equal(t, []string{"one", "loose"}, r.out.texts())
	})
}

// The broker may repeat messages before the MQTT library says whether it kept the session.
func TestFlowBeforeConnected(t *testing.T) {
	for _, present := range []bool{true, false} {
		t.Run(fmt.Sprintf("session present %t", present), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := run(t, 10)
				r.get(qos1(7, "one"))
				r.disconnect()
				r.number = r.connecting()
				again := repeat(7, "one")
				r.get(again)
				require.Equal(t, 1, r.out.count())
				r.connected(present, direct)
				synctest.Wait()
				r.settle(accept)
				require.Equal(t, 1, again.acked())
				require.Equal(t, present, r.out.count() == 1)
			})
		})
	}
}

func TestFlowLastWordsOfAnOldConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, 10)
		old := r.number
		r.connect(true)
		m := qos1(7, "one")
		r.receive(old, m)
		r.disconnected(old) // it comes late and is not about this connection
		synctest.Wait()
		require.Zero(t, r.out.count(), "the broker repeats it on the new one")
		again := qos1(7, "one")
		r.get(again)
		r.settle(accept)
		require.Zero(t, m.acked())
		require.Equal(t, 1, again.acked())
	})
}

func TestFlowUnwanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, 1)
		tracked, untracked := &publish{topic: "old", qos: 1, id: 1}, &publish{topic: "old"}
		r.get(tracked, untracked, &publish{topic: "old", qos: 2, id: 2}, qos1(3, "mine"))
		require.Equal(t, []string{"mine"}, r.out.texts())
		require.Equal(t, 1, tracked.acked())
		require.EqualValues(t, 3, r.stats.dropped[droppedUnwanted].Get())
		r.settle(accept)
		require.Zero(t, r.drain(t.Context()))
	})
}

func TestFlowOverflow(t *testing.T) {
	big := strings.Repeat("x", maxQueuedBytes/8)
	synctest.Test(t, func(t *testing.T) {
		r := run(t, 1)
		unblock := r.out.block()
		t.Cleanup(unblock)
		r.get(qos1(1, "first"))
		for i := range uint16(8) {
			r.get(qos1(i+2, big))
		}
		left, lost := qos1(100, "left"), qos0("lost")
		r.get(left, lost, qos1(101, "left, too"))
		require.EqualValues(t, 1, r.stats.dropped[droppedOverflow].Get())
		require.False(t, r.wantsReconnect(), "there is no room yet")

		r.out.set(accept)
		unblock()
		synctest.Wait()
		require.Equal(t, 9, r.out.count())
		require.Zero(t, left.acked(), "it is the broker's")
		require.True(t, r.wantsReconnect())

		r.disconnect()
		r.connect(true)
		require.False(t, r.wantsReconnect(), "done")
		left = qos1(100, "left")
		r.get(left)
		require.Equal(t, 10, r.out.count())
		require.Equal(t, 1, left.acked())
		require.EqualValues(t, 1, r.stats.dropped[droppedOverflow].Get())
	})
}

func TestFlowOverflowByNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, 1)
		unblock := r.out.block()
		t.Cleanup(unblock)
		r.get(qos0("handed"))
		for range maxQueuedMessages {
			r.receive(r.number, qos0("queued"))
		}
		require.EqualValues(t, 0, r.stats.dropped[droppedOverflow].Get())
		r.get(qos0("lost"))
		require.EqualValues(t, 1, r.stats.dropped[droppedOverflow].Get())
		r.get(qos0("lost, too"))
		require.EqualValues(t, 2, r.stats.dropped[droppedOverflow].Get())
		require.False(t, r.wantsReconnect(), "nobody would repeat them")
		errors := 0
		for _, entry := range r.log.Messages() {
			if entry.Level == testutil.LevelError {
				errors++
			}
		}
		require.Equal(t, 1, errors, "lines in the log")
	})
}

// While messages keep coming there is always one under way. Those that were left to the broker must come back all the
// same: they hold places in the broker's window.
func TestFlowOverflowEndsUnderSteadyFlow(t *testing.T) {
	big := strings.Repeat("x", maxQueuedBytes/4)
	synctest.Test(t, func(t *testing.T) {
		r := run(t, 1000)
		unblock := r.out.block()
		t.Cleanup(unblock)
		r.get(qos1(1, "first"))
		for i := range uint16(4) {
			r.get(qos1(i+2, big))
		}
		r.get(qos1(100, "left"))
		r.out.set(accept)
		unblock()
		synctest.Wait()
		r.out.set(nil)
		wanted := false
		for i := range uint16(600) { // 10 messages a second, each delivered before long, for a minute
			r.get(qos1(1000+i, "next"))
			wanted = wanted || r.wantsReconnect()
			pass(100 * time.Millisecond)
			r.get(qos1(2000+i, "next"))
			r.out.mu.Lock()
			oldest := r.out.held[0]
			r.out.held = r.out.held[1:]
			r.out.mu.Unlock()
			oldest.Accept()
			synctest.Wait()
		}
		require.True(t, wanted, "the message that was left waits as long as others come")
	})
}

func TestFlowDrain(t *testing.T) {
	t.Run("idle", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := run(t, 10)
			start := time.Now()
			require.Zero(t, r.drain(t.Context()))
			require.Equal(t, start, time.Now())
		})
	})
	t.Run("waits for what is in flight and in the queue", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := run(t, 1)
			one, two := qos1(1, "one"), qos1(2, "two")
			r.get(one, two)
			left := r.drained(t, drainTime)
			pass(time.Second)
			require.Empty(t, left)
			r.settle(accept)
			require.Empty(t, left)
			r.settle(accept)
			require.Zero(t, <-left)
			require.Equal(t, 1, one.acked())
			require.Equal(t, 1, two.acked(), "before drain returned")
		})
	})
	t.Run("waits for an acknowledgement under way", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := run(t, 1)
			m := qos1(1, "one")
			m.stuck = make(chan struct{})
			r.get(m)
			r.settle(accept)
			left := r.drained(t, drainTime)
			pass(time.Second)
			require.Empty(t, left)
			close(m.stuck)
			require.Zero(t, <-left)
			require.Equal(t, 1, m.acked())
		})
	})
	t.Run("waits for a rejected one", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := run(t, 1)
			m := qos1(1, "one")
			r.get(m)
			r.settle(reject)
			r.out.set(accept)
			require.Zero(t, <-r.drained(t, drainTime))
			require.Equal(t, 1, m.acked())
		})
	})
	t.Run("is bounded", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := run(t, 2)
			r.get(qos1(1, "one"), qos1(2, "two"), qos1(3, "three"))
			start := time.Now()
			require.Equal(t, 3, <-r.drained(t, drainTime))
			require.Equal(t, drainTime, time.Since(start))
		})
	})
	t.Run("takes nothing in", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := run(t, 10)
			one := qos1(1, "one")
			r.get(one)
			left := r.drained(t, drainTime)
			synctest.Wait()
			late := qos1(2, "late")
			r.get(late, qos0("late, too"))
			r.settle(accept)
			require.Zero(t, <-left)
			require.Equal(t, []string{"one"}, r.out.texts())
			require.Equal(t, 1, one.acked())
			require.Zero(t, late.acked(), "the broker keeps it")
			require.EqualValues(t, 1, r.stats.dropped[droppedShutdown].Get())
		})
	})
	t.Run("acknowledges a repeat", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := run(t, 10)
			r.get(qos1(1, "one"))
			left := r.drained(t, drainTime)
			r.disconnect()
			r.connect(true)
			again := repeat(1, "one")
			r.get(again)
			r.settle(accept)
			require.Zero(t, <-left)
			require.Equal(t, 1, again.acked())
		})
	})
	t.Run("ends with the last QoS 0 message", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := run(t, 10)
			unblock := r.out.block()
			t.Cleanup(unblock)
			r.get(qos0("one"), qos0("two"), qos0("three"))
			start := time.Now()
			left := r.drained(t, drainTime)
			pass(time.Second)
			unblock()
			require.Zero(t, <-left)
			require.Equal(t, []string{"one", "two", "three"}, r.out.texts())
			require.Equal(t, time.Second, time.Since(start))
		})
	})
}

// drained begins to drain and returns a channel that gets what is left, without waiting.
func (r *running) drained(t *testing.T, limit time.Duration) chan int {
	t.Helper()
	left := make(chan int, 1)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	go func() { left <- r.drain(ctx) }()
	return left
}

func TestFlowNothingAfterItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, 1)
		r.get(qos1(1, "one"), qos1(2, "two"))
		r.halt()
		r.out.end()
		r.settle(accept) // as Telegraf's last flush does
		r.get(qos1(3, "three"))
		pass(time.Hour)
		require.Zero(t, r.out.lateCount())
	})
}

// A malformed message is one, however often the outputs reject it.
func TestFlowCountsMalformedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, 10)
		p := New()
		p.stats = r.stats
		parser, err := newTopicParser(TopicParsing{Topic: "+", Fields: "n", Types: map[string]string{"n": "int"}})
		require.NoError(t, err)
		p.topics = []*topicParser{parser}
		r.makeMetrics = p.makeMetrics
		r.get(qos1(1, "one"))
		for range 3 {
			r.settle(reject)
			pass(lastRetry)
		}
		require.Equal(t, 4, r.out.count())
		require.EqualValues(t, 1, r.stats.malformed.Get())
	})
}

// Connections come and go, outputs accept and reject, the broker repeats what it was not told about: in the end each
// message was delivered, and acknowledged on a connection that stood.
func TestFlowLosesNothing(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 1))
				r := run(t, 5)
				unsettled := make(map[uint16]*publish) // at the broker
				delivered := make(map[string]int)
				verdict := func(m telegraf.Metric) {
					if random.IntN(3) == 0 {
						m.Reject()
						return
					}
					text, _ := m.GetField("message")
					delivered[fmt.Sprint(text)]++
					m.Accept()
				}
				forget := func() {
					for id, m := range unsettled {
						if m.acked() > 0 {
							delete(unsettled, id)
						}
					}
				}
				sent := 0
				for range 300 {
					switch random.IntN(10) {
					case 0:
						forget()
						r.disconnect()
						if random.IntN(2) == 0 {
							r.settle(verdict)
						}
						r.connect(true)
						for id, m := range unsettled {
							unsettled[id] = repeat(id, m.payload)
							r.get(unsettled[id])
						}
					case 1, 2, 3:
						r.settle(verdict)
					case 4:
						pass(time.Second)
					default:
						forget()
						id := uint16(random.IntN(30)) + 1
						if unsettled[id] == nil {
							m := qos1(id, strconv.Itoa(sent))
							sent++
							unsettled[id] = m
							r.get(m)
						}
					}
				}
				r.disconnect()
				r.connect(true)
				for id, m := range unsettled {
					if m.acked() == 0 {
						unsettled[id] = repeat(id, m.payload)
						r.get(unsettled[id])
					}
				}
				for range 100 {
					r.settle(verdict)
					pass(lastRetry)
				}
				forget()
				require.Empty(t, unsettled)
				for i := range sent {
					require.Equal(t, 1, delivered[strconv.Itoa(i)], "message %d", i)
				}
				require.EqualValues(t, 0, r.stats.unacked.Get())
				require.Zero(t, r.drain(t.Context()))
			})
		})
	}
}

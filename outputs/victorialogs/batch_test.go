package victorialogs

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/metric"
	"github.com/influxdata/telegraf/testutil"
)

func TestSilenceMakesNoRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		r := start(t, w)
		pass(time.Hour)
		require.Empty(t, w.requests())
		require.Empty(t, r.Push())
		r.Reset()
		require.NoError(t, r.Write(nil))
		pass(time.Hour)
		require.NoError(t, r.Close())
		require.Empty(t, w.requests())
		requireBalance(t, r)
	})
}

func TestBurstIsOneRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		r := start(t, w)
		begin := time.Now()
		for id := range 500 {
			r.Add(event(id))
		}
		synctest.Wait()
		require.Empty(t, w.requests(), "before the gap")
		require.Equal(t, int64(500), pending(r))

		pass(time.Hour)
		require.Len(t, w.requests(), 1)
		require.Equal(t, 100*time.Millisecond, w.requests()[0].at.Sub(begin))
		require.Equal(t, sequence(500), w.ids())
		require.Equal(t, int64(500), delivered(r))
		requireBalance(t, r)
	})
}

// When a batch closes, for metrics that come at given times.
func TestGaps(t *testing.T) {
	const ms = time.Millisecond
	type arrival struct {
		at      time.Duration
		tracked bool
	}
	every := func(gap, until time.Duration, tracked bool) (all []arrival) {
		for at := time.Duration(0); at < until; at += gap {
			all = append(all, arrival{at, tracked})
		}
		return all
	}
	tests := []struct {
		name     string
		change   func(*VictoriaLogs)
		arrivals []arrival
		want     []time.Duration // of the requests
	}{
		{"one untracked", nil, []arrival{{0, false}}, []time.Duration{100 * ms}},
		{"one tracked", nil, []arrival{{0, true}}, []time.Duration{5 * ms}},
		{"each metric begins the gap anew", nil, []arrival{{0, false}, {90 * ms, false}, {180 * ms, false}}, []time.Duration{280 * ms}},
		{"each tracked metric begins the gap anew", nil, []arrival{{0, true}, {4 * ms, true}, {8 * ms, true}}, []time.Duration{13 * ms}},
		{"tracked joins untracked", nil, []arrival{{0, false}, {40 * ms, true}}, []time.Duration{45 * ms}},
		{"tracked joins untracked just before its gap", nil, []arrival{{0, false}, {99 * ms, true}}, []time.Duration{104 * ms}},
		{"untracked joins tracked", nil, []arrival{{0, true}, {4 * ms, false}}, []time.Duration{9 * ms}},
		{"the next batch has the long gap again", nil, []arrival{{0, true}, {50 * ms, false}}, []time.Duration{5 * ms, 150 * ms}},
		{"steady trickle closes by age", nil, every(50*ms, 2490*ms, false), []time.Duration{1000 * ms, 2000 * ms, 2550 * ms}},
		{"steady tracked trickle closes by age", nil, every(4*ms, 1500*ms, true), []time.Duration{1000 * ms, 1501 * ms}},
		{
			"tracked joins just before the age", nil, append(every(50*ms, 990*ms, false), arrival{998 * ms, true}),
			[]time.Duration{1000 * ms},
		},
		{
			"age below the gaps", func(v *VictoriaLogs) { v.MaxBatchAge = duration(3 * ms) },
			[]arrival{{0, false}, {2 * ms, true}},
			[]time.Duration{3 * ms},
		},
		{
			"ack_gap above idle_gap", func(v *VictoriaLogs) { v.AckGap = duration(time.Second / 2) },
			[]arrival{{0, true}},
			[]time.Duration{100 * ms},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &wire{}
				if tt.change == nil {
					tt.change = func(*VictoriaLogs) {}
				}
				r := start(t, w, tt.change)
				begin := time.Now()
				var all []*watched
				for id, a := range tt.arrivals {
					pass(a.at - time.Since(begin))
					if a.tracked {
						all = append(all, watch(event(id)))
						r.Add(all[len(all)-1])
					} else {
						r.Add(event(id))
					}
				}
				pass(time.Hour)
				var at []time.Duration
				for _, s := range w.requests() {
					at = append(at, s.at.Sub(begin))
				}
				require.InDeltaSlice(t, milliseconds(tt.want), milliseconds(at), 4, "a metric may come in the very moment of closing")
				require.Equal(t, sequence(len(tt.arrivals)), w.ids())
				for _, m := range all {
					require.Equal(t, "accepted", m.outcome())
				}
				requireBalance(t, r)
			})
		})
	}
}

func milliseconds(durations []time.Duration) (ms []float64) {
	for _, d := range durations {
		ms = append(ms, float64(d)/float64(time.Millisecond))
	}
	return ms
}

func TestSizeClosesWithoutWaiting(t *testing.T) {
	for _, encoding := range []string{"identity", "zstd", "gzip"} {
		t.Run(encoding, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const most = 4 << 10
				w := &wire{}
				r := start(t, w, encodedAs(encoding), func(v *VictoriaLogs) { v.MaxBatchSize, v.Concurrency = most, 1 })
				random := rand.New(rand.NewPCG(5, 6))
				giants := 0
				for id := range 1000 {
					bytes := random.IntN(500)
					if id%100 == 50 {
						bytes = 100_000
						giants++
					}
					r.Add(bigEvent(id, bytes))
				}
				synctest.Wait()
				require.Less(t, pending(r), int64(100), "no time passed, so only the open batch is left")

				pass(time.Second)
				require.Equal(t, sequence(1000), w.ids())
				for _, s := range w.requests() {
					total := 0
					for _, line := range s.lines {
						total += len(line)
					}
					if total > most {
						require.Len(t, s.lines, 1)
						giants--
					}
				}
				require.Zero(t, giants, "each giant goes alone")
				require.Less(t, len(w.requests()), 150, "batches are filled")
				requireBalance(t, r)
			})
		})
	}
}

func TestCloseSendsTheOpenBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		r := start(t, w)
		begin := time.Now()
		tracked := watch(event(0))
		r.Add(tracked)
		r.Add(event(1))
		require.NoError(t, r.Close())
		require.Zero(t, time.Since(begin))
		require.Equal(t, []int{0, 1}, w.ids())
		require.Equal(t, "accepted", tracked.outcome())
		require.Len(t, logged(r, testutil.LevelInfo, "2 received + 0 recovered from disk = 2 delivered + 0 on disk + 0 rejected + 0 dropped + 0 in memory"), 1)
		requireBalance(t, r)
	})
}

// Each row arrives exactly once, and the rows of one producer in their order within a batch, whoever calls.
func TestConcurrentAddAndWrite(t *testing.T) {
	const producers, each = 8, 500
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		r := start(t, w, func(v *VictoriaLogs) { v.MaxBatchSize, v.Concurrency = 2<<10, 4 })
		var (
			group    sync.WaitGroup
			mu       sync.Mutex
			settled  = make(map[telegraf.TrackingID]bool)
			writable []telegraf.TrackingID
		)
		for p := range producers {
			group.Go(func() {
				for i := range each {
					id := p*each + i
					switch {
					case p%2 == 0:
						r.Add(event(id))
					case i%2 == 0:
						m, tracking := metric.WithTracking(event(id), func(info telegraf.DeliveryInfo) {
							mu.Lock()
							defer mu.Unlock()
							_, twice := settled[info.ID()]
							settled[info.ID()] = info.Delivered() && !twice
						})
						mu.Lock()
						writable = append(writable, tracking)
						mu.Unlock()
						if err := r.Write([]telegraf.Metric{m}); err != nil {
							panic(err)
						}
						m.Accept() // as the host does after Write
					default:
						if err := r.Write([]telegraf.Metric{event(id)}); err != nil {
							panic(err)
						}
					}
				}
			})
		}
		group.Wait()
		pass(time.Second)

		ids := w.ids()
		slices.Sort(ids)
		require.Equal(t, sequence(producers*each), ids)
		for _, s := range w.requests() {
			last := make(map[int]int)
			for _, id := range s.ids() {
				require.GreaterOrEqual(t, id, last[id/each], "order within a batch")
				last[id/each] = id
			}
		}
		mu.Lock()
		defer mu.Unlock()
		for _, id := range writable {
			require.True(t, settled[id], "acknowledged once")
		}
		require.Equal(t, int64(producers*each), delivered(r))
		requireBalance(t, r)
	})
}

// Write says yes at once, but the input hears of it only when the server took the batch.
func TestWriteHoldsTheAcknowledgementBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{}
		s.down.Store(true)
		r := start(t, &wire{answer: s.answer})
		told := 0
		m, _ := metric.WithTracking(event(0), func(info telegraf.DeliveryInfo) {
			require.True(t, info.Delivered())
			told++
		})
		require.NoError(t, r.Write([]telegraf.Metric{m}))
		m.Accept()
		pass(time.Minute)
		require.Zero(t, told)
		s.down.Store(false)
		pass(time.Minute)
		require.Equal(t, 1, told)
		requireBalance(t, r)
	})
}

// What cannot become a row is told to its input as faulty, not as lost, since it would come again.
func TestRowsThatTheServerWouldDrop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		r := start(t, w, func(v *VictoriaLogs) { v.MaxAge = duration(time.Hour) })
		many := event(1)
		for i := range 1000 {
			many.AddField(string(rune('一'+i)), i)
		}
		old, young := event(2), event(3)
		old.SetTime(time.Now().Add(-2 * time.Hour))
		young.SetTime(time.Now().Add(72 * time.Hour))
		var all []*watched
		for range 2 {
			for _, m := range []telegraf.Metric{bigEvent(0, 300_000), many, old, young} {
				all = append(all, watch(m))
				r.Add(all[len(all)-1])
			}
		}
		r.Add(event(4))
		r.Add(bigEvent(5, 300_000)) // into an open batch
		pass(time.Second)

		require.Equal(t, map[string]int{"dropped": 8}, outcomes(all))
		require.Equal(t, []int{4}, w.ids())
		require.Equal(t, int64(3), r.stats.rejected["line_too_long"].Get())
		require.Equal(t, int64(2), r.stats.rejected["too_many_fields"].Get())
		require.Equal(t, int64(2), r.stats.rejected["too_old"].Get())
		require.Equal(t, int64(2), r.stats.rejected["too_new"].Get())
		require.Len(t, r.log.Errors(), 4, "one line for each reason")
		requireBalance(t, r)

		pass(2 * time.Minute)
		r.Add(bigEvent(5, 300_000))
		require.Len(t, r.log.Errors(), 5, "and again after a while")
	})
}

// BenchmarkAdd is a metric's whole way on the goroutine that feeds all outputs; compression and sending run beside it.
func BenchmarkAdd(b *testing.B) {
	for _, encoding := range []string{"zstd", "gzip", "identity"} {
		b.Run(encoding, func(b *testing.B) {
			r := prepare(encodedAs(encoding))
			r.Log = testutil.Logger{Quiet: true}
			require.NoError(b, r.Init())
			r.delivery.target.transport = &static{}
			require.NoError(b, r.Connect())
			m := typicalMetric()
			b.ReportAllocs()
			for b.Loop() {
				r.Add(m)
			}
			b.StopTimer()
			b.ReportMetric(float64(dropped(r))/float64(b.N), "dropped/op") // Add was faster than the worker for long
			require.NoError(b, r.Close())
		})
	}
}

// stepped is t as a clock that is behind by d told it: the wall clock's part is earlier, the monotonic clock's is the same. There
// is no other way to have such a time.
func stepped(t time.Time, d time.Duration) time.Time {
	const nanoseconds = 30 // bits of the wall clock's word that are below its seconds, where there is a monotonic clock
	*(*uint64)(unsafe.Pointer(&t)) -= uint64(d/time.Second) << nanoseconds
	return t
}

// A clock is set while metrics come, as it is at the start of a device that has no battery for it.
func TestClockIsSet(t *testing.T) { // in no bubble, of which the times have no monotonic clock
	w := &wire{}
	r := start(t, w, func(v *VictoriaLogs) {
		v.MaxBatchSize, v.IdleGap, v.MaxBatchAge = 1<<10, duration(time.Hour), duration(time.Hour)
	})
	add := func(id int) {
		m := bigEvent(id, 600)
		m.SetTime(time.Now().Round(0)) // as of a payload
		r.Add(m)
	}
	ahead := func() time.Duration {
		r.mu.Lock()
		defer r.mu.Unlock()
		return time.Now().Round(0).Sub(r.open.opened.Round(0))
	}
	const year = 365 * 24 * time.Hour
	add(1)
	r.mu.Lock()
	r.open.opened = stepped(r.open.opened, year)
	r.mu.Unlock()
	require.GreaterOrEqual(t, ahead(), year, "it is the old clock's")
	add(2)
	require.Less(t, ahead(), time.Hour, "the next batch has the new clock")
	require.NoError(t, r.Close())
	require.ElementsMatch(t, []int{1, 2}, w.ids())
	requireBalance(t, r)
}

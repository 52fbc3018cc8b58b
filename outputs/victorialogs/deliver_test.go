package victorialogs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf/testutil"
)

// static is a network that takes everything and allocates nothing.
type static struct{ response http.Response }

func (s *static) RoundTrip(r *http.Request) (*http.Response, error) {
	s.response = http.Response{StatusCode: http.StatusOK, Body: http.NoBody}
	return &s.response, r.Body.Close()
}

func (*static) CloseIdleConnections() {}

var encodings = []string{"identity", "zstd", "gzip"}

func TestRetrySendsTheSameBytes(t *testing.T) {
	for _, encoding := range encodings {
		t.Run(encoding, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &wire{answer: func(s *sent) (*http.Response, error) {
					switch s.number {
					case 1:
						return nil, errDown
					case 2, 3:
						return status(http.StatusServiceUnavailable, "later"), nil
					case 4:
						return hang(s)
					}
					return taken(), nil
				}}
				r := start(t, w, encodedAs(encoding))
				var compressed atomic.Int32
				if compress := r.delivery.encoding.compress; compress != nil {
					r.delivery.encoding.compress = func(dst, lines []byte) []byte {
						compressed.Add(1)
						return compress(dst, lines)
					}
				}
				all := []*watched{watch(event(0)), watch(event(1))}
				for _, m := range all {
					m.settled = func(*watched) { require.Len(t, w.requests(), 5, "only after the 200") }
					r.Add(m)
				}
				pass(time.Minute)

				requests := w.requests()
				require.Len(t, requests, 5)
				for _, s := range requests {
					require.Same(t, requests[0].memory, s.memory)
					require.Equal(t, requests[0].body, s.body)
				}
				require.Equal(t, []int{0, 1}, w.ids())
				require.Equal(t, map[string]int{"accepted": 2}, outcomes(all))
				if encoding != "identity" {
					require.Equal(t, int32(1), compressed.Load(), "compressed once")
				}
				require.Equal(t, int64(4), r.stats.batchesRetried.Get())
				require.Equal(t, int64(1), r.stats.batchesSent.Get())
				require.Equal(t, int64(len(requests[0].body)), r.stats.bytesSent.Get())
				requireBalance(t, r)
			})
		})
	}
}

// What a retry allocates, beside what the same request costs without the plugin, for a small and a large body.
func TestRetryAllocations(t *testing.T) {
	r := start(t, nil, encodedAs("identity"))
	r.delivery.target.transport = &static{}
	measure := func(f func()) (allocations, size uint64) {
		const runs = 200
		f()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range runs {
			f()
		}
		runtime.ReadMemStats(&after)
		return (after.Mallocs - before.Mallocs) / runs, (after.TotalAlloc - before.TotalAlloc) / runs
	}
	bare := func(body []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, r.delivery.target.url.String(), bytes.NewReader(body))
		require.NoError(t, err)
		request.Header = r.delivery.target.header
		response, err := r.delivery.target.transport.RoundTrip(request)
		require.NoError(t, err)
		_, err = io.ReadAll(response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
	}
	for _, length := range []int{1 << 10, 1 << 20} {
		b := &batch{body: bytes.Repeat([]byte{'x'}, length), count: 1}
		count, size := measure(func() { require.NoError(t, r.delivery.attempt(b)) })
		bareCount, bareSize := measure(func() { bare(b.body) })
		t.Logf("a retry of %d bytes: %d allocations of %d bytes; without the plugin %d of %d", length, count, size, bareCount, bareSize)
		require.LessOrEqual(t, count, bareCount+2)
		require.Less(t, size, uint64(4096), "no copy of the body")
		require.Zero(t, b.readers.Load())
	}
}

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{answer: func(*sent) (*http.Response, error) { return nil, errDown }}
		r := start(t, w)
		r.Add(event(0))
		pass(10 * time.Minute)

		requests := w.requests()
		require.Greater(t, len(requests), 15)
		nominal, last := 250*time.Millisecond, 20*time.Second // retry_max without the jitter
		jitter := 0
		for i := 1; i < len(requests); i++ {
			gap := requests[i].at.Sub(requests[i-1].at)
			require.GreaterOrEqual(t, gap, nominal/2, "retry %d", i)
			require.LessOrEqual(t, gap, nominal*3/2+1, "retry %d", i)
			require.LessOrEqual(t, gap, 30*time.Second+1, "retry_max")
			if gap != nominal {
				jitter++
			}
			nominal = min(nominal*2, last)
		}
		require.Greater(t, jitter, 10)
		requireBalance(t, r)
	})
}

// However the options are set, retry_max is the longest wait.
func TestBackoffIsBoundedByRetryMax(t *testing.T) {
	for _, first := range []time.Duration{250 * time.Millisecond, 10 * time.Second, 20 * time.Second, 30 * time.Second} {
		t.Run(first.String(), func(t *testing.T) {
			d := &delivery{retryFirst: first, retryMax: 30 * time.Second}
			for range 200 {
				retry := d.newBackoff()
				for range 10 {
					require.LessOrEqual(t, retry.NextBackOff(), d.retryMax+1)
				}
			}
		})
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	epoch := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // where a bubble's time begins
	tests := []struct {
		value       string
		least, most time.Duration // of the wait
	}{
		{"", 0, time.Second},
		{"7", 7 * time.Second, 7 * time.Second},
		{"0", 0, time.Second},
		{"-5", 0, time.Second},
		{"1.5", 0, time.Second},
		{"soon", 0, time.Second},
		{epoch.Add(9 * time.Second).Format(http.TimeFormat), 8 * time.Second, 9 * time.Second},
		{epoch.Add(-time.Hour).Format(http.TimeFormat), 0, time.Second},
		{epoch.AddDate(100, 0, 0).Format(http.TimeFormat), 10 * time.Minute, 10 * time.Minute},
		{"999999999", 10 * time.Minute, 10 * time.Minute},
		{"99999999999999999999", 0, 10 * time.Minute},
	}
	for _, code := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		for _, tt := range tests {
			t.Run(strconv.Itoa(code)+" "+tt.value, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := &wire{answer: func(s *sent) (*http.Response, error) {
						if s.number > 1 {
							return taken(), nil
						}
						return status(code, "", "Retry-After", tt.value), nil
					}}
					r := start(t, w)
					r.Add(event(0))
					pass(time.Hour)
					require.Len(t, w.requests(), 2)
					wait := w.requests()[1].at.Sub(w.requests()[0].at)
					require.GreaterOrEqual(t, wait, tt.least)
					require.LessOrEqual(t, wait, tt.most)
				})
			})
		}
	}
}

// While the server is away one request at a time asks for it, and when it is back all workers send again.
func TestOneProbeAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{}
		s.slow.Store(int64(100 * time.Millisecond))
		w := &wire{answer: s.answer}
		r := start(t, w, func(v *VictoriaLogs) { v.Concurrency, v.MaxBatchSize = 4, 1<<10 })
		add := func(n int) {
			for id := range n {
				r.Add(bigEvent(id, 900))
			}
		}
		add(40)
		pass(time.Second / 4)
		require.Equal(t, 4, w.mostInFlight(), "the server takes batches")

		s.down.Store(true)
		pass(time.Second / 4)
		w.mostInFlight()
		for range 60 {
			add(1)
			pass(time.Second)
			require.LessOrEqual(t, w.mostInFlight(), 1, "the server is away")
		}
		requireBalance(t, r)

		s.down.Store(false)
		add(40)
		pass(2 * time.Minute)
		require.Equal(t, 4, w.mostInFlight(), "the server is back")
		require.Zero(t, pending(r))
		requireBalance(t, r)
		require.Len(t, logged(r, testutil.LevelWarn, "takes no batches"), 1, "one line when it is lost")
		require.Len(t, logged(r, testutil.LevelInfo, "takes batches again"), 1, "and one when it is back")
		require.Empty(t, r.log.Errors())
	})
}

func TestTroubleIsLoggedOnce(t *testing.T) {
	tests := []struct {
		name   string
		answer func() (*http.Response, error)
		level  byte
		text   string
	}{
		{"away", func() (*http.Response, error) { return nil, errDown }, testutil.LevelWarn, errDown.Error()},
		{"refuses", func() (*http.Response, error) { return status(http.StatusTooManyRequests, "disk is full\nreally"), nil }, testutil.LevelWarn, "disk is full"},
		{"misconfigured", func() (*http.Response, error) { return status(http.StatusUnauthorized, "who are you"), nil }, testutil.LevelError, "who are you"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var well atomic.Bool
				w := &wire{answer: func(*sent) (*http.Response, error) {
					if well.Load() {
						return taken(), nil
					}
					return tt.answer()
				}}
				r := start(t, w)
				for episode := range 2 {
					well.Store(false)
					for id := range 10 {
						r.Add(event(id))
						pass(time.Minute)
					}
					require.Len(t, logged(r, tt.level, tt.text), episode+1)
					well.Store(true)
					pass(5 * time.Minute)
					require.Len(t, logged(r, testutil.LevelInfo, "takes batches again"), episode+1)
				}
				require.Len(t, append(r.log.Errors(), r.log.Warnings()...), 3, "with the one about no directory")
				for _, entry := range r.log.Messages() {
					require.NotContains(t, entry.Text, "\n")
				}
				require.Zero(t, pending(r))
			})
		})
	}
}

// Past max_pending the oldest closed batches give way: never one that is in flight, never the newest.
func TestMaxPending(t *testing.T) {
	for _, encoding := range encodings {
		t.Run(encoding, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &server{}
				s.down.Store(true)
				w := &wire{answer: s.answer}
				r := start(t, w, encodedAs(encoding), func(v *VictoriaLogs) {
					v.MaxBatchSize, v.Concurrency, v.MaxPending = 2<<10, 2, 20<<10
				})
				var all []*watched
				for id := range 200 {
					m := watch(bigEvent(id, 900))
					all = append(all, m)
					r.Add(m)
					synctest.Wait()
					requireMemory(t, r)
					requireBalance(t, r)
					if id%10 == 0 {
						pass(100 * time.Millisecond)
					}
				}
				pass(time.Second)
				lost := int(dropped(r))
				require.Greater(t, lost, 150)
				require.Equal(t, dropped(r), r.stats.dropped["max_pending"].Get())
				require.Len(t, logged(r, testutil.LevelError, "max_pending"), 1)

				s.down.Store(false)
				pass(10 * time.Minute)
				requireBalance(t, r)
				ids := w.ids()
				slices.Sort(ids)
				require.Len(t, ids, 200-lost)
				for id, m := range all {
					want := "rejected"
					if _, found := slices.BinarySearch(ids, id); found {
						want = "accepted"
					}
					require.Equal(t, want, m.outcome(), "metric %d", id)
				}
				// Those that are kept are the newest ones, but for the batch that was in flight at the time.
				newest := sequence(200)[200-len(ids)+2:]
				require.Subset(t, ids, newest)
				require.Len(t, logged(r, testutil.LevelInfo, fmt.Sprintf("%d metrics were dropped", lost)), 1)
			})
		})
	}
}

// requireMemory holds what batches occupy against max_pending, the free end of their memory included.
func requireMemory(t *testing.T, r *rig) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.delivery.mu.Lock()
	defer r.delivery.mu.Unlock()
	total := r.delivery.bytes
	if r.open != nil {
		total += int64(len(r.open.lines))
	}
	require.LessOrEqual(t, total, int64(r.MaxPending))
}

// A compressed batch that waits must not hold the memory of an uncompressed one.
func TestMaxPendingIsMemory(t *testing.T) {
	for _, encoding := range encodings {
		t.Run(encoding, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &wire{answer: func(*sent) (*http.Response, error) { return nil, errDown }}
				r := start(t, w, encodedAs(encoding), func(v *VictoriaLogs) {
					v.MaxBatchSize, v.MaxPending, v.RetryMax = 64<<10, 512<<10, duration(time.Second)
				})
				for id := range 2000 { // with pauses in which batches are tried, and so compressed
					r.Add(bigEvent(id, 900))
					if id%60 == 0 {
						pass(20 * time.Second)
					}
				}
				pass(time.Second)
				r.mu.Lock()
				defer r.mu.Unlock()
				r.delivery.mu.Lock()
				defer r.delivery.mu.Unlock()
				held := 0
				for _, b := range r.delivery.queue {
					if b.body == nil {
						held += cap(b.lines)
					} else {
						held += cap(b.body)
					}
				}
				t.Logf("%d batches of %d bytes hold %d bytes of memory", len(r.delivery.queue), r.delivery.bytes, held)
				require.LessOrEqual(t, held, 2*int(r.MaxPending), "memory beyond max_pending, even when growth may double it")
			})
		})
	}
}

// A server that is merely slow also makes the queue overflow; each time is worth a line.
func TestEachOverflowIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{}
		w := &wire{answer: s.answer}
		r := start(t, w, func(v *VictoriaLogs) { v.MaxBatchSize, v.Concurrency, v.MaxPending = 1<<10, 1, 4<<10 })
		for episode := range 2 {
			s.slow.Store(int64(time.Second))
			before := dropped(r)
			for id := range 20 {
				r.Add(bigEvent(id, 900))
			}
			require.Greater(t, dropped(r), before)
			s.slow.Store(0)
			pass(time.Hour)
			require.Zero(t, pending(r))
			require.Len(t, logged(r, testutil.LevelError, "max_pending"), episode+1)
		}
	})
}

// However long an outage lasts, its overflow is one line; the counter tells the rest.
func TestOverflowIsLoggedOnceAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{}
		r := start(t, &wire{answer: s.answer}, func(v *VictoriaLogs) { v.MaxBatchSize, v.Concurrency, v.MaxPending = 1<<10, 1, 4<<10 })
		for outage := range 2 {
			s.down.Store(true)
			for range 30 {
				for id := range 10 {
					r.Add(bigEvent(id, 900))
				}
				pass(time.Minute)
			}
			require.Len(t, logged(r, testutil.LevelError, "max_pending"), outage+1)
			s.down.Store(false)
			pass(time.Hour)
			require.Zero(t, pending(r))
		}
	})
}

// poisonous is a server that refuses each batch with a poisoned line as VictoriaLogs refuses one of malformed lines.
type poisonous int

func (code poisonous) answer(s *sent) (*http.Response, error) {
	if strings.Contains(strings.Join(s.lines, ""), "poison") {
		return status(int(code), "cannot process jsonline request; error: poison"), nil
	}
	return taken(), nil
}

func TestBadDataIsSetAside(t *testing.T) {
	const n = 10_000
	for _, encoding := range encodings {
		for _, code := range []int{http.StatusBadRequest, http.StatusRequestEntityTooLarge} {
			t.Run(encoding+" "+strconv.Itoa(code), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := &wire{answer: poisonous(code).answer}
					r := start(t, w, encodedAs(encoding), func(v *VictoriaLogs) { v.MaxBatchSize = 4 << 20 })
					const poisoned = 6789
					all := make([]*watched, n)
					for id := range n {
						m := event(id)
						if id == poisoned {
							m.AddField("x", "poison")
						}
						all[id] = watch(m)
						r.Add(all[id])
					}
					pass(time.Second)

					ids := w.ids()
					slices.Sort(ids)
					require.Equal(t, slices.Delete(sequence(n), poisoned, poisoned+1), ids, "each good row once")
					require.Equal(t, map[string]int{"accepted": n - 1, "dropped": 1}, outcomes(all))
					require.Equal(t, "dropped", all[poisoned].outcome())
					require.LessOrEqual(t, len(w.requests())-1, 2*bits.Len(n-1), "2 log2 n extra requests")
					require.Equal(t, int64(n-1), delivered(r))
					require.Equal(t, int64(1), r.stats.rejected["refused_by_server"].Get())
					require.Len(t, r.log.Errors(), 1)
					requireBalance(t, r)
				})
			})
		}
	}
}

func TestManyBadRowsAmongGoodOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{answer: poisonous(http.StatusBadRequest).answer}
		r := start(t, w, encodedAs("identity"), func(v *VictoriaLogs) { v.MaxBatchSize = 4 << 10 })
		random := rand.New(rand.NewPCG(7, 8))
		var good []int
		for id := range 1000 {
			m := event(id)
			if random.IntN(5) == 0 {
				m.AddField("x", "poison")
			} else {
				good = append(good, id)
			}
			r.Add(m)
		}
		pass(time.Minute)
		ids := w.ids()
		slices.Sort(ids)
		require.Equal(t, good, ids)
		require.Equal(t, int64(1000-len(good)), rejected(r))
		require.Len(t, r.log.Errors(), 1, "one line, however many rows")
		requireBalance(t, r)
	})
}

// Answers that say nothing about the data never cost a row.
func TestConfigurationFaultsKeepTheData(t *testing.T) {
	tests := []struct {
		code int
		text string
	}{
		{400, "unsupported path requested: /insert/jsonline"},
		{400, "requests to /insert/ are disabled"},
		{400, "missing -http.pathPrefix"},
		{400, `cannot parse AccountID="x" as uint32`},
		{400, "invalid extra_field format"},
		{400, "Client sent an HTTP request to an HTTPS server."},
		{400, ""},
		{401, "unauthorized"},
		{403, "forbidden"},
		{404, "not found"},
		{405, "method not allowed"},
		{301, ""},
		{302, ""},
		{307, ""},
		{308, ""},
		{408, ""},
		{429, ""},
		{500, ""},
		{502, ""},
		{503, ""},
		{504, ""},
		{202, ""},
		{418, ""},
	}
	for _, tt := range tests {
		t.Run(strconv.Itoa(tt.code)+" "+tt.text, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var well atomic.Bool
				w := &wire{answer: func(*sent) (*http.Response, error) {
					if well.Load() {
						return taken(), nil
					}
					return status(tt.code, tt.text, "Location", "http://elsewhere/"), nil
				}}
				r := start(t, w)
				all := []*watched{watch(event(0)), watch(event(1))}
				r.Add(all[0])
				r.Add(all[1])
				pass(10 * time.Minute)
				require.Equal(t, map[string]int{"": 2}, outcomes(all))
				require.Equal(t, int64(2), pending(r))
				require.GreaterOrEqual(t, len(w.requests()), 10, "it is tried again")
				require.Less(t, len(w.requests()), 80, "but not often")
				for _, s := range w.requests() {
					require.Equal(t, "127.0.0.1:9428", s.request.URL.Host, "a redirect is not followed")
				}
				well.Store(true)
				pass(time.Minute)
				require.Equal(t, map[string]int{"accepted": 2}, outcomes(all))
				requireBalance(t, r)
			})
		})
	}
}

// Whatever the server does, no metric is lost sight of.
func TestLedgerBalances(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				random := rand.New(rand.NewPCG(seed, 9))
				number := func(n int) int {
					mu.Lock()
					defer mu.Unlock()
					return random.IntN(n)
				}
				w := &wire{}
				w.answer = func(s *sent) (*http.Response, error) {
					if err := sleep(s.request, time.Duration(number(300))*time.Millisecond); err != nil {
						return nil, err
					}
					switch number(8) {
					case 0:
						return nil, errDown
					case 1:
						return status(http.StatusServiceUnavailable, ""), nil
					case 2:
						return hang(s)
					case 3:
						return status(http.StatusUnauthorized, ""), nil
					}
					return poisonous(http.StatusBadRequest).answer(s)
				}
				r := start(t, w, encodedAs(encodings[seed%3]), func(v *VictoriaLogs) {
					v.MaxBatchSize, v.Concurrency, v.MaxPending = 2<<10, 3, 16<<10
					v.Timeout, v.RetryMax = duration(time.Second), duration(time.Second)
				})
				var all []*watched
				for id := range 1000 {
					m := watch(bigEvent(id, number(400)))
					if number(50) == 0 {
						m.AddField("x", "poison")
					}
					all = append(all, m)
					r.Add(m)
					if number(10) == 0 {
						pass(time.Duration(number(500)) * time.Millisecond)
						requireBalance(t, r)
						requireMemory(t, r)
					}
				}
				require.NoError(t, r.Close())
				requireBalance(t, r)
				require.Zero(t, pending(r))
				counts := outcomes(all)
				require.Equal(t, int(delivered(r)), counts["accepted"])
				require.Equal(t, int(rejected(r)), counts["dropped"])
				require.Equal(t, int(dropped(r)), counts["rejected"])
				require.Equal(t, len(all), counts["accepted"]+counts["dropped"]+counts["rejected"], "each is told once")
				require.NotZero(t, counts["accepted"])
				ids := w.ids()
				slices.Sort(ids)
				require.Len(t, slices.Compact(ids), counts["accepted"])
			})
		})
	}
}

func TestCloseIsBounded(t *testing.T) {
	tests := []struct {
		name   string
		answer func(*sent) (*http.Response, error)
		wait   time.Duration // before Close
		most   time.Duration // that Close takes
		lost   bool
	}{
		{"well", nil, 0, 0, false},
		{"hangs", hang, 0, 15 * time.Second, true},
		{"hangs for long already", hang, time.Hour, 15 * time.Second, true},
		{"away", func(*sent) (*http.Response, error) { return nil, errDown }, 0, 3 * time.Second, true},
		{"away for long", func(*sent) (*http.Response, error) { return nil, errDown }, time.Hour, 3 * time.Second, true},
		{"hangs up late", func(s *sent) (*http.Response, error) { // after retry_budget, before the timeout
			return nil, errors.Join(errDown, sleep(s.request, 4*time.Second))
		}, 0, 5 * time.Second, true},
		{"refuses", func(*sent) (*http.Response, error) {
			return status(http.StatusServiceUnavailable, "", "Retry-After", "3600"), nil
		}, time.Hour, 3 * time.Second, true},
		{"slow", func(s *sent) (*http.Response, error) {
			return taken(), sleep(s.request, 2*time.Second)
		}, 0, 15 * time.Second, true},
		{"slow, with time enough", func(s *sent) (*http.Response, error) {
			return taken(), sleep(s.request, 100*time.Millisecond)
		}, 0, 15 * time.Second, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &wire{answer: tt.answer}
				r := start(t, w, func(v *VictoriaLogs) { v.MaxBatchSize = 1 << 10 })
				var all []*watched
				for id := range 50 {
					all = append(all, watch(bigEvent(id, 900)))
					r.Add(all[id])
				}
				pass(tt.wait)
				begin := time.Now()
				require.NoError(t, r.Close())
				require.LessOrEqual(t, time.Since(begin), tt.most)
				require.Zero(t, w.inFlight)
				requireBalance(t, r)
				require.Zero(t, pending(r))
				require.Zero(t, r.stats.pendingBytes.Get(), "pending_bytes")
				require.Equal(t, int(delivered(r)), outcomes(all)["accepted"])
				require.Equal(t, int(dropped(r)), outcomes(all)["rejected"])
				require.Equal(t, 50, int(delivered(r)+dropped(r)))
				require.Equal(t, tt.lost, dropped(r) > 0)
				if tt.lost {
					lost := r.stats.dropped["shutdown"].Get()
					require.Equal(t, dropped(r), lost)
					require.Len(t, logged(r, testutil.LevelError, fmt.Sprintf("%d metrics in %d batches", lost, lost)), 1)
				}
				require.Len(t, logged(r, testutil.LevelInfo, fmt.Sprintf("50 received + 0 recovered from disk = %d delivered", delivered(r))), 1)
			})
		})
	}
}

// sample.conf: when the plugin closes, a server that is away is tried for retry_budget.
func TestCloseTriesForTheRetryBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{}
		s.down.Store(true)
		r := start(t, &wire{answer: s.answer})
		tracked := watch(event(0))
		r.Add(tracked)
		pass(time.Hour) // so that the backoff has grown
		go func() {
			<-time.After(time.Second)
			s.down.Store(false)
		}()
		require.NoError(t, r.Close())
		require.Equal(t, "accepted", tracked.outcome(), "the server was back 2 s before the budget ended")
	})
}

func TestAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{}
		r := start(t, w)
		require.NoError(t, r.Close())
		require.NoError(t, r.Close())
		tracked := watch(event(0))
		r.Add(tracked)
		r.Add(event(1))
		pass(time.Minute)
		require.Equal(t, "rejected", tracked.outcome())
		require.Equal(t, int64(2), r.stats.dropped["shutdown"].Get())
		require.Empty(t, w.requests())
		requireBalance(t, r)
		require.NoError(t, r.Close())
	})
}

func TestCloseWithoutConnect(t *testing.T) {
	require.NoError(t, New().Close(), "before Init")
	r := prepare()
	require.NoError(t, r.Init())
	require.NoError(t, r.Close())
	tracked := watch(event(0))
	r.Add(tracked)
	require.Equal(t, "rejected", tracked.outcome())
	requireBalance(t, r)
}

// late is a network whose server answers before it has read: the first body is read only when the test says so.
type late struct {
	wire
	code    int // of the first answer
	text    string
	release chan struct{}
	read    chan string // what the first body held when it was read, and before

	once sync.Once
}

func (l *late) RoundTrip(r *http.Request) (*http.Response, error) {
	first := false
	l.once.Do(func() {
		again, _ := r.GetBody()
		before, _ := io.ReadAll(again)
		_ = again.Close()
		go func() {
			<-l.release
			after, _ := io.ReadAll(r.Body)
			_ = r.Body.Close()
			l.read <- string(before)
			l.read <- string(after)
		}()
		first = true
	})
	if first {
		return status(l.code, l.text), nil
	}
	return l.wire.RoundTrip(r)
}

// An answer may come before the transport has read the body; then the body's memory must not be used again.
func TestMemoryIsNotReusedWhileItIsRead(t *testing.T) {
	tests := []struct {
		code int
		text string
	}{
		{http.StatusOK, ""},
		{http.StatusServiceUnavailable, ""},
		{http.StatusRequestEntityTooLarge, ""},
		{http.StatusBadRequest, "cannot process jsonline request"},
	}
	for _, tt := range tests {
		for _, encoding := range encodings {
			t.Run(strconv.Itoa(tt.code)+" "+encoding, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := &late{code: tt.code, text: tt.text, release: make(chan struct{}), read: make(chan string)}
					r := start(t, nil, encodedAs(encoding), func(v *VictoriaLogs) { v.MaxBatchSize = 4 << 10 })
					r.delivery.target.transport = l
					for id := range 500 {
						r.Add(bigEvent(id, 200+id%7))
						if id%50 == 49 {
							pass(time.Second)
						}
					}
					close(l.release)
					before, after := <-l.read, <-l.read
					if before != after { // require.Equal would print all of it
						require.FailNow(t, "the memory was used again", "the body was %.40q and became %.40q", before, after)
					}
				})
			})
		}
	}
}

// An outage that begins within a minute of another is not passed over in silence.
func TestOutageSoonAfterAnotherIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{}
		r := start(t, &wire{answer: s.answer})
		for id, outage := range []time.Duration{time.Second, 10 * time.Minute} {
			s.down.Store(true)
			r.Add(event(id))
			pass(outage)
			s.down.Store(false)
			pass(30 * time.Second)
			require.Zero(t, pending(r))
		}
		require.Len(t, logged(r, testutil.LevelWarn, "takes no batches"), 2)
		require.Len(t, logged(r, testutil.LevelInfo, "takes batches again"), 2)
	})
}

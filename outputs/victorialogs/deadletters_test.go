package victorialogs

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/dlq"
	"github.com/edgetide/telegraf-victorialogs/internal/deadletter"
)

// onDisk gives the plugin a directory for dead letters.
func onDisk(dir string) func(*VictoriaLogs) { return func(v *VictoriaLogs) { v.DLQ.Directory = dir } }

// letters reads the batches in a directory, those in quarantine excepted.
func letters(tb testing.TB, dir string) (found []*deadletter.Letter) {
	tb.Helper()
	files, err := dlq.List(dir)
	require.NoError(tb, err)
	for _, f := range files {
		if f.State == dlq.StateQuarantined {
			continue
		}
		r, err := f.Open()
		require.NoError(tb, err)
		for {
			items, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(tb, err)
			for item, _, ok := items.Cut(); ok; item, _, ok = items.Cut() {
				l, err := deadletter.Parse(item)
				require.NoError(tb, err)
				found = append(found, l)
			}
		}
		require.NoError(tb, r.Close())
	}
	return found
}

// TestOutage takes the server away for a minute. Nothing is lost or doubled, what comes in meanwhile is accepted as soon as it
// is on disk, and the ledger is right all the time.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := &server{}
		s.down.Store(true)
		w := &wire{answer: s.answer}
		r := start(t, w, onDisk(dir))
		var all []*watched
		add := func() {
			m := watch(event(len(all)))
			all = append(all, m)
			r.Add(m)
		}
		add()
		pass(2 * time.Second)
		require.Equal(t, map[string]int{"": 1}, outcomes(all), "the budget is not spent")
		pass(2 * time.Second)
		require.Equal(t, map[string]int{"accepted": 1}, outcomes(all), "it is on disk")
		requireBalance(t, r)
		for range 600 {
			add()
			pass(100 * time.Millisecond)
			require.Equal(t, map[string]int{"accepted": len(all)}, outcomes(all), "the budget is not spent again")
		}
		requireBalance(t, r)
		require.Zero(t, pending(r))
		require.Equal(t, int64(len(all)), r.stats.onDisk.Get())
		require.Positive(t, r.stats.dlqItems.Get())
		require.InDelta(t, time.Minute, r.stats.dlqOldestAge.Get(), float64(5*time.Second))
		requests := len(w.requests())
		require.Less(t, requests, 60, "one probe at a time, with backoff")
		require.Len(t, logged(r, 'W', "takes no batches"), 1)

		s.down.Store(false)
		pass(time.Minute)
		require.Equal(t, sequence(len(all)), slices.Sorted(slices.Values(w.ids())))
		require.Less(t, len(w.requests())-requests, 80, "small batches share requests")
		require.Equal(t, int64(len(all)), delivered(r))
		require.Zero(t, r.stats.onDisk.Get())
		require.Zero(t, r.stats.dlqItems.Get())
		require.Zero(t, r.stats.dlqOldestAge.Get())
		require.GreaterOrEqual(t, r.stats.batchesRestored.Get(), int64(601), "some went to the end of the line")
		require.Len(t, logged(r, 'I', "takes batches again"), 1)
		requireBalance(t, r)
		add()
		pass(time.Second)
		require.Equal(t, int64(len(all)), delivered(r))
	})
}

// TestBacklogOfAnotherLife closes while the server is away, and comes back with other settings: what is on disk goes where it
// was meant to go.
func TestBacklogOfAnotherLife(t *testing.T) {
	for _, encoding := range []string{"zstd", "gzip", "identity"} {
		t.Run(encoding, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				s := &server{}
				s.down.Store(true)
				r := start(t, &wire{answer: s.answer}, onDisk(dir), encodedAs(encoding), func(v *VictoriaLogs) {
					v.AccountID, v.StreamFields = 7, []string{"host"}
				})
				first := []*watched{watch(event(0)), watch(event(1))}
				for _, m := range first {
					r.Add(m)
					pass(20 * time.Millisecond)
				}
				require.NoError(t, r.Close())
				require.Equal(t, map[string]int{"accepted": 2}, outcomes(first))
				require.Len(t, logged(r, 'I', "2 received + 0 recovered from disk = 0 delivered + 2 on disk + 0 rejected + 0 dropped"), 1)
				requireBalance(t, r)
				found := letters(t, dir)
				require.Len(t, found, 2)
				require.Equal(t, deadletter.Route{
					Path: "/insert/jsonline", Query: "_stream_fields=host", AccountID: "7", ProjectID: "0", Encoding: encoding,
				}, found[0].Route)

				w := &wire{}
				r = start(t, w, onDisk(dir), func(v *VictoriaLogs) { v.URL = "http://new.example/vl" })
				r.Add(event(2))
				pass(5 * time.Second)
				require.Equal(t, sequence(3), slices.Sorted(slices.Values(w.ids())))
				requests := w.requests()
				require.Len(t, requests, 2, "both letters go together")
				for _, s := range requests {
					require.Equal(t, "new.example", s.request.URL.Host)
					require.Equal(t, "/vl/insert/jsonline", s.request.URL.Path)
					if slices.Contains(s.ids(), 0) {
						require.Equal(t, "_stream_fields=host", s.request.URL.RawQuery)
						require.Equal(t, "7", s.request.Header.Get("AccountID"))
						require.Equal(t, strings.TrimPrefix(encoding, "identity"), s.request.Header.Get("Content-Encoding"))
					} else {
						require.Empty(t, s.request.Header.Get("AccountID"))
						require.Equal(t, "zstd", s.request.Header.Get("Content-Encoding"))
					}
				}
				require.Equal(t, int64(2), r.stats.recovered.Get())
				requireBalance(t, r)
			})
		})
	}
}

// TestSecondAgent is refused the directory, and gets it when the first one ends.
func TestSecondAgent(t *testing.T) {
	dir := t.TempDir()
	r := start(t, &wire{}, onDisk(dir))
	second := prepare(onDisk(dir))
	require.NoError(t, second.Init())
	err := second.Connect()
	require.ErrorIs(t, err, dlq.ErrLocked)
	require.ErrorContains(t, err, dir)
	require.NoError(t, second.Close())
	require.NoError(t, r.Close())
	require.NoError(t, second.Connect())
	require.NoError(t, second.Close())
}

// TestPoisonLineIsSetAside has one line of 10,000 that the server refuses each request for.
func TestPoisonLineIsSetAside(t *testing.T) {
	for _, poison := range []int{0, 1, 4999, 5000, 7777, 9999} {
		t.Run(strconv.Itoa(poison), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				w := &wire{answer: func(s *sent) (*http.Response, error) {
					if slices.Contains(s.ids(), poison) {
						return status(http.StatusBadRequest, "cannot process jsonline request; error: that line"), nil
					}
					return taken(), nil
				}}
				r := start(t, w, onDisk(dir), func(v *VictoriaLogs) { v.MaxBatchSize = 4 << 20 })
				var all []*watched
				for id := range 10_000 {
					all = append(all, watch(event(id)))
					r.Add(all[id])
				}
				pass(2 * time.Second)
				require.Equal(t, map[string]int{"accepted": 9999, "dropped": 1}, outcomes(all))
				require.Equal(t, "dropped", all[poison].outcome())
				require.LessOrEqual(t, len(w.requests())-1, 26, "2 log2 n")
				require.Equal(t, int64(1), rejected(r))
				requireBalance(t, r)
				found := letters(t, filepath.Join(dir, "rejected"))
				require.Len(t, found, 1)
				lines, err := found[0].Lines()
				require.NoError(t, err)
				require.Contains(t, string(lines), fmt.Sprintf(`"id":%d}`, poison))
				require.Equal(t, 1, strings.Count(string(lines), "\n"))
				require.Equal(t, 1, found[0].Count)
				require.Equal(t, "refused_by_server", found[0].Reason)
				require.Equal(t, http.StatusBadRequest, found[0].Status)
				require.Equal(t, "cannot process jsonline request; error: that line", found[0].Answer)
			})
		})
	}
}

// TestRowsThatWouldNotBeStored are set aside with their reason, before they cost a request.
func TestRowsThatWouldNotBeStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		w := &wire{}
		r := start(t, w, onDisk(dir), func(v *VictoriaLogs) { v.MaxAge = duration(time.Hour) })
		old, long, many := watch(event(1)), watch(bigEvent(2, 300_000)), watch(event(3))
		old.SetTime(time.Now().Add(-2 * time.Hour))
		for i := range 1100 {
			many.AddField(fmt.Sprint("field", i), i)
		}
		all := []*watched{watch(event(0)), old, long, many}
		for _, m := range all {
			r.Add(m)
		}
		pass(2 * time.Second)
		require.Equal(t, []int{0}, w.ids())
		require.Equal(t, map[string]int{"accepted": 1, "dropped": 3}, outcomes(all))
		requireBalance(t, r)
		reasons := make(map[string]int)
		for _, l := range letters(t, filepath.Join(dir, "rejected")) {
			reasons[l.Reason] += l.Count
		}
		require.Equal(t, map[string]int{"too_old": 1, "line_too_long": 1, "too_many_fields": 1}, reasons)
	})
}

// TestRowsThatBecameTooOld lie on disk until the server would drop some of them silently.
func TestRowsThatBecameTooOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := &server{}
		s.down.Store(true)
		w := &wire{answer: s.answer}
		r := start(t, w, onDisk(dir), func(v *VictoriaLogs) { v.MaxAge = duration(time.Hour) })
		for id := range 2 { // one batch
			m := event(id)
			m.SetTime(time.Now().Add(-time.Duration(1-id) * 30 * time.Minute))
			r.Add(m)
		}
		pass(time.Minute)
		r.Add(event(2))
		pass(40 * time.Minute)
		s.down.Store(false)
		pass(time.Minute)
		require.Equal(t, []int{1, 2}, slices.Sorted(slices.Values(w.ids())))
		require.Equal(t, int64(1), r.stats.rejected["too_old"].Get())
		requireBalance(t, r)
		require.Zero(t, r.stats.onDisk.Get())
		found := letters(t, filepath.Join(dir, "rejected"))
		require.Len(t, found, 1)
		lines, err := found[0].Lines()
		require.NoError(t, err)
		require.Contains(t, string(lines), `"id":0`)
	})
}

// TestDiskIsFull fills the dead letters up to max_size, then the memory up to max_pending, and loses only what is counted.
func TestDiskIsFull(t *testing.T) {
	for _, onFull := range []string{"reject", "drop_oldest"} {
		t.Run(onFull, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &server{}
				s.down.Store(true)
				w := &wire{answer: s.answer}
				r := start(t, w, onDisk(t.TempDir()), encodedAs("identity"), func(v *VictoriaLogs) {
					v.DLQ.MaxSize, v.DLQ.OnFull = 1<<20, onFull
					v.MaxBatchSize, v.MaxPending = 64<<10, 512<<10
					v.DLQ.Capacity = 128 << 10
				})
				var all []*watched
				for id := range 300 {
					m := watch(bigEvent(id, 10_000))
					all = append(all, m)
					r.Add(m)
					pass(50 * time.Millisecond)
					requireBalance(t, r)
				}
				lost := dropped(r)
				require.Positive(t, lost)
				if onFull == "reject" {
					require.Equal(t, int(lost), outcomes(all)["rejected"], "inputs are told")
					require.Equal(t, lost, r.stats.dropped[droppedMaxPending].Get())
					require.Positive(t, pending(r))
				} else {
					require.Equal(t, lost, r.stats.dropped[droppedOldest].Get())
					require.Zero(t, pending(r))
				}
				s.down.Store(false)
				pass(time.Minute)
				require.Len(t, w.ids(), 300-int(lost))
				require.Equal(t, int64(300)-lost, delivered(r))
				require.Zero(t, r.stats.onDisk.Get())
				requireBalance(t, r)
			})
		})
	}
}

// TestWrongPasswordDuringAnOutage is what a server looks like that was restarted with another password: the line about the
// connection must not be the last word.
func TestWrongPasswordDuringAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mode atomic.Value
		mode.Store("away")
		w := &wire{answer: func(*sent) (*http.Response, error) {
			switch mode.Load() {
			case "away":
				return nil, errDown
			case "401":
				return status(http.StatusUnauthorized, "who are you"), nil
			}
			return taken(), nil
		}}
		r := start(t, w, onDisk(t.TempDir()))
		n := 0
		add := func(d time.Duration) {
			for range d / (3 * time.Second) {
				r.Add(event(n))
				n++
				pass(3 * time.Second)
			}
		}
		add(30 * time.Second)
		mode.Store("401")
		add(5 * time.Minute)
		require.Len(t, logged(r, 'W', "the wire is cut"), 1)
		require.Len(t, logged(r, 'E', "who are you"), 1)
		mode.Store("up")
		pass(2 * time.Minute)
		require.Equal(t, sequence(n), slices.Sorted(slices.Values(w.ids())))
		require.Len(t, logged(r, 'I', "takes batches again"), 1)
		requireBalance(t, r)
	})
}

// TestAllowRateMayBeWhole takes the number that "at most 1" promises.
func TestAllowRateMayBeWhole(t *testing.T) {
	v, err := load(t, "[outputs.victorialogs.dlq]\nallow_rate = 1")
	require.NoError(t, err)
	require.InDelta(t, 1, float64(v.DLQ.AllowRate), 0)
	_, err = load(t, "[outputs.victorialogs.dlq]\nallow_rate = \"x\"")
	require.ErrorContains(t, err, "allow_rate")
	require.ErrorContains(t, err, "0.5")
}

// TestOutageAfterARefusedLetter is logged, although a letter from the disk was refused before, and that was logged, too.
func TestOutageAfterARefusedLetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		dir := t.TempDir()
		leave(t, dir, letterVersion, item(t, nil, 0))
		w := &wire{answer: func(s *sent) (*http.Response, error) {
			switch {
			case slices.Contains(s.ids(), 0):
				return status(http.StatusForbidden, "not this one"), nil
			case down.Load():
				return nil, errDown
			}
			return taken(), nil
		}}
		r := start(t, w, onDisk(dir))
		pass(time.Minute)
		require.Len(t, logged(r, 'E', "not this one"), 1)
		down.Store(true)
		r.Add(event(1))
		pass(time.Second)
		require.Len(t, logged(r, 'W', "the wire is cut"), 1)
	})
}

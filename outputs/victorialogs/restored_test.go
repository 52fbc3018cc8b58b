package victorialogs

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/deadletter"
)

// It runs in real time, since in a bubble the clock stands still between takeStale and the next take.
func TestRestoredStaleSpins(t *testing.T) {
	dir := t.TempDir()
	old, fresh := event(0), event(1)
	_ = old
	e := encoder{}
	e.prepare(nil)
	now := time.Now()
	old.SetTime(now.Add(-2 * time.Hour))
	lines, err := e.appendLine(nil, old, now)
	require.NoError(t, err)
	lines, err = e.appendLine(lines, fresh, now)
	require.NoError(t, err)
	leave(t, dir, letterVersion, item(t, func(l *deadletter.Letter) {
		l.Encoding, l.Body, l.Count, l.First = "identity", lines, 2, old.Time().UTC()
	}))
	w := &wire{}
	r := start(t, w, onDisk(dir), func(v *VictoriaLogs) { v.MaxAge = duration(time.Hour) })
	require.Eventually(t, func() bool { return slices.Contains(w.ids(), 1) && rejected(r) == 1 }, 10*time.Second, 10*time.Millisecond)
}

// one letter that this server does not let in stops everything, live traffic too, for good.
func TestRestoredOneLetterStopsAll(t *testing.T) {
	for _, what := range []string{"403", "broken connection", "500"} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				var items [][]byte
				for id := range 50 {
					items = append(items, item(t, func(l *deadletter.Letter) {
						if id == 10 {
							l.AccountID, l.ProjectID = "7", "0"
						}
					}, id))
				}
				leave(t, dir, letterVersion, items...)
				w := &wire{answer: func(s *sent) (*http.Response, error) {
					if s.request.Header.Get("AccountID") == "7" {
						switch what {
						case "403":
							return status(http.StatusForbidden, "no such tenant"), nil
						case "500":
							return status(http.StatusInternalServerError, "oops"), nil
						}
						return nil, errDown
					}
					return taken(), nil
				}}
				r := start(t, w, onDisk(dir))
				var worst, sumLate time.Duration
				begun := time.Now()
				born := map[int]time.Time{}
				for i := range 3600 {
					born[1000+i] = time.Now()
					r.Add(event(1000 + i))
					pass(time.Second)
				}
				live := 0
				for _, s := range w.requests() {
					for _, id := range s.ids() {
						if b, ok := born[id]; ok && s.taken {
							live++
							worst = max(worst, s.at.Sub(b))
							sumLate += s.at.Sub(b)
						}
					}
				}
				took := map[int]bool{}
				for _, id := range w.ids() {
					took[id] = true
				}
				old := 0
				for id := range 50 {
					if took[id] {
						old++
					}
				}
				t.Logf("after %s: %d of 3600 live delivered, worst latency %s, %d of 49 old ones, balance on disk %d quarantined %d, requests %d",
					time.Since(begun), live, worst, old, r.stats.onDisk.Get(), r.stats.dlqQuarantined.Get(), len(w.requests()))
				require.Equal(t, 49, old)
				require.GreaterOrEqual(t, live, 3590)
				require.Less(t, worst, time.Minute)
			})
		})
	}
}

// stale rows are set aside again each time the server answers 503 often enough.
func TestRestoredStaleRejectedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := &server{}
		s.down.Store(true)
		var mode atomic.Value
		mode.Store("down")
		w := &wire{answer: func(*sent) (*http.Response, error) {
			switch mode.Load() {
			case "down":
				return nil, errDown
			case "busy":
				return status(http.StatusTooManyRequests, "read-only"), nil
			}
			return taken(), nil
		}}
		r := start(t, w, onDisk(dir), func(v *VictoriaLogs) { v.MaxAge = duration(time.Hour) })
		for id := range 2 {
			m := event(id)
			m.SetTime(time.Now().Add(-time.Duration(1-id) * 50 * time.Minute))
			r.Add(m)
		}
		pass(11 * time.Minute)
		mode.Store("busy")
		pass(20 * time.Minute)
		mode.Store("up")
		pass(10 * time.Minute)
		require.Equal(t, []int{1}, w.ids())
		requireBalance(t, r)
		found := letters(t, filepath.Join(dir, "rejected"))
		rows := 0
		for _, l := range found {
			rows += l.Count
		}
		t.Logf("rejected %d, in rejected/ %d, dlq_metrics %d, delivered %d", rejected(r), rows, r.stats.onDisk.Get(), delivered(r))
		require.Equal(t, int64(1), rejected(r))
		require.Equal(t, 1, rows)
		require.Equal(t, int64(0), r.stats.onDisk.Get())
	})
}

// poison is being looked for among restored rows when the server becomes read-only for a while.
func TestRestoredHalvesDoubled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		var down atomic.Bool
		down.Store(true)
		var requests atomic.Int64
		w := &wire{}
		w.answer = func(s *sent) (*http.Response, error) {
			if down.Load() {
				return nil, errDown
			}
			n := requests.Add(1)
			switch {
			case n > 3 && n < 30:
				return status(http.StatusTooManyRequests, "read-only"), nil
			case slices.Contains(s.ids(), 63):
				return status(http.StatusBadRequest, badDataText), nil
			}
			return taken(), nil
		}
		r := start(t, w, onDisk(dir))
		for id := range 64 {
			r.Add(event(id))
		}
		pass(10 * time.Second)
		down.Store(false)
		pass(10 * time.Minute)
		t.Logf("delivered %d (ids %d), rejected %d, dlq_metrics %d", delivered(r), len(w.ids()), rejected(r), r.stats.onDisk.Get())
		require.Len(t, w.ids(), 63)
		require.Equal(t, int64(63), delivered(r))
		require.Zero(t, r.stats.onDisk.Get())
	})
}

// Close while a restored batch is halved: what was taken comes again in the next life.
func TestRestoredCloseWhileHalving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		var ids []int
		for id := range 1024 {
			ids = append(ids, id)
		}
		leave(t, dir, letterVersion, item(t, nil, ids...))
		s := &server{}
		s.slow.Store(int64(100 * time.Millisecond))
		w := &wire{}
		w.answer = func(r *sent) (*http.Response, error) {
			if _, err := s.answer(r); err != nil {
				return nil, err
			}
			if slices.Contains(r.ids(), 1000) {
				return status(http.StatusBadRequest, badDataText), nil
			}
			return taken(), nil
		}
		r := start(t, w, onDisk(dir))
		pass(350 * time.Millisecond)
		require.NoError(t, r.Close())
		first := len(w.ids())
		requireBalance(t, r)
		pass(time.Second)
		r = start(t, w, onDisk(dir))
		pass(10 * time.Second)
		requireBalance(t, r)
		seen := map[int]int{}
		for _, id := range w.ids() {
			seen[id]++
		}
		twice := 0
		for _, n := range seen {
			if n > 1 {
				twice++
			}
		}
		t.Logf("taken in the first life %d, twice %d, lost %d, possibly_doubled %d", first, twice, 1023-len(seen), r.stats.possiblyDoubled.Get())
		require.Len(t, seen, 1023)
		require.Zero(t, twice)
	})
}

// a letter whose encoding nobody knows is sent, the server answers 200 and stores nothing, and it is gone.
func TestRestoredUnknownEncoding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		leave(t, dir, letterVersion, item(t, func(l *deadletter.Letter) { l.Encoding, l.Body = "br", []byte("what br makes") }, 0), item(t, nil, 1))
		var encodings []string
		w := &wire{}
		w.answer = func(s *sent) (*http.Response, error) {
			encodings = append(encodings, s.request.Header.Get("Content-Encoding"))
			return taken(), nil
		}
		r := start(t, w, onDisk(dir))
		func() { defer func() { _ = recover() }(); pass(10 * time.Second) }()
		t.Logf("%v quarantined %d delivered %d %s", encodings, r.stats.dlqQuarantined.Get(), delivered(r), strings.Join(nil, ""))
		require.NotContains(t, encodings, "br")
		require.Equal(t, int64(1), r.stats.dlqQuarantined.Get())
	})
}

// a corrupt body among good ones, the server as VictoriaLogs is: 200, and what stands before the damage is stored.
func TestRestoredCorruptBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		leave(t, dir, letterVersion, item(t, nil, 0), item(t, func(l *deadletter.Letter) { l.Body = []byte("no zstd at all") }, 1), item(t, nil, 2))
		w := &blind{}
		r := prepare(onDisk(dir))
		require.NoError(t, r.Init())
		r.delivery.target.transport = w
		require.NoError(t, r.Connect())
		pass(time.Minute)
		require.NoError(t, r.Close())
		t.Logf("%d requests, quarantined %d delivered %d recovered %d", w.n, r.stats.dlqQuarantined.Get(), delivered(r), r.stats.recovered.Get())
		require.Equal(t, int64(2), delivered(r))
		require.Equal(t, int64(1), r.stats.dlqQuarantined.Get())
	})
}

type blind struct{ n int }

func (p *blind) RoundTrip(r *http.Request) (*http.Response, error) {
	p.n++
	_ = r.Body.Close()
	return taken(), nil
}
func (*blind) CloseIdleConnections() {}

// rejected/ cannot be written, and one row is poison: do the others get through?
func TestRestoredRejectedUnusable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		var items [][]byte
		for id := range 50 {
			items = append(items, item(t, func(l *deadletter.Letter) { l.AccountID = fmt.Sprint(1 + id%3) }, id))
		}
		leave(t, dir, letterVersion, items...)
		// The directory goes while the first answer that makes use of it is given, since nothing writes there before.
		replace := sync.OnceFunc(func() {
			assert.NoError(t, os.RemoveAll(filepath.Join(dir, "rejected")))
			assert.NoError(t, os.WriteFile(filepath.Join(dir, "rejected"), nil, 0o600))
		})
		w := &wire{answer: func(s *sent) (*http.Response, error) {
			if slices.Contains(s.ids(), 10) {
				replace()
				return status(http.StatusBadRequest, badDataText), nil
			}
			return taken(), nil
		}}
		r := start(t, w, onDisk(dir))
		pass(10 * time.Minute)
		t.Logf("delivered %d, rejected %d, %d requests", delivered(r), rejected(r), len(w.requests()))
		require.Equal(t, int64(49), delivered(r))
	})
}

// after a restored row was set aside nothing wakes the workers: what else the restorer has given waits up to an hour,
// unless live traffic comes.
func TestRestoredStallsAfterSetAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		var items [][]byte
		for id := range 20 {
			items = append(items, item(t, func(l *deadletter.Letter) { l.AccountID = fmt.Sprint(1 + id) }, id))
		}
		leave(t, dir, letterVersion, items...)
		w := &wire{}
		w.answer = func(s *sent) (*http.Response, error) {
			if s.ids()[0]%2 == 0 {
				return status(http.StatusBadRequest, badDataText), nil
			}
			return taken(), nil
		}
		r := start(t, w, onDisk(dir))
		pass(50 * time.Minute)
		t.Logf("in 50 minutes: delivered %d of 10, rejected %d of 10", delivered(r), rejected(r))
		require.Equal(t, int64(10), delivered(r))
	})
}

// the same for a letter with which the server hangs until the timeout: each is the only probe.
func TestRestoredHangingLetterStopsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		leave(t, dir, letterVersion, item(t, func(l *deadletter.Letter) { l.AccountID = "7" }, 0))
		w := &wire{answer: func(s *sent) (*http.Response, error) {
			if s.request.Header.Get("AccountID") == "7" {
				return hang(s)
			}
			return taken(), nil
		}}
		r := start(t, w, onDisk(dir))
		for i := range 36000 {
			r.Add(event(1000 + i))
			pass(200 * time.Millisecond)
		}
		t.Logf("after 2 h: delivered %d of 36000, on disk %d", delivered(r), r.stats.onDisk.Get())
		require.Greater(t, delivered(r), int64(35900))
	})
}

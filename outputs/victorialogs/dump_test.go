package victorialogs

import (
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf/config"

	"github.com/edgetide/telegraf-victorialogs/dlq"
	"github.com/edgetide/telegraf-victorialogs/internal/deadletter"
)

// takeAway makes a directory unusable until it is given back.
func takeAway(tb testing.TB, dir string) (giveBack func()) {
	tb.Helper()
	require.NoError(tb, os.Rename(dir, dir+".away"))
	require.NoError(tb, os.WriteFile(dir, nil, 0o600))
	return func() {
		require.NoError(tb, os.Remove(dir))
		require.NoError(tb, os.Rename(dir+".away", dir))
	}
}

// TestNothingIsAcceptedBeforeItIsSafe has neither a server nor a disk for a minute.
func TestNothingIsAcceptedBeforeItIsSafe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "letters")
		s := &server{}
		s.down.Store(true)
		r := start(t, &wire{answer: s.answer}, onDisk(dir))
		giveBack := takeAway(t, dir)
		var all []*watched
		for id := range 100 {
			all = append(all, watch(event(id)))
			r.Add(all[id])
			pass(600 * time.Millisecond)
			require.Equal(t, map[string]int{"": len(all)}, outcomes(all))
		}
		requireBalance(t, r)
		require.Equal(t, int64(100), pending(r))
		require.Len(t, logged(r, 'E', "Cannot put batches on disk"), 1)
		giveBack()
		pass(5 * time.Second)
		require.Equal(t, map[string]int{"accepted": 100}, outcomes(all))
		require.Equal(t, int64(100), rowsOnDisk(t, r))
		requireBalance(t, r)
	})
}

// TestAllWorkersHang has a window of metrics wait for a server that does not answer.
func TestAllWorkersHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, &wire{answer: hang}, onDisk(t.TempDir()))
		var all []*watched
		for id := range 20 {
			all = append(all, watch(event(id)))
			r.Add(all[id])
			pass(10 * time.Millisecond) // a batch each
		}
		pass(4500 * time.Millisecond) // retry_budget, and one look at the queue
		require.Equal(t, map[string]int{"": 2, "accepted": 18}, outcomes(all), "but for what is in flight")
		requireBalance(t, r)
		pass(12 * time.Second) // timeout
		require.Equal(t, map[string]int{"accepted": 20}, outcomes(all))
		requireBalance(t, r)
		begun := time.Now()
		require.NoError(t, r.Close())
		require.LessOrEqual(t, time.Since(begun), 4*time.Second)
		require.Equal(t, int64(20), rowsOnDisk(t, r))
	})
}

// TestLiveTrafficFirst has a large backlog restored by a slow server.
func TestLiveTrafficFirst(t *testing.T) {
	for _, concurrency := range []int{1, 2} {
		t.Run(strconv.Itoa(concurrency), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				var items [][]byte
				for id := range 600 {
					items = append(items, item(t, func(l *deadletter.Letter) {
						l.Encoding = "identity"
						l.Body = fmt.Appendf(nil, "{\"_time\":1,\"pad\":%q,\"id\":%d}\n", strings.Repeat("x", 100_000), id)
					}, id))
				}
				leave(t, dir, letterVersion, items...)
				s := &server{}
				s.slow.Store(int64(100 * time.Millisecond))
				w := &wire{answer: s.answer}
				r := start(t, w, onDisk(dir), func(v *VictoriaLogs) { v.Concurrency = concurrency })
				pass(time.Second)
				for id := range 100 {
					m := watch(event(1000 + id))
					r.Add(m)
					pass(5*time.Millisecond + 201*time.Millisecond) // ack_gap, the request that is under way, and its own
					require.Equal(t, "accepted", m.outcome())
				}
				require.Less(t, delivered(r), int64(700), "the backlog is not restored yet")
				pass(10 * time.Minute)
				require.Equal(t, int64(700), delivered(r))
				require.Len(t, w.ids(), 700)
				requireBalance(t, r)
			})
		})
	}
}

// TestLettersThatAreNone lie between good ones: they go to quarantine, and the others to the server, each once.
func TestLettersThatAreNone(t *testing.T) {
	broken := map[string]func(t *testing.T) []byte{
		"no head": func(*testing.T) []byte { return []byte("hello") },
		"no JSON": func(*testing.T) []byte { return []byte("{\"path\":\nbody") },
		"no rows": func(t *testing.T) []byte { t.Helper(); return item(t, nil) },
		"empty":   func(*testing.T) []byte { return nil },
		"not zstd": func(t *testing.T) []byte {
			t.Helper()
			return item(t, func(l *deadletter.Letter) { l.Body = []byte("no zstd") }, 1, 4)
		},
	}
	delete(broken, "torn body")
	for name, make := range broken {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				leave(t, dir, letterVersion, item(t, nil, 0), make(t), item(t, nil, 2, 3))
				w := &wire{}
				strict := strictly{w}
				r := prepare(onDisk(dir))
				require.NoError(t, r.Init())
				r.delivery.target.transport = strict
				require.NoError(t, r.Connect())
				pass(time.Minute)
				require.NoError(t, r.Close())
				require.ElementsMatch(t, []int{0, 2, 3}, w.ids())
				require.Equal(t, int64(1), r.stats.dlqQuarantined.Get())
				require.Zero(t, r.stats.dlqItems.Get())
				requireBalance(t, r)
				files, err := dlq.List(dir)
				require.NoError(t, err)
				require.Len(t, files, 1)
				require.Equal(t, dlq.StateQuarantined, files[0].State)
			})
		})
	}
}

// strictly is a wire to a server that refuses bodies which it cannot decode.
type strictly struct{ *wire }

func (s strictly) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := r.GetBody()
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }()
	data, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	if _, err := decoded(r.Header.Get("Content-Encoding"), data); err != nil {
		_ = r.Body.Close()
		return status(http.StatusBadRequest, badDataText+"; error: "+err.Error()), nil
	}
	return s.wire.RoundTrip(r)
}

// TestAnotherVersion is not sent.
func TestAnotherVersion(t *testing.T) {
	for _, on := range []string{"quarantine", "remove"} {
		t.Run(on, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				leave(t, dir, "telegraf-victorialogs/0", item(t, nil, 0), item(t, nil, 1))
				leave(t, dir, letterVersion, item(t, nil, 2))
				w := &wire{}
				r := start(t, w, onDisk(dir), func(v *VictoriaLogs) { v.DLQ.OnVersionMismatch = on })
				pass(10 * time.Second)
				require.Equal(t, []int{2}, w.ids())
				quarantined, deleted := int64(2), int64(0)
				if on == "remove" {
					quarantined, deleted = 0, 2
				}
				require.Equal(t, quarantined, r.stats.dlqQuarantined.Get())
				require.Equal(t, deleted, r.stats.dlqDeleted.Get())
				requireBalance(t, r)
			})
		})
	}
}

// TestPoisonAmongLetters has rows that the server refuses in letters which share a request with good ones.
func TestPoisonAmongLetters(t *testing.T) {
	for _, code := range []int{http.StatusBadRequest, http.StatusRequestEntityTooLarge} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				var items [][]byte
				for id := 0; id < 100; id += 5 {
					items = append(items, item(t, func(l *deadletter.Letter) {
						l.Encoding = []string{"zstd", "identity"}[id/50]
					}, id, id+1, id+2, id+3, id+4))
				}
				leave(t, dir, letterVersion, items...)
				poison := []int{0, 7, 8, 49, 50, 99}
				w := &wire{answer: func(s *sent) (*http.Response, error) {
					if slices.ContainsFunc(s.ids(), func(id int) bool { return slices.Contains(poison, id) }) {
						return status(code, badDataText), nil
					}
					return taken(), nil
				}}
				r := start(t, w, onDisk(dir))
				for id := 100; id < 160; id++ {
					r.Add(event(id))
					pass(time.Second)
				}
				good := slices.DeleteFunc(sequence(160), func(id int) bool { return slices.Contains(poison, id) })
				require.Equal(t, good, slices.Sorted(slices.Values(w.ids())))
				require.Equal(t, int64(100), r.stats.recovered.Get())
				require.Equal(t, int64(20), r.stats.batchesRestored.Get())
				require.Equal(t, int64(6), r.stats.rejected[rejectedByServer].Get())
				requireBalance(t, r)
				var found []int
				for _, l := range letters(t, filepath.Join(dir, "rejected")) {
					lines, err := l.Lines()
					require.NoError(t, err)
					ids := (&sent{lines: splitLines(lines)}).ids()
					require.Len(t, ids, l.Count)
					require.Equal(t, code, l.Status)
					found = append(found, ids...)
				}
				require.ElementsMatch(t, poison, found)
				require.Empty(t, letters(t, dir))
			})
		})
	}
}

// TestBacklogGoesWhereItWasMeantTo changes everything between two lives.
func TestBacklogGoesWhereItWasMeantTo(t *testing.T) {
	type settings struct {
		url, encoding string
		streams       []string
		tenant        int64
	}
	var all []settings
	for _, url := range []string{"http://old.example", "http://new.example:9428/below/"} {
		for _, encoding := range []string{"zstd", "gzip", "identity"} {
			for _, streams := range [][]string{nil, {"host"}, {"a b", "ü&="}} {
				for _, tenant := range []int64{0, 7} {
					all = append(all, settings{url, encoding, streams, tenant})
				}
			}
		}
	}
	with := func(s settings) func(*VictoriaLogs) {
		return func(v *VictoriaLogs) {
			v.URL, v.ContentEncoding, v.StreamFields, v.AccountID = s.url, s.encoding, s.streams, s.tenant
		}
	}
	shape := func(r *http.Request) [4]string {
		return [4]string{r.URL.RawQuery, r.Header.Get("AccountID"), r.Header.Get("ProjectID"), r.Header.Get("Content-Encoding")}
	}
	for i, before := range all {
		for j, after := range all {
			if i%3 != j%3 && i/6 != j/6 {
				continue // for speed
			}
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				w := &wire{answer: func(*sent) (*http.Response, error) { return nil, errDown }}
				r := start(t, w, onDisk(dir), with(before))
				r.Add(event(0))
				pass(10 * time.Second)
				require.NoError(t, r.Close())
				was := shape(w.requests()[0].request)
				w = &wire{}
				start(t, w, onDisk(dir), with(after))
				pass(5 * time.Second)
				require.Equal(t, []int{0}, w.ids())
				request := w.requests()[0].request
				require.Equal(t, was, shape(request))
				require.Equal(t, strings.TrimSuffix(after.url, "/")+"/insert/jsonline", "http://"+request.URL.Host+request.URL.Path)
				require.Equal(t, request.URL.Host, request.Host)
			})
		}
	}
}

// TestSecretsStayOffTheDisk looks for them in each file, and at who may read those.
func TestSecretsStayOffTheDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "letters")
	secrets := []string{"alice-the-user", "sesame-open", "header-value-xyz", "YWxpY2UtdGhlLXVzZXI"}
	header := config.NewSecret([]byte(secrets[2]))
	w := &wire{answer: func(s *sent) (*http.Response, error) {
		if s.request.Header.Get("Authorization") == "" || s.request.Header.Get("X-Key") != secrets[2] {
			return status(http.StatusUnauthorized, ""), nil
		}
		if s.ids()[0] == 0 {
			return status(http.StatusBadRequest, badDataText), nil
		}
		return nil, errDown
	}}
	r := start(t, w, onDisk(dir), encodedAs("identity"), func(v *VictoriaLogs) {
		v.RetryBudget = duration(200 * time.Millisecond)
		v.Username, v.Password = config.NewSecret([]byte(secrets[0])), config.NewSecret([]byte(secrets[1]))
		v.Headers = map[string]*config.Secret{"X-Key": &header}
	})
	for id := range 3 {
		r.Add(event(id))
		require.Eventually(t, func() bool { return received(r) == int64(id+1) && len(w.requests()) > 0 }, 5*time.Second, time.Millisecond)
	}
	r.Add(bigEvent(3, 300_000))
	require.Eventually(t, func() bool { return rejected(r) == 2 && r.stats.onDisk.Get() == 2 }, 10*time.Second, 5*time.Millisecond)
	require.NoError(t, r.Close())
	files := 0
	require.NoError(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := e.Info()
		require.NoError(t, err)
		if e.IsDir() {
			require.Equal(t, fs.FileMode(0o700), info.Mode().Perm(), path)
			return nil
		}
		require.Equal(t, fs.FileMode(0o600), info.Mode().Perm(), path)
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, secret := range secrets {
			require.NotContains(t, string(data), secret, path)
		}
		files++
		return nil
	}))
	require.GreaterOrEqual(t, files, 4, "dumps and locks")
}

// TestLineTime reads what the encoder writes, before 1970, too.
func TestLineTime(t *testing.T) {
	e := encoder{}
	e.prepare(nil)
	for _, want := range []time.Time{
		received2024, time.Unix(0, 0), time.Unix(0, 1), time.Unix(0, -1), time.Unix(1, 0), time.Date(1960, 1, 2, 3, 4, 5, 6, time.UTC),
		time.Date(1969, 12, 31, 23, 59, 59, 0, time.UTC), time.Date(2261, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(1700, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		m := event(0)
		m.SetTime(want)
		line, err := e.appendLine(nil, m, time.Now())
		require.NoError(t, err)
		got, ok := lineTime(line)
		require.True(t, ok, "%s", line)
		require.True(t, want.Equal(got), "%s: %s, want %s", line, got, want)
	}
}

// TestCloseWhileTheDiskRefuses tells the inputs, in time.
func TestCloseWhileTheDiskRefuses(t *testing.T) {
	for _, answer := range []func(*sent) (*http.Response, error){hang, func(*sent) (*http.Response, error) { return nil, errDown }} {
		synctest.Test(t, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "letters")
			r := start(t, &wire{answer: answer}, onDisk(dir))
			giveBack := takeAway(t, dir)
			defer giveBack()
			var all []*watched
			for id := range 30 {
				all = append(all, watch(event(id)))
				r.Add(all[id])
				pass(20 * time.Millisecond)
			}
			all = append(all, watch(bigEvent(30, 300_000)))
			r.Add(all[30])
			begun := time.Now()
			require.NoError(t, r.Close())
			require.LessOrEqual(t, time.Since(begun), 4*time.Second)
			require.Equal(t, 30, outcomes(all)["rejected"])
			require.Equal(t, 0, outcomes(all)[""])
			requireBalance(t, r)
			require.Zero(t, pending(r))
			require.NoError(t, r.Close())
			late := watch(event(99))
			r.Add(late)
			require.Equal(t, "rejected", late.outcome())
			requireBalance(t, r)
		})
	}
}

// TestReloads closes and opens again under load, the server up half of the time.
func TestReloads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := &server{}
		s.slow.Store(int64(20 * time.Millisecond))
		w := &wire{answer: s.answer}
		var all []*watched
		for life := range 40 {
			s.down.Store(life%2 == 0 && life < 38)
			r := start(t, w, onDisk(dir), encodedAs([]string{"zstd", "gzip", "identity"}[life%3]))
			for range 50 {
				m := watch(bigEvent(len(all), 500))
				all = append(all, m)
				r.Add(m)
				pass(time.Duration(life) * time.Millisecond)
			}
			require.NoError(t, r.Close())
			requireBalance(t, r)
			require.Equal(t, map[string]int{"accepted": len(all)}, outcomes(all))
			require.Equal(t, r.stats.onDisk.Get(), rowsOnDisk(t, r))
			pass(time.Millisecond)
		}
		r := start(t, w, onDisk(dir))
		pass(time.Minute)
		require.Equal(t, sequence(len(all)), slices.Sorted(slices.Values(w.ids())))
		requireBalance(t, r)
	})
}

// TestPossiblyDoubled counts the attempts that broke after the whole body was with the server, and no others.
func TestPossiblyDoubled(t *testing.T) {
	const megabytes = 8
	for name, c := range map[string]struct {
		behave  func(w http.ResponseWriter, r *http.Request)
		doubled int64
	}{
		"closes after the body": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			hijack(w)
		}, 1},
		"closes in the midst of the answer's head": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_, _ = io.WriteString(conn, "HTTP/1.1 20")
				_ = conn.Close()
			}
		}, 1},
		"closes after the head of 200": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
				_ = conn.Close()
			}
		}, 0},
		"closes before the body": {func(w http.ResponseWriter, _ *http.Request) { hijack(w) }, 0},
		"closes in the midst of the body": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.CopyN(io.Discard, r.Body, 100_000)
			hijack(w)
		}, 0},
		"answers 503": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusServiceUnavailable)
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var requests atomic.Int64
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if requests.Add(1) == 1 {
					c.behave(w, r)
					return
				}
				_, _ = io.Copy(io.Discard, r.Body)
			}))
			defer s.Close()
			r := start(t, nil, onDisk(t.TempDir()), encodedAs("identity"), func(v *VictoriaLogs) {
				v.URL = s.URL
				v.MaxBatchSize = 4 << 20
			})
			// So much does not fit into what the kernel takes for a server that does not read.
			for id := range megabytes * 4 {
				if id*256_000 < 4<<20-256_000 {
					r.Add(bigEvent(id, 255_000))
				}
			}
			n := received(r)
			require.Eventually(t, func() bool { return delivered(r) == n }, 10*time.Second, 5*time.Millisecond)
			if strings.HasSuffix(name, "the body") { // a kernel that has much memory may have taken all of it
				require.LessOrEqual(t, r.stats.possiblyDoubled.Get(), int64(1))
				return
			}
			require.Equal(t, c.doubled, r.stats.possiblyDoubled.Get())
		})
	}
}

func hijack(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

package victorialogs

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// moody is a server in one of many moods, which remembers what it stored.
type moody struct {
	mu      sync.Mutex
	mood    string
	random  *rand.Rand
	poison  func(id int) bool
	stored  map[int]int  // how often
	unknown map[int]bool // stored, and the plugin cannot know
	refused map[int]bool // asked for alone, and refused for good
}

var moods = []string{"up", "up", "up", "away", "hangs", "busy", "broken", "locked", "answers late", "breaks off", "flaps", "small"}

func (s *moody) be(mood string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mood = mood
}

func (s *moody) answer(r *sent) (*http.Response, error) {
	s.mu.Lock()
	mood := s.mood
	if mood == "flaps" {
		mood = []string{"up", "away", "broken", "breaks off"}[s.random.IntN(4)]
	}
	s.mu.Unlock()
	ids := r.ids()
	wait := time.Millisecond
	switch mood {
	case "hangs":
		return hang(r)
	case "answers late":
		wait = 4 * time.Second
	}
	if err := sleep(r.request, wait); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch mood {
	case "away":
		return nil, errDown
	case "busy":
		return status(http.StatusTooManyRequests, "", "Retry-After", fmt.Sprint(s.random.IntN(6))), nil
	case "broken":
		return status(http.StatusInternalServerError, ""), nil
	case "locked":
		return status(http.StatusUnauthorized, ""), nil
	case "small":
		if len(ids) > 7 {
			return status(http.StatusRequestEntityTooLarge, ""), nil
		}
	}
	if slices.ContainsFunc(ids, s.poison) {
		if len(ids) == 1 {
			s.refused[ids[0]] = true
		}
		return status(http.StatusBadRequest, badDataText), nil
	}
	for _, id := range ids {
		s.stored[id]++
		s.unknown[id] = s.unknown[id] || mood == "breaks off"
	}
	if mood == "breaks off" {
		return nil, errDown
	}
	return taken(), nil
}

// TestModel runs the plugin for several lives on one directory beside a server and a disk that fail in all ways, from a seed.
// Nothing is lost, each input is told exactly once, and the ledger is right at the end of each life. Only what the server had
// stored without saying so comes twice.
func TestModel(t *testing.T) {
	for seed := range uint64(12) {
		for _, c := range []struct {
			name           string
			poisoned, disk bool
		}{{"server", false, false}, {"disk", false, true}, {"poison", true, false}, {"all", true, true}} {
			t.Run(fmt.Sprintf("%d %s", seed, c.name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { runModel(t, seed, c.poisoned, c.disk) })
			})
		}
	}
}

func runModel(t *testing.T, seed uint64, poisoned, disk bool) {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 4))
	dir := filepath.Join(t.TempDir(), "letters")
	s := &moody{
		mood: "up", random: rand.New(rand.NewPCG(seed, 5)), stored: make(map[int]int), unknown: make(map[int]bool), refused: make(map[int]bool),
		poison: func(id int) bool { return poisoned && id%97 == 13 },
	}
	w := &wire{answer: s.answer}
	var all []*watched
	told := make(map[int]bool) // those that somebody waits for
	var lost, recovered, left int64
	life := func(steps int, last bool) {
		r := prepare(onDisk(dir), func(v *VictoriaLogs) {
			v.ContentEncoding = []string{"zstd", "gzip", "identity"}[random.IntN(3)]
			v.StreamFields = [][]string{nil, {"host"}, {"host", "measurement"}}[random.IntN(3)]
			v.AccountID = int64(random.IntN(3))
			v.URL = fmt.Sprintf("http://server-%d.example", random.IntN(3))
			v.MaxBatchSize, v.MaxPending = 16<<10, 256<<10
			v.DLQ.MaxSize, v.DLQ.Capacity = 1<<20, 64<<10
		})
		require.NoError(t, r.Init())
		r.delivery.target.transport = w
		require.NoError(t, r.Connect())
		broken := false
		breakDisk := func() {
			require.NoError(t, os.Rename(dir, dir+".away"))
			require.NoError(t, os.WriteFile(dir, nil, 0o600))
			broken = true
		}
		mendDisk := func() {
			if broken {
				require.NoError(t, os.Remove(dir))
				require.NoError(t, os.Rename(dir+".away", dir))
			}
			broken = false
		}
		for range steps {
			switch n := random.IntN(10); {
			case n == 0:
				switch {
				case !disk:
				case broken:
					mendDisk()
				default:
					breakDisk()
				}
			case n < 4:
				n := len(moods)
				if !poisoned {
					n-- // "small" has batches halved
				}
				s.be(moods[random.IntN(n)])
			default:
				for range random.IntN(60) {
					id := len(all)
					m := watch(bigEvent(id, []int{1, 10, 100, 3000}[random.IntN(4)]))
					all = append(all, m)
					if told[id] = random.IntN(2) == 0; told[id] {
						r.Add(m)
					} else {
						r.Add(m.Metric)
					}
				}
			}
			pass(time.Duration(random.IntN(3000)) * time.Millisecond)
			require.LessOrEqual(t, r.stats.pendingBytes.Get(), int64(r.MaxPending)+2*int64(r.MaxBatchSize))
		}
		if last {
			mendDisk()
			s.be("up")
			pass(2 * time.Hour)
			require.Zero(t, pending(r))
			require.Zero(t, r.stats.dlqItems.Get())
		}
		require.NoError(t, r.Close())
		mendDisk()
		requireBalance(t, r)
		require.Zero(t, pending(r))
		require.Zero(t, r.stats.pendingBytes.Get())
		for id := range told {
			if told[id] {
				require.Contains(t, []string{"accepted", "rejected", "dropped"}, all[id].outcome(), "event %d", id)
			}
		}
		if !poisoned && !disk {
			require.Equal(t, rowsOnDisk(t, r), r.stats.onDisk.Get(), "dlq_metrics")
		}
		lost += dropped(r)
		recovered += r.stats.recovered.Get()
		left += r.stats.onDisk.Get()
		pass(time.Second)
	}
	for range 4 {
		life(5+random.IntN(25), false)
	}
	life(10, true)

	missing, twice := 0, 0
	for id, m := range all {
		n := s.stored[id]
		if n == 0 && !s.refused[id] {
			missing++
			require.NotEqual(t, "accepted", m.outcome(), "event %d is lost", id)
		}
		if s.poison(id) {
			require.Zero(t, n)
		} else {
			require.NotEqual(t, "dropped", m.outcome(), "event %d", id)
		}
		if n > 1 && !s.unknown[id] {
			twice++
		}
	}
	found := make(map[int]int)
	for _, l := range letters(t, filepath.Join(dir, "rejected")) {
		lines, err := l.Lines()
		require.NoError(t, err)
		for _, id := range (&sent{lines: splitLines(lines)}).ids() {
			found[id]++
		}
	}
	for id := range s.refused {
		if found[id] == 0 {
			missing++
		}
	}
	require.LessOrEqual(t, int64(missing), lost, "what is missing was counted")
	if !poisoned {
		require.Empty(t, found)
	}
	if !poisoned && !disk {
		require.Equal(t, recovered, left, "what a life leaves another one finds")
		require.Zero(t, twice)
	}
}

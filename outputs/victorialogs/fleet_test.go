package victorialogs

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf/selfstat"
	"github.com/influxdata/telegraf/testutil"
)

// A fleet of agents, each of them the real plugin with its defaults, sends to one server that goes away and comes back; time
// is virtual. When it is back the agents must not keep it from its work: what they kept must come in over a while, and no
// faster than the server takes it.

// fleet is one, and what happens to it.
type fleet struct {
	agents   int
	disk     bool          // they have dead letters
	capacity int           // of the server, in times of the steady traffic
	refusal  error         // what requests end with while the server is away; nil: it answers 429
	after    time.Duration // for which it is looked at when it is back
}

const (
	fleetEvery  = 10 * time.Second // a metric of each agent
	fleetBefore = 30 * time.Second // of steady traffic
	fleetOutage = 5 * time.Minute
)

var errRefused = errors.New("connection refused")

// fleetServer counts requests, and takes a time for each that is in proportion to the load: it works on one at a time, as
// a server with one core would.
type fleetServer struct {
	each time.Duration // of work for a request

	mu      sync.Mutex
	began   time.Time
	down    bool
	refusal error
	busy    time.Time     // until then there is work
	seen    []int         // requests in each second
	late    time.Duration // the longest that one took
}

func (*fleetServer) CloseIdleConnections() {}

func (s *fleetServer) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	now := time.Now()
	second := int(now.Sub(s.began) / time.Second)
	for len(s.seen) <= second {
		s.seen = append(s.seen, 0)
	}
	s.seen[second]++
	switch {
	case s.down && s.refusal != nil:
		s.mu.Unlock()
		return nil, errors.Join(s.refusal, r.Body.Close())
	case s.down:
		s.mu.Unlock()
		return status(http.StatusTooManyRequests, "read-only"), finishBody(r)
	}
	if s.busy.Before(now) {
		s.busy = now
	}
	s.busy = s.busy.Add(s.each)
	wait := s.busy.Sub(now)
	s.late = max(s.late, wait)
	s.mu.Unlock()
	if err := errors.Join(finishBody(r), sleep(r, wait)); err != nil {
		return nil, err
	}
	return taken(), nil
}

func finishBody(r *http.Request) error {
	_, err := io.Copy(io.Discard, r.Body)
	return errors.Join(err, r.Body.Close())
}

func (s *fleetServer) set(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

// seconds returns the requests of each second of a time.
func (s *fleetServer) seconds(from, to time.Duration) []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := append(s.seen, make([]int, 1+int(to/time.Second))...)
	return all[int(from/time.Second):int(to/time.Second)]
}

// mute is a log that nobody reads.
type mute struct{ testutil.Logger }

func (mute) Warnf(string, ...any)  {}
func (mute) Warn(...any)           {}
func (mute) Errorf(string, ...any) {}

// run lets it happen.
func (f fleet) run(t *testing.T) *fleetServer {
	t.Helper()
	gap := fleetEvery / time.Duration(f.agents)
	s := &fleetServer{each: gap / time.Duration(f.capacity), began: time.Now(), refusal: f.refusal}
	agents := make([]*VictoriaLogs, f.agents)
	dir := t.TempDir()
	for i := range agents {
		v := New()
		v.Log = mute{testutil.Logger{Quiet: true}}
		v.Statistics = selfstat.NewCollector(map[string]string{"fleet": t.Name() + strconv.Itoa(i)})
		v.ContentEncoding = "identity" // 10,000 compressors would take the memory of 10,000 gateways
		if f.disk {
			v.DLQ.Directory = filepath.Join(dir, strconv.Itoa(i))
		}
		require.NoError(t, v.Init())
		v.delivery.target.transport = s
		require.NoError(t, v.Connect())
		agents[i] = v
	}
	end := fleetBefore + fleetOutage + f.after
	metrics := int(end / gap)
	for n := range metrics {
		at := time.Duration(n) * gap
		<-time.After(time.Until(s.began.Add(at)))
		s.set(at >= fleetBefore && at < fleetBefore+fleetOutage)
		agents[n%f.agents].Add(event(n))
	}
	var delivered, doubled int64
	for _, v := range agents {
		require.NoError(t, v.Close())
		delivered += v.stats.delivered.Get()
		doubled += v.stats.possiblyDoubled.Get()
	}
	require.EqualValues(t, metrics, delivered, "metrics")
	require.Zero(t, doubled)
	return s
}

// TestFleet runs as many agents as FLEET says, such as 10000, with dead letters and without. Few come too unevenly for the
// bounds, so it is no part of the usual tests. What it finds is told as the test's attributes, which bench/sidebyside reads.
func TestFleet(t *testing.T) {
	text := os.Getenv("FLEET")
	if text == "" {
		t.Skip("FLEET is not set: make bench runs it with 10000 agents")
	}
	agents, err := strconv.Atoi(text)
	require.NoError(t, err)
	onDisk := min(agents/5, 500) // each has files open, and waits for fsync
	for name, f := range map[string]fleet{
		"memory":     {agents: agents, capacity: 5, refusal: errRefused, after: 3 * time.Minute},
		"disk":       {agents: onDisk, capacity: 5, refusal: errRefused, after: 3 * time.Minute, disk: true},
		"read_only":  {agents: agents, capacity: 5, after: 3 * time.Minute},
		"small":      {agents: agents, capacity: 2, refusal: errRefused, after: 7 * time.Minute},
		"large":      {agents: agents, capacity: 1000, refusal: errRefused, after: time.Minute},
		"large_disk": {agents: onDisk, capacity: 1000, refusal: errRefused, after: time.Minute, disk: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { f.check(t) })
		})
	}
}

func (f fleet) check(t *testing.T) {
	t.Helper()
	s := f.run(t)
	steady := f.agents * int(time.Second) / int(fleetEvery)
	back := fleetBefore + fleetOutage
	begin := slices.Max(s.seconds(fleetBefore, fleetBefore+time.Minute))
	away := slices.Max(s.seconds(fleetBefore+time.Minute, back))
	after := s.seconds(back, back+f.after)
	until := 0 // seconds after the return in which there is more than steady traffic
	for i, n := range after {
		if n > steady*11/10 {
			until = i + 1
		}
	}
	for _, found := range []struct {
		what  string
		value int
	}{
		{"agents", f.agents},
		{"capacity", f.capacity * steady},
		{"steady", steady},
		{"begin", begin},
		{"away", away},
		{"after", slices.Max(after)},
		{"until", until},
		{"late", int(s.late.Milliseconds())},
	} {
		t.Attr(found.what, strconv.Itoa(found.value))
	}
	kept := steady * int(fleetOutage/time.Second)
	retryMax := int(time.Duration(New().RetryMax) / time.Second)
	// What the server takes and the two requests of each agent that finds it back; or all that was kept, spread over the longest
	// backoff. Few agents come less evenly than many.
	most := min((f.capacity*steady+2*f.agents/retryMax)*13/10, steady+5*kept/retryMax)
	require.LessOrEqual(t, slices.Max(after), most, "requests in a second when the server is back: %v", after)
	require.Less(t, until, len(after), "seconds until there is nothing left of it")
	require.Less(t, s.late, time.Duration(New().Timeout), "the longest request: past the timeout it would be sent again")
	require.LessOrEqual(t, begin, 2*f.agents, "requests in a second as the server goes")
	require.LessOrEqual(t, away, max(10, f.agents/8), "requests in a second while the server is away")
}

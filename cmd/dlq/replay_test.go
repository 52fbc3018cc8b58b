package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/dlq"
)

// receiver is an HTTP server that keeps what it took.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	items  []string
	header http.Header
	asked  int
}

// receive starts one. answer says what to answer to the n-th request, counted from 0.
func receive(t *testing.T, answer func(n int, item string) int) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		b, err := io.ReadAll(q.Body)
		if err != nil {
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		status := http.StatusNoContent
		if answer != nil {
			status = answer(r.asked, string(b))
		}
		r.asked++
		r.header = q.Header
		if q.Method == http.MethodPost && status/100 == 2 {
			r.items = append(r.items, string(b))
		}
		if status/100 == 3 {
			w.Header().Set("Location", "/elsewhere")
		}
		w.WriteHeader(status)
		if status >= 400 {
			_, _ = io.WriteString(w, "because\x1b[31m") // the client may be gone
		}
	}))
	t.Cleanup(r.Close)
	return r
}

// backlog makes dumps of several versions, and returns their items.
func backlog(t *testing.T, dumps, each int) (dir string, items []string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "dlq")
	for n := range dumps {
		d := openDisk(t, dir, fmt.Sprint(n%2))
		batch := make([]string, each)
		for i := range batch {
			batch[i] = fmt.Sprintf("dump %d item %d", n, i)
		}
		fill(t, d, dlq.ReasonSize, batch...)
		items = append(items, batch...)
		require.NoError(t, d.Close())
	}
	return dir, items
}

func TestReplayURL(t *testing.T) {
	dir, items := backlog(t, 4, 25)
	r := receive(t, nil)
	out := must(t, "replay", dir, "--url", r.URL+"/insert", "--header", "Authorization: Bearer x", "--content-type=text/plain")
	require.Equal(t, "100 items delivered, 1.36KB; 0 set aside in quarantine; 0 items in 0 dumps left\n", out)
	require.Equal(t, items, r.items)
	require.Equal(t, "Bearer x", r.header.Get("Authorization"))
	require.Equal(t, "text/plain", r.header.Get("Content-Type"))
	require.Equal(t, "0 to be restored with 0 items, 0 open, 0 in quarantine; 0B on disk\n", must(t, "ls", dir))
}

func TestReplayOne(t *testing.T) {
	dir, items := backlog(t, 3, 5)
	require.Equal(t, strings.Join(items[5:10], "\n")+"\n", must(t, "replay", dir, "2", "--stdout"))
	require.Equal(t, strings.Join(append(items[:5:5], items[10:]...), "\n")+"\n", must(t, "replay", dir, "--stdout"))
}

func TestReplayStdoutJSON(t *testing.T) {
	dir, _ := backlog(t, 1, 2)
	code, out, stderr := dlqRun(t, "replay", dir, "--stdout", "--json")
	require.Zero(t, code)
	require.Equal(t, []string{
		`{"dump":"00000000000000000001.dump","version":"0","bytes":13,"text":"dump 0 item 0"}`,
		`{"dump":"00000000000000000001.dump","version":"0","bytes":13,"text":"dump 0 item 1"}`, "",
	}, strings.Split(out, "\n"))
	require.Contains(t, stderr, `"delivered": 2`)
}

func TestReplayStdoutToFile(t *testing.T) {
	dir, items := backlog(t, 2, 3)
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	require.NoError(t, err)
	a := &app{out: f, err: io.Discard}
	require.Zero(t, a.run(t.Context(), []string{"replay", dir, "--stdout"}))
	require.NoError(t, f.Close())
	b, err := os.ReadFile(f.Name())
	require.NoError(t, err)
	require.Equal(t, strings.Join(items, "\n")+"\n", string(b))
}

// An interrupt at any item: what was delivered is noted, and the next run delivers the rest, so that each comes once.
func TestReplayInterrupted(t *testing.T) {
	dir, items := backlog(t, 3, 20)
	at, interrupt := 0, func() {}
	r := receive(t, func(n int, _ string) int {
		if n == at {
			interrupt()
		}
		return http.StatusOK
	})
	for at = range len(items) - 1 {
		if at%7 > 0 { // not after each
			continue
		}
		ctx, cancel := context.WithCancel(t.Context())
		interrupt = cancel
		var out bytes.Buffer
		a := &app{out: &out, err: io.Discard}
		require.Equal(t, exitFault, a.run(ctx, []string{"replay", dir, "--url", r.URL}), out.String())
		require.Contains(t, out.String(), "ended early: interrupted")
		require.Equal(t, items[:at+1], r.items)
		require.Contains(t, must(t, "ls", dir), fmt.Sprintf("with %d items", len(items)-at-1))
		cancel()
	}
	at = -1
	must(t, "replay", dir, "--url", r.URL)
	require.Equal(t, items, r.items)
}

func TestReplayRetries(t *testing.T) {
	dir, items := backlog(t, 2, 3)
	r := receive(t, func(n int, _ string) int {
		if n >= 1 && n < 21 {
			return http.StatusServiceUnavailable
		}
		return http.StatusOK
	})
	code, out, stderr := dlqRun(t, "replay", dir, "--url", r.URL, "--retry=1ms")
	require.Zero(t, code, out)
	require.ElementsMatch(t, items, r.items, "after a failure the dumps may come in any order")
	require.Equal(t, 1, strings.Count(stderr, "\n"+"delivered again"), stderr)
	require.Equal(t, 1, strings.Count(stderr, "not delivered"), stderr)
	require.Contains(t, stderr, `answered 503 Service Unavailable: "because\x1b[31m"`)
}

// A server that takes nothing, or that is not the one: nothing is lost, and nothing is set aside.
func TestReplayGivesUp(t *testing.T) {
	for _, status := range []int{http.StatusFound, http.StatusBadRequest, http.StatusNotFound, http.StatusInternalServerError} {
		dir, items := backlog(t, 2, 3)
		r := receive(t, func(int, string) int { return status })
		code, out, _ := dlqRun(t, "replay", dir, "--url", r.URL, "--retry=1ms", "--give-up=20ms")
		require.Equal(t, exitFault, code)
		require.Contains(t, out, "ended early: nothing was delivered for 20ms")
		require.Contains(t, out, fmt.Sprint(status))
		require.Contains(t, out, "0 items delivered, 0B; 0 set aside in quarantine; 6 items in 2 dumps left")
		require.Equal(t, strings.Join(items, "\n")+"\n", must(t, "replay", dir, "--stdout"))
	}
}

// An item that the server refuses is set aside with its version and the reason, once the server took another.
func TestReplayPoison(t *testing.T) {
	dir, items := backlog(t, 2, 3)
	r := receive(t, func(_ int, item string) int {
		if item == items[4] {
			return http.StatusUnprocessableEntity
		}
		return http.StatusOK
	})
	code, out, stderr := dlqRun(t, "replay", dir, "--url", r.URL)
	require.Equal(t, exitFault, code)
	require.Equal(t, "5 items delivered, 65B; 1 set aside in quarantine; 0 items in 0 dumps left\n", out)
	require.Contains(t, stderr, "set items aside")
	require.Equal(t, append(items[:4:4], items[5]), r.items)
	require.Equal(t, items[4]+"\n", must(t, "cat", dir, "--raw", "3"))
	require.Regexp(t, `answered 422 Unprocessable Entity.*from dump 2.* 1 +1 +13B`, must(t, "quarantine", "ls", dir))
}

func TestReplayDamaged(t *testing.T) {
	dir := mixed(t)
	code, out, stderr := dlqRun(t, "replay", dir, "--stdout")
	require.Equal(t, exitFault, code)
	require.Equal(t, "one\ntwo\nthree\n{\"level\":\"info\",\"n\":12345678901234567890}\n\xff\x00\ntwo\nlines\nbeing written\n", out)
	require.Contains(t, stderr, "1 damaged dumps are in quarantine")
	require.Contains(t, must(t, "quarantine", "ls", dir), "what could be read was restored")
}

// brokenWriter fails after so many writes.
type brokenWriter struct {
	bytes.Buffer
	left int
}

func (w *brokenWriter) Write(p []byte) (int, error) {
	if w.left--; w.left < 0 {
		return 0, errors.New("broken pipe")
	}
	return w.Buffer.Write(p)
}

func TestReplayBrokenPipe(t *testing.T) {
	dir, items := backlog(t, 2, 3)
	out, stderr := &brokenWriter{left: 4}, &bytes.Buffer{}
	a := &app{out: out, err: stderr}
	require.Equal(t, exitFault, a.run(t.Context(), []string{"replay", dir, "--stdout"}))
	require.Contains(t, stderr.String(), "ended early: broken pipe")
	rest := must(t, "replay", dir, "--stdout")
	require.Equal(t, strings.Join(items, "\n")+"\n", out.String()+rest)
}

func TestReplayRate(t *testing.T) {
	dir, _ := backlog(t, 1, 30)
	start := time.Now()
	must(t, "replay", dir, "--stdout", "--rate=200")
	require.Greater(t, time.Since(start), 40*time.Millisecond) // 20 at once, and then one each 5 ms
}

func TestReplayOnTerminal(t *testing.T) {
	dir, _ := backlog(t, 1, 30)
	var stderr bytes.Buffer
	a := &app{out: io.Discard, err: &stderr, terminal: true}
	require.Zero(t, a.run(t.Context(), []string{"replay", dir, "--stdout", "--rate=200"}))
	require.Contains(t, stderr.String(), "replay ... done! [30 in")
}

package vlreceiver_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
)

const patience = 10 * time.Second

// send posts one good line. The error is that of the client.
func send(ctx context.Context, s *vlreceiver.Server) (status int, header http.Header, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL()+"/insert/jsonline", strings.NewReader(good))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/stream+json")
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, resp.Header, errors.Join(err, resp.Body.Close())
}

// sendInBackground returns when the request has come. The channel brings the client's error.
func sendInBackground(ctx context.Context, t *testing.T, s *vlreceiver.Server) <-chan error {
	t.Helper()
	come := s.RequestCount() + 1
	sent := make(chan error, 1)
	go func() {
		_, _, err := send(ctx, s)
		sent <- err
	}()
	require.NoError(t, s.WaitRequests(ctx, come))
	return sent
}

func requireSent(t *testing.T, s *vlreceiver.Server, status int) {
	t.Helper()
	got, _, err := send(t.Context(), s)
	require.NoError(t, err)
	require.Equal(t, status, got)
}

func waitCount(t *testing.T, s *vlreceiver.Server, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, s.WaitCount(ctx, vlreceiver.Tenant{}, n))
}

func lastRequest(s *vlreceiver.Server) vlreceiver.Request {
	all := s.Requests()
	return all[len(all)-1]
}

func TestFaultStatus(t *testing.T) {
	s := start(t, vlreceiver.Config{})
	s.Fail(
		vlreceiver.Fault{Status: http.StatusServiceUnavailable, RetryAfter: "3", Body: "busy", Times: 2},
		vlreceiver.Fault{Status: http.StatusOK, Times: 1},
		vlreceiver.Fault{Status: http.StatusRequestEntityTooLarge},
	)
	for range 2 {
		status, header, err := send(t.Context(), s)
		require.NoError(t, err)
		require.Equal(t, http.StatusServiceUnavailable, status)
		require.Equal(t, "3", header.Get("Retry-After"))
	}
	requireSent(t, s, http.StatusOK)
	for range 3 {
		requireSent(t, s, http.StatusRequestEntityTooLarge)
	}
	status, body := do(t, http.MethodGet, s.URL()+"/health", nil, "")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "OK", body)
	require.Zero(t, s.Count(vlreceiver.Tenant{}))

	s.Fail()
	requireSent(t, s, http.StatusOK)
	require.Equal(t, 1, s.Count(vlreceiver.Tenant{}))
	require.Equal(t, 7, s.RequestCount())
	require.Equal(t, http.StatusServiceUnavailable, s.Requests()[0].Status)
}

func TestFaultSlow(t *testing.T) {
	s := start(t, vlreceiver.Config{})
	s.Fail(vlreceiver.Fault{Kind: vlreceiver.FaultSlow, Delay: time.Hour})
	answered := sendInBackground(t.Context(), t, s)
	waitCount(t, s, 1)
	require.Empty(t, answered)
	s.Fail()
	require.NoError(t, <-answered)

	s.Fail(vlreceiver.Fault{Kind: vlreceiver.FaultSlow, Delay: time.Millisecond})
	requireSent(t, s, http.StatusOK)
	require.Equal(t, 2, s.Count(vlreceiver.Tenant{}))
}

func TestFaultCut(t *testing.T) {
	s := start(t, vlreceiver.Config{})
	s.Fail(vlreceiver.Fault{Kind: vlreceiver.FaultCut, Times: 1})
	_, _, err := send(t.Context(), s)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	waitCount(t, s, 1)
	requireSent(t, s, http.StatusOK)
	require.Equal(t, 2, s.Count(vlreceiver.Tenant{}))
	require.Zero(t, s.Requests()[0].Status)
	require.Equal(t, 1, s.Requests()[0].Stored)
}

func TestFaultReset(t *testing.T) {
	s := start(t, vlreceiver.Config{})
	s.Fail(vlreceiver.Fault{Kind: vlreceiver.FaultReset, Times: 1})
	_, _, err := send(t.Context(), s)
	require.ErrorIs(t, err, syscall.ECONNRESET)
	requireSent(t, s, http.StatusOK)
	require.Equal(t, 1, s.Count(vlreceiver.Tenant{}))
}

func TestFaultHang(t *testing.T) {
	s := start(t, vlreceiver.Config{})
	s.Fail(vlreceiver.Fault{Kind: vlreceiver.FaultHang})
	ctx, giveUp := context.WithCancel(t.Context())
	sent := sendInBackground(ctx, t, s)
	giveUp()
	require.ErrorIs(t, <-sent, context.Canceled)

	t.Run("healing breaks the connection", func(t *testing.T) {
		sent := sendInBackground(t.Context(), t, s)
		s.Fail()
		require.Error(t, <-sent)
	})
	require.Zero(t, s.Count(vlreceiver.Tenant{}))
	requireSent(t, s, http.StatusOK)
	require.Equal(t, 1, s.Count(vlreceiver.Tenant{}))
}

func TestFaultLate(t *testing.T) {
	s := start(t, vlreceiver.Config{})
	s.Fail(vlreceiver.Fault{Kind: vlreceiver.FaultLate, Delay: time.Millisecond})

	// The request counts as come before its body is read, so one that gives up at once may come to nothing.
	ctx, giveUp := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer giveUp()
	_, _, err := send(ctx, s)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	waitCount(t, s, 1)

	t.Run("healing answers", func(t *testing.T) {
		sent := sendInBackground(t.Context(), t, s)
		s.Fail()
		require.NoError(t, <-sent)
		require.Equal(t, 2, s.Count(vlreceiver.Tenant{}))
	})
}

func TestDownAndUp(t *testing.T) {
	s := start(t, vlreceiver.Config{})
	url := s.URL()
	requireSent(t, s, http.StatusOK)

	require.NoError(t, s.Down())
	require.NoError(t, s.Down())
	_, _, err := send(t.Context(), s)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)

	require.NoError(t, s.Up())
	require.NoError(t, s.Up())
	require.Equal(t, url, s.URL())
	requireSent(t, s, http.StatusOK)
	require.Len(t, s.Rows(vlreceiver.Tenant{}), 2)
}

func TestDownResetsConnections(t *testing.T) {
	s := start(t, vlreceiver.Config{})
	s.Fail(vlreceiver.Fault{Kind: vlreceiver.FaultHang})
	sent := sendInBackground(t.Context(), t, s)
	require.NoError(t, s.Down())
	require.ErrorIs(t, <-sent, syscall.ECONNRESET)
}

func TestRestart(t *testing.T) {
	for _, graceful := range []bool{true, false} {
		s := start(t, vlreceiver.Config{})
		requireSent(t, s, http.StatusOK)
		require.NoError(t, s.Restart(graceful))
		requireSent(t, s, http.StatusOK)
		require.Equal(t, 2, s.Count(vlreceiver.Tenant{}))
		_, metrics := do(t, http.MethodGet, s.URL()+"/metrics", nil, "")
		require.Contains(t, metrics, "vl_rows_ingested_total{type=\"jsonline\"} 1\n")
	}
}

// A graceful restart waits for a request whose body is on the way.
func TestGracefulRestartAnswers(t *testing.T) {
	s := start(t, vlreceiver.Config{})
	body, feed := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+"/insert/jsonline", body)
	require.NoError(t, err)
	answered := make(chan error, 1)
	go func() {
		resp, err := client.Do(req)
		if err == nil {
			err = resp.Body.Close()
		}
		answered <- err
	}()
	_, err = io.WriteString(feed, good)
	require.NoError(t, err)
	require.NoError(t, s.WaitRequests(t.Context(), 1))
	restarted := make(chan error, 1)
	go func() { restarted <- s.Restart(true) }()
	_, err = io.WriteString(feed, good)
	require.NoError(t, err)
	require.NoError(t, feed.Close())
	require.NoError(t, <-answered)
	require.NoError(t, <-restarted)
	require.Equal(t, 2, s.Count(vlreceiver.Tenant{}))
}

func TestCloseReleasesHangingRequests(t *testing.T) {
	for _, kind := range []vlreceiver.FaultKind{vlreceiver.FaultHang, vlreceiver.FaultLate, vlreceiver.FaultSlow} {
		s := start(t, vlreceiver.Config{})
		s.Fail(vlreceiver.Fault{Kind: kind, Delay: time.Hour})
		sent := sendInBackground(t.Context(), t, s)
		began := time.Now()
		require.NoError(t, s.Close())
		require.Less(t, time.Since(began), patience/2)
		require.Error(t, <-sent)
		require.ErrorIs(t, s.Up(), vlreceiver.ErrClosed)
	}
}

func TestReadOnly(t *testing.T) {
	s := start(t, vlreceiver.Config{})
	s.SetReadOnly(true)
	status, header, err := send(t.Context(), s)
	require.NoError(t, err)
	require.Equal(t, http.StatusTooManyRequests, status)
	require.Empty(t, header.Get("Retry-After"))
	_, metrics := do(t, http.MethodGet, s.URL()+"/metrics", nil, "")
	require.Contains(t, metrics, "vl_storage_is_read_only{path=\"memory\"} 1\n")
	s.SetReadOnly(false)
	requireSent(t, s, http.StatusOK)
}

func TestFaultOfSomeRequests(t *testing.T) {
	s := start(t, vlreceiver.Config{})
	post := func(encoding, body string) int {
		status, _ := do(t, http.MethodPost, s.URL()+"/insert/jsonline", map[string]string{"Content-Encoding": encoding}, body)
		return status
	}
	s.Fail(
		vlreceiver.Fault{Kind: vlreceiver.FaultStatus, Status: 400, Holding: "poison", Times: 2},
		vlreceiver.Fault{Kind: vlreceiver.FaultStatus, Status: 413, Least: 1000},
	)
	require.Equal(t, 200, post("identity", good))
	require.Equal(t, 400, post("gzip", gzipped(t, good+`{"_msg":"poison"}`)))
	require.Equal(t, 413, post("identity", strings.Repeat(good, 1000)))
	require.Equal(t, 400, post("identity", `{"_msg":"poison"}`))
	require.Equal(t, 200, post("gzip", gzipped(t, good+`{"_msg":"poison"}`)), "the fault is used up")
	waitCount(t, s, 3)
}

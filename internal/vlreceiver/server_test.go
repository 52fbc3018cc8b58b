package vlreceiver_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
)

func TestRows(t *testing.T) {
	s := start(t, vlreceiver.Config{})
	at := time.Now().UTC()
	body := fmt.Sprintf(`{"_msg":"a","_time":%d,"h":"x"}`+"\n"+`{"_msg":"b","_time":%d,"h":"y"}`, at.UnixNano(), at.UnixNano())
	header := map[string]string{"AccountID": "3", "ProjectID": "4"}
	status, _ := do(t, http.MethodPost, s.URL()+"/insert/jsonline?_stream_fields=h", header, body)
	require.Equal(t, http.StatusOK, status)
	rows := s.Rows(vlreceiver.Tenant{AccountID: 3, ProjectID: 4})
	for i := range rows {
		require.False(t, rows[i].Stored.Before(at))
		rows[i].Stored = time.Time{}
	}
	require.Equal(t, []vlreceiver.Row{
		{Time: at, Stream: `{h="x"}`, Fields: map[string]string{"_msg": "a", "h": "x"}},
		{Time: at, Stream: `{h="y"}`, Fields: map[string]string{"_msg": "b", "h": "y"}},
	}, rows)
	require.Empty(t, s.Rows(vlreceiver.Tenant{}))

	require.Equal(t, 1, s.RequestCount())
	r := lastRequest(s)
	require.Equal(t, "/insert/jsonline", r.Path)
	require.Equal(t, "h", r.Query.Get("_stream_fields"))
	require.Equal(t, "3", r.Header.Get("AccountID"))
	require.Equal(t, int64(len(body)), r.WireBytes)
	require.Equal(t, int64(len(body)), r.BodyBytes)
	require.Equal(t, 2, r.Lines)
	require.Equal(t, 2, r.Stored)
	require.Equal(t, http.StatusOK, r.Status)
}

func TestCompressedRequestIsCounted(t *testing.T) {
	s := start(t, vlreceiver.Config{})
	plain := strings.Repeat(good, 100)
	packed := gzipped(t, plain)
	do(t, http.MethodPost, s.URL()+"/insert/jsonline", map[string]string{"Content-Encoding": "gzip"}, packed)
	r := lastRequest(s)
	require.Equal(t, int64(len(packed)), r.WireBytes)
	require.Equal(t, int64(len(plain)), r.BodyBytes)
	require.Equal(t, 100, r.Lines)
}

func TestRequestsKeepsTheLast(t *testing.T) {
	s := start(t, vlreceiver.Config{KeepRequests: 3})
	for i := range 5 {
		do(t, http.MethodPost, fmt.Sprintf("%s/insert/jsonline?i=%d", s.URL(), i), nil, good)
	}
	require.Equal(t, 5, s.RequestCount())
	var kept []string
	for _, r := range s.Requests() {
		kept = append(kept, r.Query.Get("i"))
	}
	require.Equal(t, []string{"2", "3", "4"}, kept)
}

func TestCountOnly(t *testing.T) {
	s := start(t, vlreceiver.Config{CountOnly: true})
	do(t, http.MethodPost, s.URL()+"/insert/jsonline", nil, good+"bad\n"+good)
	require.Equal(t, 2, s.Count(vlreceiver.Tenant{}))
	require.Empty(t, s.Rows(vlreceiver.Tenant{}))
	status, _ := query(t, s.URL(), nil, "*")
	require.Equal(t, http.StatusBadRequest, status)
	_, body := query(t, s.URL(), nil, "* | stats count() n")
	require.Equal(t, countAnswer(2), body)
}

func TestQuery(t *testing.T) {
	s := start(t, vlreceiver.Config{})
	now := time.Now().Unix()
	for i := range 3 {
		do(t, http.MethodPost, s.URL()+"/insert/jsonline", nil, fmt.Sprintf(`{"_msg":"%d","_time":%d}`, i, now-int64(i)))
	}
	_, body := do(t, http.MethodGet, s.URL()+"/select/logsql/query?query=*&limit=2", nil, "")
	lines := strings.Split(strings.TrimSpace(body), "\n")
	require.Len(t, lines, 2, "the newest two")
	require.Contains(t, lines[0], `"_msg":"1"`)
	require.Contains(t, lines[1], `"_msg":"0"`)

	at := func(seconds int64) string { return time.Unix(seconds, 0).UTC().Format(time.RFC3339) }
	for _, c := range []struct {
		from, to int64
		value    string
		rows     int
	}{{now - 2, now, "1", 1}, {now - 2, now, "9", 0}, {now, now, "1", 0}, {now - 2, now - 2, "1", 0}} {
		_, body = query(t, s.URL(), nil, fmt.Sprintf(`_time:[%s, %s] _msg:="%s"`, at(c.from), at(c.to), c.value))
		require.Equal(t, c.rows, strings.Count(body, "\n"), "%+v", c)
	}

	for _, q := range []string{"", "error", `_time:[a,b]+x:="1"`, "* | fields x", "* | stats count()", "*&start=1h", "*&limit=x"} {
		status, body := do(t, http.MethodGet, s.URL()+"/select/logsql/query?query="+strings.ReplaceAll(q, " ", "+"), nil, "")
		require.Equal(t, http.StatusBadRequest, status, q)
		require.NotEmpty(t, body, q)
	}
}

func TestAuth(t *testing.T) {
	s := start(t, vlreceiver.Config{Auth: vlreceiver.Auth{Username: "u", Password: "p", Bearer: "b"}})
	for _, c := range []struct {
		authorization string
		status        int
	}{
		{"", http.StatusUnauthorized},
		{"Basic dTpw", http.StatusOK},
		{"Basic dTpx", http.StatusUnauthorized},
		{"Bearer b", http.StatusOK},
		{"Bearer c", http.StatusUnauthorized},
	} {
		header := map[string]string{"Authorization": c.authorization}
		status, _ := do(t, http.MethodPost, s.URL()+"/insert/jsonline", header, good)
		require.Equal(t, c.status, status, c.authorization)
		require.Equal(t, c.status, lastRequest(s).Status)
		status, _ = do(t, http.MethodGet, s.URL()+"/metrics", header, "")
		require.Equal(t, c.status, status, c.authorization)
	}
	status, _ := do(t, http.MethodGet, s.URL()+"/health", nil, "")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, 2, s.Count(vlreceiver.Tenant{}))
}

func TestConfigurationFaults(t *testing.T) {
	t.Run("disabled", func(t *testing.T) {
		s := start(t, vlreceiver.Config{DisableInsert: true})
		status, body := do(t, http.MethodPost, s.URL()+"/insert/jsonline", nil, good)
		require.Equal(t, http.StatusBadRequest, status)
		require.Contains(t, body, "are disabled")
	})
	t.Run("prefix", func(t *testing.T) {
		s := start(t, vlreceiver.Config{PathPrefix: "/logs"})
		status, body := do(t, http.MethodPost, "http://"+s.Addr()+"/insert/jsonline", nil, good)
		require.Equal(t, http.StatusBadRequest, status)
		require.Contains(t, body, "missing -http.pathPrefix")
		status, _ = do(t, http.MethodPost, s.URL()+"/insert/jsonline", nil, good)
		require.Equal(t, http.StatusOK, status)
	})
	t.Run("other protocols", func(t *testing.T) {
		s := start(t, vlreceiver.Config{})
		status, _ := do(t, http.MethodPost, s.URL()+"/insert/elasticsearch/_bulk", nil, good)
		require.Equal(t, http.StatusNotImplemented, status)
	})
	t.Run("taken port", func(t *testing.T) {
		_, err := vlreceiver.Start(vlreceiver.Config{Addr: start(t, vlreceiver.Config{}).Addr()})
		require.Error(t, err)
	})
}

func TestMetrics(t *testing.T) {
	s := start(t, vlreceiver.Config{})
	do(t, http.MethodPost, s.URL()+"/insert/jsonline", nil, good+"bad\n"+`{"_time":1}`+"\n"+manyFields(1001)+"\n"+
		strings.Repeat("x", 300_000)+"\n")
	_, metrics := do(t, http.MethodGet, s.URL()+"/metrics", nil, "")
	for _, line := range []string{
		`vl_rows_ingested_total{type="jsonline"} 3`, // before drops
		`vl_http_errors_total{path="/insert/jsonline"} 1`,
		`vl_rows_dropped_total{reason="too_many_fields"} 1`,
		`vl_rows_dropped_total{reason="too_small_timestamp"} 1`,
		`vl_too_long_lines_skipped_total 1`,
		`vl_storage_is_read_only{path="memory"} 0`,
	} {
		require.Contains(t, metrics, line+"\n")
	}
}

func TestWaitCount(t *testing.T) {
	s := start(t, vlreceiver.Config{})
	var tenant vlreceiver.Tenant
	require.NoError(t, s.WaitCount(t.Context(), tenant, 0))

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, s.WaitCount(ctx, tenant, 1), context.Canceled)

	var waits sync.WaitGroup
	for n := range 20 {
		waits.Go(func() {
			if err := s.WaitCount(t.Context(), tenant, n); err != nil {
				t.Error(err)
			}
		})
	}
	for range 20 {
		waits.Go(func() { do(t, http.MethodPost, s.URL()+"/insert/jsonline", nil, good) })
	}
	waits.Wait()

	closed := make(chan error, 1)
	go func() { closed <- s.WaitCount(t.Context(), tenant, 1000) }()
	require.NoError(t, s.Close())
	require.ErrorIs(t, <-closed, vlreceiver.ErrClosed)
	require.Equal(t, 20, s.Count(tenant))
}

func TestMemory(t *testing.T) {
	s := start(t, vlreceiver.Config{})
	const lines = 100_000
	body := benchmarkBody(lines)
	do(t, http.MethodPost, s.URL()+"/insert/jsonline?_stream_fields=host", nil, good)
	before := heap()
	do(t, http.MethodPost, s.URL()+"/insert/jsonline?_stream_fields=host", nil, body)
	perRow := float64(heap()-before) / lines
	runtime.KeepAlive(body)
	t.Logf("%.0f bytes of heap a row, %d bytes a line", perRow, len(body)/lines)
	require.Less(t, perRow, 200.0)
	n := 0
	for row := range s.All(vlreceiver.Tenant{}) {
		if n++; n == lines {
			require.Equal(t, `{host="edge-7"}`, row.Stream)
			require.Len(t, row.Fields, 6)
		}
	}
	require.Equal(t, lines+1, n)
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// benchmarkBody has lines of about 200 bytes.
func benchmarkBody(lines int) string {
	var b strings.Builder
	now := time.Now().UTC()
	for i := range lines {
		fmt.Fprintf(&b, `{"_time":%q,"_msg":"connection from 10.0.%d.%d closed after %d ms","host":"edge-7","app":"gateway",`+
			`"severity":"info","pid":%d,"topic":"plant/hall-4/press/temperature"}`+"\n",
			now.Add(time.Duration(i)).Format(time.RFC3339Nano), i>>8&255, i&255, i, 4000+i)
	}
	return b.String()
}

// BenchmarkIngest measures the server alone: handler to counted or stored rows, without client and socket.
func BenchmarkIngest(b *testing.B) {
	const lines = 1000
	body := benchmarkBody(lines)
	b.Logf("%d bytes a line", len(body)/lines)
	for _, countOnly := range []bool{true, false} {
		b.Run(fmt.Sprintf("countonly=%t", countOnly), func(b *testing.B) {
			s := start(b, vlreceiver.Config{CountOnly: countOnly})
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/insert/jsonline?_stream_fields=host", strings.NewReader(body))
				w := httptest.NewRecorder()
				s.Handler().ServeHTTP(w, r)
				if w.Code != http.StatusOK {
					b.Fatal(w.Code)
				}
			}
			b.ReportMetric(float64(b.N)*lines/b.Elapsed().Seconds(), "lines/s")
		})
	}
}

// BenchmarkHTTP measures client, socket and server together.
func BenchmarkHTTP(b *testing.B) {
	const lines = 1000
	body := benchmarkBody(lines)
	s := start(b, vlreceiver.Config{CountOnly: true})
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	c := &http.Client{Transport: transport}
	for b.Loop() {
		req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, s.URL()+"/insert/jsonline", strings.NewReader(body))
		require.NoError(b, err)
		resp, err := c.Do(req)
		require.NoError(b, err)
		require.NoError(b, resp.Body.Close())
	}
	b.ReportMetric(float64(b.N)*lines/b.Elapsed().Seconds(), "lines/s")
}

package victorialogs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf/config"

	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
)

// serve runs a real HTTP server until the end of the test.
func serve(tb testing.TB, handler http.HandlerFunc) *httptest.Server {
	tb.Helper()
	return startServer(tb, handler, (*httptest.Server).Start)
}

func serveTLS(tb testing.TB, handler http.HandlerFunc) *httptest.Server {
	tb.Helper()
	return startServer(tb, handler, (*httptest.Server).StartTLS)
}

func startServer(tb testing.TB, handler http.HandlerFunc, run func(*httptest.Server)) *httptest.Server {
	tb.Helper()
	s := httptest.NewUnstartedServer(handler)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	run(s)
	tb.Cleanup(s.Close)
	return s
}

func take(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.WriteHeader(http.StatusOK)
}

// listen accepts connections and gives each to f, which need not close it.
func listen(t *testing.T, f func(net.Conn)) (address string) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var all []net.Conn
		for {
			conn, err := l.Accept()
			if err != nil {
				break
			}
			all = append(all, conn)
			f(conn)
		}
		for _, conn := range all {
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		<-done
	})
	return l.Addr().String()
}

func receiver(tb testing.TB, cfg vlreceiver.Config, faults ...vlreceiver.Fault) *vlreceiver.Server {
	tb.Helper()
	s, err := vlreceiver.Start(cfg)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, s.Close()) })
	s.Fail(faults...)
	return s
}

// attempt sends one row over real sockets.
func attempt(t *testing.T, change ...func(*VictoriaLogs)) (*rig, error) {
	t.Helper()
	r := start(t, nil, change...)
	line, err := r.encoder.appendLine(nil, event(0), time.Now())
	require.NoError(t, err)
	b := &batch{lines: line, count: 1, opened: time.Now()}
	r.delivery.encode(b)
	return r, r.delivery.attempt(b)
}

func at(url string) func(*VictoriaLogs) { return func(v *VictoriaLogs) { v.URL = url } }

func TestFailures(t *testing.T) {
	soon := func(v *VictoriaLogs) { v.Timeout = duration(300 * time.Millisecond) }
	const closedPort = "127.0.0.1:1"
	stranger := serveTLS(t, take)
	proxy := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusProxyAuthRequired) })
	readOnly := receiver(t, vlreceiver.Config{})
	readOnly.SetReadOnly(true)
	smtp := func(c net.Conn) {
		_, _ = c.Read(make([]byte, 1)) // so that the request is on its way
		_, _ = io.WriteString(c, "220 mail.example.org ESMTP\r\n")
	}

	tests := []struct {
		name   string
		change []func(*VictoriaLogs)
		kind   error
		cause  func(*testing.T, error)
	}{
		{
			"closed port", with(at("http://" + closedPort)),
			ErrCannotConnect, is(syscall.ECONNREFUSED),
		},
		{
			"closed port of the proxy", with(func(v *VictoriaLogs) { v.HTTPProxyURL = "http://" + closedPort }),
			ErrCannotConnect, is(syscall.ECONNREFUSED),
		},
		{
			"https to an http server", with(at("https://" + serve(t, take).Listener.Addr().String())),
			ErrConfiguration, nil,
		},
		{
			"https to a server that is not even http", with(at("https://" + listen(t, smtp))),
			ErrConfiguration, as[tls.RecordHeaderError],
		},
		{
			"http to a TLS port", with(at("http://" + stranger.Listener.Addr().String())),
			ErrConfiguration, nil,
		},
		{
			"unknown authority", with(at(stranger.URL)),
			ErrConfiguration, as[x509.UnknownAuthorityError],
		},
		{
			"certificate of another host", with(at(stranger.URL), trust(t, stranger), func(v *VictoriaLogs) { v.ServerName = "elsewhere.test" }),
			ErrConfiguration, as[x509.HostnameError],
		},
		{
			"TLS handshake without an answer", with(soon, at("https://"+listen(t, func(net.Conn) {}))),
			ErrCannotConnect, nil, // nothing was sent
		},
		{
			"TLS handshake cut off", with(at("https://" + listen(t, func(c net.Conn) { _ = c.Close() }))),
			ErrCannotConnect, nil, // nothing was sent
		},
		{
			"proxy that refuses to connect", with(at("https://"+closedPort), func(v *VictoriaLogs) { v.HTTPProxyURL = proxy.URL }),
			ErrCannotConnect, nil, // nothing was sent
		},
		{
			"connection cut in the answer", with(at(receiver(t, vlreceiver.Config{}, vlreceiver.Fault{Kind: vlreceiver.FaultCut}).URL())),
			ErrCannotSend, is(io.ErrUnexpectedEOF),
		},
		{
			"connection reset", with(at(receiver(t, vlreceiver.Config{}, vlreceiver.Fault{Kind: vlreceiver.FaultReset}).URL())),
			ErrCannotSend, nil,
		},
		{
			"no answer in time", with(soon, at(receiver(t, vlreceiver.Config{}, vlreceiver.Fault{Kind: vlreceiver.FaultHang}).URL())),
			ErrCannotSend, is(context.DeadlineExceeded),
		},
		{
			"no HTTP answer", with(at("http://" + listen(t, smtp))),
			ErrCannotSend, nil,
		},
		{
			"secret that cannot be read", with(func(v *VictoriaLogs) { v.BearerToken = config.NewSecret([]byte("@{nowhere:token}")) }),
			ErrConfiguration, nil,
		},
		{
			"header value that HTTP does not allow", with(at(serve(t, take).URL), headers("X-Key", "two\nlines")),
			ErrConfiguration, nil,
		},
		{
			"read-only server", with(at(readOnly.URL())),
			ErrRefused, nil,
		},
		{
			"credentials are missing", with(at(receiver(t, vlreceiver.Config{Auth: vlreceiver.Auth{Bearer: "x"}}).URL())),
			ErrConfiguration, nil,
		},
		{
			"path prefix is missing", with(at("http://" + receiver(t, vlreceiver.Config{PathPrefix: "/logs"}).Addr())),
			ErrConfiguration, nil,
		},
		{
			"insert is disabled", with(at(receiver(t, vlreceiver.Config{DisableInsert: true}).URL())),
			ErrConfiguration, nil,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := attempt(t, tt.change...)
			requireKind(t, err, tt.kind)
			if tt.cause != nil {
				tt.cause(t, err)
			}
		})
	}
}

// with is a list of changes of the options.
func with(change ...func(*VictoriaLogs)) []func(*VictoriaLogs) { return change }

func is(want error) func(*testing.T, error) {
	return func(t *testing.T, err error) {
		t.Helper()
		require.ErrorIs(t, err, want)
	}
}

func as[T error](t *testing.T, err error) {
	t.Helper()
	var target T
	require.ErrorAs(t, err, &target)
}

// requireKind wants a Failure of exactly one kind.
func requireKind(t *testing.T, err, kind error) {
	t.Helper()
	require.Error(t, err)
	var failure *Failure
	require.ErrorAs(t, err, &failure)
	require.ErrorIs(t, err, kind)
	for _, other := range []error{ErrCannotConnect, ErrCannotSend, ErrRefused, ErrConfiguration, ErrBadData} {
		require.Equal(t, other == kind, errors.Is(err, other), "%v is also %v", err, other) //nolint:errorlint // kinds are compared themselves
	}
	require.NotContains(t, err.Error(), "\n")
}

func TestAnswers(t *testing.T) {
	const bad = `cannot process jsonline request; error: cannot parse json-encoded line`
	tests := []struct {
		status int
		text   string
		header string // Retry-After
		kind   error  // nil: taken
		after  time.Duration
	}{
		{status: 200},
		{status: 204},
		{status: 202, kind: ErrConfiguration},
		{status: 301, kind: ErrConfiguration},
		{status: 302, kind: ErrConfiguration},
		{status: 307, kind: ErrConfiguration},
		{status: 308, kind: ErrConfiguration},
		{status: 400, text: bad, kind: ErrBadData},
		{status: 400, text: "unsupported path requested", kind: ErrConfiguration},
		{status: 400, text: "requests to /insert are disabled", kind: ErrConfiguration},
		{status: 400, text: `cannot parse "x" as uint32`, kind: ErrConfiguration},
		{status: 401, kind: ErrConfiguration},
		{status: 403, text: "<html>\n<body>no</body>\n</html>", kind: ErrConfiguration},
		{status: 404, kind: ErrConfiguration},
		{status: 405, kind: ErrConfiguration},
		{status: 408, kind: ErrRefused},
		{status: 413, kind: ErrBadData},
		{status: 429, header: "7", kind: ErrRefused, after: 7 * time.Second},
		{status: 429, kind: ErrRefused},
		{status: 500, kind: ErrRefused},
		{status: 502, kind: ErrRefused},
		{status: 503, header: "120", kind: ErrRefused, after: 2 * time.Minute},
		{status: 504, kind: ErrRefused},
	}
	for _, tt := range tests {
		t.Run(strconv.Itoa(tt.status)+" "+tt.text, func(t *testing.T) {
			others := 0
			elsewhere := serve(t, func(http.ResponseWriter, *http.Request) { others++ })
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("Location", elsewhere.URL)
				if tt.header != "" {
					w.Header().Set("Retry-After", tt.header)
				}
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.text)
			})
			_, err := attempt(t, at(s.URL))
			require.Zero(t, others, "a redirect is not followed")
			if tt.kind == nil {
				require.NoError(t, err)
				return
			}
			requireKind(t, err, tt.kind)
			var failure *Failure
			require.ErrorAs(t, err, &failure)
			require.Equal(t, tt.status, failure.Status)
			require.Equal(t, tt.after, failure.RetryAfter)
			require.ErrorContains(t, err, strconv.Itoa(tt.status))
		})
	}
}

// The status decides, even if the rest of the answer does not come.
func TestAnswerThatBreaksOff(t *testing.T) {
	for code, kind := range map[int]error{200: nil, 503: ErrRefused} {
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(code)
			_, _ = io.WriteString(w, "begins")
		})
		_, err := attempt(t, at(s.URL))
		require.ErrorIs(t, err, kind)
	}
}

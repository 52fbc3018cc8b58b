package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
)

// selfSigned is a server's, for 127.0.0.1, that nobody trusts.
func selfSigned(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// proxied is the server behind a proxy that changes answers, or takes a request over when it returns true.
func proxied(t *testing.T, s *vlreceiver.Server, take func(http.ResponseWriter, *http.Request) bool, change func(*http.Response)) string {
	t.Helper()
	behind, err := url.Parse(s.URL())
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(behind)
	proxy.ModifyResponse = func(r *http.Response) error {
		if change != nil {
			change(r)
		}
		return nil
	}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if take == nil || !take(w, r) {
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() {
		front.Close()
		proxy.Transport = nil
		http.DefaultTransport.(*http.Transport).CloseIdleConnections() //nolint:errcheck,forcetypeassert // it is one
	})
	return front.URL
}

func TestWriteFaults(t *testing.T) {
	locked := receiver(t, vlreceiver.Config{Auth: vlreceiver.Auth{Username: "me", Password: sesame}})
	open := receiver(t, vlreceiver.Config{PathPrefix: "/logs"})
	disabled := receiver(t, vlreceiver.Config{DisableInsert: true})
	readOnly := receiver(t, vlreceiver.Config{})
	readOnly.SetReadOnly(true)
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.TLS, secure.Config.ErrorLog = selfSigned(t), log.New(io.Discard, "", 0)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	status := func(code int, text string) string {
		return proxied(t, open, func(w http.ResponseWriter, _ *http.Request) bool {
			if code/100 == 3 {
				w.Header().Set("Location", text)
			}
			http.Error(w, text, code)
			return true
		}, nil)
	}
	bare := strings.TrimSuffix(open.URL(), "/logs")
	for name, c := range map[string]struct{ config, text, todo string }{
		"away":            {output("http://" + nobody(t)), "connection refused", "start it, or correct the host and port in url"},
		"no name":         {output("http://logs.invalid"), "logs.invalid", "correct the host in url"},
		"no proxy":        {output("http://logs.invalid", `http_proxy_url = "http://`+nobody(t)+`"`), "proxyconnect", "correct the host and port in http_proxy_url"},
		"no credentials":  {output(locked.URL()), "no credentials): wrong configuration: the server answered 401", "set username and password"},
		"wrong password":  {output(locked.URL(), "username = \"me\"\npassword = \"wrong\""), "401", "set username and password"},
		"wrong token":     {output(locked.URL(), `bearer_token = "`+sesame+`"`), "bearer_token): wrong configuration: the server answered 401", "or bearer_token"},
		"no prefix":       {output(bare), "missing -http.pathPrefix", "with its -http.pathPrefix"},
		"wrong path":      {output(open.URL() + "/nonsense"), "unsupported path", "base URL"},
		"disabled":        {output(disabled.URL()), "are disabled", "without -insert.disable"},
		"disk full there": {output(readOnly.URL()), "429", "make room on the server's disk"},
		"authority":       {output(secure.URL), "unknown authority", "set tls_ca"},
		"TLS to no TLS":   {output("https" + strings.TrimPrefix(open.URL(), "http")), "wrong configuration", "correct the scheme or the port in url"},
		"forbidden":       {output(status(403, "no")), "403", "the right to write there"},
		"not found":       {output(status(404, "no")), "404", "what a proxy before it calls it"},
		"redirected":      {output(status(302, "https://login.invalid/")), "login.invalid", "set url to where VictoriaLogs itself answers"},
		"tenant there":    {output(status(400, `cannot parse "AccountID" as uint32`)), "uint32", "correct account_id and project_id"},
		"too large":       {output(status(413, "no")), "413", "raise the size"},
		"broken":          {output(status(502, "bad gateway")), "502", "see the log of the server"},
	} {
		t.Run(name, func(t *testing.T) {
			got := checked(t, c.config)
			got.failed("write", c.text, c.todo)
			require.Equal(t, skipped, got.step("read").Status)
		})
	}
}

func isQuery(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/select/") }

func TestRead(t *testing.T) {
	s := receiver(t, vlreceiver.Config{})
	answering := func(code int, text string) string {
		return proxied(t, s, func(w http.ResponseWriter, r *http.Request) bool {
			if isQuery(r) {
				http.Error(w, text, code)
			}
			return isQuery(r)
		}, nil)
	}
	for _, code := range []int{400, 401, 403, 404, 405, 501} {
		got := checked(t, output(answering(code, "no")))
		require.Zero(t, got.code, got.out)
		require.Equal(t, skipped, got.step("read").Status)
		require.Contains(t, got.step("read").Text, "written, and not read")
	}
	short := func(to string) result {
		return command(t, "--json", "--timeout", "1s", "--config", file(t, output(to)))
	}
	checked(t, output(answering(200, "<html>log in</html>"))).failed("read", "something else than rows", "set url to VictoriaLogs itself")
	for _, text := range []string{`{"status":"ok"}`, "{}", "null", `{"check_id":"another"}`} {
		checked(t, output(answering(200, text))).failed("read", "none of it has the check_id", "set url to VictoriaLogs itself")
	}
	short(answering(503, "later")).failed("read", "503", "see the server's log")
	s.Fail(vlreceiver.Fault{Status: 200, Times: 1}) // says yes, and stores nothing
	short(s.URL()).failed("read", "is not there after 1s", "whether a proxy sends queries")

	tries := 0
	got := checked(t, output(proxied(t, s, func(w http.ResponseWriter, r *http.Request) bool { // a proxy that starts
		if isQuery(r) {
			tries++
		}
		if isQuery(r) && tries < 3 {
			http.Error(w, "no", http.StatusBadGateway)
			return true
		}
		return false
	}, nil)))
	require.Equal(t, ok, got.step("read").Status, got.out)
}

func TestClock(t *testing.T) {
	s := receiver(t, vlreceiver.Config{})
	at := func(off time.Duration) string {
		return proxied(t, s, nil, func(r *http.Response) { r.Header.Set("Date", time.Now().Add(off).UTC().Format(http.TimeFormat)) })
	}
	checked(t, output(at(-time.Hour))).failed("clock", "ahead of the server's", "dropped there without a word")
	checked(t, output(at(8*24*time.Hour))).failed("clock", "behind the server's", "-retentionPeriod")
	require.Contains(t, checked(t, output(at(0))).step("clock").Text, "agree")
	require.Contains(t, checked(t, output(at(30*time.Second))).step("clock").Text, "apart")
	got := checked(t, output(proxied(t, s, nil, func(r *http.Response) { r.Header.Set("Date", "today") })))
	require.Equal(t, skipped, got.step("clock").Status)
	require.Zero(t, got.code)
}

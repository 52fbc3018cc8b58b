package victorialogs

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/selfstat"
)

// load reads options with Telegraf's own loader, as the agent does, up to Init.
func load(t *testing.T, options string) (*VictoriaLogs, error) {
	t.Helper()
	return loadText(t, "[[outputs.victorialogs]]\n"+options+"\n")
}

func loadText(t *testing.T, text string) (*VictoriaLogs, error) {
	t.Helper()
	c := config.NewConfig()
	if err := c.LoadConfigData([]byte(text), "test.conf"); err != nil {
		return nil, err
	}
	require.Len(t, c.Outputs, 1)
	v, ok := c.Outputs[0].Output.(*VictoriaLogs)
	require.True(t, ok)
	v.Statistics = selfstat.NewCollector(map[string]string{"test": t.Name()})
	return v, v.Init()
}

func TestWrongOptions(t *testing.T) {
	directory := t.TempDir()
	junk := filepath.Join(directory, "junk.pem")
	require.NoError(t, os.WriteFile(junk, []byte("junk"), 0o600))
	absent := filepath.Join(directory, "absent.pem")
	long := strings.Repeat("n", 129)

	tests := []struct {
		options string
		want    []string // key, value and remedy
	}{
		{`idle_gap = "0s"`, []string{"idle_gap", "0s", "longer than zero", "100ms"}},
		{`idle_gap = "-1s"`, []string{"idle_gap", "-1s", "longer than zero"}},
		{`ack_gap = "0s"`, []string{"ack_gap", "0s", "longer than zero", "5ms"}},
		{`max_batch_age = "0s"`, []string{"max_batch_age", "0s", "longer than zero", "1s"}},
		{`timeout = "0s"`, []string{"timeout", "0s", "longer than zero", "15s"}},
		{`timeout = "1m"`, []string{"timeout", "1m", "shorter than 1m", "15s"}},
		{`retry_initial = "0s"`, []string{"retry_initial", "0s", "longer than zero"}},
		{`retry_max = "0s"`, []string{"retry_max", "0s", "longer than zero"}},
		{`retry_max = "100ms"`, []string{"retry_max", "100ms", "retry_initial", "250ms"}},
		{`retry_budget = "0s"`, []string{"retry_budget", "0s", "longer than zero"}},
		{`max_age = "-1s"`, []string{"max_age", "-1s", "0s"}},
		{`max_future = "-1s"`, []string{"max_future", "-1s", "0s"}},
		{`max_batch_size = "0B"`, []string{"max_batch_size", "0", "1KiB", "4MiB"}},
		{`max_batch_size = -1`, []string{"max_batch_size", "-1", "1KiB", "4MiB"}},
		{`max_batch_size = "1000B"`, []string{"max_batch_size", "1000", "1KiB", "4MiB"}},
		{`max_batch_size = "5MiB"`, []string{"max_batch_size", "5242880", "1KiB", "4MiB"}},
		{`max_pending = "1MiB"`, []string{"max_pending", "1048576", "4194304"}},
		{`max_pending = -1`, []string{"max_pending", "-1", "4194304"}},
		{`concurrency = 0`, []string{"concurrency", "0", "from 1 to 64"}},
		{`concurrency = 65`, []string{"concurrency", "65", "from 1 to 64"}},
		{"[outputs.victorialogs.dlq]\ncapacity = 100", []string{"dlq", "capacity", "100", "64KiB"}},
		{"[outputs.victorialogs.dlq]\nmax_size = \"1KiB\"", []string{"dlq", "max_size", "1024", "1MiB"}},
		{"[outputs.victorialogs.dlq]\nflush_interval = \"0s\"", []string{"dlq", "flush_interval", "0s", "1s"}},
		{"[outputs.victorialogs.dlq]\ncheck_interval = \"-1s\"", []string{"dlq", "check_interval", "-1s"}},
		{"[outputs.victorialogs.dlq]\npostpone_interval = \"0s\"", []string{"dlq", "postpone_interval", "0s"}},
		{"[outputs.victorialogs.dlq]\non_full = \"block\"", []string{"dlq", "on_full", "block", "drop_oldest"}},
		{"[outputs.victorialogs.dlq]\non_version_mismatch = \"keep\"", []string{"dlq", "on_version_mismatch", "keep", "quarantine"}},
		{"[outputs.victorialogs.dlq]\nversion = \"\"", []string{"dlq", "version"}},
		{"[outputs.victorialogs.dlq]\nallow_rate = 0", []string{"dlq", "allow_rate", "0", "0.5"}},
		{"[outputs.victorialogs.dlq]\nallow_rate = 2.0", []string{"dlq", "allow_rate", "2", "0.5"}},
		{`account_id = -1`, []string{"account_id", "-1", "4294967295"}},
		{`account_id = 4294967296`, []string{"account_id", "4294967296", "4294967295"}},
		{`project_id = -1`, []string{"project_id", "-1", "4294967295"}},
		{`content_encoding = "br"`, []string{"content_encoding", "br", "zstd", "gzip", "identity"}},
		{`content_encoding = "GZIP"`, []string{"content_encoding", "GZIP", "zstd", "gzip", "identity"}},
		{`content_encoding = ""`, []string{"content_encoding", `""`, "zstd", "gzip", "identity"}},

		{`url = ""`, []string{"url", `""`, "http://127.0.0.1:9428"}},
		{`url = "127.0.0.1:9428"`, []string{"url", "127.0.0.1:9428", "http://127.0.0.1:9428"}},
		{`url = "localhost:9428"`, []string{"url", "localhost:9428", "http://127.0.0.1:9428"}},
		{`url = "ftp://a"`, []string{"url", "ftp://a", "http://127.0.0.1:9428"}},
		{`url = "http://"`, []string{"url", "http://", "http://127.0.0.1:9428"}},
		{`url = "http://a:x"`, []string{"url", "a:x", "http://127.0.0.1:9428"}},
		{`url = "http://a/?debug=1"`, []string{"url", "debug=1", "options of their own"}},
		{`url = "http://a/insert/jsonline"`, []string{"url", "/insert/jsonline", "base URL"}},
		{`url = "http://u:p@a"`, []string{"url", "a", "username and password"}},

		{`stream_fields = [""]`, []string{"stream_fields", `""`, "names of tags or fields"}},
		{`stream_fields = ["a,b"]`, []string{"stream_fields", "a,b", "without a comma"}},
		{`stream_fields = ["_msg"]`, []string{"stream_fields", "_msg", "names of tags or fields"}},
		{`stream_fields = ["` + long + `"]`, []string{"stream_fields", long, "128 bytes"}},
		{`message_fields = ["a", ""]`, []string{"message_fields", `["a" ""]`, "must not hold an empty name"}},
		{`measurement_field = "_time"`, []string{"measurement_field", "_time", "does not use"}},
		{`measurement_field = "` + long + `"`, []string{"measurement_field", long, "128 bytes"}},
		{`extra_fields = {"_stream" = "x"}`, []string{"extra_fields", "_stream", "must be a name"}},
		{`extra_fields = {"measurement" = "x"}`, []string{"extra_fields", "measurement", "must be a name"}},
		{`extra_fields = {"` + long + `" = "x"}`, []string{"extra_fields", long, "128 bytes"}},

		{`headers = {"content-type" = "x"}`, []string{"headers", "content-type", "must not be set"}},
		{`headers = {"Content-Encoding" = "x"}`, []string{"headers", "Content-Encoding", "must not be set"}},
		{`headers = {"Content-Length" = "x"}`, []string{"headers", "Content-Length", "must not be set"}},
		{`headers = {"Transfer-Encoding" = "x"}`, []string{"headers", "Transfer-Encoding", "must not be set"}},
		{`headers = {"Host" = "x"}`, []string{"headers", "Host", "must not be set"}},
		{`headers = {"AccountID" = "1"}`, []string{"headers", "AccountID", "account_id"}},
		{`headers = {"projectid" = "1"}`, []string{"headers", "projectid", "project_id"}},
		{`headers = {"VL-Debug" = "1"}`, []string{"headers", "VL-Debug", "must not be set"}}, // the server would store nothing
		{`headers = {"X Site" = "x"}`, []string{"headers", "X Site"}},                        // no request could carry it
		{"headers = {\"Authorization\" = \"x\"}\nusername = \"u\"", []string{"headers", "Authorization", "username"}},
		{"headers = {\"Authorization\" = \"x\"}\nbearer_token = \"u\"", []string{"headers", "Authorization", "bearer_token"}},
		{"username = \"u\"\nbearer_token = \"t\"", []string{"bearer_token", "username", "must not be set"}},
		{`password = "p"`, []string{"username", `""`, "password"}},

		{fmt.Sprintf("tls_ca = %q", absent), []string{"tls_ca", absent, "readable PEM file"}},
		{fmt.Sprintf("tls_ca = %q", junk), []string{"tls_ca", junk, "PEM file"}},
		{fmt.Sprintf("tls_cert = %q", absent), []string{"tls_cert", absent, "readable PEM file"}},
		{fmt.Sprintf("tls_cert = %q", junk), []string{"tls_key", junk, "must name"}},
		{fmt.Sprintf("tls_key = %q", junk), []string{"tls_cert", junk, "must name"}},
		{fmt.Sprintf("tls_cert = %q\ntls_key = %q", junk, junk), []string{"tls_"}},
		{`http_proxy_url = "http://a:x"`, []string{"http_proxy_url", "a:x", "http://proxy:3128"}},
		{`http_proxy_url = "proxy:3128"`, []string{"http_proxy_url", "proxy:3128", "http://proxy:3128"}},

		{`idle_gpa = "1s"`, []string{"idle_gpa"}},
	}
	for _, tt := range tests {
		t.Run(tt.options, func(t *testing.T) {
			_, err := load(t, tt.options)
			require.Error(t, err)
			for _, want := range tt.want {
				require.ErrorContains(t, err, want)
			}
			require.NotContains(t, err.Error(), "\n")
		})
	}
}

func TestGoodOptions(t *testing.T) {
	for _, options := range []string{
		"",
		`url = "https://logs.example.org/prefix/"`,
		`url = "http://[::1]:9428"`,
		`measurement_field = ""`,
		"stream_fields = []\nmessage_fields = []",
		`max_batch_size = "1KiB"`,
		"max_batch_size = \"4MiB\"\nconcurrency = 14",
		"max_age = \"0s\"\nmax_future = \"0s\"",
		"retry_initial = \"1s\"\nretry_max = \"1s\"",
		"account_id = 4294967295\nproject_id = 4294967295",
		`username = "u"`,
		`timeout = "59s"`,
		`headers = {"Authorization" = "Basic x"}`,
		`use_system_proxy = true`,
	} {
		t.Run(options, func(t *testing.T) {
			_, err := load(t, options)
			require.NoError(t, err)
		})
	}
}

var commented = regexp.MustCompile(`(?m)^(?:  ){1,2}# ([a-z_]+ = )`)

// What the sample shows behind a comment sign is the default, unless the default is nothing and the sample an example.
func TestSampleShowsTheDefaults(t *testing.T) {
	examples := []string{"headers", "extra_fields", "tls_ca", "tls_cert", "tls_key", "http_proxy_url", "directory"}

	_, err := loadText(t, sampleConfig)
	require.NoError(t, err)

	text := commented.ReplaceAllString(sampleConfig, "  $1")
	for _, name := range []string{"tls_ca", "tls_cert", "tls_key"} { // the loader would want the files
		text = strings.Replace(text, "  "+name+" =", "  # "+name+" =", 1)
	}
	shown, err := loadText(t, text)
	require.NoError(t, err)
	options := make(map[string]bool)
	compareOptions(t, reflect.ValueOf(New()).Elem(), reflect.ValueOf(shown).Elem(), func(key string, want, got reflect.Value) {
		options[key] = true
		if slices.Contains(examples, key) {
			require.True(t, want.IsZero(), "the sample shows an example of %s, but there is a default", key)
			return
		}
		if secret, ok := got.Addr().Interface().(*config.Secret); ok {
			require.True(t, secret.Empty(), key)
			return
		}
		require.Equal(t, want.Interface(), got.Interface(), key)
	})
	for _, match := range commented.FindAllStringSubmatch(sampleConfig, -1) {
		require.True(t, options[strings.TrimSuffix(match[1], " = ")], match[1])
	}
	for key := range options { // Telegraf's rarer TLS options are documented there
		if !strings.HasPrefix(key, "tls_") {
			require.Regexp(t, `(?m)^(  ){1,2}(# )?`+key+` = `, sampleConfig)
		}
	}
	require.Equal(t, sampleConfig, New().SampleConfig())
}

// compareOptions calls f for each option of a configuration struct.
func compareOptions(t *testing.T, want, got reflect.Value, f func(key string, want, got reflect.Value)) {
	t.Helper()
	for i := range want.NumField() {
		field := want.Type().Field(i)
		key, _, _ := strings.Cut(field.Tag.Get("toml"), ",")
		switch {
		case field.Anonymous, key == "dlq":
			compareOptions(t, want.Field(i), got.Field(i), f)
		case field.IsExported() && key != "-" && key != "":
			f(key, want.Field(i), got.Field(i))
		}
	}
}

// seen keeps what an HTTP server sees.
type seen struct {
	mu       sync.Mutex
	requests []*http.Request
	status   int
}

func (s *seen) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, r)
	w.WriteHeader(s.status)
}

func headers(keysAndValues ...string) func(*VictoriaLogs) {
	return func(v *VictoriaLogs) {
		v.Headers = make(map[string]*config.Secret)
		for i := 0; i < len(keysAndValues); i += 2 {
			secret := config.NewSecret([]byte(keysAndValues[i+1]))
			v.Headers[keysAndValues[i]] = &secret
		}
	}
}

// trust makes the plugin trust a test server's certificate.
func trust(t *testing.T, s *httptest.Server) func(*VictoriaLogs) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	require.NoError(t, os.WriteFile(file, block, 0o600))
	return func(v *VictoriaLogs) { v.TLSCA = file }
}

func TestRequestAsTheServerSeesIt(t *testing.T) {
	tests := []struct {
		name    string
		options string
		path    string
		query   string
		header  map[string]string // empty: not there
	}{
		{
			name: "defaults", path: "/insert/jsonline", query: "_stream_fields=host%2Cmeasurement",
			header: map[string]string{
				"Content-Type": "application/stream+json", "Content-Encoding": "zstd", "Authorization": "", "AccountID": "", "ProjectID": "",
				"User-Agent": "telegraf-victorialogs",
			},
		},
		{name: "gzip", options: `content_encoding = "gzip"`, header: map[string]string{"Content-Encoding": "gzip"}},
		{name: "identity", options: `content_encoding = "identity"`, header: map[string]string{"Content-Encoding": ""}},
		{name: "stream fields", options: `stream_fields = ["a&b", "c"]`, query: "_stream_fields=a%26b%2Cc"},
		{name: "no stream fields", options: `stream_fields = []`, query: ""},
		{
			name: "tenant", options: "account_id = 4294967295\nproject_id = 7",
			header: map[string]string{"AccountID": "4294967295", "ProjectID": "7"},
		},
		{name: "project alone", options: "project_id = 7", header: map[string]string{"AccountID": "0", "ProjectID": "7"}},
		{
			name: "basic", options: "username = \"käthe\"\npassword = \"a:b\"",
			header: map[string]string{"Authorization": "Basic a8OkdGhlOmE6Yg=="},
		},
		{name: "user alone", options: `username = "u"`, header: map[string]string{"Authorization": "Basic dTo="}},
		{name: "bearer", options: `bearer_token = "abc\n"`, header: map[string]string{"Authorization": "Bearer abc"}},
		{
			name: "headers", options: `headers = {"x-site" = "berlin", "User-Agent" = "me", "Authorization" = "Key k"}`,
			header: map[string]string{"X-Site": "berlin", "User-Agent": "me", "Authorization": "Key k", "Content-Encoding": "zstd"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := &seen{status: http.StatusOK}
			server := serve(t, s.ServeHTTP)
			v, err := load(t, tt.options)
			require.NoError(t, err)
			v.URL = server.URL + "/"
			require.NoError(t, v.Init())
			require.NoError(t, v.Connect())
			v.Add(event(0))
			require.NoError(t, v.Close())

			require.Len(t, s.requests, 1)
			r := s.requests[0]
			require.Equal(t, http.MethodPost, r.Method)
			require.Equal(t, "/insert/jsonline", r.URL.Path)
			require.Positive(t, r.ContentLength)
			require.Empty(t, r.TransferEncoding)
			if tt.query != "" || tt.name == "no stream fields" {
				require.Equal(t, tt.query, r.URL.RawQuery)
			}
			for name, want := range tt.header {
				require.Equal(t, want, r.Header.Get(name), name)
			}
		})
	}
}

func TestPathPrefix(t *testing.T) {
	s := &seen{status: http.StatusOK}
	_, err := attempt(t, at(serve(t, s.ServeHTTP).URL+"/a%20b/logs/"))
	require.NoError(t, err)
	require.Equal(t, "/a%20b/logs/insert/jsonline", s.requests[0].URL.EscapedPath())
}

func TestTLS(t *testing.T) {
	s := serveTLS(t, take)
	_, err := attempt(t, at(s.URL), trust(t, s))
	require.NoError(t, err)
	_, err = attempt(t, at(s.URL), func(v *VictoriaLogs) { v.InsecureSkipVerify = true })
	require.NoError(t, err)
}

func TestClientCertificate(t *testing.T) {
	var shown int
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { shown = len(r.TLS.PeerCertificates) }))
	s.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS12}
	s.StartTLS()
	t.Cleanup(s.Close)

	key, err := x509.MarshalPKCS8PrivateKey(s.TLS.Certificates[0].PrivateKey)
	require.NoError(t, err)
	directory := t.TempDir()
	keyFile, certificateFile := filepath.Join(directory, "key.pem"), filepath.Join(directory, "cert.pem")
	require.NoError(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600))
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	require.NoError(t, os.WriteFile(certificateFile, certificate, 0o600))
	_, err = attempt(t, at(s.URL), trust(t, s), func(v *VictoriaLogs) { v.TLSCert, v.TLSKey = certificateFile, keyFile })
	require.NoError(t, err)
	require.Equal(t, 1, shown)
}

func TestProxy(t *testing.T) {
	var host atomic.Value
	p := serve(t, func(_ http.ResponseWriter, r *http.Request) { host.Store(r.URL.Host) })
	_, err := attempt(t, at("http://logs.invalid:9428"), func(v *VictoriaLogs) { v.HTTPProxyURL = p.URL })
	require.NoError(t, err)
	require.Equal(t, "logs.invalid:9428", host.Load())
}

// Whatever goes wrong, and however it is told, no secret is in it.
func TestSecretsAreNotTold(t *testing.T) {
	secrets := []string{"hunter2", "t0ken", "k3y"}
	tests := []struct {
		name   string
		change []func(*VictoriaLogs)
	}{
		{"basic", with(func(v *VictoriaLogs) {
			v.Username, v.Password = config.NewSecret([]byte("u")), config.NewSecret([]byte("hunter2"))
		})},
		{"basic with a newline", with(func(v *VictoriaLogs) {
			v.Username, v.Password = config.NewSecret([]byte("u")), config.NewSecret([]byte("hunter2\n"))
		})},
		{"bearer", with(func(v *VictoriaLogs) { v.BearerToken = config.NewSecret([]byte("t0ken")) })},
		{"bearer of two lines", with(func(v *VictoriaLogs) { v.BearerToken = config.NewSecret([]byte("t0ken\nt0ken")) })},
		{"header", with(headers("X-Key", "k3y"))},
		{"header of two lines", with(headers("X-Key", "k3y\nk3y"))},
		{"credentials of the proxy", with(func(v *VictoriaLogs) { v.HTTPProxyURL = "http://u:hunter2@127.0.0.1:1" })},
	}
	for _, code := range []int{http.StatusUnauthorized, http.StatusServiceUnavailable, http.StatusFound} {
		for _, tt := range tests {
			t.Run(fmt.Sprint(code, " ", tt.name), func(t *testing.T) {
				s := &seen{status: code}
				r, err := attempt(t, append(tt.change, at(serve(t, s.ServeHTTP).URL), func(v *VictoriaLogs) {
					v.Timeout, v.RetryBudget = duration(time.Second/5), duration(time.Millisecond)
				})...)
				require.Error(t, err)
				r.Add(event(0))
				require.NoError(t, r.Close())
				told := []string{err.Error()}
				for _, entry := range r.log.Messages() {
					told = append(told, entry.Text)
				}
				for _, secret := range secrets {
					require.NotContains(t, strings.Join(told, "\n"), secret)
				}
			})
		}
	}
	for _, options := range []string{ // what stands in a URL is no config.Secret, but a log is read by many all the same
		`url = "http://u:hunter2@a"`, `url = "ftp://u:hunter2@a"`, `url = "http://u:hunter2@a:x"`, `http_proxy_url = "http://u:hunter2@a:x"`,
		`url = "u:hunter2@a:9428"`, "password = \"hunter2\"", "headers = {\"Host\" = \"hunter2\"}", "username = \"hunter2\"\nbearer_token = \"t0ken\"",
	} {
		t.Run(options, func(t *testing.T) {
			_, err := load(t, options)
			require.Error(t, err)
			for _, secret := range secrets {
				require.NotContains(t, err.Error(), secret)
			}
		})
	}
}

// A secret that is rotated is used with the next attempt.
func TestRotatedSecret(t *testing.T) {
	s := &seen{status: http.StatusOK}
	token := config.NewSecret([]byte("old"))
	r, err := attempt(t, at(serve(t, s.ServeHTTP).URL), func(v *VictoriaLogs) { v.BearerToken = token })
	require.NoError(t, err)
	require.NoError(t, r.BearerToken.Set([]byte("new")))
	r.Add(event(0))
	require.NoError(t, r.Close())
	require.Len(t, s.requests, 2)
	require.Equal(t, "Bearer old", s.requests[0].Header.Get("Authorization"))
	require.Equal(t, "Bearer new", s.requests[1].Header.Get("Authorization"))
}

// Telegraf takes these three for itself as well; they must reach the plugin, which alone can apply them.
func TestNamingOptions(t *testing.T) {
	v, err := load(t, "name_override = \"other\"\nname_prefix = \"a_\"\nname_suffix = \"_z\"")
	require.NoError(t, err)
	line, err := v.encoder.appendLine(nil, event(0), time.Now())
	require.NoError(t, err)
	require.Contains(t, string(line), `"_msg":"a_other_z","measurement":"a_other_z"`)
}

// Requests share the connections. The HTTP transport may dial one for each request in flight while another comes free.
func TestConnectionsAreReused(t *testing.T) {
	for _, code := range []int{http.StatusOK, http.StatusServiceUnavailable} {
		t.Run(http.StatusText(code), func(t *testing.T) {
			var connections, requests atomic.Int32
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				take(discardStatus{w}, r)
				requests.Add(1)
				w.WriteHeader(code)
				_, _ = w.Write([]byte(strings.Repeat("an answer\n", 100)))
			}))
			s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateNew {
					connections.Add(1)
				}
			}
			s.Start()
			t.Cleanup(s.Close)
			r := start(t, nil, at(s.URL), func(v *VictoriaLogs) { v.MaxBatchSize = 1 << 10 })
			if code == http.StatusOK {
				for id := range 200 {
					r.Add(bigEvent(id, 900))
				}
				require.NoError(t, r.Close())
				require.Equal(t, int32(200), requests.Load())
				require.LessOrEqual(t, connections.Load(), 2*int32(r.Concurrency))
				return
			}
			b := &batch{body: []byte("{}\n"), count: 1}
			for range 50 {
				require.ErrorIs(t, r.delivery.attempt(b), ErrRefused)
			}
			require.Equal(t, int32(1), connections.Load())
		})
	}
}

// discardStatus lets a handler go on after take.
type discardStatus struct{ http.ResponseWriter }

func (discardStatus) WriteHeader(int) {}

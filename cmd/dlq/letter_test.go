package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/dlq"
	"github.com/edgetide/telegraf-victorialogs/internal/deadletter"
	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
)

// letter is a batch as outputs.victorialogs dumps one.
func letter(t *testing.T, encoding string, rows ...string) *deadletter.Letter {
	t.Helper()
	first := time.Date(2026, 11, 21, 4, 0, 0, 5, time.UTC)
	l := &deadletter.Letter{
		Route: deadletter.Route{Path: "/insert/jsonline", Query: "_stream_fields=host", Encoding: encoding},
		Count: len(rows), First: first, Last: first.Add(time.Second), Reason: "retry_budget", Attempts: 3, Run: "r",
	}
	lines := []byte(strings.Join(rows, "\n") + "\n")
	switch encoding {
	case "zstd":
		w, err := zstd.NewWriter(nil)
		require.NoError(t, err)
		l.Body = w.EncodeAll(lines, nil)
		require.NoError(t, w.Close())
	case "gzip":
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, err := w.Write(lines)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		l.Body = b.Bytes()
	default:
		l.Body = lines
	}
	return l
}

// letters makes a directory with one dump of these, and of the texts.
func letters(t *testing.T, items ...any) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "dlq")
	d := openDisk(t, dir, "telegraf-victorialogs/1")
	for _, item := range items {
		data := fmt.Append(nil, item)
		if l, ok := item.(*deadletter.Letter); ok {
			var err error
			data, err = deadletter.Append(nil, l)
			require.NoError(t, err)
		}
		_, err := d.Append(t.Context(), data)
		require.NoError(t, err)
	}
	require.NoError(t, d.Seal(t.Context(), dlq.ReasonSize))
	require.NoError(t, d.Close())
	return dir
}

func TestCatBatch(t *testing.T) {
	refused := letter(t, "identity", `{"_time":1,"n":12345678901234567890}`)
	refused.Last, refused.Status, refused.Answer, refused.Reason = refused.First, 400, "because\nof \x1b[31m", "refused_by_server"
	refused.AccountID, refused.ProjectID, refused.Query = "7", "8", ""
	broken := letter(t, "zstd", "{}")
	broken.Body = []byte("text")
	dir := letters(t, letter(t, "zstd", `{"_time":1,"a":"<x>"}`, "no\tJSON \x1b"), letter(t, "gzip", `{}`), refused, broken, "no batch")

	code, out, stderr := dlqRun(t, "cat", dir)
	require.Equal(t, exitFault, code, stderr)
	require.Equal(t, `# 00000000000000000001.dump, sealed, version "telegraf-victorialogs/1"
0	batch of 2 rows of 2026-11-21T04:00:00.000000005Z to 2026-11-21T04:00:01.000000005Z; retry_budget, 3 attempts; for /insert/jsonline?_stream_fields=host, zstd
	{"_time":1,"a":"<x>"}
	"no\tJSON \x1b"
1	batch of 1 rows of 2026-11-21T04:00:00.000000005Z to 2026-11-21T04:00:01.000000005Z; retry_budget, 3 attempts; for /insert/jsonline?_stream_fields=host, gzip
	{}
2	batch of 1 rows of 2026-11-21T04:00:00.000000005Z; refused_by_server, 3 attempts; for /insert/jsonline, tenant 7:8, identity; answered 400: "because\nof \x1b[31m"
	{"_time":1,"n":12345678901234567890}
3	batch of 1 rows of 2026-11-21T04:00:00.000000005Z to 2026-11-21T04:00:01.000000005Z; retry_budget, 3 attempts; for /insert/jsonline?_stream_fields=host, zstd
	its rows cannot be read: invalid input: magic number mismatch: text
4	no batch
`, out)

	code, out, _ = dlqRun(t, "cat", dir, "--json")
	require.Equal(t, exitFault, code)
	var got []map[string]json.RawMessage
	for line := range strings.Lines(out) {
		var item map[string]json.RawMessage
		require.NoError(t, json.Unmarshal([]byte(line), &item), line)
		got = append(got, item)
	}
	require.Len(t, got, 5)
	require.JSONEq(t, `{"path":"/insert/jsonline","query":"_stream_fields=host","encoding":"zstd","count":2,`+
		`"first":"2026-11-21T04:00:00.000000005Z","last":"2026-11-21T04:00:01.000000005Z","reason":"retry_budget","attempts":3,"run":"r"}`,
		string(got[0]["batch"]))
	require.JSONEq(t, `[{"_time":1,"a":"<x>"},"no\tJSON \u001b"]`, string(got[0]["lines"]))
	require.NotContains(t, got[0], "base64")
	require.Contains(t, string(got[2]["batch"]), `"status":400`)
	require.Contains(t, string(got[2]["lines"]), `"n":12345678901234567890}`)
	require.Contains(t, string(got[3]["fault"]), "cannot be read")
	require.Contains(t, got[3], "base64")
	require.Equal(t, `"no batch"`, string(got[4]["text"]))

	raw, err := deadletter.Append(nil, refused)
	require.NoError(t, err)
	require.Contains(t, must(t, "cat", dir, "--raw"), string(raw)+"\n")

	_, out, _ = dlqRun(t, "replay", dir, "--stdout", "--json")
	require.Contains(t, out, `"lines":[{"_time":1,"a":"<x>"},`, "as cat shows it")
}

// Rejected rows lie in a directory of the same kind.
func TestRejectedDirectory(t *testing.T) {
	dir := letters(t, letter(t, "zstd", "{}"))
	require.NoError(t, os.Rename(letters(t, letter(t, "zstd", `{"a":1}`, "{}"), letter(t, "identity", "{}")), filepath.Join(dir, "rejected")))
	require.Contains(t, must(t, "ls", dir), "\n1 to be restored with 1 items, 0 open, 0 in quarantine; ", "what is below is not counted")
	rejected := filepath.Join(dir, "rejected")
	require.Contains(t, must(t, "ls", rejected), "\n1 to be restored with 2 items, 0 open, 0 in quarantine; ")
	var files []line
	require.NoError(t, json.Unmarshal([]byte(must(t, "ls", rejected, "--json")), &files))
	require.Len(t, files, 1)
	require.Equal(t, uint64(2), files[0].Items)
	require.Contains(t, must(t, "cat", rejected), "\t{\"a\":1}\n")
	require.Contains(t, must(t, "verify", rejected), "1 dumps read, 0 with faults; 2 items")
}

func standIn(t *testing.T, c vlreceiver.Config) *vlreceiver.Server {
	t.Helper()
	s, err := vlreceiver.Start(c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// A batch arrives as the plugin would have sent it, whatever its encoding and whether the URL names the path already.
func TestReplayBatches(t *testing.T) {
	now := time.Now().UnixNano()
	row := func(text string) string { return fmt.Sprintf(`{"_time":%d,"_msg":%q,"host":"h"}`, now, text) }
	for _, tt := range []struct{ prefix, below string }{
		{"", ""},
		{"", "/"},
		{"", "/insert/jsonline"},
		{"", "/insert/jsonline/"},
		{"/logs", ""},
		{"/logs", "/insert/jsonline"},
	} {
		s := standIn(t, vlreceiver.Config{PathPrefix: tt.prefix})
		elsewhere := letter(t, "identity", row("c"))
		elsewhere.AccountID, elsewhere.ProjectID, elsewhere.Query = "7", "8", ""
		dir := letters(t, letter(t, "zstd", row("a"), row("b")), elsewhere, letter(t, "gzip", row("d")))
		require.Contains(t, must(t, "replay", dir, "--url", s.URL()+tt.below, "--header", "Content-Encoding: br"), "3 items delivered")

		var got []string
		for r := range s.All(vlreceiver.Tenant{}) {
			got = append(got, r.Fields["_msg"])
			require.Equal(t, `{host="h"}`, r.Stream)
			require.Equal(t, now, r.Time.UnixNano())
		}
		require.Equal(t, []string{"a", "b", "d"}, got)
		rows := s.Rows(vlreceiver.Tenant{AccountID: 7, ProjectID: 8})
		require.Len(t, rows, 1)
		require.Equal(t, "c", rows[0].Fields["_msg"])
		require.Equal(t, "{}", rows[0].Stream)
		for _, q := range s.Requests() {
			require.Equal(t, tt.prefix+"/insert/jsonline", q.Path)
			require.Equal(t, "application/stream+json", q.Header.Get("Content-Type"))
		}
	}
}

// A tenant that is asked for takes the place of the batch's own.
func TestReplayToTenant(t *testing.T) {
	s := standIn(t, vlreceiver.Config{})
	l := letter(t, "zstd", fmt.Sprintf(`{"_time":%d,"_msg":"a"}`, time.Now().UnixNano()))
	l.AccountID, l.ProjectID = "7", "8"
	must(t, "replay", letters(t, l), "--url", s.URL(), "--header", "AccountID: 5")
	require.Equal(t, 1, s.Count(vlreceiver.Tenant{AccountID: 5}))
}

// Bytes that a server would answer 200 to and not store are set aside, and any other answer than 200 and 204 means nothing.
func TestReplayBatchesNotTaken(t *testing.T) {
	s := standIn(t, vlreceiver.Config{})
	broken := letter(t, "zstd", "{}")
	broken.Body = broken.Body[:len(broken.Body)-3]
	unknown := letter(t, "br", "{}")
	dir := letters(t, broken, letter(t, "zstd", fmt.Sprintf(`{"_time":%d}`, time.Now().UnixNano())), unknown)
	code, out, stderr := dlqRun(t, "replay", dir, "--url", s.URL())
	require.Equal(t, exitFault, code)
	require.Contains(t, out, "1 items delivered", stderr)
	require.Contains(t, out, "2 set aside in quarantine")
	require.Contains(t, must(t, "quarantine", "ls", dir), "its rows cannot be read")

	r := receive(t, func(int, string) int { return http.StatusAccepted })
	code, out, _ = dlqRun(t, "replay", letters(t, letter(t, "zstd", "{}")), "--url", r.URL, "--retry=1ms", "--give-up=10ms")
	require.Equal(t, exitFault, code)
	require.Contains(t, out, "answered 202 Accepted")
	require.Contains(t, out, "0 items delivered, 0B; 0 set aside in quarantine; 1 items in 1 dumps left")
}

// What is no batch goes to the URL as it is.
func TestReplayMixed(t *testing.T) {
	var paths, types []string
	r := receive(t, nil)
	r.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		paths = append(paths, q.URL.RequestURI())
		types = append(types, q.Header.Get("Content-Type"))
		_, _ = io.Copy(io.Discard, q.Body) // the answer is the same
		w.WriteHeader(http.StatusNoContent)
	})
	dir := letters(t, "no batch", letter(t, "zstd", "{}"), `{"path":"/x"}`+"\n")
	must(t, "replay", dir, "--url", r.URL+"/a?b=c", "--header", "content-type: text/plain")
	require.Equal(t, []string{"/a?b=c", "/a/insert/jsonline?_stream_fields=host&b=c", "/a?b=c"}, paths)
	require.Equal(t, []string{"text/plain", "application/stream+json", "text/plain"}, types)
}

func TestEndpoint(t *testing.T) {
	for _, tt := range []struct{ base, path, query, want string }{
		{"http://h", "/insert/jsonline", "", "http://h/insert/jsonline"},
		{"http://h//", "/insert/jsonline", "a=b", "http://h/insert/jsonline?a=b"},
		{"http://h/x/", "/insert/jsonline", "", "http://h/x/insert/jsonline"},
		{"http://h/x/insert/jsonline/?c=d", "/insert/jsonline", "a=b", "http://h/x/insert/jsonline?a=b&c=d"},
		{"http://h/a%2Fb/insert/jsonline/", "/insert/jsonline", "", "http://h/a%2Fb/insert/jsonline"},
		{"http://h/a%2Fb", "/insert/jsonline", "", "http://h/a%2Fb/insert/jsonline"},
		{"http://me:secret@h", "/insert/jsonline", "", "http://me:secret@h/insert/jsonline"},
		{"http://h", "", "", "http://h"},
	} {
		u, err := url.Parse(tt.base)
		require.NoError(t, err)
		p := &poster{url: u}
		require.Equal(t, tt.want, p.endpoint(deadletter.Route{Path: tt.path, Query: tt.query}).String())
		require.Equal(t, tt.base, u.String(), "it is not changed")
	}
}

// A password in the URL does not reach the answer's text.
func TestReplayHidesPassword(t *testing.T) {
	dir, _ := backlog(t, 1, 1)
	r := receive(t, func(int, string) int { return http.StatusForbidden })
	_, out, stderr := dlqRun(t, "replay", dir, "--url", strings.Replace(r.URL, "//", "//me:secret@", 1), "--retry=1ms", "--give-up=5ms")
	require.Contains(t, out, "403")
	require.NotContains(t, out+stderr, "secret")
	require.NotEmpty(t, r.header.Get("Authorization"))
}

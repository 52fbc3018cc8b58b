package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// An error names the command, the flag, the value and what would be right, in one line, before anything is done.
func TestWrongFlags(t *testing.T) {
	const (
		rate  = "it must be a number from 0.001 to 1e+12, or 0 for no bound"
		least = "it must be 0s or longer, such as 90s, 24h or 7d"
		more  = "it must be longer than 0s, such as 90s, 24h or 7d"
		web   = "it must begin with http:// or https:// and name a host, such as http://127.0.0.1:9428"
		count = "it must be a whole number from 1 to 100000000"
	)
	for _, tt := range []struct {
		args []string
		err  string
	}{
		{[]string{"replay", "DIR", "--rate", "-5"}, `replay: --rate is "-5"; ` + rate},
		{[]string{"replay", "DIR", "--rate", "NaN"}, `replay: --rate is "NaN"; ` + rate},
		{[]string{"replay", "DIR", "--rate", "Inf"}, `replay: --rate is "Inf"; ` + rate},
		{[]string{"replay", "DIR", "--rate", "1e-300", "--dry-run"}, `replay: --rate is "1e-300"; ` + rate},
		{[]string{"replay", "DIR", "--rate", "1e300", "--dry-run"}, `replay: --rate is "1e300"; ` + rate},
		{[]string{"replay", "DIR", "--rate", "many"}, `replay: --rate is "many"; ` + rate},
		{[]string{"replay", "DIR", "--bytes-rate", "-1"}, `replay: --bytes-rate is "-1"; ` + rate},
		{[]string{"replay", "DIR", "--bytes-rate=1MB"}, `replay: --bytes-rate is "1MB"; ` + rate},
		{[]string{"replay", "DIR", "--timeout", "0"}, `replay: --timeout is "0"; ` + more},
		{[]string{"replay", "DIR", "--timeout", "15"}, `replay: --timeout is "15"; ` + more},
		{[]string{"replay", "DIR", "--retry", "-1s"}, `replay: --retry is "-1s"; ` + more},
		{[]string{"replay", "DIR", "--give-up", "-3s"}, `replay: --give-up is "-3s"; ` + least},
		{[]string{"replay", "DIR", "--give-up"}, `replay: --give-up needs a value; see dlq replay --help`},
		{[]string{"replay", "DIR", "--url", "http://[::1"}, `replay: --url is "http://[::1"; ` + web},
		{[]string{"replay", "DIR", "--url", "127.0.0.1:9428"}, `replay: --url is "127.0.0.1:9428"; ` + web},
		{[]string{"replay", "DIR", "--url", "http://"}, `replay: --url is "http://"; ` + web},
		{[]string{"replay", "DIR", "--url", "http://h:99999"}, `replay: --url is "http://h:99999"; ` + web},
		{[]string{"replay", "DIR", "--url", "ftp://me:secret@h"}, `replay: --url is "ftp://xxxxx@h"; ` + web},
		{[]string{"replay", "DIR", "--header", "Bad Name: x"}, `replay: --header is "Bad Name: x"; it must be like "Name: value", ` +
			`and a name has letters, digits and dashes, which "Bad Name" has not alone`},
		{[]string{"replay", "DIR", "--header", "x"}, `replay: --header is "x"; it must be like "Name: value"`},
		{[]string{"replay", "DIR", "--header", "A: b\nc"}, `replay: --header is "A: b\nc"; it must be like "Name: value", without a line's end`},
		{[]string{"replay", "DIR", "--content-type", ""}, `replay: --content-type is ""; it must be fit for a header`},
		{[]string{"replay", "DIR", "--json=maybe"}, `replay: --json is "maybe"; it must be true or false`},
		{[]string{"cat", "DIR", "--limit", "-1"}, `cat: --limit is "-1"; it must be a whole number, 0 or more`},
		{[]string{"cat", "DIR", "--raw", "--json"}, "cat: --raw, --hex and --json exclude each other; name one of them"},
		{[]string{"cat", "DIR", "--hex", "--json"}, "cat: --raw, --hex and --json exclude each other; name one of them"},
		{[]string{"purge", "DIR", "--older-than", "-1h"}, `purge: --older-than is "-1h"; ` + least},
		{[]string{"purge", "DIR", "--older-than", "-7d"}, `purge: --older-than is "-7d"; ` + least},
		{[]string{"purge", "DIR", "--older-than", "1w"}, `purge: --older-than is "1w"; ` + least},
		{[]string{"purge", "DIR", "--older-than", "999999d"}, `purge: --older-than is "999999d"; ` + least},
		{[]string{"demo", "--items", "0"}, `demo: --items is "0"; ` + count},
		{[]string{"demo", "--items", "1e3"}, `demo: --items is "1e3"; ` + count},
		{[]string{"demo", "--queue", "9999999999999999999"}, `demo: --queue is "9999999999999999999"; ` + count},
		{[]string{"demo", "--rate", "0"}, `demo: --rate is "0"; it must be a number from 0.001 to 1e+12`},
		{[]string{"demo", "--timeout", "0s"}, `demo: --timeout is "0s"; ` + more},
		{[]string{"quarantine", "restore", "DIR", "--version", strings.Repeat("x", 256)}, `quarantine restore: --version is "xxx`},
		{[]string{"ls", "DIR", "--colour"}, `ls: unknown flag: --colour; see dlq ls --help`},
	} {
		code, out, stderr := dlqRun(t, tt.args...)
		require.Equal(t, exitCannotRun, code, tt.args)
		require.Empty(t, out, tt.args)
		require.True(t, strings.HasPrefix(stderr, "dlq: "+tt.err), "%q\n%s", tt.args, stderr)
		require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
		require.NotContains(t, stderr, "strconv", tt.args)
		require.NotContains(t, stderr, "secret", tt.args)
	}
}

func TestReadDuration(t *testing.T) {
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"0": 0, "0s": 0, "90s": 90 * time.Second, "1h30m": 90 * time.Minute, "7d": 7 * day, "1d12h": 36 * time.Hour, "0d": 0, "-1h": -time.Hour,
	} {
		d, ok := readDuration(text)
		require.True(t, ok, text)
		require.Equal(t, want, d, text)
	}
	for _, text := range []string{"", "d", "7", "7 d", "-7d", "+7d", "1.5d", "7d-1h", "7d7d", "1w", "106752d", "106751d23h59m", "300000000h"} {
		_, ok := readDuration(text)
		require.False(t, ok, text)
	}
}

func TestPurgeDays(t *testing.T) {
	dir := mixed(t)
	require.Equal(t, "removed 0 dumps with 0 undelivered items, 0B on disk\n", must(t, "purge", dir, "--older-than", "7d"))
	require.Contains(t, must(t, "purge", dir, "--older-than", "0d"), "\nremoved 3 dumps")
}

// The smallest rate takes long, and no negative time.
func TestReplayDrySlowly(t *testing.T) {
	dir, _ := backlog(t, 1, 3)
	require.Contains(t, must(t, "replay", dir, "--dry-run", "--rate=0.001"), ", in no less than 50m0s\n")
	dir, _ = backlog(t, 1, 40_000)
	require.Contains(t, must(t, "replay", dir, "--dry-run", "--rate=0.001"), ", in no less than 1.3 years\n")
}

func TestQuarantineAlone(t *testing.T) {
	code, out, stderr := dlqRun(t, "quarantine")
	require.Equal(t, exitCannotRun, code)
	require.Empty(t, out)
	for _, name := range []string{"quarantine ls ", "quarantine restore ", "quarantine rm "} {
		require.Contains(t, stderr, "  dlq "+name)
	}
	require.NotContains(t, stderr, "there is no command")
	require.NotContains(t, stderr, "dlq replay")
	require.True(t, strings.HasSuffix(stderr, "dlq: quarantine: say which of these\n"), stderr)

	code, _, stderr = dlqRun(t, "quarantine", "empty", "DIR")
	require.Equal(t, exitCannotRun, code)
	require.Contains(t, stderr, "  dlq quarantine rm ")
	require.True(t, strings.HasSuffix(stderr, "dlq: there is no command \"quarantine empty\"\n"), stderr)

	require.Contains(t, must(t, "quarantine", "--help"), "  dlq quarantine rm ")
}

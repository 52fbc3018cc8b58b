package tcp_exporter

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/selfstat"
)

// load reads options with Telegraf's own loader, as the agent does, up to Init.
func load(t *testing.T, options string) (*TCPExporter, error) {
	t.Helper()
	return loadText(t, "[[outputs.tcp_exporter]]\n"+options+"\n")
}

func loadText(t *testing.T, text string) (*TCPExporter, error) {
	t.Helper()
	c := config.NewConfig()
	if err := c.LoadConfigData([]byte(text), "test.conf"); err != nil {
		return nil, err
	}
	require.Len(t, c.Outputs, 1)
	p, ok := c.Outputs[0].Output.(*TCPExporter)
	require.True(t, ok)
	p.Statistics = selfstat.NewCollector(map[string]string{"test": t.Name()})
	t.Cleanup(p.Statistics.UnregisterAll)
	return p, p.Init()
}

func TestWrongOptions(t *testing.T) {
	directory := t.TempDir()
	junk := filepath.Join(directory, "junk.pem")
	require.NoError(t, os.WriteFile(junk, []byte("junk"), 0o600))
	absent := filepath.Join(directory, "absent.pem")
	describe := func(lines string) string { return "[[outputs.tcp_exporter.describe]]\n" + lines }

	tests := []struct {
		options string
		want    []string // key, value and remedy
	}{
		{`listen = ""`, []string{"listen", `""`, "127.0.0.1:5000"}},
		{`listen = "127.0.0.1"`, []string{"listen", "127.0.0.1", "127.0.0.1:5000"}},
		{`listen = "127.0.0.1:x"`, []string{"listen", "127.0.0.1:x", "127.0.0.1:5000"}},
		{`listen = ":65536"`, []string{"listen", ":65536", "127.0.0.1:5000"}},
		{`buffer_size = 0`, []string{"buffer_size", "0", "from 1 to 1000000"}},
		{`buffer_size = -1`, []string{"buffer_size", "-1", "from 1 to 1000000"}},
		{`buffer_size = 9223372036854775807`, []string{"buffer_size", "9223372036854775807", "from 1 to 1000000"}},
		{`max_clients = 0`, []string{"max_clients", "0", "from 1 to 10000"}},
		{`snapshot_series = 0`, []string{"snapshot_series", "0", "from 1 to 1000000"}},
		{`write_timeout = "0s"`, []string{"write_timeout", "0s", "longer than zero", "10s"}},
		{`histogram_fields = [""]`, []string{"histogram_fields", `[""]`, "empty name"}},
		{`histogram_fields = ["[a"]`, []string{"histogram_fields", "[a", "names of fields"}},
		{`format = "protobuff"`, []string{"format", "protobuff", "protobuf", "influx", "json"}},
		{"format = \"influx\"\ndata_format = \"json\"", []string{"format", "influx", "json"}},
		{"format = \"protobuf\"\ndata_format = \"json\"", []string{"format", "protobuf", "json"}},
		{`data_format = "jsonn"`, []string{"serializer"}}, // Telegraf's own
		{describe(`unit = "percent"`), []string{"describe", "name", "cpu_usage_idle"}},
		{describe("name = \"a\"\nunit = \"%\""), []string{"describe", "unit", `"%"`, "percent, seconds"}},
		{describe("name = \"a\"\ntype = \"summary\""), []string{"describe", "type", "summary", "histogram"}},
		{describe("name = \"a\"\n") + describe("name = \"a\"\n"), []string{"describe", `"a"`, "twice"}},
		{
			describe("name = \"a\"\ntype = \"gauge\"\ndescription = \"" + strings.Repeat("x", maxMetadata) + `"`),
			[]string{"describe", `"a"`, "1048576"},
		},

		{fmt.Sprintf("tls_cert = %q", absent), []string{"tls_cert", absent, "readable PEM file"}},
		{fmt.Sprintf("tls_cert = %q", junk), []string{"tls_key", junk, "must name"}},
		{fmt.Sprintf("tls_key = %q", junk), []string{"tls_cert", junk, "must name"}},
		{fmt.Sprintf("tls_cert = %q\ntls_key = %q", junk, junk), []string{"tls_"}},
		{fmt.Sprintf("tls_allowed_cacerts = [%q]", junk), []string{"tls_cert", "must name"}},
		{fmt.Sprintf("tls_cert = %q\ntls_key = %q\ntls_allowed_cacerts = [%q]", junk, junk, junk), []string{"tls_allowed_cacerts", junk, "holds no"}},
		{fmt.Sprintf("tls_cert = %q\ntls_key = %q\ntls_allowed_dns_names = [\"a\"]", junk, junk), []string{"tls_allowed_dns_names", "tls_allowed_cacerts"}},
		{fmt.Sprintf("tls_cert = %q\ntls_key = %q\ntls_min_version = \"TLS11\"", junk, junk), []string{"tls_min_version", "TLS11", "TLS12"}},

		{`buffer_sice = 1`, []string{"buffer_sice"}},
		{"format = \"json\"\njson_timestamp_units = \"1ms\"", []string{"json_timestamp_units"}}, // that needs data_format
	}
	for _, tt := range tests {
		t.Run(tt.options[:min(len(tt.options), 100)], func(t *testing.T) {
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
		"", `listen = ":5000"`, `listen = "[::1]:0"`, `listen = "localhost:5000"`, `buffer_size = 1000000`, `format = "protobuf"`,
		`data_format = "influx"`, `histogram_fields = ["a_*"]`,
	} {
		t.Run(options, func(t *testing.T) {
			_, err := load(t, options)
			require.NoError(t, err)
		})
	}
}

var commented = regexp.MustCompile(`(?m)^  # (  )?((?:[a-z_]+ = )|\[\[)`)

// What the sample shows behind a comment sign is the default, unless the default is nothing and the sample an example.
func TestSampleShowsTheDefaults(t *testing.T) {
	examples := []string{"tls_cert", "tls_key", "tls_allowed_cacerts", "describe"}

	_, err := loadText(t, sampleConfig)
	require.NoError(t, err)

	text := commented.ReplaceAllString(sampleConfig, "  $1$2")
	text = regexp.MustCompile(`(?m)^  tls_`).ReplaceAllString(text, "  # tls_") // the loader would want the files
	shown, err := loadText(t, text)
	require.NoError(t, err)
	require.Equal(t, "protobuf", shown.Format)
	shown.Format = "" // which is the same, if data_format is not set
	want, got := reflect.ValueOf(New()).Elem(), reflect.ValueOf(shown).Elem()
	for i := range want.NumField() {
		key := want.Type().Field(i).Tag.Get("toml")
		switch {
		case key == "" || key == "-":
		case slices.Contains(examples, key):
			require.True(t, want.Field(i).IsZero(), "the sample shows an example of %s, but there is a default", key)
		default:
			require.Regexp(t, `(?m)^  (# )?`+key+` = `, sampleConfig)
			if want.Field(i).Kind() != reflect.Slice || want.Field(i).Len()+got.Field(i).Len() > 0 {
				require.Equal(t, want.Field(i).Interface(), got.Field(i).Interface(), key)
			}
		}
	}
	require.Len(t, shown.Describe, 1)
	for _, unit := range units {
		require.Contains(t, strings.Join(strings.Fields(sampleConfig), " "), unit)
	}
	require.Equal(t, sampleConfig, New().SampleConfig())
}

func TestReadmeShowsTheSample(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	require.Contains(t, string(readme), "```toml\n"+sampleConfig+"```\n")
}

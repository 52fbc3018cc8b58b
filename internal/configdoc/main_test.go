package main

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPageIsUpToDate(t *testing.T) {
	var page strings.Builder
	require.NoError(t, write(&page, "../.."))
	written, err := os.ReadFile("../../docs/configuration.md")
	require.NoError(t, err)
	require.Equal(t, page.String(), string(written), "make docs writes docs/configuration.md")
}

// No option of a sample is missing on the page.
func TestEachOptionIsThere(t *testing.T) {
	var page strings.Builder
	require.NoError(t, write(&page, "../.."))
	samples, err := filepath.Glob("../../*/*/sample.conf")
	require.NoError(t, err)
	for _, path := range samples {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, option := range regexp.MustCompile(`(?m)^\s*(?:# *)?([a-z0-9_]+) = `).FindAllStringSubmatch(string(text), -1) {
			require.Contains(t, page.String(), "`"+option[1]+"`", path)
		}
	}
}

func TestSample(t *testing.T) {
	type inner struct {
		Path string `toml:"path"`
	}
	type plugin struct {
		URL   string   `toml:"url"`
		Retry string   `toml:"retry"`
		List  []string `toml:"list"`
		Inner inner    `toml:"inner"`
	}
	var page strings.Builder
	s := &sample{out: &page}
	require.NoError(t, s.plugin(`# Do it
[[outputs.x]]
  ## Where | what.
  url = "a"

  ## How often,
  ## "never_ever" or so.
  # retry = "1s"
  # list = ["a",
    "b"]

  ## More.
  [outputs.x.inner]
    # path = "/a"`, "outputs.x", reflect.ValueOf(&plugin{URL: "a", Retry: "1s"}).Elem()))
	require.Equal(t, `
## outputs.x

Do it. The [plugin's page](../outputs/x/README.md) says more.

| option | default | meaning |
|---|---|---|
| `+"`url` | `\"a\"`"+` | Where \| what. |
| `+"`retry`<br>`list` | `\"1s\"`<br>such as `[\"a\", \"b\"]` | How often, `never_ever`"+` or so. |

### [outputs.x.inner]

More.

| option | default | meaning |
|---|---|---|
| `+"`path` | such as `\"/a\"`"+` |  |
`, page.String())
	require.ErrorContains(t, s.plugin("# X\n[[outputs.x]]\nwhat is this", "outputs.x", reflect.Value{}), "what is this")
}

// Package docs holds the tests that keep the documents true.
package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// documents are all Markdown files of the repository, by path from its root.
func documents(t *testing.T) map[string]string {
	t.Helper()
	texts := make(map[string]string)
	root := os.DirFS("..")
	require.NoError(t, fs.WalkDir(root, ".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && path != ".":
			return fs.SkipDir
		case filepath.Ext(path) == ".md":
			text, err := fs.ReadFile(root, path)
			texts[path] = string(text)
			return err
		}
		return nil
	}))
	require.Contains(t, texts, "README.md")
	return texts
}

var (
	code    = regexp.MustCompile("(?ms)^ *```.*?^ *```|`[^`\n]*`")
	link    = regexp.MustCompile(`\]\(([^)#\s]*)(#[^)\s]*)?\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	noSlug  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// Each link leads to a file that is there, and to a heading that is in it.
func TestLinks(t *testing.T) {
	texts := documents(t)
	links := 0
	for path, text := range texts {
		for _, found := range link.FindAllStringSubmatch(code.ReplaceAllString(text, ""), -1) {
			if strings.Contains(found[1], "://") {
				continue
			}
			links++
			target := path
			if found[1] != "" {
				target = filepath.Join(filepath.Dir(path), found[1])
			}
			_, err := os.Stat(filepath.Join("..", target))
			require.NoError(t, err, "%s links to %s", path, found[1])
			if found[2] == "" {
				continue
			}
			var slugs []string
			for _, title := range heading.FindAllStringSubmatch(texts[target], -1) {
				slugs = append(slugs, "#"+strings.ReplaceAll(strings.ToLower(noSlug.ReplaceAllString(title[1], "")), " ", "-"))
			}
			require.Contains(t, slugs, found[2], "%s links to %s%s", path, found[1], found[2])
		}
	}
	require.Greater(t, links, 10)
}

// What is guaranteed is shown by tests that are there.
func TestGuaranteesNameTests(t *testing.T) {
	text := documents(t)["docs/guarantees.md"]
	named := 0
	for _, found := range regexp.MustCompile("`([a-z0-9_/]+)` (Test[A-Za-z0-9]+(?:, Test[A-Za-z0-9]+)*)").FindAllStringSubmatch(text, -1) {
		files, err := filepath.Glob(filepath.Join("..", found[1], "*_test.go"))
		require.NoError(t, err)
		var source strings.Builder
		for _, file := range files {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			source.Write(text)
		}
		for name := range strings.SplitSeq(found[2], ", ") {
			named++
			require.Contains(t, source.String(), "func "+name+"(", found[1])
		}
	}
	require.Len(t, regexp.MustCompile(`\bTest[A-Z]`).FindAllString(text, -1), named, "each is named behind its package")
}

// Each log line that a document quotes is one that is written. What stands for something else in a line is an ellipsis or a
// number there; a colon is where an error begins that comes from elsewhere.
func TestLogLines(t *testing.T) {
	var source strings.Builder
	require.NoError(t, filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && path != "..":
			return fs.SkipDir
		case strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"):
			text, err := os.ReadFile(path)
			source.Write(text)
			return err
		}
		return nil
	}))
	// A text that is broken over lines of source is one.
	text := regexp.MustCompile(`"\s*\+\s*"`).ReplaceAllString(source.String(), "")
	text = strings.ReplaceAll(text, `\"`, `"`)
	variable := regexp.MustCompile(`…|\d+|: |\[[a-z._]+\]`)
	lines := 0
	for path, document := range documents(t) {
		for _, found := range regexp.MustCompile("`[EWID]! ([^`]*)`").FindAllStringSubmatch(document, -1) {
			lines++
			for _, part := range variable.Split(found[1], -1) {
				if part = strings.Trim(part, " .,;:"); len(part) > 3 && !strings.HasPrefix(part, "Failed to connect") { // Telegraf's own
					require.Contains(t, text, part, "%s quotes %s", path, found[0])
				}
			}
		}
	}
	require.Greater(t, lines, 10)
}

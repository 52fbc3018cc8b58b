package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/mod/module"
)

// modules are those that the linker put into the binaries, as these say themselves.
type modules struct {
	goVersion string
	all       []module.Version            // sorted; without ours
	of        map[string][]module.Version // by the path of a binary
}

const ours = "github.com/edgetide/telegraf-victorialogs"

func readModules(binaries []string) (modules, error) {
	m := modules{of: map[string][]module.Version{}}
	for _, path := range binaries {
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			return m, err
		}
		m.goVersion = info.GoVersion
		for _, dependency := range append(info.Deps, &info.Main) { // which is Telegraf's module in bin/telegraf
			if strings.HasPrefix(dependency.Path, ours) {
				continue
			}
			v := module.Version{Path: dependency.Path, Version: dependency.Version}
			// A directory has no version. Ours is a copy of Telegraf, for which its own path and version stand.
			if r := dependency.Replace; r != nil && module.CheckPath(r.Path) == nil {
				v = module.Version{Path: r.Path, Version: r.Version}
			}
			m.of[path] = append(m.of[path], v)
			if !slices.Contains(m.all, v) {
				m.all = append(m.all, v)
			}
		}
		module.Sort(m.of[path])
	}
	module.Sort(m.all)
	return m, nil
}

// licenceFile matches the names of licences, and of the notices that licences want to be kept with them.
var licenceFile = regexp.MustCompile(`(?i)^(un)?(licen[cs]e|copying|copyright|notice|patents)([-._].*)?$`)

// writeLicences collects the licences of all modules, and of Go's standard library, out of the module cache. A text that
// several modules have stands once.
func writeLicences(path string, m modules) error {
	cache, err := goEnv("GOMODCACHE")
	if err != nil {
		return err
	}
	root, err := goEnv("GOROOT")
	if err != nil {
		return err
	}

	type text struct {
		content []byte
		of      []string
	}
	var texts []*text
	seen := map[[sha256.Size]byte]*text{}
	collect := func(name, dir string) error {
		found := false
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() && d.Name() == "testdata" {
				return fs.SkipDir
			}
			if d.IsDir() || !licenceFile.MatchString(d.Name()) || strings.HasSuffix(d.Name(), ".go") {
				return nil
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			found = true
			below, err := filepath.Rel(dir, path)
			if err != nil {
				return err
			}
			content = append(bytes.TrimSpace(bytes.ReplaceAll(content, []byte("\r\n"), []byte("\n"))), '\n')
			sum := sha256.Sum256(content)
			if seen[sum] == nil {
				seen[sum] = &text{content: content}
				texts = append(texts, seen[sum])
			}
			seen[sum].of = append(seen[sum].of, name+" "+filepath.ToSlash(below))
			return nil
		})
		if err == nil && !found {
			err = fmt.Errorf("%s has no licence in %s", name, dir)
		}
		return err
	}

	// Only the library's own: what else is below GOROOT is the tools'.
	goLicence, err := os.ReadFile(filepath.Join(root, "LICENSE"))
	if err != nil {
		return err
	}
	texts = append(texts, &text{goLicence, []string{"Go's standard library " + m.goVersion}})
	for _, v := range m.all {
		escaped, err := module.EscapePath(v.Path)
		if err != nil {
			return err
		}
		version, err := module.EscapeVersion(v.Version)
		if err != nil {
			return err
		}
		if err := collect(v.String(), filepath.Join(cache, filepath.FromSlash(escaped)+"@"+version)); err != nil {
			return err
		}
	}

	var b bytes.Buffer
	b.WriteString("What these programs are built from beside our own code, and under which licences.\n" +
		"The source of each module is what the Go module proxy has for its path and version.\n")
	for _, t := range texts {
		fmt.Fprintf(&b, "\n%s\n%s\n\n%s", strings.Repeat("=", 80), strings.Join(t.of, "\n"), t.content)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

func goEnv(name string) (string, error) {
	out, err := exec.Command("go", "env", name).Output()
	if err != nil {
		return "", fmt.Errorf("go env %s: %w", name, err)
	}
	return strings.TrimSpace(string(out)), nil
}

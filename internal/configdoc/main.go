// Command configdoc prints docs/configuration.md: the options of all our plugins, as their samples explain them, with the
// defaults that they have in the code.
package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/plugins/inputs"
	"github.com/influxdata/telegraf/plugins/outputs"

	_ "github.com/edgetide/telegraf-victorialogs/plugins" // whose defaults are printed
)

const head = `# Configuration

All options of our plugins, generated from their samples by ` + "`make docs`" + `. Each plugin takes
[Telegraf's own options](https://github.com/influxdata/telegraf/blob/master/docs/CONFIGURATION.md#plugins), too, such as
` + "`alias`, `interval`, `tags`" + ` and the metric filters. A key that is not known is an error that names it. Durations are texts such
as ` + "`\"1m30s\"`, sizes such as `\"64MiB\"`" + ` or a number of bytes. "Such as" stands before an example where there is no default.
`

var (
	table  = regexp.MustCompile(`^(\[\[?)([a-z0-9_.]+)\]\]?$`)
	option = regexp.MustCompile(`^([a-z0-9_]+) = (.*)$`)
	name   = regexp.MustCompile(`"?([a-z0-9]+(_[a-z0-9]+)+)"?`)
)

// late are options that the plugin sets by itself where they are empty, since that tells them from one that was set.
var late = []string{"outputs.tcp_exporter.format", "inputs.mqtt_hardware.topic_tag"}

// sample is the state of reading one.
type sample struct {
	out      io.Writer
	path     string        // of the table that is being read
	defaults reflect.Value // of the table that is being read; not valid: it has none
	text     []string      // explains the options that follow
	names    []string
	values   []string
	rows     int // of the table that is being written
}

// write prints the page of the samples below root.
func write(out io.Writer, root string) error {
	paths, err := filepath.Glob(filepath.Join(root, "*", "*", "sample.conf"))
	if err != nil || len(paths) == 0 {
		return cmp.Or(err, fmt.Errorf("no samples are below %s", root))
	}
	fmt.Fprint(out, head)
	for _, path := range paths {
		dir, plugin := filepath.Split(filepath.Dir(path))
		kind := filepath.Base(dir)
		var defaults any
		switch kind {
		case "inputs":
			if creator, ok := inputs.Inputs[plugin]; ok {
				defaults = creator()
			}
		case "outputs":
			if creator, ok := outputs.Outputs[plugin]; ok {
				defaults = creator()
			}
		}
		if defaults == nil {
			return fmt.Errorf("%s: the plugin is not in package plugins", path)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		s := &sample{out: out}
		if err := s.plugin(string(content), kind+"."+plugin, reflect.ValueOf(defaults).Elem()); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

func (s *sample) plugin(content, plugin string, defaults reflect.Value) error {
	lines := strings.Split(strings.TrimSpace(content), "\n")
	fmt.Fprintf(s.out, "\n## %s\n\n%s. The [plugin's page](../%s/README.md) says more.\n",
		plugin, strings.TrimPrefix(lines[0], "# "), strings.ReplaceAll(plugin, ".", "/"))
	for at := 1; at < len(lines); at++ {
		line := strings.TrimSpace(lines[at])
		if prose, ok := strings.CutPrefix(line, "## "); ok {
			if len(s.names) > 0 {
				s.flush()
			}
			s.text = append(s.text, prose)
			continue
		}
		line = strings.TrimSpace(strings.TrimPrefix(line, "#"))
		if found := option.FindStringSubmatch(line); found != nil {
			value := found[2]
			for strings.HasPrefix(value, "[") && !strings.HasSuffix(value, "]") { // a list over several lines
				at++
				value += " " + strings.TrimSpace(lines[at])
			}
			s.option(found[1], value)
			continue
		}
		s.flush()
		if found := table.FindStringSubmatch(line); found != nil {
			s.path = found[2]
			if found[2] == plugin {
				s.defaults = defaults
				continue
			}
			path, ok := strings.CutPrefix(found[2], plugin+".")
			if !ok {
				return fmt.Errorf("%s is of another plugin", line)
			}
			s.defaults = defaults
			for key := range strings.SplitSeq(path, ".") {
				s.defaults = field(s.defaults, key)
			}
			fmt.Fprintf(s.out, "\n### %s\n", line)
			s.rows = 0
			if len(s.text) > 0 {
				fmt.Fprintf(s.out, "\n%s\n", prose(s.text))
			}
			s.text = nil
		} else if line != "" {
			return fmt.Errorf("neither an option nor a table: %s", line)
		}
	}
	s.flush()
	return nil
}

// option takes one in, with its default where it has one.
func (s *sample) option(key, shown string) {
	value := "`" + shown + "`"
	if isNone(field(s.defaults, key)) && !slices.Contains(late, s.path+"."+key) &&
		!slices.Contains([]string{`""`, "[]", "{}", "0", "false", `"0s"`}, shown) {
		value = "such as " + value
	}
	s.names = append(s.names, "`"+key+"`")
	s.values = append(s.values, value)
}

// flush prints the options that were explained together. What was said before a table stays for it.
func (s *sample) flush() {
	if len(s.names) == 0 {
		return
	}
	if s.rows == 0 {
		fmt.Fprint(s.out, "\n| option | default | meaning |\n|---|---|---|\n")
	}
	s.rows++
	cell := func(parts []string) string { return strings.ReplaceAll(strings.Join(parts, "<br>"), "|", `\|`) }
	fmt.Fprintf(s.out, "| %s | %s | %s |\n", cell(s.names), cell(s.values), prose(s.text))
	s.text, s.names, s.values = nil, nil, nil
}

// prose makes one line of Markdown.
func prose(lines []string) string {
	text := strings.NewReplacer("|", `\|`, "*", `\*`, "<", "&lt;").Replace(strings.Join(lines, " "))
	return name.ReplaceAllString(text, "`$1`")
}

// field is that of a key in a struct, in one that it embeds, or in a new element of a list; not valid: there is none.
func field(of reflect.Value, key string) reflect.Value {
	if of.IsValid() && of.Kind() == reflect.Slice {
		of = reflect.New(of.Type().Elem()).Elem()
	}
	if !of.IsValid() || of.Kind() != reflect.Struct {
		return reflect.Value{}
	}
	for i := range of.NumField() {
		switch f := of.Type().Field(i); {
		case f.Tag.Get("toml") == key:
			return of.Field(i)
		case f.Anonymous:
			if found := field(of.Field(i), key); found.IsValid() {
				return found
			}
		}
	}
	return reflect.Value{}
}

// isNone says that there is no default.
func isNone(of reflect.Value) bool {
	if !of.IsValid() {
		return true
	}
	if secret, ok := of.Addr().Interface().(*config.Secret); ok {
		return secret.Empty()
	}
	return of.IsZero() || (of.Kind() == reflect.Slice || of.Kind() == reflect.Map) && of.Len() == 0
}

func main() {
	if err := write(os.Stdout, "."); err != nil {
		fmt.Fprintln(os.Stderr, "configdoc:", err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

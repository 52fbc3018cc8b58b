package execd

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/influxdata/toml"
	"github.com/influxdata/toml/ast"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/plugins/inputs"
	"github.com/influxdata/telegraf/plugins/outputs"
)

// Options that Telegraf takes in any plugin's table, and that would do nothing here.
var (
	idleInBoth = []string{
		"always_include_global_tags", "always_include_local_tags", "buffer_directory", "buffer_strategy",
		"collection_jitter", "collection_offset", "delay", "drop_original", "flush_jitter", "grace", "id",
		"influx_parser_type", "labels", "lvm", "order", "period",
	}
	idleInInputs  = append([]string{"flush_interval", "metric_batch_size", "metric_buffer_limit"}, idleInBoth...)
	idleInOutputs = append([]string{"interval", "precision", "tags"}, idleInBoth...)
)

// agentOptions are those of the table [agent] that mean something here.
var agentOptions = []string{
	"always_include_global_tags", "always_include_local_tags", "debug", "flush_interval", "interval", "metric_batch_size",
	"metric_buffer_limit", "precision", "quiet",
}

// load reads the configuration. Its errors name file, line and key, and what would be right.
func load(paths []string) (*config.Config, error) {
	files, err := expand(paths)
	if err != nil {
		return nil, err
	}
	config.NonStrictEnvVarHandling = false // a variable cannot become more than the string that it stands in
	c := config.NewConfig()
	c.Agent.OmitHostname = true // the Telegraf that started us knows its own
	c.Agent.Interval = 0        // unless it is set, Telegraf says when to gather
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if err := check(file, data); err != nil {
			return nil, err
		}
		if err := c.LoadConfigData(data, file); err != nil {
			return nil, explain(file, data, c, err)
		}
	}
	switch {
	case len(c.Inputs) == 0 && len(c.Outputs) == 0:
		return nil, fmt.Errorf("%s: no plugin; this program hosts %s", strings.Join(files, ", "), strings.Join(hosted(), ", "))
	case len(c.Inputs) > 0 && len(c.Outputs) > 0:
		return nil, fmt.Errorf("%s: inputs and outputs cannot share a process, since Telegraf starts one for inputs.execd and "+
			"another for outputs.execd; use a file for each", strings.Join(files, ", "))
	}
	if err := c.LinkSecrets(); err != nil {
		return nil, err
	}
	return c, nil
}

// expand puts the files of a directory in its place, in the order of their names.
func expand(paths []string) (files []string, err error) {
	if len(paths) == 0 {
		return nil, errors.New("no configuration; name a file with --config")
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			files = append(files, path)
			continue
		}
		found, err := filepath.Glob(filepath.Join(escape(path), "*.conf"))
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("%s: no *.conf in this directory", path)
		}
		files = append(files, found...)
	}
	return files, nil
}

// escape makes a path a pattern for itself.
func escape(path string) string {
	return regexp.MustCompile(`[[*?\\]`).ReplaceAllStringFunc(path, func(c string) string { return "[" + c + "]" })
}

// hosted are the plugins in this program.
func hosted() []string {
	var names []string
	for name := range inputs.Inputs {
		names = append(names, "inputs."+name)
	}
	for name := range outputs.Outputs {
		names = append(names, "outputs."+name)
	}
	slices.Sort(names)
	return names
}

// fault is something wrong at a line.
type fault struct {
	line int
	text string
}

// check finds what Telegraf would take and not use, or say less clearly.
func check(file string, data []byte) error {
	tree, err := toml.Parse(data)
	if err != nil {
		return locate(file, err)
	}
	var faults []fault
	add := func(line int, format string, args ...any) {
		faults = append(faults, fault{line, fmt.Sprintf(format, args...)})
	}
	checkVariables(tree, add)
	for name, value := range tree.Fields {
		table, isTable := value.(*ast.Table)
		switch {
		case !isTable && slices.Contains([]string{"agent", "global_tags", "inputs", "outputs", "secretstores"}, name):
			add(lineOf(value), "%s must be a table", name)
		case name == "agent":
			for key, v := range table.Fields {
				checkNumber("[agent]", key, v, add)
				if !slices.Contains(agentOptions, key) {
					add(lineOf(v), "[agent]: %s does nothing here; known are %s", key, strings.Join(agentOptions, ", "))
				}
			}
		case name == "global_tags", name == "secretstores":
		case name == "inputs", name == "outputs":
			for plugin, v := range table.Fields {
				checkPlugin(name, plugin, v, add)
			}
		default:
			add(lineOf(value), "%s cannot be set here; known are [agent], [global_tags], [[secretstores.…]], [[inputs.…]] and "+
				"[[outputs.…]]", name)
		}
	}
	slices.SortStableFunc(faults, func(a, b fault) int { return a.line - b.line })
	var errs []error
	for _, f := range faults {
		errs = append(errs, fmt.Errorf("%s:%d: %s", file, f.line, f.text))
	}
	return errors.Join(errs...)
}

func checkPlugin(side, name string, value any, add func(line int, format string, args ...any)) {
	full := side + "." + name
	if !slices.Contains(hosted(), full) {
		add(lineOf(value), "there is no %s here; this program hosts %s", full, strings.Join(hosted(), ", "))
		return
	}
	tables, ok := value.([]*ast.Table)
	if !ok {
		add(lineOf(value), "%s must be written as [[%s]], in double brackets", full, full)
		return
	}
	idle := idleInInputs
	if side == "outputs" {
		idle = idleInOutputs
	}
	own := options(full)
	for _, table := range tables {
		for key, v := range table.Fields {
			checkNumber(full, key, v, add)
			checkKind(full, key, v, add)
			if slices.Contains(idle, key) && !slices.Contains(own, key) {
				add(lineOf(v), "%s: %s does nothing here; leave it out", full, key)
			}
		}
	}
}

// checkNumber is for what Telegraf's buffers and tickers panic at.
func checkNumber(table, key string, value any, add func(line int, format string, args ...any)) {
	kv, ok := value.(*ast.KeyValue)
	if !ok {
		return
	}
	switch key {
	case "metric_batch_size", "metric_buffer_limit":
		if n, ok := kv.Value.(*ast.Integer); ok && strings.HasPrefix(n.Value, "-") {
			add(kv.Line, "%s: %s = %s: must not be negative", table, key, n.Value)
		}
	case "flush_interval", "interval":
		if d := new(config.Duration); d.UnmarshalText([]byte(unquoted(kv.Value))) == nil && (*d < 0 || *d == 0 && key == "flush_interval") {
			add(kv.Line, "%s: %s = %s: must be positive", table, key, kv.Value.Source())
		}
	}
}

// unquoted is a value as text.
func unquoted(value ast.Value) string {
	if s, ok := value.(*ast.String); ok {
		return s.Value
	}
	return value.Source()
}

// checkKind is for what Telegraf passes over without a word.
func checkKind(plugin, key string, value any, add func(line int, format string, args ...any)) {
	kv, ok := value.(*ast.KeyValue)
	if !ok {
		return
	}
	switch key {
	case "tagpass", "tagdrop":
		add(kv.Line, "%s: %s must be a table of lists, such as [%s.%s] and topic = [\"a*\"] below", plugin, key, plugin, key)
	case "log_level":
		if level := unquoted(kv.Value); level != "" && !strings.Contains(level, "$") && telegraf.LogLevelFromString(level) == telegraf.None {
			add(kv.Line, "%s: log_level = %s: must be error, warn, info, debug or trace", plugin, kv.Value.Source())
		}
	}
}

// variable is ${NAME}, without a default; $${NAME} stands for itself, and a regular expression's ${1} is none.
var variable = regexp.MustCompile(`\$?\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)

// checkVariables finds variables that are not set, such as a password that would be sent as ${MQTT_PASSWORD}.
func checkVariables(tree *ast.Table, add func(line int, format string, args ...any)) {
	var within func(value any, line int)
	within = func(value any, line int) {
		switch v := value.(type) {
		case *ast.Table:
			for _, field := range v.Fields {
				within(field, 0)
			}
		case []*ast.Table:
			for _, table := range v {
				within(table, 0)
			}
		case *ast.KeyValue:
			within(v.Value, v.Line)
		case *ast.Array:
			for _, element := range v.Value {
				within(element, line)
			}
		case *ast.String:
			for _, found := range variable.FindAllStringSubmatch(v.Value, -1) {
				if _, ok := os.LookupEnv(found[1]); !ok && !strings.HasPrefix(found[0], "$$") {
					add(line, "the environment variable %s is not set", found[1])
				}
			}
		}
	}
	within(tree, 0)
}

// lineOf is where a part of the file begins.
func lineOf(value any) int {
	switch v := value.(type) {
	case *ast.KeyValue:
		return v.Line
	case *ast.Table:
		if v.Line == 0 { // it has no header of its own
			first := 0
			for _, field := range v.Fields {
				if l := lineOf(field); first == 0 || l < first {
					first = l
				}
			}
			return first
		}
		return v.Line
	case []*ast.Table:
		return lineOf(v[0])
	default:
		return 0
	}
}

// options are those that a plugin's sample documents.
func options(plugin string) (names []string) {
	sample := ""
	side, name, _ := strings.Cut(plugin, ".")
	if creator, ok := inputs.Inputs[name]; ok && side == "inputs" {
		sample = creator().SampleConfig()
	} else if creator, ok := outputs.Outputs[name]; ok && side == "outputs" {
		sample = creator().SampleConfig()
	}
	for _, found := range regexp.MustCompile(`(?m)^ *#? ?(?: *)([a-z][a-z0-9_]*) *=`).FindAllStringSubmatch(sample, -1) {
		names = append(names, found[1])
	}
	for _, found := range regexp.MustCompile(`(?m)^ *#? *\[+[a-z_]+\.[a-z_]+\.([a-z0-9_]+)`).FindAllStringSubmatch(sample, -1) {
		names = append(names, found[1])
	}
	return names
}

// explain says where the key stands that Telegraf did not use, and which one may have been meant.
func explain(file string, data []byte, c *config.Config, err error) error {
	if len(c.UnusedFields) == 0 {
		return locate(file, err)
	}
	tree, broken := toml.Parse(data)
	if broken != nil {
		return err
	}
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(c.UnusedFields)) {
		table, at := find(tree, key)
		text := fmt.Sprintf("%s:%d: %s: there is no option %s", file, at, table, key)
		if meant := nearest(key, options(table)); meant != "" {
			text += "; did you mean " + meant + "?"
		}
		errs = append(errs, errors.New(text))
	}
	return errors.Join(errs...)
}

// find returns the first plugin, in the file's order, with such a key in its table or below, and the key's line.
func find(tree *ast.Table, key string) (plugin string, at int) {
	var within func(value any) int
	within = func(value any) (first int) {
		seen := func(l int) {
			if l > 0 && (first == 0 || l < first) {
				first = l
			}
		}
		switch v := value.(type) {
		case *ast.Table:
			for name, field := range v.Fields {
				if name == key {
					seen(lineOf(field))
				}
				seen(within(field))
			}
		case []*ast.Table:
			for _, table := range v {
				seen(within(table))
			}
		}
		return first
	}
	for side, value := range tree.Fields {
		table, ok := value.(*ast.Table)
		if !ok {
			continue
		}
		for name, field := range table.Fields {
			if l := within(field); l > 0 && (at == 0 || l < at) {
				plugin, at = side+"."+name, l
			}
		}
	}
	return plugin, at
}

// nearest is the name that differs from the key in a third of its letters at most.
func nearest(key string, names []string) (best string) {
	least := len(key)/3 + 1
	for _, name := range names {
		if d := distance(key, name); d < least {
			best, least = name, d
		}
	}
	return best
}

// distance is how many letters are added, left out or changed from a to b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := corner
			if a[i] != b[j] {
				change++
			}
			corner = row[j+1]
			row[j+1] = min(change, row[j]+1, corner+1)
		}
	}
	return row[len(b)]
}

var lineNumber = regexp.MustCompile(`,? ?line (\d+): `)

// locate brings the line of an error to where editors look for it.
func locate(file string, err error) error {
	if at := lineNumber.FindStringSubmatch(err.Error()); at != nil {
		text := strings.Replace(err.Error(), at[0], ": ", 1)
		return fmt.Errorf("%s:%s: %s", file, at[1], strings.TrimPrefix(text, ": "))
	}
	return fmt.Errorf("%s: %w", file, err)
}

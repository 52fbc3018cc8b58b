package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/models"
	"github.com/influxdata/telegraf/plugins/inputs"
	"github.com/influxdata/telegraf/plugins/outputs"
	"github.com/influxdata/telegraf/plugins/secretstores"

	"github.com/edgetide/telegraf-victorialogs/inputs/mqtt_hardware"
	"github.com/edgetide/telegraf-victorialogs/internal/redact"
	"github.com/edgetide/telegraf-victorialogs/outputs/victorialogs"
)

// loaded is the part of the configuration that is ours.
type loaded struct {
	files   []string
	foreign []string // plugins that are configured and not in this program
	plugins []plugin
	tags    map[string]string // that the agent puts on each metric
	unset   map[string]string // variables of the environment that are not set, and the last file that names them
	faults  []error
}

// plugin is one of ours as it is configured.
type plugin struct {
	name   string // with the alias, or a number where it is not the only one
	plugin any
	init   func() error
}

// find returns the files that Telegraf would load.
func find(files, directories []string) ([]string, error) {
	files = slices.Clone(files)
	for _, dir := range directories {
		if _, err := os.Stat(dir); err != nil {
			return nil, err
		}
		found, err := config.WalkDirectory(dir)
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	if len(files) == 0 && len(directories) == 0 {
		return config.GetDefaultConfigPath()
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no *.conf in %s", strings.Join(directories, ", "))
	}
	return files, nil
}

// load reads the files with Telegraf's own package, of whose plugins only ours are in this program. Its error says that a file
// cannot be read, or that none of ours is in them.
func load(files []string) (*loaded, error) {
	l := &loaded{unset: make(map[string]string)}
	c := config.NewConfig()
	c.InputFilters = slices.Sorted(maps.Keys(inputs.Inputs))
	c.OutputFilters = slices.Sorted(maps.Keys(outputs.Outputs))
	c.SecretStoreFilters = slices.Sorted(maps.Keys(secretstores.SecretStores))
	for _, file := range files {
		data, _, err := config.LoadConfigFileWithRetries(file, 1) // of a URL; the agent tries longer
		if err != nil {
			return nil, err
		}
		if strings.Contains(file, "://") {
			file = redact.URL(file)
		}
		l.files = append(l.files, file)
		data, foreign, unset := ours(data)
		l.foreign = append(l.foreign, foreign...)
		for _, name := range unset {
			l.unset[name] = file
		}
		if err := c.LoadConfigData(data, file); err != nil {
			l.faults = append(l.faults, fmt.Errorf("%s: %w", file, err))
			clear(c.UnusedFields) // which the next file would be blamed for
		}
	}
	if len(l.faults) == 0 {
		if err := c.LinkSecrets(); err != nil {
			l.faults = append(l.faults, fmt.Errorf("%w: %w", errSecret, err))
		}
	}
	l.foreign = slices.Compact(slices.Sorted(slices.Values(l.foreign)))
	l.tags = c.Tags
	l.collect(c)
	if len(l.plugins) == 0 && len(l.faults) == 0 {
		return nil, fmt.Errorf("%s: there is no plugin of ours to check", strings.Join(l.files, ", "))
	}
	l.compare()
	return l, nil
}

var errSecret = errors.New("a secret cannot be found")

// header is that of a table in a file, multiline what begins or ends a text of several lines, and variable one of the
// environment that has no default; with $$ it is none.
var (
	header = regexp.MustCompile(`^\[\[?\s*(agent|global_tags|tags|inputs|outputs|processors|aggregators|secretstores|plugins)\b` +
		`\s*(?:\.\s*([\w-]+))?[^\]]*\]\]?\s*(?:#.*)?$`)
	multiline = regexp.MustCompile(`"""|'''`)
	variable  = regexp.MustCompile(`(?:^|[^$])\$\{([A-Za-z_]\w*)\}`)
)

// ours blanks out processors and aggregators, which Telegraf's package cannot be told to leave out as it can other plugins, and
// names all that is not in this program, and the variables that the rest wants and that are not set.
func ours(data []byte) (kept []byte, foreign, unset []string) {
	lines := strings.SplitAfter(string(data), "\n")
	drop, others, within := false, false, ""
	for i, line := range lines {
		if within == "" {
			if found := header.FindStringSubmatch(strings.TrimSpace(line)); found != nil {
				kind, name := found[1], found[2]
				drop = kind == "processors" || kind == "aggregators"
				known := map[string]bool{
					"inputs": inputs.Inputs[name] != nil, "outputs": outputs.Outputs[name] != nil, "secretstores": secretstores.SecretStores[name] != nil,
				}
				has, plugin := known[kind]
				if others = name != "" && (drop || plugin && !has); others {
					foreign = append(foreign, kind+"."+name)
				}
			}
		}
		if !strings.HasPrefix(strings.TrimSpace(line), "#") || within != "" {
			for _, quotes := range multiline.FindAllString(line, -1) {
				switch within {
				case "":
					within = quotes
				case quotes:
					within = ""
				}
			}
		}
		if !others {
			for _, found := range variable.FindAllStringSubmatch(uncommented(line), -1) {
				if _, set := os.LookupEnv(found[1]); !set {
					unset = append(unset, found[1])
				}
			}
		}
		if drop {
			lines[i] = strings.Repeat("\n", strings.Count(line, "\n")) // so that later lines keep their numbers
		}
	}
	return []byte(strings.Join(lines, "")), foreign, unset
}

// uncommented is a line without the comment at its end.
func uncommented(line string) string {
	quote := rune(0)
	for i, c := range line {
		switch {
		case quote == 0 && c == '#':
			return line[:i]
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case c == quote:
			quote = 0
		}
	}
	return line
}

// collect lists the plugins, inputs first. Of several of a kind each has its number.
func (l *loaded) collect(c *config.Config) {
	count := make(map[string]int)
	add := func(name string, p any, init func() error) {
		count[name]++
		if count[name] > 1 {
			name = fmt.Sprintf("%s #%d", name, count[name])
		}
		l.plugins = append(l.plugins, plugin{name: name, plugin: p, init: init})
	}
	for _, i := range c.Inputs {
		add(i.LogName(), i.Input, i.Init)
	}
	slices.SortStableFunc(c.Outputs, func(a, b *models.RunningOutput) int { return strings.Compare(a.Config.Name, b.Config.Name) })
	for _, o := range c.Outputs {
		add(o.LogName(), o.Output, o.Init)
	}
}

// compare finds plugins that cannot run beside each other.
func (l *loaded) compare() {
	directories, clients := make(map[string]string), make(map[string]string)
	for _, p := range l.plugins {
		switch plugin := p.plugin.(type) {
		case *victorialogs.VictoriaLogs:
			if plugin.DLQ.Directory == "" {
				continue
			}
			dir := filepath.Clean(plugin.DLQ.Directory)
			if other := directories[dir]; other != "" {
				l.faults = append(l.faults, fmt.Errorf("%s: dlq: directory = %q is that of %s, too; each needs its own", p.name, dir, other))
			}
			directories[dir] = p.name
		case *mqtt_hardware.MQTTHardware:
			if plugin.ClientID == "" {
				continue
			}
			servers := plugin.Servers
			if len(servers) == 0 {
				servers = []string{""} // the default
			}
			for _, server := range servers {
				key := plugin.ClientID + " at " + server
				if other := clients[key]; other != "" && other != p.name {
					l.faults = append(l.faults, fmt.Errorf("%s: client_id = %q is that of %s at the same broker, which lets only one of them "+
						"stay; each needs its own", p.name, plugin.ClientID, other))
				}
				clients[key] = p.name
			}
		}
	}
}

// configuration reports whether the rest can be checked.
func (c *check) configuration(l *loaded) bool {
	const name = "configuration"
	for _, v := range slices.Sorted(maps.Keys(l.unset)) {
		c.report.failed("", "environment", "run this with the agent's environment, which under systemd is that of its unit; or set the variable; "+
			"or give it a default, as in ${"+v+":-none}", "%s is not set, and ${%s} in %s is taken as it stands", v, v, l.unset[v])
	}
	for _, err := range l.faults {
		todo := "correct the file; the plugins' options are in their README and sample.conf"
		if errors.Is(err, errSecret) {
			todo = "correct the reference, or configure the secret store that it names"
			for _, f := range l.foreign {
				if strings.HasPrefix(f, "secretstores.") {
					todo = "if it is of " + f + ", which is not in telegraf-check, check with bin/telegraf --test instead"
				}
			}
		}
		if strings.Contains(err.Error(), "parser not found") || strings.Contains(err.Error(), "serializer not found") {
			todo = "correct data_format; one that bin/telegraf knows may not be in telegraf-check, then leave it out of a copy to check"
		}
		c.report.failed("", name, todo, "%v", err)
	}
	if len(l.faults) > 0 {
		return false
	}
	names := make([]string, 0, len(l.plugins))
	for _, p := range l.plugins {
		names = append(names, p.name)
	}
	text := fmt.Sprintf("%s: %s", strings.Join(l.files, ", "), strings.Join(names, ", "))
	if len(l.foreign) > 0 {
		text += "; not checked, since not ours: " + strings.Join(l.foreign, ", ")
	}
	c.report.ok("", name, "%s", text)
	return true
}

// initialize reports whether the plugin takes its options.
func (c *check) initialize(p plugin) bool {
	if err := p.init(); err != nil {
		c.report.failed(p.name, "options", "correct the option; the agent does not start with it", "%v", err)
		return false
	}
	return true
}

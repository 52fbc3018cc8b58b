package mqtt_hardware

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/influxdata/telegraf"
)

// matchesTopic reports whether a topic name matches a topic filter (MQTT 3.1.1 section 4.7). The prefixes of shared
// subscriptions, $share/GROUP/ and $queue/, are no part of the filter.
func matchesTopic(filter, topic string) bool {
	if rest, ok := strings.CutPrefix(filter, "$share/"); ok {
		_, filter, _ = strings.Cut(rest, "/")
	} else if rest, ok := strings.CutPrefix(filter, "$queue/"); ok {
		filter = rest
	}
	if strings.HasPrefix(topic, "$") && !strings.HasPrefix(filter, "$") {
		return false // wildcards at the start do not reach the broker's own topics
	}
	for {
		level, filterRest, filterMore := strings.Cut(filter, "/")
		if level == "#" {
			return true
		}
		name, topicRest, topicMore := strings.Cut(topic, "/")
		if level != "+" && level != name {
			return false
		}
		if !topicMore {
			return !filterMore || filterRest == "#" // a/# matches a, too
		}
		if !filterMore {
			return false
		}
		filter, topic = filterRest, topicRest
	}
}

// filtersFor returns the topic filters that match a topic, those with both kinds of wildcards in any place included. Of a
// topic with very many levels only those that differ in the last ones are returned.
func filtersFor(topic string) []string {
	const most = 6 // levels with a wildcard, since each doubles the number
	levels := strings.Split(topic, "/")
	filters, open := []string{}, []string{""} // open: how a filter can begin
	for i, level := range levels {
		var longer []string
		for _, begin := range open {
			filters = append(filters, begin+"#")
			longer = append(longer, begin+level+"/")
			if i >= len(levels)-most {
				longer = append(longer, begin+"+/")
			}
		}
		open = longer
	}
	for _, begin := range open {
		filters = append(filters, strings.TrimSuffix(begin, "/"), begin+"#")
	}
	return filters
}

// checkFilter finds what a broker would refuse in a topic filter, or take for another one without a word (MQTT 3.1.1
// section 4.7, MQTT 5 section 4.8.2 for $share).
func checkFilter(filter string) error {
	switch {
	case filter == "":
		return fmt.Errorf("%q is empty", filter)
	case len(filter) > math.MaxUint16:
		return fmt.Errorf("%.20q… has %d bytes; must have 65535 at most", filter, len(filter))
	case !utf8.ValidString(filter) || strings.ContainsRune(filter, 0):
		return fmt.Errorf("%q must be UTF-8 without NUL", filter)
	}
	if rest, ok := strings.CutPrefix(filter, "$share/"); ok {
		group, shared, _ := strings.Cut(rest, "/")
		if group == "" || shared == "" || strings.ContainsAny(group, "+#") {
			return fmt.Errorf("%q must be $share/GROUP/FILTER, with a GROUP without wildcards", filter)
		}
	}
	levels := strings.Split(filter, "/")
	for i, level := range levels {
		switch {
		case strings.Contains(level, "#") && (level != "#" || i != len(levels)-1):
			return fmt.Errorf("in %q the wildcard # must stand alone at the end", filter)
		case strings.Contains(level, "+") && level != "+":
			return fmt.Errorf("in %q the wildcard + must stand alone between slashes", filter)
		}
	}
	return nil
}

// TopicParsing is one [[inputs.mqtt_hardware.topic_parsing]]: it takes parts of the topic as the measurement's name,
// as tags and as fields. In each pattern a part is a level of the topic: "_" is ignored, and in topic "+" stands for
// any level and "#", once, for any number of them.
type TopicParsing struct {
	Topic       string            `toml:"topic"`
	Measurement string            `toml:"measurement"`
	Tags        string            `toml:"tags"`
	Fields      string            `toml:"fields"`
	Types       map[string]string `toml:"types"` // of fields: int, uint or float; string without one
}

// topicParser is a TopicParsing made ready. Levels behind a "#" are counted from the topic's end.
type topicParser struct {
	literals    []level // what must stand where
	measurement []level // none or one
	tags        []level
	fields      []level
	types       map[string]string
	least       int  // levels
	open        bool // more levels than least match, too
}

type level struct {
	name string
	at   int // from the start, or below zero from the end
}

func (l level) in(levels []string) string {
	if l.at < 0 {
		return levels[len(levels)+l.at]
	}
	return levels[l.at]
}

func newTopicParser(c TopicParsing) (*topicParser, error) {
	p := &topicParser{types: c.Types}
	for name, kind := range c.Types {
		if kind != "int" && kind != "uint" && kind != "float" {
			return nil, fmt.Errorf(`types: %s = %q: must be "int", "uint" or "float"`, name, kind)
		}
	}
	topicLevels, open, err := parseLevels(c.Topic, "+")
	if err != nil {
		return nil, fmt.Errorf("topic = %q: %w", c.Topic, err)
	}
	p.literals, p.open, p.least = topicLevels, open, lengthOf(c.Topic)
	for _, part := range []struct {
		key, pattern string
		levels       *[]level
	}{{"measurement", c.Measurement, &p.measurement}, {"tags", c.Tags, &p.tags}, {"fields", c.Fields, &p.fields}} {
		if part.pattern == "" {
			continue
		}
		if *part.levels, _, err = parseLevels(part.pattern, "_"); err != nil {
			return nil, fmt.Errorf("%s = %q: %w", part.key, part.pattern, err)
		}
		length := lengthOf(part.pattern)
		if !p.open && length != lengthOf(c.Topic) && len(*part.levels) > 0 {
			return nil, fmt.Errorf("%s = %q: has %d levels; must have as many as topic = %q, which has %d", part.key,
				part.pattern, length, c.Topic, lengthOf(c.Topic))
		}
		p.least = max(p.least, length)
	}
	if len(p.measurement) > 1 {
		return nil, fmt.Errorf(`measurement = %q: names %d levels; must name one, with "_" for each other`, c.Measurement,
			len(p.measurement))
	}
	return p, nil
}

// parseLevels finds the named levels of a pattern; those that are ignored, or empty in any pattern but topic, are none.
func parseLevels(pattern, ignored string) (levels []level, open bool, err error) {
	parts := strings.Split(pattern, "/")
	for i, part := range parts {
		switch {
		case part == "#" && open:
			return nil, false, fmt.Errorf("must hold # once at most")
		case part == "#":
			open = true
		case part == ignored || part == "" && ignored == "_":
		case open:
			levels = append(levels, level{part, i - len(parts)})
		default:
			levels = append(levels, level{part, i})
		}
	}
	return levels, open, nil
}

// lengthOf counts the levels that a pattern names.
func lengthOf(pattern string) int {
	parts := strings.Split(pattern, "/")
	if slices.Contains(parts, "#") {
		return len(parts) - 1
	}
	return len(parts)
}

// apply adds to the metric what the topic holds, if the topic is of the pattern. levels are the topic's.
func (p *topicParser) apply(m telegraf.Metric, levels []string) error {
	if len(levels) < p.least || len(levels) > p.least && !p.open {
		return nil
	}
	for _, l := range p.literals {
		if l.in(levels) != l.name {
			return nil
		}
	}
	for _, l := range p.measurement {
		m.SetName(l.in(levels))
	}
	for _, l := range p.tags {
		m.AddTag(l.name, l.in(levels))
	}
	var failed error
	for _, l := range p.fields {
		value, err := convert(l.in(levels), p.types[l.name])
		if err != nil {
			failed = fmt.Errorf("topic_parsing: field %q: %w", l.name, err)
			value = l.in(levels)
		}
		m.AddField(l.name, value)
	}
	return failed
}

func convert(text, kind string) (any, error) {
	switch kind {
	case "int":
		return strconv.ParseInt(text, 10, 64)
	case "uint":
		return strconv.ParseUint(text, 10, 64)
	case "float":
		return strconv.ParseFloat(text, 64)
	default:
		return text, nil
	}
}

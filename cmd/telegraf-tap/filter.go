package main

import (
	"fmt"
	"strings"

	"github.com/influxdata/telegraf/filter"

	"github.com/edgetide/telegraf-victorialogs/outputs/tcp_exporter/wire"
)

// keeps says which series are shown: of any of the names, and with all of the labels.
type keeps struct {
	names  filter.Filter // nil: all
	labels map[string]filter.Filter
}

func newFilter(names, labels []string) (k keeps, err error) {
	k.names, err = filter.Compile(names)
	if err != nil {
		return k, fmt.Errorf("--name is %q: %w; it must be a name, which may hold * and ?", names, err)
	}
	k.labels = make(map[string]filter.Filter)
	for _, label := range labels {
		key, value, ok := strings.Cut(label, "=")
		if !ok || key == "" {
			return k, fmt.Errorf("--label is %q; it must be KEY=VALUE, such as host=gateway-*", label)
		}
		k.labels[key], err = filter.Compile([]string{value})
		if err != nil {
			return k, fmt.Errorf("--label is %q: %w; it must be KEY=VALUE, where the value may hold * and ?", label, err)
		}
	}
	return k, nil
}

func (k keeps) match(m *wire.Metric) bool {
	if k.names != nil && !k.names.Match(m.GetName()) {
		return false
	}
	for key, value := range k.labels {
		if got, ok := m.GetLabels()[key]; !ok || !value.Match(got) {
			return false
		}
	}
	return true
}

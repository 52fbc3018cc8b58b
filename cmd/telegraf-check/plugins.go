package main

// What a configuration may name beside plugins: the formats of data_format and the stores of secrets. Plugins of others are
// not in this program, and are not checked.
import (
	_ "github.com/influxdata/telegraf/plugins/parsers/binary"
	_ "github.com/influxdata/telegraf/plugins/parsers/csv"
	_ "github.com/influxdata/telegraf/plugins/parsers/form_urlencoded"
	_ "github.com/influxdata/telegraf/plugins/parsers/grok"
	_ "github.com/influxdata/telegraf/plugins/parsers/influx"
	_ "github.com/influxdata/telegraf/plugins/parsers/json"
	_ "github.com/influxdata/telegraf/plugins/parsers/json_v2"
	_ "github.com/influxdata/telegraf/plugins/parsers/logfmt"
	_ "github.com/influxdata/telegraf/plugins/parsers/value"
	_ "github.com/influxdata/telegraf/plugins/parsers/xpath"
	_ "github.com/influxdata/telegraf/plugins/secretstores/docker" // files in a directory, such as /run/secrets
	_ "github.com/influxdata/telegraf/plugins/secretstores/systemd"
	_ "github.com/influxdata/telegraf/plugins/serializers/influx"
	_ "github.com/influxdata/telegraf/plugins/serializers/json"

	_ "github.com/edgetide/telegraf-victorialogs/plugins"
)

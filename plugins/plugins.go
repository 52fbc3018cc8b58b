// Package plugins is the list of our Telegraf plugins. Importing it registers them all, in any program that is built on
// Telegraf.
package plugins

import (
	_ "github.com/edgetide/telegraf-victorialogs/inputs/mqtt_hardware" // register inputs.mqtt_hardware
	_ "github.com/edgetide/telegraf-victorialogs/outputs/tcp_exporter" // register outputs.tcp_exporter
	_ "github.com/edgetide/telegraf-victorialogs/outputs/victorialogs" // register outputs.victorialogs
)

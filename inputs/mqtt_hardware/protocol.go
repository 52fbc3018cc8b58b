package mqtt_hardware

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/eclipse/paho.golang/paho"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/filter"
)

// ProtocolOptions are what depends on MQTT's version, and what is done with retained messages.
type ProtocolOptions struct {
	Protocol          string          `toml:"protocol"`
	SessionExpiry     config.Duration `toml:"session_expiry"`
	NoLocal           bool            `toml:"no_local"`
	RetainHandling    int             `toml:"retain_handling"`
	SkipRetained      bool            `toml:"skip_retained"`
	AvailabilityTopic string          `toml:"availability_topic"`
	UserProperties    []string        `toml:"user_properties"`
	MessageProperties []string        `toml:"message_properties"`

	userProperties filter.Filter // nil: none
}

const (
	protocol3 = "3.1.1"
	protocol5 = "5"
)

// knownProperties are what message_properties may list.
var knownProperties = []string{"content_type", "response_topic", "correlation_data", "message_expiry"}

func (o *ProtocolOptions) check() (err error) {
	if o.Protocol != protocol3 && o.Protocol != protocol5 {
		return fmt.Errorf("protocol = %q: must be %q or %q", o.Protocol, protocol3, protocol5)
	}
	for _, five := range []struct {
		option string
		set    bool
	}{
		{fmt.Sprintf("session_expiry = %q", time.Duration(o.SessionExpiry)), o.SessionExpiry != 0},
		{fmt.Sprintf("no_local = %t", o.NoLocal), o.NoLocal},
		{fmt.Sprintf("retain_handling = %d", o.RetainHandling), o.RetainHandling != 0},
		{fmt.Sprintf("user_properties = %q", o.UserProperties), len(o.UserProperties) > 0},
		{fmt.Sprintf("message_properties = %q", o.MessageProperties), len(o.MessageProperties) > 0},
	} {
		if five.set && o.Protocol != protocol5 {
			return fmt.Errorf("%s: needs protocol = %q; MQTT %s knows nothing of the kind", five.option, protocol5, o.Protocol)
		}
	}
	const longest = config.Duration(0xFFFFFFFE * time.Second)
	if o.SessionExpiry < 0 || o.SessionExpiry > longest || o.SessionExpiry%config.Duration(time.Second) != 0 {
		return fmt.Errorf(`session_expiry = %q: must be whole seconds, such as "168h", or "0s" for never`, time.Duration(o.SessionExpiry))
	}
	if o.RetainHandling < 0 || o.RetainHandling > 2 {
		return fmt.Errorf("retain_handling = %d: must be 0 (send retained messages), 1 (only for a new subscription) or 2 (send none)",
			o.RetainHandling)
	}
	if strings.ContainsAny(o.AvailabilityTopic, "+#\x00") {
		return fmt.Errorf("availability_topic = %q: must be a topic without wildcards", o.AvailabilityTopic)
	}
	for _, name := range o.MessageProperties {
		if !slices.Contains(knownProperties, name) {
			return fmt.Errorf("message_properties: %q is none; must be of %q", name, knownProperties)
		}
	}
	if o.userProperties, err = filter.Compile(o.UserProperties); err != nil {
		return fmt.Errorf("user_properties = %q: %w; must be globs such as \"site\" or \"x-*\"", o.UserProperties, err)
	}
	return nil
}

// options5 returns what MQTT 5 is spoken with, nil for 3.1.1.
func (o *ProtocolOptions) options5(maxUndelivered int) *options5 {
	if o.Protocol != protocol5 {
		return nil
	}
	return &options5{
		receiveMaximum: uint16(min(maxUndelivered, 65535)), //nolint:gosec // bounded
		sessionExpiry:  time.Duration(o.SessionExpiry),
		retainHandling: byte(o.RetainHandling), //nolint:gosec // check bounds it
		noLocal:        o.NoLocal,
	}
}

// describe adds what the message says of itself beside its payload.
func (o *ProtocolOptions) describe(metric telegraf.Metric, m *message) {
	if m.retained {
		metric.AddField("retained", true)
	}
	if m.properties == nil {
		return
	}
	if o.userProperties != nil {
		for _, p := range m.properties.User {
			if o.userProperties.Match(p.Key) {
				metric.AddTag(p.Key, p.Value)
			}
		}
	}
	for _, name := range o.MessageProperties {
		if value := property(m.properties, name); value != nil {
			metric.AddField(name, value)
		}
	}
}

// property returns nil for what the message does not have.
func property(p *paho.PublishProperties, name string) any {
	switch {
	case name == "content_type" && p.ContentType != "":
		return p.ContentType
	case name == "response_topic" && p.ResponseTopic != "":
		return p.ResponseTopic
	case name == "correlation_data" && len(p.CorrelationData) > 0:
		if utf8.Valid(p.CorrelationData) {
			return string(p.CorrelationData)
		}
		return base64.StdEncoding.EncodeToString(p.CorrelationData)
	case name == "message_expiry" && p.MessageExpiry != nil:
		return int64(*p.MessageExpiry) // seconds
	}
	return nil
}

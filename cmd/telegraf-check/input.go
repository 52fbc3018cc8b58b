package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/edgetide/telegraf-victorialogs/inputs/mqtt_hardware"
)

// input checks where data enters.
func (c *check) input(ctx context.Context, name string, p *mqtt_hardware.MQTTHardware) {
	if len(p.Topics) == 0 {
		c.report.skipped(name, "broker", "topics is empty, so MQTT is off")
	}
	for _, b := range p.CheckBrokers(ctx, c.timeout) {
		c.broker(name, p, b)
	}
	if l, is := p.CheckListen(ctx, c.timeout); is {
		c.listen(name, l)
	}
	c.hardware(ctx, name, p)
}

func (c *check) broker(name string, p *mqtt_hardware.MQTTHardware, b mqtt_hardware.BrokerCheck) {
	const login, subscribe = "broker", "subscribe"
	user := "without credentials"
	if !p.Username.Empty() {
		user = "with username and password"
	}
	switch b.Stage {
	case mqtt_hardware.StageSecrets:
		c.report.failed(name, login, secretTodo, "%s: %v", b.Server, b.Err)
		return
	case mqtt_hardware.StageConnect:
		c.report.failed(name, login, remedy(b.Err, "servers"), "%s: cannot connect: %v", b.Server, b.Err)
		return
	case mqtt_hardware.StageLogin:
		todo := "set username and password to what the broker knows; the check logs in as client " + b.ClientID +
			", which a broker that ties rights to client ids must let in, too"
		switch {
		case b.Refused:
		case refusedTLS(b.Err): // which TLS 1.3 says only after the handshake
			todo = remedy(b.Err, "servers")
		default:
			todo = fmt.Sprintf("see the broker's log; a port for TLS needs ssl://, one for websockets ws://, and protocol = %q must be known there", p.Protocol)
		}
		c.report.failed(name, login, todo, "%s: connected, and cannot log in %s: %v", b.Server, user, b.Err)
		return
	case mqtt_hardware.StageSubscribe:
	}
	c.report.ok(name, login, "%s: logged in %s after %s, with the client id %s", b.Server, user, shown(b.Took), b.ClientID)

	var granted, instead []string
	for _, t := range b.Topics {
		code := fmt.Sprintf("0x%02x", t.Code)
		if t.Reason != "" {
			code += " (" + t.Reason + ")"
		}
		switch {
		case t.Refused():
			c.report.failed(name, subscribe, "give this user the right to subscribe to it, or take it out of topics",
				"%s: refuses %q with code %s", b.Server, t.Filter, code)
			continue
		case int(t.Code) < p.QoS:
			c.report.failed(name, subscribe, fmt.Sprintf("allow QoS %d there, or messages get lost; or set qos = %d and accept that", p.QoS, t.Code),
				"%s: grants QoS %d instead of %d for %q", b.Server, t.Code, p.QoS, t.Filter)
			continue
		}
		granted = append(granted, t.Filter)
		if t.Filter != t.Topic {
			instead = append(instead, t.Topic)
		}
	}
	if b.Err != nil {
		c.report.failed(name, subscribe, "see the broker's log; some hang up on who asks for what they may not have", "%s: %v", b.Server, b.Err)
	}
	if len(granted) == 0 {
		return
	}
	text := fmt.Sprintf("%s: granted %s with QoS %d", b.Server, quoted(granted), p.QoS)
	if len(instead) > 0 {
		text += fmt.Sprintf("; without the prefix of %s, since a check takes no message from those who share", quoted(instead))
	}
	c.report.ok(name, subscribe, "%s", text)
}

// secretTodo is of a secret that its store does not give.
const secretTodo = "put the secret into its store, and see that the agent's user can read it"

// quoted lists a few, and says how many there are.
func quoted(texts []string) string {
	const most = 5
	shown := make([]string, 0, most+1)
	for _, t := range texts[:min(len(texts), most)] {
		shown = append(shown, fmt.Sprintf("%q", t))
	}
	if more := len(texts) - most; more > 0 {
		shown = append(shown, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(shown, ", ")
}

func (c *check) listen(name string, l mqtt_hardware.ListenCheck) {
	const step = "listen"
	switch {
	case l.Broker:
		c.report.ok(name, step, "%s: a broker answers; if no agent runs, another program has the port", l.Address)
	case l.Free:
		c.report.ok(name, step, "%s: is free; no agent listens there now", l.Address)
	default:
		c.report.failed(name, step, "name an address of this machine in listen, and a port that is free and that the agent's user may have",
			"%s: %v", l.Address, l.Err)
	}
}

// hardware reads each kind once, on a goroutine of its own, since a mount whose server is away hangs for ever.
func (c *check) hardware(ctx context.Context, name string, p *mqtt_hardware.MQTTHardware) {
	const step = "hardware"
	if len(p.Hardware) == 0 {
		c.report.skipped(name, step, "hardware is empty, so nothing is sampled")
		return
	}
	var found, none []string
	faults := c.report.faults
	for _, kind := range p.Hardware {
		type result struct {
			n   int
			err error
		}
		read := make(chan result, 1)
		limited, cancel := context.WithTimeout(ctx, c.timeout)
		go func() {
			n, err := p.CheckHardware(limited, kind)
			read <- result{n, err}
		}()
		var r result
		select {
		case r = <-read:
		case <-limited.Done():
			r.err = errHangs
		}
		cancel()
		switch {
		case errors.Is(r.err, mqtt_hardware.ErrAbsent):
			none = append(none, kind)
			continue
		case errors.Is(r.err, errHangs):
			c.report.failed(name, step, "leave out what hangs with hardware_mounts_exclude or hardware_devices_exclude, or take it out of hardware",
				"%s: %v", kind, r.err)
		case r.err != nil:
			c.report.failed(name, step, "give the agent's user the right to read it, or take it out of hardware", "%s: %v", kind, r.err)
		}
		if r.n > 0 {
			found = append(found, fmt.Sprintf("%s %d", kind, r.n))
		}
	}
	if len(found) == 0 && c.report.faults > faults {
		return
	}
	text := "no readings"
	if len(found) > 0 {
		text = "readings: " + strings.Join(found, ", ")
	}
	if len(none) > 0 {
		slices.Sort(none)
		text += "; not on this host, or not read on this system: " + strings.Join(none, ", ")
	}
	c.report.ok(name, step, "%s", text)
}

var errHangs = errors.New("reading does not end")

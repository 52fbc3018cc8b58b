package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/edgetide/telegraf-victorialogs/outputs/tcp_exporter/wire"
)

// print prints events as they come, and what happens to the connection beside them.
func (a *app) print(ctx context.Context, s *source, asJSON bool) error {
	return s.run(ctx, &printer{out: bufio.NewWriter(a.out), err: a.err, json: asJSON})
}

type printer struct {
	out  *bufio.Writer
	err  io.Writer
	json bool
}

// status implements sink.
func (p *printer) status(text string) { fmt.Fprintln(p.err, "telegraf-tap:", visible(text)) }

// event implements sink.
func (p *printer) event(e event) error {
	if p.json {
		_, _ = p.out.Write(appendJSON(nil, e)) // Flush gives the error, too
	} else {
		_, _ = p.out.WriteString(e.line())
	}
	_ = p.out.WriteByte('\n')
	return p.out.Flush()
}

// jsonEvent is an event in JSON. Its names are a contract.
type jsonEvent struct {
	Time        string            `json:"time,omitempty"`
	Name        string            `json:"name"`
	Labels      map[string]string `json:"labels,omitempty"`
	Type        string            `json:"type"`
	Operation   string            `json:"operation"`
	Value       any               `json:"value"` // a number, or the text NaN, +Inf or -Inf
	Unit        string            `json:"unit,omitempty"`
	Description string            `json:"description,omitempty"`
}

func appendJSON(dst []byte, e event) []byte {
	j := jsonEvent{
		Name: e.name, Labels: e.labels, Type: strings.ToLower(e.kind.String()), Operation: e.operation, Value: e.value,
		Unit: e.unit, Description: e.description,
	}
	if !e.time.IsZero() {
		j.Time = e.time.Format(time.RFC3339Nano)
	}
	switch {
	case e.kind == wire.Metadata_COUNTER:
		j.Value = e.count
	case math.IsNaN(e.value) || math.IsInf(e.value, 0):
		j.Value = strconv.FormatFloat(e.value, 'g', -1, 64)
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(j); err != nil {
		return fmt.Appendf(dst, `{"error":%q}`, err.Error()) // not with these types
	}
	// What the encoder leaves as it is, but a terminal may obey. It can only be within a string.
	for _, r := range string(bytes.TrimSuffix(b.Bytes(), []byte("\n"))) {
		switch {
		case unicode.IsGraphic(r):
			dst = utf8.AppendRune(dst, r)
		case r > math.MaxUint16:
			dst = fmt.Appendf(dst, `\u%04x\u%04x`, 0xd800+(r-0x10000)>>10, 0xdc00+(r-0x10000)&0x3ff)
		default:
			dst = fmt.Appendf(dst, `\u%04x`, r)
		}
	}
	return dst
}

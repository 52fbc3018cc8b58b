// Package logbridge brings what libraries log through log/slog into Telegraf's log.
package logbridge

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/influxdata/telegraf"
)

// New returns a logger whose lines go to log, each as the prefix, the text, and the attributes.
func New(log telegraf.Logger, prefix string) *slog.Logger {
	return slog.New(handler{log: log, prefix: prefix})
}

type handler struct {
	log    telegraf.Logger
	prefix string
	attrs  []slog.Attr
}

// Enabled leaves the level to Telegraf.
func (handler) Enabled(context.Context, slog.Level) bool { return true }

func (h handler) Handle(_ context.Context, r slog.Record) error {
	text := h.prefix + r.Message
	add := func(a slog.Attr) bool {
		text += fmt.Sprintf(", %s: %v", a.Key, a.Value)
		return true
	}
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(add)
	switch {
	case r.Level >= slog.LevelError:
		h.log.Error(text)
	case r.Level >= slog.LevelWarn:
		h.log.Warn(text)
	case r.Level >= slog.LevelInfo:
		h.log.Info(text)
	default:
		h.log.Debug(text)
	}
	return nil
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.attrs = append(h.attrs[:len(h.attrs):len(h.attrs)], attrs...)
	return h
}

// WithGroup puts the group's name before what follows; names are not nested deeper in a line of text.
func (h handler) WithGroup(name string) slog.Handler {
	h.prefix += name + ": "
	return h
}

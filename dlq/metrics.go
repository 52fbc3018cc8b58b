package dlq

import (
	"context"
	"log/slog"
	"time"
)

// LogMetrics writes metrics to a log, each as one line: what is usual with level Debug, what lost or delayed something with
// Warn.
func LogMetrics(l *slog.Logger) Metrics { return logMetrics{l} }

type logMetrics struct{ log *slog.Logger }

func (logMetrics) Enqueued(int) {} // too many for a log; Sealed counts them

func (m logMetrics) Sealed(reason Reason, items, bytes uint64) {
	m.line(slog.LevelDebug, "dump sealed", "reason", reason.String(), "items", items, "bytes", bytes)
}

func (m logMetrics) Restored(items, bytes uint64) {
	m.line(slog.LevelDebug, "items restored", "items", items, "bytes", bytes)
}

func (m logMetrics) Dropped(reason string, items, bytes uint64) {
	m.line(slog.LevelWarn, "items dropped", "reason", reason, "items", items, "bytes", bytes)
}

func (m logMetrics) Quarantined(reason string, items, bytes uint64) {
	m.line(slog.LevelWarn, "items set aside", "reason", reason, "items", items, "bytes", bytes)
}

func (m logMetrics) Failed(err error) {
	m.line(slog.LevelWarn, "failed, and will be tried again", "error", err)
}

func (m logMetrics) Stored(dumps int, items, bytes uint64, size int64, oldest time.Time) {
	m.line(slog.LevelDebug, "stored", "dumps", dumps, "items", items, "bytes", bytes, "size", size, "oldest", oldest)
}

func (m logMetrics) line(level slog.Level, text string, args ...any) {
	m.log.Log(context.Background(), level, text, args...)
}

package execd

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/logger"
)

// maxLogLine is the longest line that is logged. Telegraf reads lines of 64 KiB at most, and after a longer one none.
const maxLogLine = 8 << 10

// logging is how much is logged, and where.
type logging struct {
	level   telegraf.LogLevel
	plugins map[string]telegraf.LogLevel // by the plugin's name, where it differs
	outputs bool                         // we are behind outputs.execd
}

var current atomic.Pointer[logging]

// logToTelegraf brings all that is logged in this process to whichever Telegraf started it: each text in one line that
// begins with its level, which inputs.execd understands.
func logToTelegraf() telegraf.Logger {
	if current.Swap(&logging{level: telegraf.Info}) == nil {
		logger.RedirectLogging(io.Discard)
		// It fails only where there is no randomness for the name of the callback.
		_, _ = logger.AddCallback(func(level telegraf.LogLevel, _ time.Time, source string, _ map[string]any, args ...any) {
			l := current.Load()
			if !l.wants(level, source) {
				return
			}
			_, _ = io.WriteString(l.writer(level), logLine(level, source, args...)) // nobody is left to be told
		})
	}
	return newLogger()
}

// logAs follows debug, quiet and log_level of the configuration.
func logAs(c *config.Config) {
	l := &logging{level: telegraf.Info, plugins: make(map[string]telegraf.LogLevel), outputs: len(c.Outputs) > 0}
	if c.Agent.Debug {
		l.level = telegraf.Debug
	}
	if c.Agent.Quiet {
		l.level = telegraf.Error
	}
	for _, input := range c.Inputs {
		l.add(input.LogName(), input.Config.LogLevel)
	}
	for _, output := range c.Outputs {
		l.add(output.LogName(), output.Config.LogLevel)
	}
	current.Store(l)
}

func (l *logging) add(plugin, level string) {
	if level != "" {
		l.plugins[plugin] = telegraf.LogLevelFromString(level)
	}
}

func (l *logging) wants(level telegraf.LogLevel, source string) bool {
	if of, ok := l.plugins[source]; ok {
		return of.Includes(level)
	}
	return l.level.Includes(level)
}

// writer is where a line of this level belongs: outputs.execd shows each line of standard error as an error, whatever it
// begins with, and each of standard output as an information.
func (l *logging) writer(level telegraf.LogLevel) io.Writer {
	if l.outputs && !telegraf.Warn.Includes(level) {
		return os.Stdout
	}
	return os.Stderr
}

func logLine(level telegraf.LogLevel, source string, args ...any) string {
	text := strings.NewReplacer("\r", "", "\n", `\n`).Replace(strings.TrimSpace(fmt.Sprint(args...)))
	if len(text) > maxLogLine {
		text = strings.ToValidUTF8(text[:maxLogLine], "") + " …"
	}
	if source != "" {
		source = "[" + source + "] "
	}
	return level.Indicator() + " " + source + text + "\n"
}

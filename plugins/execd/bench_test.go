//go:build unix

package execd

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
)

// What the spool costs: lines of about 200 bytes through a process to a server that only counts.
func BenchmarkOutputHost(b *testing.B) {
	for _, name := range []string{"alone", "spool"} {
		b.Run(name, func(b *testing.B) {
			server, err := vlreceiver.Start(vlreceiver.Config{CountOnly: true})
			require.NoError(b, err)
			defer func() { require.NoError(b, server.Close()) }()
			args := []string{"--config", write(b, "[[outputs.victorialogs]]\n  url = %q\n", server.URL())}
			if name == "spool" {
				args = append(args, "--spool", filepath.Join(b.TempDir(), "spool"))
			}
			h := startHost(b, args...)
			const lines = 1000
			var text strings.Builder
			for i := range lines {
				fmt.Fprintf(&text, "a,host=edge,topic=tele/device message=\"%s\",n=%di %d\n", strings.Repeat("0123456789", 12), i, time.Now().UnixNano())
			}
			b.ResetTimer()
			for range b.N {
				h.send(text.String())
			}
			code, _ := h.end()
			b.StopTimer()
			require.Zero(b, code)
			require.Equal(b, b.N*lines, server.Count(vlreceiver.Tenant{}))
			b.SetBytes(int64(text.Len()))
			b.ReportMetric(float64(b.N*lines)/b.Elapsed().Seconds(), "lines/s")
			b.ReportMetric(float64((h.cmd.ProcessState.UserTime()+h.cmd.ProcessState.SystemTime()).Nanoseconds())/float64(b.N*lines), "cpu-ns/line")
		})
	}
}

//go:build unix

package tcp_exporter

import (
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/metric"
)

// cpu is a metric as inputs.cpu makes them: 10 fields.
func cpu() telegraf.Metric {
	fields := make(map[string]any)
	for _, name := range []string{"user", "system", "idle", "nice", "iowait", "irq", "softirq", "steal", "guest", "guest_nice"} {
		fields["usage_"+name] = 9.87654321
	}
	return metric.New("cpu", map[string]string{"cpu": "cpu-total", "host": "gateway-7"}, fields, at)
}

// What a metric costs Telegraf, by the clients that are connected, and with them all in all (cpu-ns/op, which holds what the
// clients' reading costs, too). With none it is to be less than 50 ns; and from the first client to the 100th what Add costs,
// which is where encoding is, is to grow by no more than 5 % a client.
func BenchmarkAdd(b *testing.B) {
	for _, m := range []struct {
		name   string
		metric telegraf.Metric
	}{{"field", sample(1)}, {"cpu", cpu()}} {
		for _, clients := range []int{0, 1, 2, 10, 100} {
			b.Run(fmt.Sprintf("%s/clients=%d", m.name, clients), func(b *testing.B) {
				r := start(b, func(p *TCPExporter) { p.MaxClients = 100 })
				for range clients {
					conn := r.join()
					go func() { _, _ = io.Copy(io.Discard, conn) }()
				}
				before := used()
				b.ReportAllocs()
				for b.Loop() {
					r.Add(m.metric)
				}
				b.StopTimer()
				b.ReportMetric(float64(used()-before)/float64(b.N), "cpu-ns/op")
			})
		}
	}
}

// The same with connections that cost nothing, so that what is left is this plugin's own work for a client.
func BenchmarkClient(b *testing.B) {
	for _, clients := range []int{1, 2, 99, 100} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			r := start(b, func(p *TCPExporter) { p.MaxClients = 100 })
			for range clients {
				r.server.admit(&nowhere{closed: make(chan struct{})})
			}
			r.waitFor("readers", func() bool { return int(r.stream.readers.Load()) == clients })
			m := cpu()
			before := used()
			for b.Loop() {
				r.Add(m)
			}
			b.StopTimer()
			b.ReportMetric(float64(used()-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// nowhere takes everything.
type nowhere struct {
	net.Conn // for what is not expected to be called

	closed chan struct{}
}

func (*nowhere) Write(p []byte) (int, error)      { return len(p), nil }
func (*nowhere) SetWriteDeadline(time.Time) error { return nil }
func (*nowhere) RemoteAddr() net.Addr             { return &net.TCPAddr{} }

func (n *nowhere) Read([]byte) (int, error) {
	<-n.closed
	return 0, net.ErrClosed
}

func (n *nowhere) Close() error {
	select {
	case <-n.closed:
	default:
		close(n.closed)
	}
	return nil
}

// used is the CPU time of this process.
func used() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

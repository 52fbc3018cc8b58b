package execd

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/models"
	"github.com/influxdata/telegraf/selfstat"
	"github.com/influxdata/telegraf/testutil"
)

// batches is an output that is written to batch by batch, and fails at first.
type batches struct {
	mu      sync.Mutex
	fails   int
	written []telegraf.Metric
	all     chan struct{}
}

func (*batches) SampleConfig() string { return "" }
func (*batches) Connect() error       { return nil }
func (*batches) Close() error         { return nil }

func (b *batches) Write(metrics []telegraf.Metric) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fails > 0 {
		b.fails--
		return errors.New("not yet")
	}
	if b.written = append(b.written, metrics...); len(b.written) == 3 {
		close(b.all)
	}
	return nil
}

// Outputs that do not take each metric at once are flushed, and a line is safe once its batch is written.
func TestOutputsInBatches(t *testing.T) {
	output := &batches{fails: 2, all: make(chan struct{})}
	running := models.NewRunningOutput(output, &models.OutputConfig{Name: "batches", NamePrefix: "x_"}, 2, 100)
	log := &testutil.CaptureLogger{}
	h := &outputHost{outputs: []*models.RunningOutput{running}, log: log, malformed: stat("lines_malformed")}
	require.NoError(t, running.Connect())
	stop := make(chan struct{})
	var flushing sync.WaitGroup
	flushing.Go(func() { h.flush(running, time.Millisecond, stop) })

	j, pipe := journalOf(t, log)
	require.NoError(t, j.pipe.Close())
	j.pipe = nil
	text := "a v=1 1\na v=2 2\na v=3 3\n"
	_, err := j.file.WriteString(strings.Repeat("\x00", headerBytes) + text)
	require.NoError(t, err)
	j.written = int64(len(text))
	count := selfstat.Register("execd_test", "read", map[string]string{})
	require.NoError(t, h.readFrom(j, j, count))
	j.ended()
	<-output.all
	close(stop)
	flushing.Wait()
	require.EqualValues(t, 3, count.Get())
	require.True(t, j.done())
	require.Equal(t, "x_a", output.written[0].Name())
	require.Contains(t, log.LastError(), "not yet")
	_, err = j.close()
	require.NoError(t, err)
	require.NoError(t, pipe.Close())
}

package logbridge

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf/testutil"
)

func TestLevelsAndAttributes(t *testing.T) {
	log := &testutil.CaptureLogger{}
	l := New(log, "Dead letters: ")
	l.Error("cannot write", "error", errors.New("no space"), "n", 3)
	l.With("dump", 7).Warn("slow")
	l.WithGroup("disk").Info("back")
	l.Debug("detail")
	var got []string
	for _, m := range log.Messages() {
		got = append(got, string(m.Level)+" "+m.Text)
	}
	require.Equal(t, []string{
		"E Dead letters: cannot write, error: no space, n: 3",
		"W Dead letters: slow, dump: 7",
		"I Dead letters: disk: back",
		"D Dead letters: detail",
	}, got)
}

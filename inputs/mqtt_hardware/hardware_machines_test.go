package mqtt_hardware

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shirou/gopsutil/v4/disk"
	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/plugins/parsers/influx"
	serializer "github.com/influxdata/telegraf/plugins/serializers/influx"
	"github.com/influxdata/telegraf/testutil"
)

var updateMachines = flag.Bool("update-machines", false, "write what the machines of testcases_machines give as expected")

// machine is one directory of testcases_machines, made into a /proc and /sys:
//
//	proc, sys      the files at the start. In names, %3A is a colon, which Go's modules do not allow; NAME.symlink
//	               holds where the symbolic link NAME points to
//	after          the same, laid over it between two samples
//	removed        paths that vanish at the same time
//	usage.json     what statfs(2) says, by mount
//	split.out      metrics of the sample after that, 10 s after the one before
//	wide.out       the same in the other layout
//	log.out        all that was logged from the start until one sample later, most of it which kinds are not there
type machine struct {
	t   testing.TB
	dir string // the test case
	tmp string // its /proc and /sys
}

func newMachine(tb testing.TB, dir string) *machine {
	tb.Helper()
	m := &machine{t: tb, dir: dir, tmp: tb.TempDir()}
	tb.Setenv("HOST_PROC", filepath.Join(m.tmp, "proc"))
	tb.Setenv("HOST_SYS", filepath.Join(m.tmp, "sys"))
	m.copy(dir)
	return m
}

func (m *machine) copy(from string) {
	m.t.Helper()
	for _, root := range []string{"proc", "sys"} {
		err := filepath.WalkDir(filepath.Join(from, root), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			name, err := filepath.Rel(from, path)
			if err != nil {
				return err
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			to, link := strings.CutSuffix(filepath.Join(m.tmp, strings.ReplaceAll(name, "%3A", ":")), ".symlink")
			if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
				return err
			}
			if err := os.RemoveAll(to); err != nil {
				return err
			}
			if link {
				return os.Symlink(strings.TrimSpace(string(content)), to)
			}
			return os.WriteFile(to, content, 0o600)
		})
		if !os.IsNotExist(err) {
			require.NoError(m.t, err)
		}
	}
}

// change brings the machine to its state after.
func (m *machine) change() {
	m.t.Helper()
	m.copy(filepath.Join(m.dir, "after"))
	removed, err := os.ReadFile(filepath.Join(m.dir, "removed"))
	if !os.IsNotExist(err) {
		require.NoError(m.t, err)
	}
	for path := range strings.FieldsSeq(string(removed)) {
		require.NoError(m.t, os.RemoveAll(filepath.Join(m.tmp, path)))
	}
}

func (m *machine) scope() *scope {
	m.t.Helper()
	content, err := os.ReadFile(filepath.Join(m.dir, "usage.json"))
	require.NoError(m.t, err)
	var usage map[string]*disk.UsageStat
	require.NoError(m.t, json.Unmarshal(content, &usage))
	s, err := newScope(HardwareOptions{})
	require.NoError(m.t, err)
	s.usage = func(_ context.Context, path string) (*disk.UsageStat, error) {
		if usage[path] == nil {
			return nil, fs.ErrNotExist
		}
		return usage[path], nil
	}
	return s
}

// TestHardwareMachines samples each directory of testcases_machines with all sources on.
func TestHardwareMachines(t *testing.T) {
	dirs, err := filepath.Glob("testcases_machines/*")
	require.NoError(t, err)
	require.NotEmpty(t, dirs)
	for _, dir := range dirs {
		for _, layout := range []string{layoutSplit, layoutWide} {
			t.Run(filepath.Base(dir)+"/"+layout, func(t *testing.T) {
				m := newMachine(t, dir)
				var metrics []telegraf.Metric
				var log strings.Builder
				synctest.Test(t, func(t *testing.T) {
					metrics = m.run(t, layout, &log)
				})
				compareGolden(t, filepath.Join(dir, "log.out"), log.String())
				if *updateMachines {
					compareGolden(t, filepath.Join(dir, layout+".out"), lines(t, metrics))
					return
				}
				parser := &influx.Parser{}
				require.NoError(t, parser.Init())
				expected, err := testutil.ParseMetricsFromFile(filepath.Join(dir, layout+".out"), parser)
				require.NoError(t, err)
				testutil.RequireMetricsEqual(t, expected, metrics,
					testutil.IgnoreTime(), testutil.IgnoreType(), testutil.SortMetrics())
			})
		}
	}
}

// run takes a sample before the change and two after it, and returns the first of these.
func (m *machine) run(t *testing.T, layout string, log *strings.Builder) (metrics []telegraf.Metric) {
	t.Helper()
	var acc testutil.Accumulator
	var logger testutil.CaptureLogger
	hw, err := newHardwareIn(m.scope(), slices.Sorted(maps.Keys(sources)), HardwareOptions{Layout: layout})
	require.NoError(t, err)
	for i := range 3 {
		<-time.After(10 * time.Second)
		acc.ClearMetrics()
		hw.sample(&acc, &logger)
		if i == 0 {
			m.change()
		}
		if i == 1 {
			metrics = acc.GetTelegrafMetrics()
		}
	}
	for _, err := range acc.Errors {
		fmt.Fprintf(log, "E! %s\n", strings.ReplaceAll(err.Error(), m.tmp, ""))
	}
	for _, entry := range logger.Messages() {
		fmt.Fprintf(log, "%c! %s\n", entry.Level, strings.ReplaceAll(entry.Text, m.tmp, ""))
	}
	return metrics
}

func compareGolden(t *testing.T, path, got string) {
	t.Helper()
	if *updateMachines {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o600))
		return
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

// lines are sorted, and without times.
func lines(t *testing.T, metrics []telegraf.Metric) string {
	t.Helper()
	s := &serializer.Serializer{SortFields: true, UintSupport: true}
	require.NoError(t, s.Init())
	var all []string
	for _, m := range metrics {
		line, err := s.Serialize(m)
		require.NoError(t, err)
		text := strings.TrimSpace(string(line))
		all = append(all, text[:strings.LastIndexByte(text, ' ')]+"\n")
	}
	slices.Sort(all)
	return strings.Join(all, "")
}

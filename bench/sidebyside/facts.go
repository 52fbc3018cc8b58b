package main

import (
	"context"
	"debug/buildinfo"
	"os/exec"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
	"github.com/edgetide/telegraf-victorialogs/internal/vlserver"
)

// facts are what the numbers depend on.
type facts struct {
	when                  time.Time
	took                  time.Duration
	cores                 int
	cpu, system, golang   string
	commit                string
	broker, server        string // with their versions; an empty server: there is none
	loadBefore, loadAfter string
	peers                 []string // with their versions
	micro                 []string // what the micro-benchmarks printed
	programs              []string // beside telegraf, with their sizes
}

func (s *session) gatherFacts(ctx context.Context) facts {
	f := facts{
		when: time.Now().UTC(), cores: runtime.NumCPU(), cpu: cpuModel(), system: runtime.GOOS + "/" + runtime.GOARCH,
		golang: runtime.Version(), loadBefore: load(), broker: "mochi-mqtt", commit: version(ctx, "git", "describe", "--always", "--dirty"),
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "github.com/mochi-mqtt/server/v2" {
				f.broker = "mochi-mqtt " + m.Version
			}
		}
	}
	if path, ok := testbroker.LookMosquitto(); ok {
		f.broker = version(ctx, path, "-h")
	}
	if path, ok := vlserver.Look(); ok {
		f.server = serverVersion(ctx, path)
	}
	for _, w := range s.ways {
		if w.untested {
			f.peers = append(f.peers, version(ctx, w.program(s.options), "--version"))
		}
	}
	if path, err := exec.LookPath("vlagent"); err == nil {
		f.peers = append(f.peers, "vlagent "+version(ctx, path, "-version"))
	}
	return f
}

// serverVersion is what a release of VictoriaLogs says, or from which Go one was built that says nothing.
func serverVersion(ctx context.Context, path string) string {
	if text, err := exec.CommandContext(ctx, path, "-version").Output(); err == nil && len(text) > 1 {
		return strings.TrimSpace(string(text))
	}
	if info, err := buildinfo.ReadFile(path); err == nil {
		return "VictoriaLogs, built from its sources with " + info.GoVersion
	}
	return "VictoriaLogs"
}

var buildPath = regexp.MustCompile(`\S*/\S*`)

// version is the first line that a program prints when it is asked, without paths.
func version(ctx context.Context, path string, arguments ...string) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	text, _ := exec.CommandContext(ctx, path, arguments...).CombinedOutput() //nolint:gosec // mosquitto -h ends with an error
	line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	return strings.TrimSpace(buildPath.ReplaceAllString(line, ""))
}

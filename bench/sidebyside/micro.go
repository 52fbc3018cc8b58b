package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// microBenchmarks are those of the pieces of a message's way, and their packages.
var microBenchmarks = []struct{ packageName, pattern string }{
	{"./outputs/victorialogs", "^(BenchmarkEncode|BenchmarkAddSensor)$"},
	{"./outputs/victorialogs", "^BenchmarkCompress$/^rows=(10|5000)$"},
	{"./inputs/mqtt_hardware", "^(BenchmarkPublishToAdd|BenchmarkSensorPayload)$"},
	{"./bench", "^BenchmarkDLQ"},
}

// What is told by the encoder's benchmark, in which it and others have short turns.
const (
	encoderAllocs = "allocs/op"
	thanSerial    = "telegraf_json/ours"
	thanCopy      = "copy/ours"
)

// measureMicro runs the micro-benchmarks beside the code and keeps what they print.
func (s *session) measureMicro(ctx context.Context, _ int) error {
	duration := "1s"
	if s.short {
		duration = "10ms"
	}
	for _, b := range microBenchmarks {
		command := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", b.pattern, "-benchmem", "-benchtime", duration, "-timeout=1h", b.packageName) //nolint:gosec // our own constants
		command.Dir = s.root
		output, err := command.Output()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			return fmt.Errorf("%w: %s\n%s", err, exit.Stderr, output[max(0, len(output)-4000):])
		}
		if err != nil {
			return err
		}
		lines := bufio.NewScanner(bytes.NewReader(output))
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "Benchmark") {
				s.noteMicro(lines.Text())
			}
		}
	}
	return nil
}

var microUnit = regexp.MustCompile(`([0-9.e+-]+) (\S+)`)

// noteMicro keeps a benchmark's line, and of the encoder's what is a goal.
func (s *session) noteMicro(line string) {
	words := strings.Fields(line)
	columns := words[:1:1]
	for i := 2; i+1 < len(words); i += 2 { // words[1] is how often it ran
		columns = append(columns, words[i]+" "+words[i+1])
	}
	s.facts.micro = append(s.facts.micro, strings.Join(columns, "  "))
	fmt.Fprintf(s.progress, "  %s\n", line)
	for _, match := range microUnit.FindAllStringSubmatch(line, -1) {
		value, err := strconv.ParseFloat(match[1], 64)
		if err != nil {
			continue
		}
		switch unit := match[2]; {
		case strings.HasPrefix(line, "BenchmarkEncode/side_by_side") && (unit == thanSerial || unit == thanCopy),
			strings.HasPrefix(line, "BenchmarkEncode/ours") && unit == encoderAllocs:
			s.results.add(point{"micro", ours, "", unit}, value)
		}
	}
}

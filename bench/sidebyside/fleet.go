package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
)

// measureFleet runs the simulation of a fleet beside the plugin's tests, which tells what it finds as the tests' attributes.
func (s *session) measureFleet(ctx context.Context, _ int) error {
	agents := "10000"
	if s.short {
		agents = "200" // fewer come too unevenly for what the test bounds
	}
	command := exec.CommandContext(ctx, "go", "test", "-run", "^TestFleet$", "-count=1", "-json", "-timeout=1h", "./outputs/victorialogs")
	command.Env = append(os.Environ(), "FLEET="+agents)
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() { // thousands of agents would wait for one disk
		command.Env = append(command.Env, "TMPDIR=/dev/shm", "GOTMPDIR="+os.TempDir())
	}
	command.Dir = s.root
	output, err := command.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return fmt.Errorf("%w: %s\n%s", err, exit.Stderr, output[max(0, len(output)-4000):])
	}
	if err != nil {
		return err
	}
	events := json.NewDecoder(bytes.NewReader(output))
	for events.More() {
		var e struct{ Action, Test, Key, Value string }
		if err := events.Decode(&e); err != nil {
			return fmt.Errorf("reading what go test -json printed: %w", err)
		}
		if e.Action != "attr" {
			continue
		}
		value, err := strconv.ParseFloat(e.Value, 64)
		if err != nil {
			return fmt.Errorf("%s has the attribute %s %q: %w", e.Test, e.Key, e.Value, err)
		}
		s.note(point{"fleet", "", e.Test[len("TestFleet/"):], e.Key}, value)
	}
	return nil
}

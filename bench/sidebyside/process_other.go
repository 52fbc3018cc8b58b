//go:build !linux

package main

import (
	"errors"
	"os/exec"
	"time"
)

func cpuTime(int) (time.Duration, error) { return 0, errors.ErrUnsupported }

func resident(int) (now, peak float64, err error) { return 0, 0, errors.ErrUnsupported }

func forget(string) error { return nil }

func confine() (back func() error, err error) { return nil, errors.ErrUnsupported }

func startElsewhere(cmd *exec.Cmd) error { return cmd.Start() }

func cpuModel() string { return "unknown" }

func load() string { return "unknown" }

//go:build !linux

package main

import (
	"errors"
	"time"
)

func cpuTime(int) (time.Duration, error) { return 0, errors.ErrUnsupported }

func resident(int) (now, peak float64, err error) { return 0, 0, errors.ErrUnsupported }

func cpuModel() string { return "unknown" }

func load() string { return "unknown" }

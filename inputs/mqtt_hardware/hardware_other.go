//go:build !linux

package mqtt_hardware

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	gopsutilhost "github.com/shirou/gopsutil/v4/host"
	"github.com/shirou/gopsutil/v4/sensors"
)

// Elsewhere than on Linux there is what gopsutil reads.

// notRead is what this plugin reads on Linux alone. The host may well have it.
type notRead struct{}

func (notRead) Error() string        { return "it is read on Linux alone, not on " + runtime.GOOS }
func (notRead) Is(target error) bool { return target == errNone } //nolint:errorlint // that is what Is is for

func none(*scope) source { return func(context.Context) ([]reading, error) { return nil, notRead{} } }

var (
	batterySource    = none
	fanSource        = none
	powerSource      = none
	throttlingSource = none
	voltageSource    = none
)

func readPressure(context.Context) ([]reading, error) { return nil, notRead{} }

func cpuFrequency(string) (mhz float64, ok bool, err error) { return 0, false, nil }
func linkSpeed(string) (mbit uint64, ok bool, err error)    { return 0, false, nil }

func readUptime(ctx context.Context) ([]reading, error) {
	seconds, err := gopsutilhost.UptimeWithContext(ctx)
	if err != nil {
		return nil, err
	}
	return []reading{{gauges: map[string]any{"seconds": float64(seconds)}}}, nil
}

func temperatureSource(s *scope) source {
	return func(ctx context.Context) ([]reading, error) { return readTemperature(ctx, s) }
}

// readTemperature tells sensors that the kernel gives the same name (two NVMe drives) apart by a number in the order
// of reading: nvme_composite, nvme_composite_2. The number keeps their rows apart, it does not identify a device: when
// one of them cannot be read, those after it move up.
func readTemperature(ctx context.Context, s *scope) ([]reading, error) {
	temperatures, err := sensors.TemperaturesWithContext(ctx)
	var readings []reading
	count := map[string]int{}
	for _, t := range temperatures {
		sensor := t.SensorKey
		count[sensor]++
		if n := count[sensor]; n > 1 {
			sensor = fmt.Sprintf("%s_%d", sensor, n)
		}
		fields := map[string]any{"temp": t.Temperature}
		if t.High != 0 { // gopsutil's zero means unknown
			fields["high"] = t.High
		}
		if t.Critical != 0 {
			fields["critical"] = t.Critical
		}
		if s.sensors.Match(sensor) {
			readings = append(readings, reading{label: "sensor", name: sensor, gauges: fields})
		}
	}

	var warnings *sensors.Warnings
	if errors.As(err, &warnings) && len(warnings.List) > 0 {
		// Not wrapped: a missing file of one sensor does not mean that there are no sensors.
		err = fmt.Errorf("%d sensors cannot be read, the first because of: %s",
			len(warnings.List), warnings.List[0].Error())
	}
	if err == nil && len(readings) == 0 {
		err = errNone
	}
	return readings, err
}

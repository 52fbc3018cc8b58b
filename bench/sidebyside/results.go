package main

import (
	"fmt"
	"math"
	"slices"
)

// point names one number that is measured in each round.
type point struct {
	measure string
	way     string
	at      string // a rate, a size, a count of topics; empty where there is one alone
	what    string // with its unit
}

// results are the numbers of all rounds, in their order.
type results map[point][]float64

func (r results) add(p point, value float64) { r[p] = append(r[p], value) }

func (r results) has(p point) bool { return len(r[p]) > 0 }

// median of the rounds; NaN without any.
func (r results) median(p point) float64 { return median(r[p]) }

// ratio is the median of the rounds' ratios of a to b, which ran side by side.
func (r results) ratio(a, b point) float64 {
	ratios := make([]float64, min(len(r[a]), len(r[b])))
	for i := range ratios {
		ratios[i] = r[a][i] / r[b][i]
	}
	return median(ratios)
}

// cell is the median, and from where to where the rounds went.
func (r results) cell(p point) string {
	values := r[p]
	switch len(values) {
	case 0:
		return "–"
	case 1:
		return number(values[0])
	}
	low, high := number(slices.Min(values)), number(slices.Max(values))
	if low == high {
		return low
	}
	return fmt.Sprintf("%s (%s … %s)", number(median(values)), low, high)
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	values = slices.Sorted(slices.Values(values))
	middle := len(values) / 2
	if len(values)%2 == 0 {
		return (values[middle-1] + values[middle]) / 2
	}
	return values[middle]
}

// percentile of values that are sorted.
func percentile(sorted []float64, share float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	return sorted[min(len(sorted)-1, int(share*float64(len(sorted))))]
}

// number shows three digits, and all of those before the point.
func number(v float64) string {
	switch abs := math.Abs(v); {
	case math.IsNaN(v):
		return "–"
	case abs >= 1000:
		return thousands(int64(math.Round(v)))
	case abs >= 100:
		return fmt.Sprintf("%.0f", v)
	case abs >= 10:
		return fmt.Sprintf("%.1f", v)
	case abs >= 1 || abs == 0:
		return fmt.Sprintf("%.2f", v)
	default:
		return fmt.Sprintf("%.3f", v)
	}
}

// whole shows a count.
func whole(v float64) string { return thousands(int64(math.Round(v))) }

func thousands(n int64) string {
	if n < 0 {
		return "-" + thousands(-n)
	}
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}

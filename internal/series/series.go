// Package series keeps time series in memory for Prometheus's own engine to ask: for tests of the alerts, and for the picture
// of the dashboard. It is filled first and asked afterwards; then any number may ask at a time.
package series

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

// Database holds series by their labels as text. It is a storage.Queryable.
type Database map[string]*one

type one struct {
	labels  labels.Labels
	samples []chunks.Sample
}

// Add adds a value to a series, later than all that are in it.
func (d Database) Add(set labels.Labels, at time.Time, value float64) {
	key := set.String()
	if d[key] == nil {
		d[key] = &one{labels: set}
	}
	d[key].samples = append(d[key].samples, sample{at.UnixMilli(), value})
}

// Querier implements storage.Queryable.
func (d Database) Querier(int64, int64) (storage.Querier, error) { return querier{data: d}, nil }

type querier struct {
	storage.LabelQuerier
	data Database
}

// Select implements storage.Querier.
func (q querier) Select(_ context.Context, _ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	var f found
	for _, key := range slices.Sorted(maps.Keys(q.data)) {
		s := q.data[key]
		if !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(s.labels.Get(m.Name)) }) {
			f.series = append(f.series, storage.NewListSeries(s.labels, s.samples))
		}
	}
	return &f
}

// Close implements storage.Querier.
func (querier) Close() error { return nil }

// sample is a value at a time, in ms.
type sample struct {
	at    int64
	value float64
}

func (s sample) T() int64                    { return s.at }
func (s sample) F() float64                  { return s.value }
func (sample) H() *histogram.Histogram       { return nil }
func (sample) FH() *histogram.FloatHistogram { return nil }
func (sample) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (s sample) Copy() chunks.Sample         { return s }

// found is what matches a selector.
type found struct {
	series []storage.Series
	at     storage.Series
}

func (f *found) Next() bool {
	if len(f.series) == 0 {
		return false
	}
	f.at, f.series = f.series[0], f.series[1:]
	return true
}

func (f *found) At() storage.Series              { return f.at }
func (*found) Err() error                        { return nil }
func (*found) Warnings() annotations.Annotations { return nil }

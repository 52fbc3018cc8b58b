package tcp_exporter

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/metric"

	"github.com/edgetide/telegraf-victorialogs/outputs/tcp_exporter/wire"
)

// numbered encodes a metric as a message of a number of bytes, which begins with the metric's number.
type numbered struct{}

func (numbered) encode(s *stream, m telegraf.Metric) {
	message := make([]byte, m.Fields()["size"].(int64))           //nolint:errcheck,forcetypeassert // numberedMetric's
	binary.BigEndian.PutUint64(message, m.Fields()["n"].(uint64)) //nolint:errcheck,forcetypeassert // numberedMetric's
	s.event(nil, message)
}

func numberedMetric(n uint64, size int) telegraf.Metric {
	return metric.New("m", nil, map[string]any{"n": n, "size": size}, at)
}

// Whatever is added and taken, each client gets its events in order, whole, with only the oldest ones missing and counted,
// and all metadata, before what came behind it.
func TestStreamModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.IntRange(1, 20).Draw(t, "most")
		s := newStream(most, nil)
		s.open()
		type reader struct {
			place        place
			next         uint64 // number that is expected, were nothing dropped
			got, dropped uint64
			first        uint64
		}
		var readers []*reader
		added, described := uint64(0), uint64(0)
		take := func(t *rapid.T, r *reader) {
			before := r.place.described
			message, n, wait := s.take(&r.place, nil)
			if len(message) == 0 {
				require.NotNil(t, wait)
				require.Equal(t, added-r.first, r.got+r.dropped)
				return
			}
			require.Equal(t, described, r.place.described)
			message = message[described-before:] // a byte each
			r.dropped += n.dropped
			r.next += n.dropped
			events := n.messages - (described - before)
			require.Len(t, message, 8*int(events))
			for ; len(message) > 0; message = message[8:] {
				require.Equal(t, r.next, binary.BigEndian.Uint64(message))
				r.next++
				r.got++
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				for range rapid.IntRange(1, 30).Draw(t, "events") {
					s.publish(numbered{}, numberedMetric(added, 8))
					if len(readers) > 0 {
						added++
					}
				}
			},
			"describe": func(*rapid.T) {
				s.mu.Lock()
				defer s.mu.Unlock()
				require.True(t, s.describe([]byte("x")))
				described++
			},
			"join": func(t *rapid.T) {
				r := &reader{next: added, first: added}
				var known []byte
				var messages uint64
				r.place, known, messages = s.join()
				require.Len(t, known, int(described))
				require.Equal(t, described, messages)
				readers = append(readers, r)
			},
			"leave": func(t *rapid.T) {
				if len(readers) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(readers)-1).Draw(t, "reader")
				r := readers[i]
				readers = append(readers[:i:i], readers[i+1:]...)
				missed := uint64(0)
				if added-r.next > uint64(most) {
					missed = added - r.next - uint64(most)
				}
				require.Equal(t, missed, s.leave(&r.place).dropped)
			},
			"take": func(t *rapid.T) {
				if len(readers) == 0 {
					t.Skip()
				}
				take(t, rapid.SampledFrom(readers).Draw(t, "reader"))
			},
			"": func(t *rapid.T) {
				require.LessOrEqual(t, len(s.ring), most)
				if len(readers) == 0 {
					require.Nil(t, s.ring)
				}
			},
		})
		for _, r := range readers {
			take(t, r)
			require.Equal(t, added-r.first, r.got+r.dropped)
		}
	})
}

// Messages of any size share a bound, and what they took is given back.
func TestEventsAreBoundedInBytes(t *testing.T) {
	s := newStream(1000, nil)
	s.open()
	p, _, _ := s.join()
	for n := range 100 {
		s.publish(numbered{}, numberedMetric(uint64(n), wire.MaxMessage))
		require.LessOrEqual(t, s.bytes, maxEvents)
		kept := 0
		for _, slot := range s.ring {
			kept += cap(slot)
		}
		require.LessOrEqual(t, kept, 2*maxEvents)
	}
	message, n, _ := s.take(&p, nil)
	require.Equal(t, taken{messages: 1, dropped: 100 - maxEvents/wire.MaxMessage}, n)
	require.Len(t, message, wire.MaxMessage)
	s.leave(&p)
	require.Nil(t, s.ring)
}

// Memory that events of another size took is not kept either, in however long a ring.
func TestTheRingKeepsNoMemoryOfOthers(t *testing.T) {
	const most = 50_000
	s := newStream(most, nil)
	s.open()
	p, _, _ := s.join()
	kept := func() (n int) {
		for _, slot := range s.ring {
			n += cap(slot)
		}
		return n
	}
	for n := range 2 * most {
		s.publish(numbered{}, numberedMetric(uint64(n), 4000))
	}
	require.LessOrEqual(t, kept(), 2*maxEvents, "what gave way to the bound in bytes")
	for n := range 2 * most {
		s.publish(numbered{}, numberedMetric(uint64(n), 60))
	}
	for n := range 10 * most { // in time there is a large one in each slot
		size := 60
		if n%17 == 0 {
			size = 2000
		}
		s.publish(numbered{}, numberedMetric(uint64(n), size))
	}
	require.LessOrEqual(t, kept(), 2*s.bytes+2*most*keptSlack, "what large events left to small ones")
	s.leave(&p)
}

func TestNothingIsKeptForNobody(*testing.T) {
	s := newStream(10, nil)
	s.open()
	s.publish(nil, sample(1)) // it would fail if it encoded
	p, _, _ := s.join()
	s.leave(&p)
	s.publish(nil, sample(2))
	s.close()
	s.join()
	s.publish(nil, sample(3))
}

func TestSnapshotKeepsTheLastOfEachSeries(t *testing.T) {
	s := newSnapshot(3)
	for n := range 10 {
		s.put([]byte("a"), fmt.Appendf(nil, "a%d ", n))
	}
	s.put([]byte("b"), []byte("b0 "))
	s.put([]byte("c"), []byte("c0 "))
	s.put([]byte("a"), []byte("a10 "))
	require.Equal(t, "b0 c0 a10 ", string(s.appendTo(nil)))
	s.put([]byte("d"), []byte("d0 ")) // b has been quiet for longest
	require.Equal(t, "c0 a10 d0 ", string(s.appendTo(nil)))
	require.Len(t, s.series, 3)
	require.Equal(t, len("acd")+len("c0 a10 d0 "), s.bytes)

	s.put([]byte("e"), make([]byte, maxEvents)) // leaves no room for another
	require.Len(t, s.series, 1)
}

// A series whose message once was large does not keep that memory.
func TestSnapshotKeepsNoMemoryOfOthers(t *testing.T) {
	s := newSnapshot(1000)
	for n := range 100 {
		series := fmt.Appendf(nil, "series %d", n)
		s.put(series, make([]byte, wire.MaxMessage))
		s.put(series, []byte("small"))
	}
	kept := 0
	for e := s.order.Front(); e != nil; e = e.Next() {
		kept += cap(e.Value.(*lastMessage).message) //nolint:errcheck,forcetypeassert // nothing else is in the list
	}
	require.LessOrEqual(t, kept, 100*2*keptSlack)
}

func TestSnapshot(t *testing.T) {
	r := start(t, func(p *TCPExporter) { p.Snapshot, p.SnapshotSeries = true, 3 })
	for n := range 5 { // nobody is there
		r.Add(sample(n))
		r.Add(one("load", map[string]string{"host": "other"}, "system", 10+n))
	}
	v := r.join()
	require.Equal(t, "load_system", v.next().GetMetadata().GetName())
	first, second := v.next().GetMetric(), v.next().GetMetric()
	require.Equal(t, 4, int(first.GetSetGauge()))
	require.Equal(t, map[string]string{"host": "gateway"}, first.GetLabels())
	require.Equal(t, 14, int(second.GetSetGauge()))

	r.Add(one("load", nil, "user", 6))
	r.Add(one("load", nil, "idle", 7)) // the fourth series
	require.Equal(t, 6, v.value())
	require.Equal(t, 7, v.value())
	r.stop()
	require.Empty(t, v.rest())
	require.Equal(t, 3, r.stream.last.order.Len())
	require.Equal(t, int64(2+2+2+2), r.server.stats.sent.Get())
}

package tcp_exporter

import "container/list"

// snapshot keeps the last message of each series, of which there are most at a time: the series that has been quiet for
// longest gives way. Its bytes have a bound, too. The stream's lock guards it.
type snapshot struct {
	most   int
	series map[string]*list.Element
	order  *list.List // of *lastMessage, the one that is longest ago in front
	bytes  int
}

type lastMessage struct {
	series  string
	message []byte
}

func newSnapshot(most int) *snapshot {
	return &snapshot{most: most, series: make(map[string]*list.Element), order: list.New()}
}

func (s *snapshot) put(series, message []byte) {
	if e, ok := s.series[string(series)]; ok {
		last := e.Value.(*lastMessage) //nolint:errcheck,forcetypeassert // nothing else is in the list
		s.bytes += len(message) - len(last.message)
		last.message = reuse(last.message, message)
		s.order.MoveToBack(e)
	} else {
		last := &lastMessage{series: string(series), message: append([]byte(nil), message...)}
		s.series[last.series] = s.order.PushBack(last)
		s.bytes += len(series) + len(message)
	}
	for s.order.Len() > s.most || s.bytes > maxEvents && s.order.Len() > 1 {
		last := s.order.Remove(s.order.Front()).(*lastMessage) //nolint:errcheck,forcetypeassert // as above
		s.bytes -= len(last.series) + len(last.message)
		delete(s.series, last.series)
	}
}

func (s *snapshot) appendTo(dst []byte) []byte {
	for e := s.order.Front(); e != nil; e = e.Next() {
		dst = append(dst, e.Value.(*lastMessage).message...) //nolint:errcheck,forcetypeassert // as above
	}
	return dst
}

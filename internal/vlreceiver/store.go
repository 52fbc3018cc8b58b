package vlreceiver

import (
	"encoding/binary"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"
)

// Tenant owns rows. VictoriaLogs takes it from the headers AccountID and ProjectID; the zero value is the default.
type Tenant struct {
	AccountID, ProjectID uint32
}

func (t Tenant) String() string { return fmt.Sprintf("%d:%d", t.AccountID, t.ProjectID) }

// Row is one stored row.
type Row struct {
	Time   time.Time         // UTC
	Stored time.Time         // when it came
	Stream string            // as {host="a",job="b"}
	Fields map[string]string // with _msg; fields that the client itself called _time or _stream are here too
}

// A stored row is a record in a slab, little endian:
//
//	u32 length of the rest | i64 unix ns | i64 unix ns of storing | uvarint stream | fields until the end
//	field: uvarint name | uvarint length | value
//
// Streams and names are numbers in the dictionaries of the store. Name 0 is _msg, stream 0 is {}.
const (
	msgName     = 0
	emptyStream = 0
)

const (
	minSlab = 4 << 10
	maxSlab = 1 << 20
)

// store keeps the rows of all tenants. Slabs are only ever appended to, so that readers need the lock for a moment.
type store struct {
	names   dictionary
	streams dictionary
	counts  waiters

	mu      sync.Mutex
	shelves map[Tenant]*shelf
}

type shelf struct {
	rows  int
	slabs [][]byte
}

func newStore() *store {
	s := &store{shelves: make(map[Tenant]*shelf)}
	s.names.number([]byte("_msg"))
	s.streams.number([]byte("{}"))
	return s
}

// add stores n rows. The records are copied; there are none if the server only counts.
func (s *store) add(tenant Tenant, records []byte, n int) {
	if n == 0 {
		return
	}
	s.mu.Lock()
	sh := s.shelves[tenant]
	if sh == nil {
		sh = &shelf{}
		s.shelves[tenant] = sh
	}
	sh.put(records)
	sh.rows += n
	rows := sh.rows
	s.mu.Unlock()
	s.counts.reached(tenant, rows)
}

// put appends records; none crosses the end of a slab.
func (sh *shelf) put(records []byte) {
	for len(records) > 0 {
		last := len(sh.slabs) - 1
		size := minSlab
		if last >= 0 {
			slab := sh.slabs[last]
			n := wholeRecords(records, cap(slab)-len(slab))
			sh.slabs[last] = append(slab, records[:n]...)
			records = records[n:]
			size = min(2*cap(slab), maxSlab)
		}
		if len(records) > 0 {
			sh.slabs = append(sh.slabs, make([]byte, 0, max(size, recordLen(records))))
		}
	}
}

// wholeRecords returns the length of the records at the start that fit.
func wholeRecords(records []byte, room int) int {
	n := 0
	for n < len(records) {
		next := recordLen(records[n:])
		if n+next > room {
			break
		}
		n += next
	}
	return n
}

func recordLen(records []byte) int { return 4 + int(binary.LittleEndian.Uint32(records)) }

func (s *store) count(tenant Tenant) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sh := s.shelves[tenant]; sh != nil {
		return sh.rows
	}
	return 0
}

func (s *store) close() { s.counts.close() }

// record is a stored row before it is decoded.
type record struct {
	bytes   []byte // without the length
	names   []string
	streams []string
}

// records iterates over what a tenant has at the start of the iteration.
func (s *store) records(tenant Tenant) iter.Seq[record] {
	return func(yield func(record) bool) {
		s.mu.Lock()
		var slabs [][]byte
		if sh := s.shelves[tenant]; sh != nil {
			slabs = slices.Clone(sh.slabs)
		}
		s.mu.Unlock()
		rec := record{names: s.names.all(), streams: s.streams.all()}
		for _, slab := range slabs {
			for len(slab) > 0 {
				n := recordLen(slab)
				rec.bytes, slab = slab[4:n], slab[n:]
				if !yield(rec) {
					return
				}
			}
		}
	}
}

func (rec record) unixNano() int64 {
	return int64(binary.LittleEndian.Uint64(rec.bytes)) //nolint:gosec // written from an int64
}

func (rec record) stored() time.Time {
	return time.Unix(0, int64(binary.LittleEndian.Uint64(rec.bytes[8:]))) //nolint:gosec // written from an int64
}

func (rec record) stream() string {
	number, _ := binary.Uvarint(rec.bytes[16:])
	return rec.streams[number]
}

// fields iterates over the fields in the order they were stored, duplicates included.
func (rec record) fields() iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		_, n := binary.Uvarint(rec.bytes[16:])
		b := rec.bytes[16+n:]
		for len(b) > 0 {
			name, n := binary.Uvarint(b)
			size, m := binary.Uvarint(b[n:])
			start, end := n+m, n+m+int(size) //nolint:gosec // written from an int
			if !yield(rec.names[name], string(b[start:end])) {
				return
			}
			b = b[end:]
		}
	}
}

// row decodes a record. Of several messages the first counts, of other duplicates the last.
func (rec record) row() Row {
	fields := make(map[string]string)
	for name, value := range rec.fields() {
		if _, ok := fields[name]; ok && name == "_msg" {
			continue
		}
		fields[name] = value
	}
	return Row{Time: time.Unix(0, rec.unixNano()).UTC(), Stored: rec.stored(), Stream: rec.stream(), Fields: fields}
}

// dictionary numbers texts in the order they come. It never forgets.
type dictionary struct {
	mu      sync.RWMutex
	numbers map[string]uint64
	texts   []string
}

func (d *dictionary) number(text []byte) uint64 {
	d.mu.RLock()
	n, ok := d.numbers[string(text)]
	d.mu.RUnlock()
	if ok {
		return n
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if n, ok := d.numbers[string(text)]; ok {
		return n
	}
	if d.numbers == nil {
		d.numbers = make(map[string]uint64)
	}
	n = uint64(len(d.texts))
	d.texts = append(d.texts, string(text))
	d.numbers[d.texts[n]] = n
	return n
}

// all returns the texts by number. The slice must not be changed.
func (d *dictionary) all() []string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.texts[:len(d.texts):len(d.texts)]
}

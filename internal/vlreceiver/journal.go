package vlreceiver

import (
	"net/http"
	"net/url"
	"sync"
	"time"
)

// Request is what one request looked like from the server's side.
type Request struct {
	At     time.Time
	Method string
	Path   string
	Query  url.Values
	Header http.Header

	WireBytes int64 // of the body, as far as it was read
	BodyBytes int64 // of the body after decompression, as far as it was read
	Lines     int   // lines or Loki entries, malformed ones included, empty and over-long ones not
	Stored    int   // rows
	Status    int   // of the answer; 0 as long as there is none
}

// journal keeps the last requests in a ring.
type journal struct {
	counts waiters
	mu     sync.Mutex
	ring   []*Request
	keep   int
	total  int
}

func newJournal(keep int) *journal { return &journal{keep: max(keep, 0)} }

func (j *journal) begin(r *http.Request) *Request {
	q := &Request{At: time.Now(), Method: r.Method, Path: r.URL.Path, Query: r.URL.Query(), Header: r.Header}
	j.mu.Lock()
	switch {
	case len(j.ring) < j.keep:
		j.ring = append(j.ring, q)
	case j.keep > 0:
		j.ring[j.total%j.keep] = q
	}
	j.total++
	total := j.total
	j.mu.Unlock()
	j.counts.reached(Tenant{}, total)
	return q
}

// finish records the outcome of a request that begin returned.
func (j *journal) finish(q *Request, c *call, status int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	q.WireBytes = c.body.n
	q.BodyBytes = c.decoded
	q.Lines = c.lines
	q.Stored = c.stored
	q.Status = status
}

func (j *journal) count() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.total
}

func (j *journal) requests() []Request {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := make([]Request, 0, len(j.ring))
	for i := range j.ring {
		q := j.ring[(j.total+i)%len(j.ring)]
		if len(j.ring) < j.keep {
			q = j.ring[i]
		}
		c := *q
		c.Header = q.Header.Clone()
		out = append(out, c)
	}
	return out
}

func (j *journal) close() { j.counts.close() }

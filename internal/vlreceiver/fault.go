package vlreceiver

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Fault is one way in which insert requests fail.
type Fault struct {
	Kind  FaultKind
	Times int           // how many requests it hits; 0 means until the next call of Fail
	Delay time.Duration // how long the request waits at the point that Kind names

	// A fault with one of these lets other requests pass, to the next fault or to none. Holding reads the body.
	Holding string // hits requests with this text in their lines
	Least   int64  // hits requests whose body has so many bytes or more, as it is sent

	// For FaultStatus only.
	Status     int    // for example 503; 200 is a server that says yes and stores nothing
	RetryAfter string // the header as it is sent, seconds or a date; empty means none
	Body       string // empty means the text of the status
}

// FaultKind says what becomes of the rows and of the answer.
type FaultKind int

// The kinds of faults. Calling Fail or stopping the server ends every wait.
const (
	// FaultStatus waits Delay and answers Status. The body is not read, but for Holding, and nothing is stored.
	FaultStatus FaultKind = iota
	// FaultSlow stores the rows, waits Delay and answers as usual.
	FaultSlow
	// FaultCut stores the rows, waits Delay and breaks the connection in the midst of the answer.
	FaultCut
	// FaultReset waits Delay and resets the connection. The body is not read and nothing is stored.
	FaultReset
	// FaultHang reads the body and never answers: it waits until the client gives up. Nothing is stored.
	FaultHang
	// FaultLate reads the body, waits until the client gives up and Delay longer, and then stores the rows.
	// If Fail is called before, the rows are stored then and the client is answered as usual.
	FaultLate
)

// faults is what Fail left to do.
type faults struct {
	mu       sync.Mutex
	queue    []Fault
	replaced chan struct{} // closed by the next set; nil while the queue has never been set
}

func (f *faults) set(list []Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.replaced != nil {
		close(f.replaced)
	}
	f.queue = append([]Fault(nil), list...)
	f.replaced = make(chan struct{})
}

// next returns the fault of one request and the channel that ends its waits.
func (f *faults) next(c *call) (fault Fault, replaced <-chan struct{}, ok bool) {
	if f.lookInside() {
		c.readAhead() // without the lock, since a client may be slow
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.queue {
		fault = f.queue[i]
		if !fault.hits(c) {
			continue
		}
		if fault.Times > 0 {
			f.queue[i].Times--
			if f.queue[i].Times == 0 {
				f.queue = slices.Delete(f.queue, i, i+1)
			}
		}
		return fault, f.replaced, true
	}
	return Fault{}, nil, false
}

func (f *faults) lookInside() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.queue, func(fault Fault) bool { return fault.Holding != "" })
}

func (f *Fault) hits(c *call) bool {
	return c.r.ContentLength >= f.Least && bytes.Contains(c.ahead, []byte(f.Holding))
}

// faulty serves one insert request under a fault.
func (l *life) faulty(call *call, fault Fault, replaced <-chan struct{}) answer {
	gone := call.r.Context().Done()
	switch fault.Kind {
	case FaultStatus:
		if !l.pause(fault.Delay, gone, replaced) {
			return answer{hangUp: resetNow}
		}
		a := answer{status: fault.Status, body: fault.Body, retryAfter: fault.RetryAfter}
		if a.body == "" && a.status >= http.StatusBadRequest {
			a.body = http.StatusText(fault.Status)
		}
		return a
	case FaultSlow:
		a := l.insert(call)
		if !l.pause(fault.Delay, gone, replaced) {
			return answer{hangUp: resetNow}
		}
		return a
	case FaultCut:
		l.insert(call)
		if !l.pause(fault.Delay, gone, replaced) {
			return answer{hangUp: resetNow}
		}
		return answer{hangUp: closeInAnswer}
	case FaultReset:
		l.pause(fault.Delay, gone, replaced)
		return answer{hangUp: resetNow}
	case FaultHang:
		// Only after the whole body is read does net/http notice that the client is gone.
		_, _ = io.Copy(io.Discard, &call.body)
		select {
		case <-gone:
		case <-replaced:
		case <-l.stop:
		}
		return answer{hangUp: resetNow}
	case FaultLate:
		if !call.buffer() {
			return answer{hangUp: resetNow}
		}
		select {
		case <-gone:
			// The client is gone for good, so only a stop or Fail may shorten the delay.
			if !l.pause(fault.Delay, nil, replaced) {
				return answer{hangUp: resetNow}
			}
			l.insert(call)
			return answer{hangUp: resetNow}
		case <-replaced:
			return l.insert(call)
		case <-l.stop:
			return answer{hangUp: resetNow}
		}
	}
	return answer{status: http.StatusInternalServerError, body: "unknown fault kind"}
}

// pause reports whether the request may go on: it returns false when the client is gone or the server stops.
func (l *life) pause(d time.Duration, gone, replaced <-chan struct{}) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-replaced:
		return true
	case <-gone:
		return false
	case <-l.stop:
		return false
	}
}

// hangUp is how a connection ends instead of an answer.
type hangUp int

const (
	resetNow      hangUp = iota + 1
	closeInAnswer        // in the midst of the header
)

func (h hangUp) do(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return // the connection is gone already
	}
	if h == closeInAnswer {
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
	} else {
		reset(conn)
	}
	_ = conn.Close() // a broken connection is what was asked for
}

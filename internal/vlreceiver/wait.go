package vlreceiver

import (
	"context"
	"sync"
)

// waiters lets callers wait for counts that only grow. The zero value is ready for use.
type waiters struct {
	mu      sync.Mutex
	closed  bool
	counts  map[Tenant]int
	waiting map[*waiter]struct{}
}

type waiter struct {
	tenant Tenant
	n      int
	done   chan struct{} // closed when n is reached or nothing can be reached any more
}

// reached tells the count of a tenant. A smaller count than before is ignored, so callers need no order.
func (ws *waiters) reached(tenant Tenant, count int) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if count <= ws.counts[tenant] {
		return
	}
	if ws.counts == nil {
		ws.counts = make(map[Tenant]int)
	}
	ws.counts[tenant] = count
	for w := range ws.waiting {
		if w.tenant == tenant && count >= w.n {
			delete(ws.waiting, w)
			close(w.done)
		}
	}
}

func (ws *waiters) wait(ctx context.Context, tenant Tenant, n int) error {
	ws.mu.Lock()
	if ws.counts[tenant] >= n {
		ws.mu.Unlock()
		return nil
	}
	if ws.closed {
		ws.mu.Unlock()
		return ErrClosed
	}
	w := &waiter{tenant: tenant, n: n, done: make(chan struct{})}
	if ws.waiting == nil {
		ws.waiting = make(map[*waiter]struct{})
	}
	ws.waiting[w] = struct{}{}
	ws.mu.Unlock()

	var err error
	select {
	case <-w.done:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	delete(ws.waiting, w)
	if ws.counts[tenant] >= n {
		return nil
	}
	if err == nil {
		err = ErrClosed
	}
	return err
}

func (ws *waiters) close() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.closed = true
	for w := range ws.waiting {
		delete(ws.waiting, w)
		close(w.done)
	}
}

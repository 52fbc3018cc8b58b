package testbroker

// fifo is a first-in first-out queue without a limit. The zero value is empty.
type fifo[T any] struct {
	items []T
	head  int // items[:head] were taken
}

func (f *fifo[T]) len() int { return len(f.items) - f.head }

func (f *fifo[T]) push(v T) { f.items = append(f.items, v) }

// pop returns the oldest item. The queue must not be empty.
func (f *fifo[T]) pop() T {
	var zero T
	v := f.items[f.head]
	f.items[f.head] = zero
	f.head++
	switch {
	case f.head == len(f.items) && cap(f.items) > 4096:
		f.items, f.head = nil, 0 // one burst made it huge
	case f.head == len(f.items):
		f.items, f.head = f.items[:0], 0
	case f.head >= 1024 && f.head*2 >= len(f.items):
		n := copy(f.items, f.items[f.head:])
		clear(f.items[n:])
		f.items, f.head = f.items[:n], 0
	}
	return v
}

// front returns the oldest item without taking it. The queue must not be empty.
func (f *fifo[T]) front() T { return f.items[f.head] }

// all returns the items, oldest first. The slice is the queue's own: it may be written to, and is valid until the next
// push or pop.
func (f *fifo[T]) all() []T { return f.items[f.head:] }

package dlq

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// QueueOptions are the settings of a Queue. Capacity is required.
type QueueOptions struct {
	// Capacity is how many bytes of items make a dump full.
	Capacity int64
	// FlushInterval is how long after its first item a dump is sealed at the latest; 0 means 30 s.
	FlushInterval time.Duration
	// Metrics and Logger may be nil.
	Metrics Metrics
	Logger  *slog.Logger
}

// Queue dumps items. Its methods may be called concurrently.
type Queue[T any] struct {
	writer  Writer
	encode  Encoder[T]
	o       QueueOptions
	buffers sync.Pool

	mu     sync.Mutex
	bytes  int64 // of items in the open dump
	since  time.Time
	timer  *time.Timer
	closed bool
	sealed bool // after it was closed

	stop  context.Context
	halt  context.CancelFunc
	ended sync.WaitGroup
}

// NewQueue returns a queue that writes items to the writer.
func NewQueue[T any](w Writer, encode Encoder[T], o QueueOptions) (*Queue[T], error) {
	if o.Capacity <= 0 {
		return nil, fmt.Errorf("dlq: Capacity is %d; it must be the bytes that make a dump full", o.Capacity)
	}
	if o.FlushInterval < 0 {
		return nil, fmt.Errorf("dlq: FlushInterval is %s; it must not be negative", o.FlushInterval)
	}
	if o.FlushInterval == 0 {
		o.FlushInterval = 30 * time.Second
	}
	if o.Metrics == nil {
		o.Metrics = noMetrics{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	q := &Queue[T]{writer: w, encode: encode, o: o, timer: time.NewTimer(time.Hour)}
	q.stop, q.halt = context.WithCancel(context.Background()) //nolint:gosec // Close calls it
	q.timer.Stop()
	q.ended.Go(q.watch)
	return q, nil
}

// Enqueue takes an item. When it returns, the item is in memory, and will be durable with the next Sync, or before. An
// error means that the item is not taken.
func (q *Queue[T]) Enqueue(ctx context.Context, item T) error {
	return q.enqueue(ctx, item, func(ctx context.Context, data []byte) error {
		_, err := q.writer.Append(ctx, data)
		return err
	})
}

// EnqueueDurable takes an item and returns when it is durable. Callers that come at the same time share one fsync. With an
// error the item is not taken, and nothing keeps it; when the context ended first nobody knows.
func (q *Queue[T]) EnqueueDurable(ctx context.Context, item T) error {
	return q.enqueue(ctx, item, q.writer.AppendDurable)
}

func (q *Queue[T]) enqueue(ctx context.Context, item T, appendTo func(context.Context, []byte) error) error {
	buffer, _ := q.buffers.Get().(*[]byte)
	if buffer == nil {
		buffer = new([]byte)
	}
	defer func() {
		if cap(*buffer) <= 64<<10 { // not what one great item made of it
			q.buffers.Put(buffer)
		}
	}()
	data, err := q.encode((*buffer)[:0], item)
	if err != nil {
		return fmt.Errorf("dlq: encoding an item: %w", err)
	}
	*buffer = data

	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return fmt.Errorf("dlq: %w", ErrClosed)
	}
	q.mu.Unlock()
	if err := appendTo(ctx, data); err != nil {
		return err
	}
	q.o.Metrics.Enqueued(len(data))
	if q.grow(int64(len(data))) {
		if err := q.writer.Seal(ctx, ReasonSize); err != nil { // the item is taken all the same
			q.o.Logger.Error("cannot seal a dump that is full", "error", err)
		}
	}
	return nil
}

// grow counts an item's bytes and reports that the dump is full.
func (q *Queue[T]) grow(bytes int64) (full bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.bytes == 0 {
		q.since = time.Now()
		q.timer.Reset(q.o.FlushInterval)
	}
	q.bytes += max(bytes, 1)
	if q.bytes < q.o.Capacity && !q.closed { // Close may have sealed without this item
		return false
	}
	q.bytes = 0
	q.timer.Stop()
	return true
}

// watch seals the dump when FlushInterval is over.
func (q *Queue[T]) watch() {
	for {
		select {
		case <-q.stop.Done():
			return
		case <-q.timer.C:
		}
		q.mu.Lock()
		due := q.bytes > 0 && time.Since(q.since) >= q.o.FlushInterval
		if due {
			q.bytes = 0
		}
		q.mu.Unlock()
		if !due {
			continue
		}
		if err := q.writer.Seal(q.stop, ReasonInterval); err != nil && q.stop.Err() == nil {
			q.o.Logger.Error("cannot seal a dump whose interval is over", "error", err)
			q.mu.Lock()
			q.bytes, q.since = max(q.bytes, 1), time.Now()
			q.timer.Reset(q.o.FlushInterval)
			q.mu.Unlock()
		}
	}
}

// Sync returns when all that was enqueued so far is durable. No dump is sealed for it.
func (q *Queue[T]) Sync(ctx context.Context) error { return q.writer.Sync(ctx, 0) }

// Flush seals the open dump, so that it can be restored.
func (q *Queue[T]) Flush(ctx context.Context) error {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return fmt.Errorf("dlq: %w", ErrClosed)
	}
	q.bytes = 0
	q.timer.Stop()
	q.mu.Unlock()
	return q.writer.Seal(ctx, ReasonForced)
}

// Close seals the open dump and ends the queue, but not its writer. It may be called again, which does nothing unless the
// dump could not be sealed.
func (q *Queue[T]) Close(ctx context.Context) error {
	q.mu.Lock()
	if q.sealed {
		q.mu.Unlock()
		return nil
	}
	q.closed = true
	q.timer.Stop()
	q.mu.Unlock()
	q.halt()
	q.ended.Wait()
	err := q.writer.Seal(ctx, ReasonForced)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sealed = err == nil
	return err
}

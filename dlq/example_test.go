package dlq_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"
	"time"

	"github.com/edgetide/telegraf-victorialogs/dlq"
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func directory() (dir string, remove func()) {
	dir, err := os.MkdirTemp("", "dlq")
	must(err)
	return dir, func() { must(os.RemoveAll(dir)) }
}

// A dead letter queue in front of an HTTP call: what the server does not take is kept, durably, and sent when it does.
func Example() {
	dir, remove := directory()
	defer remove()
	var down atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	client := server.Client()
	send := func(ctx context.Context, body []byte) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL, bytes.NewReader(body))
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		must(response.Body.Close())
		switch {
		case response.StatusCode == http.StatusBadRequest:
			return fmt.Errorf("%s: %w", response.Status, dlq.ErrPoison) // it would be refused forever
		case response.StatusCode >= http.StatusMultipleChoices:
			return fmt.Errorf("the server says %s", response.Status)
		}
		return nil
	}

	disk, err := dlq.OpenDisk(dir, dlq.DiskOptions{Version: "1", MaxSize: 1 << 30})
	must(err)
	queue, err := dlq.NewQueue(disk, dlq.EncodeBytes, dlq.QueueOptions{Capacity: 16 << 20})
	must(err)
	ctx := context.Background()
	down.Store(true)
	for i := range 3 {
		letter := fmt.Appendf(nil, "letter %d", i)
		if err := send(ctx, letter); err != nil {
			fmt.Fprintln(os.Stdout, err)
			must(queue.EnqueueDurable(ctx, letter)) // now it may be acknowledged to whom it came from
		}
	}
	must(queue.Flush(ctx)) // FlushInterval would do it, later

	down.Store(false)
	restorer, err := dlq.NewRestorer(disk, dlq.DecodeBytes, func(ctx context.Context, letter []byte) error {
		fmt.Fprintf(os.Stdout, "restoring %s\n", letter)
		return send(ctx, letter)
	}, dlq.RestorerOptions[[]byte]{Version: "1"})
	must(err)
	must(restorer.Drain(ctx)) // or Start, and Close at the end

	must(queue.Close(ctx))
	must(disk.Close())
	// Output:
	// the server says 503 Service Unavailable
	// the server says 503 Service Unavailable
	// the server says 503 Service Unavailable
	// restoring letter 0
	// restoring letter 1
	// restoring letter 2
}

// leaky is a small queue in memory, whose overflow goes to disk.
type leaky struct {
	items chan string
	leak  *dlq.Queue[string]
}

func (l *leaky) put(ctx context.Context, item string) error {
	select {
	case l.items <- item:
		return nil
	default:
		return l.leak.Enqueue(ctx, item)
	}
}

// restore is the adapter: it is a dlq.Target that never leaks again, but says that there is no room.
func (l *leaky) restore(ctx context.Context, item string) error {
	select {
	case l.items <- item:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *leaky) load() float64 { return float64(len(l.items)) / float64(cap(l.items)) }

// The loop of dlqdump: a queue leaks into a dump, and the restorer puts what leaked into the same queue.
func Example_loop() {
	dir, remove := directory()
	defer remove()
	ctx := context.Background()
	disk, err := dlq.OpenDisk(dir, dlq.DiskOptions{})
	must(err)
	dead, err := dlq.NewQueue(disk, dlq.EncodeString, dlq.QueueOptions{Capacity: 4 << 10, FlushInterval: time.Millisecond})
	must(err)
	queue := &leaky{items: make(chan string, 10), leak: dead}
	for i := range 1000 {
		must(queue.put(ctx, fmt.Sprint("item ", i)))
	}

	restorer, err := dlq.NewRestorer(disk, dlq.DecodeString, queue.restore, dlq.RestorerOptions[string]{
		CheckInterval: time.Millisecond, Load: queue.load, AllowRate: 0.9,
	})
	must(err)
	restorer.Start()
	seen := make(map[string]bool)
	for len(seen) < 1000 {
		seen[<-queue.items] = true
	}
	restorer.Close()
	must(dead.Close(ctx))
	must(disk.Close())
	fmt.Fprintln(os.Stdout, len(seen), "items went through a queue of 10")
	// Output: 1000 items went through a queue of 10
}

// Replay with a rate, so that a target that has just come back is not overrun.
func ExampleRestorer_Drain() {
	dir, remove := directory()
	defer remove()
	ctx := context.Background()
	disk, err := dlq.OpenDisk(dir, dlq.DiskOptions{})
	must(err)
	queue, err := dlq.NewQueue(disk, dlq.EncodeString, dlq.QueueOptions{Capacity: 1 << 20})
	must(err)
	for i := range 60 {
		must(queue.Enqueue(ctx, fmt.Sprint("item ", i)))
	}
	must(queue.Close(ctx))

	delivered := 0
	restorer, err := dlq.NewRestorer(disk, dlq.DecodeString, func(context.Context, string) error {
		delivered++
		return nil
	}, dlq.RestorerOptions[string]{ItemsPerSecond: 200})
	must(err)
	start := time.Now()
	must(restorer.Drain(ctx))
	must(disk.Close())
	fmt.Fprintln(os.Stdout, delivered, "items, not all at once:", time.Since(start) > 150*time.Millisecond)
	// Output: 60 items, not all at once: true
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"time"

	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
	"github.com/edgetide/telegraf-victorialogs/internal/vlserver"
)

// receiver is where rows end: the stand-in for VictoriaLogs, or a real one.
type receiver interface {
	URL() string
	// wait returns when at least n rows are stored.
	wait(ctx context.Context, n int) error
	count(ctx context.Context) (int, error)
	// traffic is how many requests have come, and their bytes; false: that is not known.
	traffic() (requests int, bytes float64, known bool)
	Close() error
}

const (
	standInName = "stand-in"
	realName    = "VictoriaLogs"
)

// standIn counts rows as they come, and keeps them where somebody wants to know when that was.
type standIn struct{ *vlreceiver.Server }

func newStandIn(keep bool) (*standIn, error) {
	server, err := vlreceiver.Start(vlreceiver.Config{CountOnly: !keep, KeepRequests: 2048})
	return &standIn{server}, err
}

func (r *standIn) wait(ctx context.Context, n int) error {
	return r.WaitCount(ctx, vlreceiver.Tenant{}, n)
}

func (r *standIn) count(context.Context) (int, error) { return r.Count(vlreceiver.Tenant{}), nil }

// traffic has the exact number of requests, and as bytes that of the last 2048 brought to all: bodies as they were on the
// wire, with the lines before them.
func (r *standIn) traffic() (requests int, bytes float64, known bool) {
	kept := r.Requests()
	for _, q := range kept {
		bytes += float64(q.WireBytes) + float64(len(q.Method)+len(q.Path)+len(q.Query.Encode())+len(" ? HTTP/1.1\r\n\r\n"))
		for name, values := range q.Header {
			for _, value := range values {
				bytes += float64(len(name) + len(": \r\n") + len(value))
			}
		}
	}
	requests = r.RequestCount()
	if len(kept) > 0 {
		bytes *= float64(requests) / float64(len(kept))
	}
	return requests, bytes, true
}

// stored says of each message when it came.
func (r *standIn) stored() map[int]time.Time {
	at := make(map[int]time.Time)
	for row := range r.All(vlreceiver.Tenant{}) {
		if seq, ok := seqOf(row.Fields); ok {
			if _, again := at[seq]; !again {
				at[seq] = row.Stored
			}
		}
	}
	return at
}

var seqInText = regexp.MustCompile(`\bseq="?([0-9.e+]+)`)

// seqOf finds a message's number in a row, however the agent wrote it.
func seqOf(fields map[string]string) (int, bool) {
	text, ok := fields["seq"]
	if !ok {
		text, ok = fields["fields.seq"]
	}
	if !ok {
		match := seqInText.FindStringSubmatch(fields["_msg"])
		if match == nil {
			return 0, false
		}
		text = match[1]
	}
	seq, err := strconv.ParseFloat(text, 64)
	return int(seq), err == nil
}

// victoriaLogs is a real one, as a process.
type victoriaLogs struct {
	*vlserver.Server
	dir string
}

func newReal(ctx context.Context, parent string) (_ *victoriaLogs, err error) {
	path, ok := vlserver.Look()
	if !ok {
		return nil, errors.New("victoria-logs is not on PATH")
	}
	dir, err := os.MkdirTemp(parent, "victoria-logs")
	if err != nil {
		return nil, err
	}
	server, err := vlserver.New(path, "", dir)
	if err != nil {
		return nil, err
	}
	r := &victoriaLogs{Server: server, dir: dir}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := server.Start(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *victoriaLogs) cpu() (time.Duration, error) { return cpuTime(r.PID()) }

// wait asks seldom, since each question costs the server what many rows do.
func (r *victoriaLogs) wait(ctx context.Context, n int) error {
	for {
		stored, err := r.count(ctx)
		if err != nil {
			return err
		}
		if stored >= n {
			return nil
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("waiting for %d rows in VictoriaLogs, which has %d: %w", n, stored, err)
		}
	}
}

func (r *victoriaLogs) count(ctx context.Context) (int, error) {
	stored, err := vlserver.Count(ctx, r.URL())
	return int(stored), err
}

func (*victoriaLogs) traffic() (requests int, bytes float64, known bool) { return 0, 0, false }

func (r *victoriaLogs) Close() error { return errors.Join(r.Stop(), os.RemoveAll(r.dir)) }

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	"github.com/edgetide/telegraf-victorialogs/outputs/tcp_exporter/wire"
)

// source is where events come from. It connects, reads, and connects again.
type source struct {
	address string
	tls     *tls.Config // nil: none
	once    bool
	keep    keeps
	left    uint64 // events to show, if limited
	limited bool

	metadata map[nameAndType]*wire.Metadata
	bytes    int // of metadata
}

type nameAndType struct {
	name string
	kind wire.Metadata_MetricType
}

// What a server can make this command remember: names with metadata, and again series in the table.
const (
	maxNames = 100_000
	maxBytes = 64 << 20
)

// sink is what shows events. Both methods are called on one goroutine.
type sink interface {
	event(e event) error
	status(text string) // whether it is connected
}

// errEnough says that all events were shown.
var errEnough = errors.New("enough")

// run reads until the context ends, or what comes is no stream, or with once, the connection ended.
func (s *source) run(ctx context.Context, to sink) error {
	s.metadata = make(map[nameAndType]*wire.Metadata)
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 250*time.Millisecond, 10*time.Second
	for {
		err := s.connection(ctx, to, pause.Reset)
		var show *showError
		switch {
		case errors.Is(err, errEnough), ctx.Err() != nil: // all is done
			return nil //nolint:nilerr // the error is of a connection that this side closed
		case errors.As(err, &show):
			return show.error
		case errors.Is(err, errNoStream), s.once:
			return err
		}
		wait := pause.NextBackOff()
		to.status(fmt.Sprintf("%v; trying again in %s", err, wait.Round(100*time.Millisecond)))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// showError is one of the sink's, not of the source.
type showError struct{ error }

// connection reads one connection to its end, which is always an error.
func (s *source) connection(ctx context.Context, to sink, works func()) error {
	conn, err := s.dial(ctx)
	if err != nil {
		return fmt.Errorf("cannot connect: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer func() { _ = conn.Close() }()
	to.status("connected to " + s.address)
	return s.read(conn, to, works)
}

// read reads a stream to its end. It calls works for each event, since then the server is one.
func (s *source) read(from io.Reader, to sink, works func()) error {
	stream := &noting{Reader: from}
	frames := bufio.NewReader(stream)
	for {
		e := &wire.Event{}
		if err := (protodelim.UnmarshalOptions{MaxSize: wire.MaxMessage}).UnmarshalFrom(frames, e); err != nil {
			return s.explain(err, stream.err)
		}
		works()
		if err := s.take(e, to); err != nil {
			return err
		}
	}
}

func (s *source) dial(ctx context.Context) (net.Conn, error) {
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	if s.tls == nil {
		return dialer.DialContext(ctx, "tcp", s.address)
	}
	return (&tls.Dialer{NetDialer: dialer, Config: s.tls}).DialContext(ctx, "tcp", s.address)
}

// noting notes why a reader ended, to tell a connection that broke from bytes that are no stream.
type noting struct {
	io.Reader

	err error
}

func (n *noting) Read(p []byte) (int, error) {
	m, err := n.Reader.Read(p)
	if err != nil {
		n.err = err
	}
	return m, err
}

var errNoStream = errors.New("this is no stream of metrics-exporter-tcp")

func (s *source) explain(err, broken error) error {
	var size *protodelim.SizeTooLargeError
	switch {
	case errors.As(err, &size):
		return fmt.Errorf("%s: %w: a frame of %d bytes, where %d is the most; text is for nc", s.address, errNoStream, size.Size, size.MaxSize)
	case errors.Is(broken, io.EOF):
		return errors.New("the server closed the connection")
	case broken != nil:
		return fmt.Errorf("the connection broke: %w", broken)
	}
	return fmt.Errorf("%s: %w: %w; text is for nc", s.address, errNoStream, err)
}

// take hands an event on, if it is to be shown.
func (s *source) take(e *wire.Event, to sink) error {
	if m := e.GetMetadata(); m != nil {
		key := nameAndType{m.GetName(), m.GetMetricType()}
		old, known := s.metadata[key]
		bytes := s.bytes + proto.Size(m) - proto.Size(old)
		if bytes <= maxBytes && (known || len(s.metadata) < maxNames) {
			s.metadata[key], s.bytes = m, bytes
		}
		return nil
	}
	m := e.GetMetric()
	if m == nil || !s.keep.match(m) {
		return nil
	}
	shown, ok := newEvent(m)
	if !ok {
		return nil
	}
	metadata := s.metadata[nameAndType{m.GetName(), shown.kind}]
	shown.unit, shown.description = metadata.GetUnitValue(), metadata.GetDescriptionValue()
	if err := to.event(shown); err != nil {
		return &showError{err}
	}
	if s.limited {
		s.left--
		if s.left == 0 {
			return errEnough
		}
	}
	return nil
}

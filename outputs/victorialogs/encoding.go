package victorialogs

import (
	"bytes"
	"fmt"
	"sync"

	kgzip "github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// encoding is how a batch's lines become a request's body, as content_encoding says. It may be used concurrently.
type encoding struct {
	name     string
	compress func(dst, lines []byte) []byte // appends to dst; nil for identity
}

// newEncoding returns the encoding of that name.
func newEncoding(name string) (*encoding, error) {
	e := &encoding{name: name}
	switch name {
	case "identity":
		return e, nil
	case "gzip":
		e.useGzip()
		return e, nil
	case "zstd":
		return e, e.useZstd()
	default:
		return nil, fmt.Errorf(`content_encoding = %q: must be "zstd", "gzip" or "identity"`, name)
	}
}

func (e *encoding) useGzip() {
	var writers sync.Pool
	e.compress = func(dst, lines []byte) []byte {
		out := bytes.NewBuffer(dst)
		w, ok := writers.Get().(*kgzip.Writer)
		if ok {
			w.Reset(out)
		} else {
			w, _ = kgzip.NewWriterLevel(out, kgzip.BestSpeed) // fails for unknown levels alone
		}
		defer writers.Put(w)
		_, _ = w.Write(lines) // a bytes.Buffer never fails
		_ = w.Close()
		return out.Bytes()
	}
}

func (e *encoding) useZstd() error {
	// A window of 256 KiB finds what log lines repeat, and costs a small gateway an eighth of the default's memory. One encoder
	// is faster than Add makes lines, and each more one would be half a megabyte.
	w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(256<<10), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return fmt.Errorf("preparing zstd: %w", err)
	}
	e.compress = func(dst, lines []byte) []byte { return w.EncodeAll(lines, dst) }
	return nil
}

// buffers lends memory for lines and bodies, and for lists of who waits. What was made huge by one burst is not kept.
type buffers struct {
	pool  sync.Pool
	lists sync.Pool
	most  int // bytes of capacity that are worth keeping
}

func (p *buffers) get() []byte {
	if buffer, ok := p.pool.Get().(*[]byte); ok {
		return (*buffer)[:0]
	}
	return nil
}

func (p *buffers) put(buffer []byte) {
	if cap(buffer) > 0 && cap(buffer) <= p.most {
		p.pool.Put(&buffer)
	}
}

func (p *buffers) getList() []tracked {
	if list, ok := p.lists.Get().(*[]tracked); ok {
		return (*list)[:0]
	}
	return nil
}

func (p *buffers) putList(list []tracked) {
	const most = 10_000
	if cap(list) > 0 && cap(list) <= most {
		clear(list) // or it would keep the metrics
		p.lists.Put(&list)
	}
}

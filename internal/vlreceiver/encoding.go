package vlreceiver

import (
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
)

// decoders are reused from request to request. The reader that open returns is valid until the next call.
//
// Whether a reader hands out its last bytes together with io.EOF is part of the behaviour: see lineReader.
type decoders struct {
	gzip   *gzip.Reader
	zlib   io.ReadCloser
	zstd   *zstd.Decoder
	snappy blockReader
}

// open fails for an unknown encoding and for a header that does not decode.
func (d *decoders) open(r io.Reader, encoding string) (io.Reader, error) {
	var err error
	switch encoding {
	case "", "none", "identity":
		return r, nil
	case "gzip":
		if d.gzip == nil {
			d.gzip, err = gzip.NewReader(r)
			return d.gzip, err
		}
		return d.gzip, d.gzip.Reset(r)
	case "deflate":
		if d.zlib == nil {
			d.zlib, err = zlib.NewReader(r)
			return d.zlib, err
		}
		return d.zlib, d.zlib.(zlib.Resetter).Reset(r, nil) //nolint:errcheck // documented to be one
	case "zstd":
		if d.zstd == nil {
			// One at a time means without goroutines, so a decoder in a pool needs no Close.
			d.zstd, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
			return d.zstd, err
		}
		return d.zstd, d.zstd.Reset(r)
	case "snappy":
		return &d.snappy, d.snappy.reset(r)
	}
	return nil, fmt.Errorf("unsupported encoding: %s", encoding)
}

// release drops the references to the request's body.
func (d *decoders) release() {
	if d.zstd != nil {
		_ = d.zstd.Reset(nil) // cannot fail without input
	}
}

// blockReader reads a body that is one snappy block.
type blockReader struct {
	buf, rest []byte
}

func (b *blockReader) reset(r io.Reader) error {
	wire, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	b.buf, err = snappy.Decode(b.buf[:cap(b.buf)], wire)
	b.rest = b.buf
	return err
}

// Read returns the last bytes together with io.EOF.
func (b *blockReader) Read(p []byte) (int, error) {
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

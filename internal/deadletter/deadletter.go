// Package deadletter is the form in which outputs.victorialogs keeps a batch on disk, so that the plugin can send it later and
// bin/dlq can show it:
//
//	{"path":"/insert/jsonline","query":"_stream_fields=host","encoding":"zstd","count":2,…}\n
//	the request's body, encoded as "encoding" says
package deadletter

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Route is where a batch was meant to go at the time, below the server's base URL, and how its body is encoded.
type Route struct {
	Path      string `json:"path"`
	Query     string `json:"query,omitempty"`
	AccountID string `json:"account_id,omitempty"`
	ProjectID string `json:"project_id,omitempty"`
	Encoding  string `json:"encoding"` // of the body: zstd, gzip or identity
}

// Letter is a batch, or rows of one.
type Letter struct {
	Route
	Count    int       `json:"count"` // of rows
	First    time.Time `json:"first"` // time of the oldest row
	Last     time.Time `json:"last"`  // time of the newest
	Reason   string    `json:"reason"`
	Attempts int       `json:"attempts"`
	Status   int       `json:"status,omitempty"` // of the answer that refused it
	Answer   string    `json:"answer,omitempty"` // its text
	Run      string    `json:"run"`              // tells the life of the process that received the rows
	Sum      uint32    `json:"sum,omitempty"`    // see Seal
	Body     []byte    `json:"-"`
}

// Append appends the letter to dst. It is a dlq.Encoder.
func Append(dst []byte, l *Letter) ([]byte, error) {
	head, err := json.Marshal(l)
	if err != nil {
		return dst, err
	}
	return append(append(append(dst, head...), '\n'), l.Body...), nil
}

// Parse reads a letter and copies what it keeps of data. It is a dlq.Decoder.
func Parse(data []byte) (*Letter, error) {
	l, err := parse(data)
	if err != nil {
		return nil, err
	}
	l.Body = bytes.Clone(l.Body)
	return l, nil
}

// Count returns how many rows a letter holds and which life of the process received them, without a copy.
func Count(data []byte) (rows int, run string) {
	l, err := parse(data)
	if err != nil {
		return 0, ""
	}
	return l.Count, l.Run
}

func parse(data []byte) (*Letter, error) {
	head, body, ok := bytes.Cut(data, []byte{'\n'})
	if !ok || !bytes.HasPrefix(head, []byte(`{"path":`)) {
		return nil, errors.New("is no batch of outputs.victorialogs")
	}
	l := &Letter{Body: body}
	if err := json.Unmarshal(head, l); err != nil {
		return nil, fmt.Errorf("is no batch of outputs.victorialogs: %w", err)
	}
	if l.Count < 1 {
		return nil, fmt.Errorf("is a batch of %d rows", l.Count)
	}
	return l, nil
}

// Seal notes a sum of count and body. Whoever made the body calls it, so that others need not look into it.
func (l *Letter) Seal() { l.Sum = l.sum() }

// sum is the CRC-32C of the body, and of count as text behind it.
func (l *Letter) sum() uint32 {
	sum := crc32.Checksum(l.Body, castagnoli)
	return crc32.Update(sum, castagnoli, strconv.AppendInt(nil, int64(l.Count), 10))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Check reports why the body cannot be read as so many rows. A server that is sent such a body may say that it took it. It
// looks into the body, at fifty times the cost, where the sum does not say that this is as its maker left it.
func (l *Letter) Check() error {
	if l.Sum != 0 && l.Sum == l.sum() {
		return nil
	}
	lines, err := l.Lines()
	if err != nil {
		return fmt.Errorf("its body cannot be read as %d rows: %w", l.Count, err)
	}
	if rows := bytes.Count(lines, []byte{'\n'}); rows != l.Count {
		return fmt.Errorf("its body has %d rows instead of %d", rows, l.Count)
	}
	return nil
}

// Lines returns the rows, a JSON object and a newline each.
func (l *Letter) Lines() ([]byte, error) { return Decompress(l.Encoding, l.Body) }

// maxLines bounds what a body becomes: a batch has 4 MiB at most and one line of any length.
const maxLines = 256 << 20

// decoder is shared: it keeps its tables, and DecodeAll may be called concurrently.
var decoder = newDecoder()

func newDecoder() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxMemory(maxLines))
	if err != nil {
		panic(err) // for wrong options alone
	}
	return d
}

// Decompress undoes a content encoding.
func Decompress(encoding string, body []byte) ([]byte, error) {
	switch encoding {
	case "identity":
		return body, nil
	case "gzip":
		r, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		lines, err := io.ReadAll(io.LimitReader(r, maxLines+1))
		if err == nil && len(lines) > maxLines {
			err = fmt.Errorf("is more than %d bytes", maxLines)
		}
		return lines, err
	case "zstd":
		return decoder.DecodeAll(body, nil)
	default:
		return nil, fmt.Errorf("encoding is %q; it must be zstd, gzip or identity", encoding)
	}
}

package tcp_exporter

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A decoder that knows nothing but event.proto reads a stream of 10,000 events.
func TestProtocDecodes(t *testing.T) {
	protoc, err := exec.LookPath("protoc")
	if err != nil {
		t.Skip("protoc is not on PATH: Debian's protobuf-compiler has it")
	}
	const n = 10_000
	r := start(t, func(p *TCPExporter) { p.BufferSize = n })
	v := r.dial()
	r.waitFor("a reader", func() bool { return r.stream.readers.Load() == 1 })
	for i := range n {
		r.Add(one("load", map[string]string{"host": "gätew\"ay", "n": fmt.Sprint(i)}, "system", i))
	}
	go r.stop()
	captured, err := io.ReadAll(v)
	require.NoError(t, err)

	// protoc reads one message, and frames are none. But each frame behind a tag is an element of a repeated field.
	directory := t.TempDir()
	write := func(name, content string) {
		path := filepath.Join(directory, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	}
	proto, err := os.ReadFile(filepath.Join("wire", "event.proto"))
	require.NoError(t, err)
	write("event.proto", string(proto))
	write("capture.proto", `syntax = "proto3"; import "event.proto"; message Capture { repeated event.proto.Event events = 1; }`)
	write("google/protobuf/timestamp.proto", // protoc's package does not always bring it
		`syntax = "proto3"; package google.protobuf; message Timestamp { int64 seconds = 1; int32 nanos = 2; }`)
	var message []byte
	for len(captured) > 0 {
		size, prefix := binary.Uvarint(captured)
		require.Positive(t, prefix)
		frame := captured[:prefix+int(size)]
		message = append(append(message, 0x0a), frame...)
		captured = captured[len(frame):]
	}
	decode := exec.Command(protoc, "--proto_path="+directory, "--decode=Capture", "capture.proto")
	decode.Stdin = bytes.NewReader(message)
	var stderr bytes.Buffer
	decode.Stderr = &stderr
	out, err := decode.Output()
	require.NoError(t, err, stderr.String())

	text := strings.Join(strings.Fields(string(out)), " ")
	require.Contains(t, text, `events { metadata { name: "load_system" metric_type: GAUGE } }`)
	require.Equal(t, n, strings.Count(text, "events { metric {"))
	for i := range n {
		want := fmt.Sprintf(`events { metric { name: "load_system" timestamp { seconds: 1700000000 nanos: 123456789 } labels { key: "host" `+
			`value: "g\303\244tew\"ay" } labels { key: "n" value: "%d" } set_gauge: %d } }`, i, i)
		begin, rest, found := strings.Cut(text, want)
		require.True(t, found, "event %d", i)
		if i > 0 {
			require.Equal(t, " ", begin, "nothing is between two events")
		}
		text = rest
	}
	require.Empty(t, text)
}

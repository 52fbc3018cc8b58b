// Package devicecases reads the messages of devices that are in inputs/mqtt_hardware/testcases, for the golden test there
// and for tests that need a mixture of payloads. A file messages.txt holds messages of the form
//
//	topic: the/topic
//	content_type: application/cbor
//	encoding: hex
//
//	the payload
//	---
//
// with the last two lines of the header where they are needed. Lines that begin with # in front of the payload are
// comments. The encoding is text without its last line break, or quoted (as in Go), hex (with spaces and comments),
// base64, or sparkplug: the text form of a Payload of sparkplug_b.proto, which is two directories above.
package devicecases

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"
)

// Message is one message of a device.
type Message struct {
	Topic, ContentType string
	Payload            []byte
}

// Read reads a messages.txt.
func Read(file string) ([]Message, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	plugin := filepath.Join(filepath.Dir(file), "..", "..")
	var messages []Message
	for text := range strings.SplitSeq(string(content), "\n---\n") {
		m, err := read(plugin, text)
		if err != nil {
			return nil, fmt.Errorf("%s, message %d: %w", file, len(messages)+1, err)
		}
		messages = append(messages, m)
	}
	return messages, nil
}

func read(plugin, text string) (m Message, err error) {
	encoding := "text"
	for text != "" {
		var line string
		line, text, _ = strings.Cut(text, "\n")
		key, value, _ := strings.Cut(line, ": ")
		switch {
		case strings.HasPrefix(line, "#"):
		case key == "topic":
			m.Topic = value
		case key == "content_type":
			m.ContentType = value
		case key == "encoding":
			encoding = value
		case line == "" && m.Topic != "":
			m.Payload, err = decode(plugin, encoding, strings.TrimSuffix(text, "\n"))
			return m, err
		case line != "":
			return m, fmt.Errorf("%q is no line of a header", line)
		}
	}
	if m.Topic == "" {
		return m, errors.New("it has no topic")
	}
	return m, nil // its payload is empty
}

func decode(plugin, encoding, text string) ([]byte, error) {
	switch encoding {
	case "text":
		return []byte(text), nil
	case "quoted":
		unquoted, err := strconv.Unquote(text)
		return []byte(unquoted), err
	case "hex":
		var digits strings.Builder
		for line := range strings.SplitSeq(text, "\n") {
			line, _, _ = strings.Cut(line, "#")
			digits.WriteString(strings.ReplaceAll(line, " ", ""))
		}
		return hex.DecodeString(digits.String())
	case "base64":
		return base64.StdEncoding.DecodeString(text)
	case "sparkplug":
		return Sparkplug(plugin, text)
	default:
		return nil, fmt.Errorf("encoding %q is unknown", encoding)
	}
}

// Sparkplug makes the bytes of a Payload from protobuf's text form, with the sparkplug_b.proto in the plugin's directory.
func Sparkplug(plugin, text string) ([]byte, error) {
	compiler := protocompile.Compiler{Resolver: &protocompile.SourceResolver{ImportPaths: []string{plugin}}}
	files, err := compiler.Compile(context.Background(), "sparkplug_b.proto")
	if err != nil {
		return nil, err
	}
	message := dynamicpb.NewMessage(files[0].Messages().ByName("Payload"))
	if err := prototext.Unmarshal([]byte(text), message); err != nil {
		return nil, err
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(message)
}

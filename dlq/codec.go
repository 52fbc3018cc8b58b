package dlq

import (
	"bytes"
	"slices"
)

// Encoder appends an item's bytes to dst.
type Encoder[T any] func(dst []byte, item T) ([]byte, error)

// Decoder makes an item of its bytes. They are used again when it has returned: what it keeps of them it copies.
type Decoder[T any] func(data []byte) (T, error)

// EncodeBytes takes an item as its bytes.
func EncodeBytes(dst, item []byte) ([]byte, error) { return append(dst, item...), nil }

// EncodeString takes an item as its bytes.
func EncodeString(dst []byte, item string) ([]byte, error) { return append(dst, item...), nil }

// EncodeByter takes what the item's Bytes method returns, such as a bytes.Buffer's.
func EncodeByter[T interface{ Bytes() []byte }](dst []byte, item T) ([]byte, error) {
	return append(dst, item.Bytes()...), nil
}

// EncodeStringer takes what the item's String method returns.
func EncodeStringer[T interface{ String() string }](dst []byte, item T) ([]byte, error) {
	return append(dst, item.String()...), nil
}

// DecodeBytes gives a copy of the bytes.
func DecodeBytes(data []byte) ([]byte, error) { return slices.Clone(data), nil }

// DecodeString gives the bytes as a string.
func DecodeString(data []byte) (string, error) { return string(data), nil }

// DecodeBuffer gives a copy of the bytes as a buffer, the counterpart of EncodeByter.
func DecodeBuffer(data []byte) (*bytes.Buffer, error) {
	return bytes.NewBuffer(slices.Clone(data)), nil
}

// Package dlqproto encodes protobuf messages for package dlq.
package dlqproto

import (
	"google.golang.org/protobuf/proto"
)

// Encode appends the message in the wire format. It is a dlq.Encoder.
func Encode[M proto.Message](dst []byte, message M) ([]byte, error) {
	return proto.MarshalOptions{}.MarshalAppend(dst, message)
}

// Decode makes a message of the wire format. M is the message's pointer type, such as *timestamppb.Timestamp. It is a
// dlq.Decoder.
func Decode[M proto.Message](data []byte) (M, error) {
	var none M
	message, _ := none.ProtoReflect().New().Interface().(M) // of the type that it was made of
	return message, proto.Unmarshal(data, message)
}

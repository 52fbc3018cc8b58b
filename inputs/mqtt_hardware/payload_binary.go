package mqtt_hardware

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"
	"github.com/tinylib/msgp/msgp"

	"github.com/influxdata/telegraf"
)

// CBOR (RFC 8949) and MessagePack are brought into JSON text first, so that one way of reading, with its bounds, serves
// all. What JSON cannot express becomes text: bytes in base64, times as in RFC 3339, NaN and the infinities by name.
// Integers beyond 64 bits stay integers, which the reader makes text of.

// readTranscoded reads a payload that toJSON can bring into JSON text; rest is what follows behind the first value.
func readTranscoded(
	payload []byte, toJSON func(payload []byte) (text string, rest []byte, err error), at time.Time,
) ([]telegraf.Metric, error) {
	text, rest, err := toJSON(payload)
	if err != nil {
		return nil, err
	}
	m := readObject(text, at)
	if m == nil {
		var value string
		if json.Unmarshal([]byte(text), &value) != nil || text == "null" {
			value = text
		}
		m = newEvent("message", value, at)
	}
	if len(rest) > 0 {
		return one(m), fmt.Errorf("%d bytes follow behind the value", len(rest))
	}
	return one(m), nil
}

var cborMode = func() cbor.DecMode {
	mode, err := cbor.DecOptions{
		DupMapKey:       cbor.DupMapKeyEnforcedAPF, // the first would be lost
		MaxNestedLevels: maxDepth,
		TimeTagToAny:    cbor.TimeTagToRFC3339Nano,
	}.DecMode()
	if err != nil {
		panic(err) // the options are constants
	}
	return mode
}()

func cborToJSON(payload []byte) (text string, rest []byte, err error) {
	var value any
	rest, err = cborMode.UnmarshalFirst(payload, &value)
	if err != nil {
		return "", nil, fmt.Errorf("no CBOR: %w", err)
	}
	return string(appendJSON(nil, value)), rest, nil
}

// appendJSON appends a value of those that cbor makes, and of those that sparkplug hands over.
func appendJSON(dst []byte, value any) []byte {
	switch v := value.(type) {
	case nil:
		return append(dst, "null"...)
	case bool:
		return strconv.AppendBool(dst, v)
	case int64:
		return strconv.AppendInt(dst, v, 10)
	case uint64:
		return strconv.AppendUint(dst, v, 10)
	case float64:
		return appendJSONFloat(dst, v)
	case string:
		return appendJSONString(dst, v)
	case []byte:
		return appendJSONString(dst, toBase64(v))
	case cbor.ByteString:
		return appendJSONString(dst, toBase64([]byte(v)))
	case big.Int:
		return v.Append(dst, 10)
	case cbor.SimpleValue:
		return strconv.AppendUint(dst, uint64(v), 10)
	case cbor.Tag:
		return appendJSONTag(dst, v)
	case []any:
		dst = append(dst, '[')
		for i, element := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendJSON(dst, element)
		}
		return append(dst, ']')
	case map[any]any:
		type member struct {
			name  string
			value any
		}
		members := make([]member, 0, len(v))
		for key, value := range v {
			name, ok := key.(string)
			if !ok {
				name = strings.Trim(string(appendJSON(nil, key)), `"`)
			}
			members = append(members, member{name, value})
		}
		slices.SortFunc(members, func(a, b member) int { return strings.Compare(a.name, b.name) })
		dst = append(dst, '{')
		for i, m := range members {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendJSONString(dst, m.name), ':')
			dst = appendJSON(dst, m.value)
		}
		return append(dst, '}')
	default: // cbor has no others
		return appendJSONString(dst, fmt.Sprint(v))
	}
}

// appendJSONTag appends what a CBOR tag says about its content, where that is more than the content says itself.
func appendJSONTag(dst []byte, tag cbor.Tag) []byte {
	const decimalFraction, uuid = 4, 37
	switch content := tag.Content.(type) {
	case []byte:
		if tag.Number == uuid && len(content) == 16 {
			return fmt.Appendf(dst, `"%x-%x-%x-%x-%x"`, content[:4], content[4:6], content[6:8], content[8:10], content[10:])
		}
	case []any:
		if tag.Number == decimalFraction && len(content) == 2 {
			exponent, mantissa := appendJSON(nil, content[0]), appendJSON(nil, content[1])
			if text := fmt.Sprintf("%se%s", mantissa, exponent); isNumber(text) {
				return append(dst, text...)
			}
		}
	}
	return appendJSON(dst, tag.Content)
}

// appendJSONFloat appends a number with a point or an exponent, which tell it from an integer.
func appendJSONFloat(dst []byte, f float64) []byte {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return appendJSONString(dst, finite(f).(string)) //nolint:forcetypeassert,errcheck // it is text
	}
	begin := len(dst)
	dst = strconv.AppendFloat(dst, f, 'g', -1, 64)
	if !slices.ContainsFunc(dst[begin:], func(c byte) bool { return c == '.' || c == 'e' }) {
		dst = append(dst, ".0"...)
	}
	return dst
}

// finite returns a number that outputs can take, or the name of what is none.
func finite(f float64) any {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return strconv.FormatFloat(f, 'g', -1, 64)
	}
	return f
}

// appendJSONString appends text in quotes; what is no UTF-8 it takes for bytes.
func appendJSONString(dst []byte, s string) []byte {
	if !utf8.ValidString(s) {
		s = toBase64([]byte(s))
	}
	dst = append(dst, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c < ' ':
			const digits = "0123456789abcdef"
			dst = append(dst, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}

func toBase64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func msgpackToJSON(payload []byte) (text string, rest []byte, err error) {
	dst, rest, err := appendMsgpack(make([]byte, 0, 2*len(payload)), payload, maxDepth)
	if err != nil {
		return "", nil, fmt.Errorf("no MessagePack: %w", err)
	}
	return string(dst), rest, nil
}

// appendMsgpack appends the first value of b as JSON.
func appendMsgpack(dst, b []byte, levels int) (text, rest []byte, err error) {
	switch kind := msgp.NextType(b); kind {
	case msgp.NilType:
		rest, err = msgp.ReadNilBytes(b)
		return append(dst, "null"...), rest, err
	case msgp.BoolType:
		v, rest, err := msgp.ReadBoolBytes(b)
		return strconv.AppendBool(dst, v), rest, err
	case msgp.IntType:
		v, rest, err := msgp.ReadInt64Bytes(b)
		return strconv.AppendInt(dst, v, 10), rest, err
	case msgp.UintType:
		v, rest, err := msgp.ReadUint64Bytes(b)
		return strconv.AppendUint(dst, v, 10), rest, err
	case msgp.Float32Type:
		v, rest, err := msgp.ReadFloat32Bytes(b)
		return appendJSONFloat(dst, float64(v)), rest, err
	case msgp.Float64Type:
		v, rest, err := msgp.ReadFloat64Bytes(b)
		return appendJSONFloat(dst, v), rest, err
	case msgp.StrType:
		v, rest, err := msgp.ReadStringZC(b)
		return appendJSONString(dst, string(v)), rest, err
	case msgp.BinType:
		v, rest, err := msgp.ReadBytesZC(b)
		return appendJSONString(dst, toBase64(v)), rest, err
	case msgp.MapType, msgp.ArrayType:
		if levels == 0 {
			return nil, nil, fmt.Errorf("nested deeper than %d levels", maxDepth)
		}
		if kind == msgp.MapType {
			return appendMsgpackMap(dst, b, levels-1)
		}
		n, rest, err := msgp.ReadArrayHeaderBytes(b)
		if err != nil {
			return nil, nil, err
		}
		dst = append(dst, '[')
		for i := range n {
			if i > 0 {
				dst = append(dst, ',')
			}
			if dst, rest, err = appendMsgpack(dst, rest, levels-1); err != nil {
				return nil, nil, err
			}
		}
		return append(dst, ']'), rest, nil
	case msgp.InvalidType:
		if len(b) == 0 {
			return nil, nil, msgp.ErrShortBytes
		}
		return nil, nil, fmt.Errorf("the byte 0x%02x begins no value", b[0])
	default:
		return appendMsgpackExtension(dst, b)
	}
}

func appendMsgpackMap(dst, b []byte, levels int) (text, rest []byte, err error) {
	n, rest, err := msgp.ReadMapHeaderBytes(b)
	if err != nil {
		return nil, nil, err
	}
	dst = append(dst, '{')
	for i := range n {
		if i > 0 {
			dst = append(dst, ',')
		}
		begin := len(dst)
		if dst, rest, err = appendMsgpack(dst, rest, levels); err != nil {
			return nil, nil, err
		}
		if dst[begin] != '"' { // JSON's names are text
			name := string(dst[begin:])
			dst = appendJSONString(dst[:begin], name)
		}
		dst = append(dst, ':')
		if dst, rest, err = appendMsgpack(dst, rest, levels); err != nil {
			return nil, nil, err
		}
	}
	return append(dst, '}'), rest, nil
}

// appendMsgpackExtension appends a time, or an object of the extension's number and data. The library takes some numbers
// that are the application's for its own.
func appendMsgpackExtension(dst, b []byte) (text, rest []byte, err error) {
	const fixed, variable = 0xd4, 0xc7 // the first of five and of three: 1, 2, 4, 8, 16 bytes; a length of 1, 2, 4 bytes
	at := 1                            // of the number
	if b[0] < fixed {
		at = 1 + 1<<(b[0]-variable)
	}
	if len(b) <= at {
		return nil, nil, msgp.ErrShortBytes
	}
	extension := msgp.RawExtension{Type: int8(b[at])} //nolint:gosec // it is a signed byte
	if rest, err = msgp.ReadExtensionBytes(b, &extension); err != nil {
		return nil, nil, err
	}
	if extension.Type == msgp.MsgTimeExtension {
		t, err := msgpackTime(extension.Data)
		return appendJSONString(dst, t.UTC().Format(time.RFC3339Nano)), rest, err
	}
	dst = strconv.AppendInt(append(dst, `{"type":`...), int64(extension.Type), 10)
	dst = append(dst, `,"data":`...)
	return append(appendJSONString(dst, toBase64(extension.Data)), '}'), rest, nil
}

// msgpackTime reads the extension -1: seconds since 1970 in 4 bytes, nanoseconds and seconds in 30 and 34 bits, or in 4
// and 8 bytes.
func msgpackTime(b []byte) (time.Time, error) {
	switch len(b) {
	case 4:
		return time.Unix(int64(binary.BigEndian.Uint32(b)), 0), nil
	case 8:
		both := binary.BigEndian.Uint64(b)
		return time.Unix(int64(both&(1<<34-1)), int64(both>>34)), nil
	case 12:
		//nolint:gosec // seconds are signed
		return time.Unix(int64(binary.BigEndian.Uint64(b[4:])), int64(binary.BigEndian.Uint32(b))), nil
	}
	return time.Time{}, errors.New("a time of neither 4, 8 nor 12 bytes")
}

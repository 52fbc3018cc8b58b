package vlreceiver

import (
	"bytes"
	"errors"
	"fmt"
)

// VictoriaLogs reads JSON more leniently than RFC 8259: control bytes and unknown escapes in strings are kept, any
// run of the bytes 0-9.+-eE is a number, and so are nan and inf in any case. It is stricter about the depth.
const maxDepth = 300

var errNotObject = errors.New("the value is not an object")

// member is one key and value of an object as they stand in the input, the key without its quotes.
type member struct {
	key, value []byte
}

// syntaxError says where JSON is malformed.
type syntaxError struct {
	want string
	tail []byte
}

func (e *syntaxError) Error() string {
	tail := e.tail
	if len(tail) > 80 {
		tail = tail[:80]
	}
	return fmt.Sprintf("cannot parse JSON: want %s at %q", e.want, tail)
}

func malformed(want string, tail []byte) error { return &syntaxError{want: want, tail: tail} }

// appendMembers appends the members of an object that fills b, but for white space around it.
func appendMembers(dst []member, b []byte) ([]member, error) {
	b = skipSpace(b)
	if len(b) == 0 || b[0] != '{' {
		tail, err := skipValue(b, 0)
		if err != nil {
			return dst, err
		}
		if len(skipSpace(tail)) > 0 {
			return dst, malformed("the end", tail)
		}
		return dst, errNotObject
	}
	dst, tail, err := scanObject(dst, b, 1, true)
	if err != nil {
		return dst, err
	}
	if tail = skipSpace(tail); len(tail) > 0 {
		return dst, malformed("the end", tail)
	}
	return dst, nil
}

// scanObject reads an object at the start of b and returns what follows it. It appends the members if keep is set.
func scanObject(dst []member, b []byte, depth int, keep bool) ([]member, []byte, error) {
	b = skipSpace(b[1:])
	if len(b) > 0 && b[0] == '}' {
		return dst, b[1:], nil
	}
	for {
		b = skipSpace(b)
		if len(b) == 0 || b[0] != '"' {
			return dst, nil, malformed("a key", b)
		}
		tail, err := skipString(b)
		if err != nil {
			return dst, nil, err
		}
		key := b[1 : len(b)-len(tail)-1]
		b = skipSpace(tail)
		if len(b) == 0 || b[0] != ':' {
			return dst, nil, malformed("a colon", b)
		}
		b = skipSpace(b[1:])
		tail, err = skipValue(b, depth)
		if err != nil {
			return dst, nil, err
		}
		if keep {
			dst = append(dst, member{key: key, value: b[:len(b)-len(tail)]})
		}
		b = skipSpace(tail)
		switch {
		case len(b) > 0 && b[0] == ',':
			b = b[1:]
		case len(b) > 0 && b[0] == '}':
			return dst, b[1:], nil
		default:
			return dst, nil, malformed("a comma or }", b)
		}
	}
}

// appendElements appends the elements of a valid array.
func appendElements(dst [][]byte, b []byte) [][]byte {
	b = skipSpace(b[1:])
	for b[0] != ']' {
		tail, err := skipValue(b, 0)
		if err != nil {
			return dst
		}
		dst = append(dst, b[:len(b)-len(tail)])
		if b = skipSpace(tail); b[0] == ',' {
			b = skipSpace(b[1:])
		}
	}
	return dst
}

// skipValue returns what follows the value at the start of b.
func skipValue(b []byte, depth int) ([]byte, error) {
	if len(b) == 0 {
		return nil, malformed("a value", b)
	}
	if depth++; depth > maxDepth {
		return nil, malformed("less nesting", b)
	}
	switch b[0] {
	case '"':
		return skipString(b)
	case '{':
		_, tail, err := scanObject(nil, b, depth, false)
		return tail, err
	case '[':
		return skipArray(b, depth)
	case 't':
		return skipWord(b, "true")
	case 'f':
		return skipWord(b, "false")
	case 'n':
		if tail, err := skipWord(b, "null"); err == nil {
			return tail, nil
		}
	}
	return skipNumber(b)
}

func skipArray(b []byte, depth int) ([]byte, error) {
	b = skipSpace(b[1:])
	if len(b) > 0 && b[0] == ']' {
		return b[1:], nil
	}
	for {
		tail, err := skipValue(skipSpace(b), depth)
		if err != nil {
			return nil, err
		}
		b = skipSpace(tail)
		switch {
		case len(b) > 0 && b[0] == ',':
			b = b[1:]
		case len(b) > 0 && b[0] == ']':
			return b[1:], nil
		default:
			return nil, malformed("a comma or ]", b)
		}
	}
}

// skipString ends at the first quote with an even number of backslashes before it.
func skipString(b []byte) ([]byte, error) {
	for i := 1; ; {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return nil, malformed("a closing quote", b)
		}
		i += n + 1
		slashes := 0
		for b[i-2-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return b[i:], nil
		}
	}
}

func skipWord(b []byte, word string) ([]byte, error) {
	if !bytes.HasPrefix(b, []byte(word)) {
		return nil, malformed(word, b)
	}
	return b[len(word):], nil
}

func skipNumber(b []byte) ([]byte, error) {
	i := 0
	for i < len(b) && isNumberByte[b[i]] {
		i++
	}
	signOnly := i == 1 && (b[0] == '-' || b[0] == '+')
	if (i == 0 || signOnly) && i < len(b) {
		if len(b) >= i+3 && (bytes.EqualFold(b[i:i+3], []byte("inf")) || bytes.EqualFold(b[i:i+3], []byte("nan"))) {
			return b[i+3:], nil
		}
		return nil, malformed("a value", b)
	}
	return b[i:], nil
}

var isNumberByte = [256]bool{
	'0': true, '1': true, '2': true, '3': true, '4': true, '5': true, '6': true, '7': true, '8': true, '9': true,
	'.': true, '-': true, '+': true, 'e': true, 'E': true,
}

func skipSpace(b []byte) []byte {
	for len(b) > 0 && isSpace(b[0]) {
		b = b[1:]
	}
	return b
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\t' || c == '\r' }

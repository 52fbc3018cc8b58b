package vlreceiver

import (
	"bytes"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// field is one name and value of a row. The bytes belong to the ingester that made them.
type field struct {
	name, value []byte
}

// parser turns JSON objects into fields. The fields are valid until the next reset.
type parser struct {
	members []member // a stack: each object appends its own while it is read
	prefix  []byte
	scratch []byte // texts that differ from the input; may move while fields still refer to an older copy
}

func (p *parser) reset() {
	p.members = p.members[:0]
	p.prefix = p.prefix[:0]
	p.scratch = p.scratch[:0]
}

// appendFields appends the fields of the object that fills b. Objects in it are flattened with dots.
func (p *parser) appendFields(dst []field, b []byte) ([]field, error) {
	start := len(p.members)
	members, err := appendMembers(p.members, b)
	p.members = members
	if err != nil {
		return dst, err
	}
	return p.flatten(dst, start), nil
}

// flatten appends the fields of the object whose members begin at start. An object with a name in it that would be
// too long becomes a single field, its JSON text.
func (p *parser) flatten(dst []field, start int) []field {
	end := len(p.members)
	longest := 0
	for i := start; i < end; i++ {
		m := &p.members[i]
		m.key = p.unescape(m.key)
		longest = max(longest, len(m.key))
	}
	prefix := len(p.prefix)
	if prefix+longest > maxNameBytes {
		name := p.keep(bytes.TrimSuffix(p.prefix, []byte(".")))
		return append(dst, field{name: nameOrMsg(name), value: p.objectText(start, end)})
	}
	for i := start; i < end; i++ {
		m := p.members[i]
		switch m.value[0] {
		case '"':
			dst = append(dst, field{name: p.name(m.key), value: p.unescape(m.value[1 : len(m.value)-1])})
		case '{':
			p.prefix = append(append(p.prefix, m.key...), '.')
			p.members, _, _ = scanObject(p.members, m.value, 0, true)
			dst = p.flatten(dst, end)
			p.members = p.members[:end]
			p.prefix = p.prefix[:prefix]
		case '[':
			dst = append(dst, field{name: p.name(m.key), value: p.compact(m.value)})
		default:
			if string(m.value) != "null" {
				dst = append(dst, field{name: p.name(m.key), value: m.value})
			}
		}
	}
	return dst
}

func (p *parser) name(key []byte) []byte {
	if len(p.prefix) == 0 {
		return nameOrMsg(key)
	}
	start := len(p.scratch)
	p.scratch = append(append(p.scratch, p.prefix...), key...)
	return p.scratch[start:]
}

func nameOrMsg(name []byte) []byte {
	if len(name) == 0 {
		return []byte("_msg")
	}
	return name
}

func (p *parser) keep(b []byte) []byte {
	start := len(p.scratch)
	p.scratch = append(p.scratch, b...)
	return p.scratch[start:]
}

// objectText renders members whose keys are unescaped. Values stay as they are, but for white space.
func (p *parser) objectText(start, end int) []byte {
	at := len(p.scratch)
	dst := append(p.scratch, '{')
	for i, m := range p.members[start:end] {
		if i > 0 {
			dst = append(dst, ',')
		}
		if bytes.ContainsFunc(m.key, func(r rune) bool { return r == '"' || r == '\\' || r < ' ' }) {
			dst = strconv.AppendQuote(dst, string(m.key))
		} else {
			dst = append(append(append(dst, '"'), m.key...), '"')
		}
		dst = append(dst, ':')
		dst = appendCompact(dst, m.value)
	}
	p.scratch = append(dst, '}')
	return p.scratch[at:]
}

func (p *parser) compact(value []byte) []byte {
	start := len(p.scratch)
	p.scratch = appendCompact(p.scratch, value)
	return p.scratch[start:]
}

// appendCompact appends valid JSON without the white space between tokens.
func appendCompact(dst, b []byte) []byte {
	for len(b) > 0 {
		switch {
		case isSpace(b[0]):
			b = b[1:]
		case b[0] == '"':
			tail, err := skipString(b)
			if err != nil {
				return append(dst, b...)
			}
			dst = append(dst, b[:len(b)-len(tail)]...)
			b = tail
		default:
			dst = append(dst, b[0])
			b = b[1:]
		}
	}
	return dst
}

// unescape returns the text of a string. Escapes that mean nothing stay as they are.
func (p *parser) unescape(raw []byte) []byte {
	n := bytes.IndexByte(raw, '\\')
	if n < 0 {
		return raw
	}
	start := len(p.scratch)
	dst := p.scratch
	for {
		dst = append(dst, raw[:n]...)
		raw = raw[n+1:] // a string never ends in a single backslash
		c := raw[0]
		raw = raw[1:]
		switch c {
		case '"', '\\', '/':
			dst = append(dst, c)
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			dst, raw = appendUnicode(dst, raw)
		default:
			dst = append(dst, '\\', c)
		}
		if n = bytes.IndexByte(raw, '\\'); n < 0 {
			p.scratch = append(dst, raw...)
			return p.scratch[start:]
		}
	}
}

// appendUnicode appends what \u stands for; raw begins after it.
func appendUnicode(dst, raw []byte) ([]byte, []byte) {
	r, ok := hex4(raw)
	if !ok {
		return append(dst, `\u`...), raw
	}
	digits, raw := raw[:4], raw[4:]
	if !utf16.IsSurrogate(r) {
		return utf8.AppendRune(dst, r), raw
	}
	if bytes.HasPrefix(raw, []byte(`\u`)) {
		if low, ok := hex4(raw[2:]); ok {
			return utf8.AppendRune(dst, utf16.DecodeRune(r, low)), raw[6:]
		}
	}
	return append(append(dst, `\u`...), digits...), raw
}

func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(b[:4]), 16, 16)
	return rune(n), err == nil
}

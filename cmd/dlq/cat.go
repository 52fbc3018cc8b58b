package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"unicode"
	"unicode/utf8"

	"github.com/edgetide/telegraf-victorialogs/dlq"
)

func (a *app) cat() *command {
	c := newCommand("cat", "DIR [DUMP…]", "print the items; of all dumps that are not in quarantine if none is named", 1, unlimited)
	raw := c.flags.Bool("raw", false, "print items as they are, with a newline after each, and nothing else")
	asHex := c.flags.Bool("hex", false, "print what is no text as hexadecimal instead of base64")
	asJSON := c.flags.Bool("json", false, "print an object for each item, in a line of its own")
	limit := c.flags.Uint64("limit", 0, "print so many items at most; 0: all")
	c.run = func(ctx context.Context, args []string) error {
		if *raw && *asJSON || *raw && *asHex || *asJSON && *asHex {
			return errors.New("cat: --raw, --hex and --json exclude each other; name one of them")
		}
		files, err := dlq.List(args[0])
		if err != nil {
			return err
		}
		if len(args) > 1 {
			files, err = choose(files, args[1:])
		} else {
			files = slices.DeleteFunc(files, func(f dlq.File) bool { return f.State == dlq.StateQuarantined })
		}
		if err != nil {
			return err
		}
		p := printer{app: a, out: bufio.NewWriterSize(a.out, 64<<10), left: *limit, limited: *limit > 0, raw: *raw, hex: *asHex, json: *asJSON}
		for _, f := range files {
			if err = p.file(ctx, f); err != nil {
				break
			}
		}
		if err := errors.Join(err, p.out.Flush()); err != nil {
			return err
		}
		if p.faults {
			return errFault
		}
		return nil
	}
	return c
}

// printer prints items.
type printer struct {
	app            *app
	out            *bufio.Writer
	left           uint64 // items that may still be printed, if limited
	limited        bool
	raw, hex, json bool
	faults         bool
}

func (p *printer) file(ctx context.Context, f dlq.File) error {
	r, err := f.Open()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // restored meanwhile
	}
	if err != nil {
		return err
	}
	err = p.items(ctx, f, r)
	for _, fault := range r.Faults() {
		p.faults = true
		fmt.Fprintf(p.app.err, "dlq: %s: %v\n", f.Name, fault)
	}
	return errors.Join(err, r.Close())
}

func (p *printer) items(ctx context.Context, f dlq.File, r *dlq.FileReader) error {
	if !p.raw && !p.json && (!p.limited || p.left > 0) {
		fmt.Fprintf(p.out, "# %s, %s, version %q\n", f.Name, f.State, f.Version)
	}
	for {
		items, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		for item, place, ok := items.Cut(); ok; item, place, ok = items.Cut() {
			if p.limited && p.left == 0 {
				return nil
			}
			p.left--
			if err := p.item(f, place, item); err != nil {
				return err
			}
		}
	}
}

func (p *printer) item(f dlq.File, place uint64, item []byte) error {
	switch {
	case p.raw:
		_, err := p.out.Write(item)
		if err != nil {
			return err
		}
		return p.out.WriteByte('\n')
	case p.json:
		l := newItemLine(f.Name, f.Version, item)
		l.Item = &place
		p.faults = p.faults || l.Fault != ""
		return l.write(p.out)
	}
	if b, ok := parseBatch(item); ok {
		return p.batch(place, b)
	}
	_, err := fmt.Fprintf(p.out, "%d\t%s\n", place, p.text(item))
	return err
}

// batch shows a batch of outputs.victorialogs: its head, and below it a row in each line, behind a tab.
func (p *printer) batch(place uint64, b batch) error {
	_, err := fmt.Fprintf(p.out, "%d\t%s\n", place, b.title())
	if b.err != nil && err == nil {
		p.faults = true
		_, err = fmt.Fprintf(p.out, "\t%s: %s\n", oneLine(b.err.Error()), p.text(b.Body))
	}
	for _, row := range b.rows {
		if err == nil {
			_, err = fmt.Fprintf(p.out, "\t%s\n", p.text(row))
		}
	}
	return err
}

// text shows an item in one line: text as it is, or quoted where it would not be one line, and all else encoded.
func (p *printer) text(item []byte) string {
	switch {
	case printable(item):
		return string(item)
	case isText(item):
		return strconv.Quote(string(item))
	case p.hex:
		return "hex:" + hex.EncodeToString(item)
	}
	return "base64:" + base64.StdEncoding.EncodeToString(item)
}

// itemLine is an item in JSON. Its names are a contract. One of JSON, Text and Base64 is there, or Batch and Lines.
type itemLine struct {
	Dump    string            `json:"dump"`
	Item    *uint64           `json:"item,omitempty"` // its place in the dump
	Version string            `json:"version"`
	Bytes   int               `json:"bytes"`
	JSON    json.RawMessage   `json:"json,omitempty"` // an object or an array
	Text    *string           `json:"text,omitempty"`
	Base64  []byte            `json:"base64,omitempty"`
	Batch   json.RawMessage   `json:"batch,omitempty"` // the head of a batch of outputs.victorialogs
	Lines   []json.RawMessage `json:"lines,omitempty"` // its rows
	Fault   string            `json:"fault,omitempty"` // why there are no rows; Base64 is the whole item then
}

func newItemLine(dump, version string, item []byte) itemLine {
	l := itemLine{Dump: dump, Version: version, Bytes: len(item)}
	if b, ok := parseBatch(item); ok {
		l.Batch = b.head
		for _, row := range b.rows {
			l.Lines = append(l.Lines, jsonRow(row))
		}
		if b.err != nil {
			l.Fault, l.Base64 = b.err.Error(), item
		}
		return l
	}
	trimmed := bytes.TrimSpace(item)
	switch {
	case len(trimmed) > 0 && (trimmed[0] == '{' || trimmed[0] == '[') && utf8.Valid(item) && json.Valid(item):
		l.JSON = item
	case utf8.Valid(item):
		s := string(item)
		l.Text = &s
	default:
		l.Base64 = item
	}
	return l
}

func (l itemLine) write(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(l)
}

// printable reports that a terminal shows it in one line, as it is.
func printable[T string | []byte](s T) bool {
	for _, r := range string(s) {
		if r == utf8.RuneError || r != '\t' && !unicode.IsGraphic(r) {
			return false
		}
	}
	return true
}

// isText reports that it is text, though perhaps not of one line.
func isText(b []byte) bool {
	return utf8.Valid(b) && !bytes.ContainsFunc(b, func(r rune) bool {
		return unicode.IsControl(r) && r != '\n' && r != '\r' && r != '\t' && r != '\x1b'
	})
}

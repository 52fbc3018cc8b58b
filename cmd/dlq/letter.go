package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/edgetide/telegraf-victorialogs/internal/deadletter"
)

// batch is an item that outputs.victorialogs put on disk.
type batch struct {
	*deadletter.Letter
	head []byte // as it was written
	rows [][]byte
	err  error // why there are no rows
}

// parseBatch reports that the item is a batch, and reads its rows.
func parseBatch(item []byte) (b batch, ok bool) {
	head, _, _ := bytes.Cut(item, []byte{'\n'})
	l, err := deadletter.Parse(item)
	if err != nil || !utf8.Valid(head) {
		return b, false
	}
	b = batch{Letter: l, head: head}
	b.rows, b.err = rowsOf(l)
	return b, true
}

// rowsOf returns a letter's rows. The error says that its body does not hold what a server could take.
func rowsOf(l *deadletter.Letter) (rows [][]byte, err error) {
	lines, err := l.Lines()
	if err != nil {
		return nil, fmt.Errorf("its rows cannot be read: %w", err)
	}
	if !utf8.Valid(lines) {
		return nil, errors.New("its rows are no text")
	}
	for row := range bytes.SplitSeq(lines, []byte{'\n'}) {
		if len(row) > 0 {
			rows = append(rows, row)
		}
	}
	return rows, nil
}

// title is the batch's head in one line.
func (b batch) title() string {
	var s strings.Builder
	fmt.Fprintf(&s, "batch of %d rows of %s", b.Count, b.First.UTC().Format(time.RFC3339Nano))
	if !b.Last.Equal(b.First) {
		fmt.Fprintf(&s, " to %s", b.Last.UTC().Format(time.RFC3339Nano))
	}
	fmt.Fprintf(&s, "; %s, %d attempts; for %s", oneLine(b.Reason), b.Attempts, oneLine(b.Path))
	if b.Query != "" {
		fmt.Fprintf(&s, "?%s", oneLine(b.Query))
	}
	if b.AccountID != "" || b.ProjectID != "" {
		fmt.Fprintf(&s, ", tenant %s:%s", oneLine(b.AccountID), oneLine(b.ProjectID))
	}
	fmt.Fprintf(&s, ", %s", oneLine(b.Encoding))
	switch {
	case b.Status != 0:
		fmt.Fprintf(&s, "; answered %d: %s", b.Status, oneLine(b.Answer))
	case b.Answer != "":
		fmt.Fprintf(&s, "; answered: %s", oneLine(b.Answer))
	}
	return s.String()
}

// jsonRow is a row as it is if that is an object, and as a text otherwise.
func jsonRow(row []byte) json.RawMessage {
	if row[0] == '{' && json.Valid(row) {
		return row
	}
	text, _ := json.Marshal(string(row)) // a text always can be
	return text
}

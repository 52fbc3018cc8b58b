package main

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/net/http/httpguts"

	"github.com/edgetide/telegraf-victorialogs/internal/redact"
)

// What is in this file reads the values of flags. Each says what would be right; flagError adds the flag and the value.

// value is a flag's value that a function of ours reads.
type value[T any] struct {
	to   *T
	kind string // as --help shows it
	read func(text string) (T, error)
}

// Set implements pflag.Value.
func (v *value[T]) Set(text string) error {
	read, err := v.read(text)
	if err == nil {
		*v.to = read
	}
	return err
}

// String implements pflag.Value. It is the default that --help shows.
func (v *value[T]) String() string {
	text := fmt.Sprint(*v.to)
	if text == "0s" {
		return "0"
	}
	return text
}

// Type implements pflag.Value.
func (v *value[T]) Type() string { return v.kind }

// durationFlag takes a duration of at least so much: 0, or 1 ns for what must be longer than that.
func durationFlag(f *pflag.FlagSet, to *time.Duration, name string, preset, least time.Duration, usage string) {
	*to = preset
	right := "longer than 0s"
	if least == 0 {
		right = "0s or longer"
	}
	f.Var(&value[time.Duration]{to, "duration", func(text string) (time.Duration, error) {
		d, ok := readDuration(text)
		if !ok || d < least {
			return 0, fmt.Errorf("it must be %s, such as 90s, 24h or 7d", right)
		}
		return d, nil
	}}, name, usage)
}

// readDuration reads what time.ParseDuration does, with days before it.
func readDuration(text string) (d time.Duration, ok bool) {
	const day = 24 * time.Hour
	count, rest, hasDays := strings.Cut(text, "d")
	if !hasDays {
		d, err := time.ParseDuration(text)
		return d, err == nil
	}
	days, err := strconv.ParseUint(count, 10, 64)
	if err != nil || days > uint64(math.MaxInt64/day) {
		return 0, false
	}
	d = time.Duration(days) * day
	if rest == "" {
		return d, true
	}
	more, err := time.ParseDuration(rest)
	if err != nil || more < 0 || more > math.MaxInt64-d {
		return 0, false
	}
	return d + more, true
}

// The bounds of a rate, which keep what is computed from it within a duration or an int.
const (
	leastRate = 0.001
	mostRate  = 1e12
)

// rateFlag takes how many a second; 0 is no bound, where that is possible.
func rateFlag(f *pflag.FlagSet, to *float64, name string, preset float64, orNone bool, usage string) {
	*to = preset
	none := ""
	if orNone {
		none = ", or 0 for no bound"
	}
	f.Var(&value[float64]{to, "number", func(text string) (float64, error) {
		n, err := strconv.ParseFloat(text, 64)
		if err == nil && (n >= leastRate && n <= mostRate || orNone && n == 0) {
			return n, nil
		}
		return 0, fmt.Errorf("it must be a number from %v to %v%s", leastRate, mostRate, none)
	}}, name, usage)
}

// countFlag takes how many.
func countFlag(f *pflag.FlagSet, to *int, name string, preset int, usage string) {
	const most = 100_000_000 // what is kept in memory for each
	*to = preset
	f.Var(&value[int]{to, "number", func(text string) (int, error) {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > most {
			return 0, fmt.Errorf("it must be a whole number from 1 to %d", most)
		}
		return n, nil
	}}, name, usage)
}

// textFlag takes a text that a function finds nothing wrong with.
func textFlag(f *pflag.FlagSet, to *string, kind, name, preset string, check func(text string) error, usage string) {
	*to = preset
	f.Var(&value[string]{to, kind, func(text string) (string, error) { return text, check(text) }}, name, usage)
}

const kindURL = "URL"

func checkURL(text string) error {
	u, err := url.Parse(text)
	right := err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != ""
	if right && u.Port() != "" {
		port, err := strconv.ParseUint(u.Port(), 10, 16)
		right = err == nil && port > 0
	}
	if !right {
		return errors.New("it must begin with http:// or https:// and name a host, such as http://127.0.0.1:9428")
	}
	return nil
}

func checkHeaderValue(text string) error {
	if text == "" || !httpguts.ValidHeaderFieldValue(text) {
		return errors.New("it must be fit for a header, such as application/json")
	}
	return nil
}

func checkVersion(text string) error {
	if len(text) > 255 {
		return errors.New("it must have 255 bytes at most")
	}
	return nil
}

// headers is the value of a flag that may be repeated, a header each.
type headers http.Header

// Set implements pflag.Value.
func (h headers) Set(text string) error {
	name, content, ok := strings.Cut(text, ":")
	name, content = strings.TrimSpace(name), strings.TrimSpace(content)
	switch {
	case !ok || name == "":
		return errors.New(`it must be like "Name: value"`)
	case !httpguts.ValidHeaderFieldName(name):
		return fmt.Errorf(`it must be like "Name: value", and a name has letters, digits and dashes, which %q has not alone`, name)
	case !httpguts.ValidHeaderFieldValue(content):
		return errors.New(`it must be like "Name: value", without a line's end or other control characters`)
	}
	http.Header(h).Add(name, content)
	return nil
}

// String implements pflag.Value.
func (headers) String() string { return "" }

// Type implements pflag.Value.
func (headers) Type() string { return "header" }

// flagError says in one line which flag of a command is wrong, what its value is, and what would be right.
func flagError(command string, err error) error {
	var (
		invalid *pflag.InvalidValueError
		lacking *pflag.ValueRequiredError
	)
	switch {
	case errors.As(err, &lacking):
		return fmt.Errorf("%s: --%s needs a value; see dlq %s --help", command, lacking.GetFlag().Name, command)
	case !errors.As(err, &invalid):
		return fmt.Errorf("%s: %w; see dlq %s --help", command, err, command)
	}
	text, right := invalid.GetValue(), invalid.Unwrap().Error()
	switch invalid.GetFlag().Value.Type() {
	case kindURL:
		text = redact.URL(text)
	case "bool":
		right = "it must be true or false"
	case "uint64":
		right = "it must be a whole number, 0 or more"
	}
	return fmt.Errorf("%s: --%s is %q; %s", command, invalid.GetFlag().Name, text, right)
}

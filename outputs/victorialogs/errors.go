package victorialogs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// The kinds of a failed delivery. A [Failure] matches exactly one of them with errors.Is.
var (
	// ErrCannotConnect says that nothing of the batch was sent: no connection came about.
	ErrCannotConnect = errors.New("cannot connect")
	// ErrCannotSend says that the connection broke, or no answer came in time: the server may have stored the batch.
	ErrCannotSend = errors.New("cannot send")
	// ErrRefused says that the server answered that it does not take the batch now: 408, 429 and 5xx.
	ErrRefused = errors.New("refused")
	// ErrConfiguration says that no batch will get through before somebody changes a setting here or there.
	ErrConfiguration = errors.New("wrong configuration")
	// ErrBadData says that the server will never take this very batch.
	ErrBadData = errors.New("bad data")
)

// Failure is why an attempt to deliver a batch failed.
type Failure struct {
	Kind       error         // one of the Err… of this package
	Status     int           // of the HTTP answer; 0 without one
	RetryAfter time.Duration // what the server asked for; 0 if nothing
	Err        error         // the cause, or the server's own words
}

func (f *Failure) Error() string {
	if f.Status != 0 {
		return fmt.Sprintf("%v: the server answered %d %s: %v", f.Kind, f.Status, http.StatusText(f.Status), f.Err)
	}
	return fmt.Sprintf("%v: %v", f.Kind, f.Err)
}

// Unwrap gives the kind and the cause.
func (f *Failure) Unwrap() []error { return []error{f.Kind, f.Err} }

// transportFailure classifies what http.RoundTripper returned instead of an answer; begun says that it had begun to send
// the body.
func transportFailure(err error, begun bool) *Failure {
	var (
		record    tls.RecordHeaderError
		verify    *tls.CertificateVerificationError
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		address   *net.AddrError
		parse     *url.Error
	)
	switch {
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &record), errors.As(err, &verify), errors.As(err, &authority), errors.As(err, &host),
		errors.As(err, &address), errors.As(err, &parse):
		return &Failure{Kind: ErrConfiguration, Err: err}
	case !begun:
		return &Failure{Kind: ErrCannotConnect, Err: err}
	default:
		return &Failure{Kind: ErrCannotSend, Err: err}
	}
}

// badDataText is how VictoriaLogs begins the 400 with which it refuses every line of a request. Its other 400s, and those
// of a proxy, mean that something is set wrongly, and the data is good: they must not cost a row.
const badDataText = "cannot process jsonline request"

// answerFailure classifies an answer; nil means that the batch was taken.
func answerFailure(status int, header http.Header, text string, now time.Time) *Failure {
	f := &Failure{Status: status, Err: errors.New(firstLine(text))}
	switch {
	case status == http.StatusOK || status == http.StatusNoContent:
		return nil
	case status == http.StatusRequestTimeout || status == http.StatusTooManyRequests || status >= 500:
		f.Kind = ErrRefused
		f.RetryAfter = retryAfter(header.Get("Retry-After"), now)
	case status == http.StatusBadRequest && strings.Contains(text, badDataText), status == http.StatusRequestEntityTooLarge:
		f.Kind = ErrBadData
	case status >= 300 && status < 400:
		f.Kind = ErrConfiguration
		f.Err = fmt.Errorf("redirected to %q: set url to where the server is", header.Get("Location"))
	default:
		f.Kind = ErrConfiguration
	}
	return f
}

// firstLine keeps a log line a line, whatever a proxy's error page holds.
func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	if line == "" {
		return "without a text"
	}
	const most = 300
	if len(line) > most {
		line = strings.ToValidUTF8(line[:most], "") + "…"
	}
	return line
}

// maxRetryAfter bounds what a server can ask for, so that a slip of its operator does not stop the flow for a day.
const maxRetryAfter = 10 * time.Minute

// retryAfter reads a Retry-After header, seconds or a date (RFC 9110 section 10.2.3); 0 when there is none.
func retryAfter(value string, now time.Time) time.Duration {
	var wait time.Duration
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if date, err := http.ParseTime(value); err == nil {
		wait = date.Sub(now)
	}
	return min(max(wait, 0), maxRetryAfter)
}

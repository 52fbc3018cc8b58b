package victorialogs

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/influxdata/telegraf"
)

// This file is for a program that checks an installation. It calls Init and then these methods, and neither Connect nor
// Close: no goroutine runs, the dead letters are not touched, and what fails is returned instead of tried again.

// Receipt is what a row cost that was sent alone, and what came with the answer.
type Receipt struct {
	Took time.Duration
	// Sent is our clock when the request began, Date the server's when it answered; zero if it did not say.
	Sent, Date time.Time
}

// Server is the scheme, host and port of url.
func (v *VictoriaLogs) Server() string { return v.delivery.target.String() }

// SendOne sends a metric as a batch of one, once, encoded and addressed as batches are. An error that the server caused is a
// [*Failure]; its answer may then still have brought a Receipt with a Date.
func (v *VictoriaLogs) SendOne(ctx context.Context, m telegraf.Metric) (Receipt, error) {
	b := &batch{count: 1}
	v.mu.Lock()
	lines, err := v.encoder.appendLine(nil, m, time.Now())
	v.encoder.takeRepairs(func(repair, int64) {})
	v.mu.Unlock()
	if err != nil {
		return Receipt{}, err
	}
	b.body = lines
	if compress := v.delivery.encoding.compress; compress != nil {
		b.body = compress(nil, lines)
	}
	request, err := v.delivery.target.request(ctx, b)
	if err != nil {
		return Receipt{}, &Failure{Kind: ErrConfiguration, Err: err}
	}
	receipt := Receipt{Sent: time.Now()}
	response, err := v.delivery.target.transport.RoundTrip(request)
	receipt.Took = time.Since(receipt.Sent)
	defer v.delivery.target.transport.CloseIdleConnections()
	if err != nil {
		return receipt, transportFailure(err, b.begun.Load())
	}
	receipt.Date, _ = http.ParseTime(response.Header.Get("Date")) // zero for one that is missing or wrong
	return receipt, refusalOf(response)
}

// ErrNoRows says that the answer to a query was a success, and not VictoriaLogs'.
var ErrNoRows = errors.New("the answer holds something else than rows")

// Query asks the server with LogsQL, in the tenant and with the credentials and headers that rows are sent with. It is for
// answers of a few rows. An error is a [*Failure], or wraps [ErrNoRows].
func (v *VictoriaLogs) Query(ctx context.Context, query string) (rows []map[string]string, err error) {
	t := v.delivery.target
	form := []byte(url.Values{"query": {query}}.Encode())
	request, err := t.request(ctx, &batch{body: form})
	if err != nil {
		return nil, &Failure{Kind: ErrConfiguration, Err: err}
	}
	request.Header = request.Header.Clone()
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Del("Content-Encoding")
	route := t.route
	route.Path, route.Query = "/select/logsql/query", ""
	request.URL = t.endpoint(route)
	response, err := t.transport.RoundTrip(request)
	defer t.transport.CloseIdleConnections()
	if err != nil {
		return nil, transportFailure(err, true)
	}
	if response.StatusCode != http.StatusOK {
		return nil, refusalOf(response)
	}
	defer func() { _ = response.Body.Close() }() // it was read, or is of no use
	const most = 1 << 20
	body, err := io.ReadAll(io.LimitReader(response.Body, most))
	if err != nil {
		return nil, &Failure{Kind: ErrCannotSend, Err: err}
	}
	lines := bufio.NewScanner(bytes.NewReader(body))
	lines.Buffer(nil, most+1) // a line is no longer than the body
	for lines.Scan() {
		var row map[string]string
		if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
			return nil, fmt.Errorf("%w: %q", ErrNoRows, firstLine(string(body)))
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// refusalOf reads what an answer refuses with; nil when it does not.
func refusalOf(response *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(response.Body, 4096)) // the status decides, however much of the text comes
	_ = response.Body.Close()
	if failure := answerFailure(response.StatusCode, response.Header, string(text), time.Now()); failure != nil {
		return failure
	}
	return nil
}

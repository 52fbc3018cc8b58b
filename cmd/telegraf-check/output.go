package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/metric"

	"github.com/edgetide/telegraf-victorialogs/outputs/tcp_exporter"
	"github.com/edgetide/telegraf-victorialogs/outputs/victorialogs"
)

// What the row is called, for those who want to leave it out of what they look at.
const (
	measurement = "telegraf_check"
	idField     = "check_id"
)

// output checks where data leaves.
func (c *check) output(ctx context.Context, name string, v *victorialogs.VictoriaLogs, tags map[string]string) {
	c.server(ctx, name, v, tags)
	c.letters(name, v)
}

// server sends a row and asks for it.
func (c *check) server(ctx context.Context, name string, v *victorialogs.VictoriaLogs, tags map[string]string) {
	const step = "write"
	now, id := time.Now(), rand.Text()
	m := metric.New(measurement, tags, map[string]any{
		"message": "telegraf-check wrote this row, to see that rows arrive", idField: id,
	}, now)
	limited, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	receipt, err := v.SendOne(limited, m)
	where := fmt.Sprintf("tenant %d:%d, %s, %s", v.AccountID, v.ProjectID, v.ContentEncoding,
		has(map[string]*config.Secret{"username": &v.Username, "password": &v.Password, "bearer_token": &v.BearerToken}))
	if err != nil {
		c.report.failed(name, step, writeTodo(err), "%s did not take a row (%s): %v", v.Server(), where, err)
		c.report.skipped(name, "read", "nothing was written")
	} else {
		c.report.ok(name, step, "%s took a row of %s, with %s = %q, in %s (%s)", v.Server(), measurement, idField, id, shown(receipt.Took), where)
		c.read(ctx, name, v, now, id)
	}
	c.clock(name, receipt)
}

// writeTodo says what to do about a row that was not taken.
func writeTodo(err error) string {
	failure := (*victorialogs.Failure)(nil)
	if !errors.As(err, &failure) {
		return "change the options that name and bound rows"
	}
	text := failure.Error()
	switch failure.Status {
	case 0:
		if strings.Contains(text, "reading ") {
			return secretTodo
		}
		if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "proxyconnect" {
			return remedy(err, "http_proxy_url (with use_system_proxy: in the environment)")
		}
		return remedy(err, "url")
	case http.StatusUnauthorized:
		return "set username and password, or bearer_token, to what the server or the proxy before it knows"
	case http.StatusForbidden:
		return "give this user the right to write there, at the server or the proxy before it"
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return "set url to VictoriaLogs, or to what a proxy before it calls it; /insert/jsonline is added"
	case http.StatusBadRequest:
		switch {
		case strings.Contains(text, "are disabled"):
			return "send to a server without -insert.disable"
		case strings.Contains(text, "uint32"), strings.Contains(text, "tenant"):
			return "correct account_id and project_id, and what a proxy makes of them"
		}
		return "set url to the server's base URL, with its -http.pathPrefix and without /insert/jsonline"
	case http.StatusTooManyRequests:
		return "make room on the server's disk, which is read-only when it is nearly full; or see what a proxy limits"
	case http.StatusRequestEntityTooLarge:
		return "raise the size of requests that the proxy before the server allows"
	}
	if failure.Status >= http.StatusInternalServerError {
		return "see the log of the server, or of the proxy before it"
	}
	return "set url to where VictoriaLogs itself answers"
}

// has says which of the secrets is used, and nothing of what it holds.
func has(secrets map[string]*config.Secret) string {
	var names []string
	for name, s := range secrets {
		if !s.Empty() {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "no credentials"
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// read asks for the row until it is there: a server shows rows about a second after it took them.
func (c *check) read(ctx context.Context, name string, v *victorialogs.VictoriaLogs, written time.Time, id string) {
	const step = "read"
	limited, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	around := func(d time.Duration) string { return written.UTC().Add(d).Format(time.RFC3339) }
	query := fmt.Sprintf(`_time:[%s, %s] %s:=%q`, around(-time.Minute), around(time.Minute), idField, id)
	var last error
	for {
		rows, err := v.Query(limited, query)
		if i := slices.IndexFunc(rows, func(row map[string]string) bool { return row[idField] == id }); i >= 0 {
			c.report.ok(name, step, "the row came back %s after it was written, as %s", shown(time.Since(written)), rows[i]["_stream"])
			return
		}
		if len(rows) > 0 {
			err = fmt.Errorf("%w: none of it has the %s that was asked for", victorialogs.ErrNoRows, idField)
		}
		if why, final := unreadable(err); final {
			c.report.skipped(name, step, "written, and not read: %s does not let us query (%s)", v.Server(), why)
			return
		}
		if limited.Err() == nil {
			last = err // and not that of a query which we broke off
		}
		if errors.Is(err, victorialogs.ErrNoRows) {
			c.report.failed(name, step, "set url to VictoriaLogs itself: something else answers for it, and took the row", "%v", err)
			return
		}
		select {
		case <-tick.C:
			continue
		case <-limited.Done():
		}
		if last != nil {
			c.report.failed(name, step, "see the server's log; rows are taken, and cannot be looked at", "no answer to a query in %s: %v", c.timeout, last)
		} else {
			c.report.failed(name, step, "see whether a proxy sends queries, or rows, elsewhere or into another tenant; whether the clocks differ by days; "+
				"and the server's log, for rows that it drops", "the row was taken, and is not there after %s", c.timeout)
		}
		return
	}
}

// unreadable reports an answer that says that queries are for others: a user who may write alone, a node or a proxy that only
// takes rows.
func unreadable(err error) (why string, is bool) {
	failure := (*victorialogs.Failure)(nil)
	if !errors.As(err, &failure) || failure.Status == 0 {
		return "", false
	}
	passing := failure.Status == http.StatusTooManyRequests || failure.Status == http.StatusRequestTimeout ||
		failure.Status >= http.StatusInternalServerError && failure.Status != http.StatusNotImplemented
	return fmt.Sprintf("%d %s", failure.Status, http.StatusText(failure.Status)), !passing
}

// mostSkew is how far the clocks may be apart. Rows are in the order of their times, so that a minute confuses people; days
// lose rows.
const mostSkew = time.Minute

func (c *check) clock(name string, r victorialogs.Receipt) {
	const step = "clock"
	if r.Date.IsZero() {
		c.report.skipped(name, step, "no answer said what time it is there")
		return
	}
	// The answer was written between Sent and Sent + Took, and its date is cut to the second.
	ahead := r.Sent.Sub(r.Date.Add(time.Second))
	behind := r.Date.Sub(r.Sent.Add(r.Took))
	switch {
	case ahead > mostSkew:
		c.report.failed(name, step, "set this machine's clock, or the server's: rows more than 2 days ahead are dropped there without a word",
			"ours is %s ahead of the server's", ahead.Round(time.Second))
	case behind > mostSkew:
		c.report.failed(name, step, "set this machine's clock, or the server's: rows older than its -retentionPeriod are dropped there without a word",
			"ours is %s behind the server's", behind.Round(time.Second))
	case max(ahead, behind) > time.Second:
		c.report.ok(name, step, "ours and the server's are %s apart", max(ahead, behind).Round(time.Second))
	default:
		c.report.ok(name, step, "ours and the server's agree to a second or two")
	}
}

// exporter checks the way out that others connect to.
func (c *check) exporter(ctx context.Context, name string, t *tcp_exporter.TCPExporter) {
	const step = "listen"
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", t.Listen)
	switch {
	case err == nil:
		_ = l.Close() // it was there to ask
		c.report.ok(name, step, "%s: is free; no agent listens there now", t.Listen)
	case errors.Is(err, syscall.EADDRINUSE):
		c.report.ok(name, step, "%s: something listens; if no agent runs, another program has the port", t.Listen)
	default:
		c.report.failed(name, step, "name an address of this machine in listen, and a port that the agent's user may have", "%v", err)
	}
}

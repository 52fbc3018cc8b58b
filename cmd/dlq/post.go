package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"

	"github.com/edgetide/telegraf-victorialogs/dlq"
	"github.com/edgetide/telegraf-victorialogs/internal/deadletter"
)

// newPoster returns what posts an item, and what ends the connections.
func newPoster(o replayOptions) (send func(context.Context, []byte) error, end func(), err error) {
	u, err := url.Parse(o.url)
	if err != nil {
		return nil, nil, err
	}
	header := http.Header{"Content-Type": {o.contentType}, "User-Agent": {"dlq"}}
	maps.Copy(header, http.Header(o.header))
	transport, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return nil, nil, errors.New("the default transport is none of net/http's")
	}
	transport = transport.Clone()
	p := &poster{url: u, header: header}
	p.client = http.Client{Transport: transport, Timeout: o.timeout, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // most redirects would turn the POST into a GET, whose 200 says nothing
	}}
	return p.post, transport.CloseIdleConnections, nil
}

type poster struct {
	url    *url.URL
	header http.Header
	client http.Client
	proved bool // that the server takes items at all
}

func (p *poster) post(ctx context.Context, item []byte) (err error) {
	request, delivered, err := p.request(ctx, item)
	if err != nil {
		return err
	}
	if host := p.header.Get("Host"); host != "" {
		request.Host = host
	}
	response, err := p.client.Do(request)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	text, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if delivered(response.StatusCode) {
		p.proved = true
		return nil // whatever became of the answer's text
	}
	if err != nil {
		return err
	}
	failure := fmt.Errorf("%s answered %s: %s", request.URL.Redacted(), response.Status, oneLine(shorten(strings.TrimSpace(string(text)))))
	if p.proved && refused(response.StatusCode) {
		return fmt.Errorf("%w: %w", dlq.ErrPoison, failure)
	}
	return failure
}

// request makes an item's request, and says which answers mean that it was delivered.
func (p *poster) request(ctx context.Context, item []byte) (r *http.Request, delivered func(status int) bool, err error) {
	l, err := deadletter.Parse(item)
	if err != nil { // it is no batch
		r, err = http.NewRequestWithContext(ctx, http.MethodPost, p.url.String(), bytes.NewReader(item))
		if err != nil {
			return nil, nil, err
		}
		r.Header = p.header.Clone()
		return r, func(status int) bool { return status/100 == 2 }, nil
	}
	if _, err := l.Lines(); err != nil { // VictoriaLogs would answer 200 and store nothing
		return nil, nil, fmt.Errorf("%w: its rows cannot be read: %w", dlq.ErrPoison, err)
	}
	r, err = http.NewRequestWithContext(ctx, http.MethodPost, p.endpoint(l.Route).String(), bytes.NewReader(l.Body))
	if err != nil {
		return nil, nil, err
	}
	r.Header = p.batchHeader(l.Route)
	return r, func(status int) bool { return status == http.StatusOK || status == http.StatusNoContent }, nil
}

// endpoint is where a batch goes: to its own path below the URL, unless that ends with it, and with its own query.
func (p *poster) endpoint(r deadletter.Route) *url.URL {
	u := *p.url
	if u.Path = strings.TrimRight(u.Path, "/"); !strings.HasSuffix(u.Path, r.Path) {
		u = *p.url.JoinPath(r.Path)
		u.Path = "/" + strings.TrimPrefix(u.Path, "/") // which JoinPath leaves out behind a bare host
	} else {
		u.RawPath = strings.TrimRight(u.RawPath, "/")
	}
	u.RawQuery = strings.Trim(r.Query+"&"+p.url.RawQuery, "&")
	return &u
}

// batchHeader is what the plugin sends with a batch. A tenant that was asked for takes the place of the batch's own; what
// says how the body is to be read cannot be changed, since VictoriaLogs would answer 200 and store nothing.
func (p *poster) batchHeader(r deadletter.Route) http.Header {
	h := p.header.Clone()
	h.Set("Content-Type", "application/stream+json")
	if h.Del("Content-Encoding"); r.Encoding != "identity" {
		h.Set("Content-Encoding", r.Encoding)
	}
	if h.Get("AccountID") != "" || h.Get("ProjectID") != "" {
		return h
	}
	for name, id := range map[string]string{"AccountID": r.AccountID, "ProjectID": r.ProjectID} {
		if id != "" {
			h.Set(name, id)
		}
	}
	return h
}

// refused reports a status that is about the item. Only a server that took others is believed, or a wrong URL would send
// everything to quarantine.
func refused(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return true
	}
	return false
}

func shorten(s string) string {
	if runes := []rune(s); len(runes) > 200 {
		return string(runes[:200]) + "…"
	}
	return s
}

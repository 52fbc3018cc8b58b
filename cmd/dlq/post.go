package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/edgetide/telegraf-victorialogs/dlq"
)

// newPoster returns what posts an item, and what ends the connections.
func newPoster(o replayOptions) (send func(context.Context, []byte) error, end func(), err error) {
	u, err := url.Parse(o.url)
	if err != nil {
		return nil, nil, err
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, nil, fmt.Errorf("--url is %q; it must begin with http:// or https:// and name a host", o.url)
	}
	header := http.Header{"Content-Type": {o.contentType}, "User-Agent": {"dlq"}}
	for _, h := range o.header {
		name, value, ok := strings.Cut(h, ":")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return nil, nil, fmt.Errorf("--header is %q; it must be like \"Name: value\"", h)
		}
		header.Add(name, strings.TrimSpace(value))
	}
	transport, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return nil, nil, errors.New("the default transport is none of net/http's")
	}
	transport = transport.Clone()
	p := &poster{url: o.url, header: header}
	p.client = http.Client{Transport: transport, Timeout: o.timeout, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // most redirects would turn the POST into a GET, whose 200 says nothing
	}}
	return p.post, transport.CloseIdleConnections, nil
}

type poster struct {
	url    string
	header http.Header
	client http.Client
	proved bool // that the server takes items at all
}

func (p *poster) post(ctx context.Context, item []byte) (err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(item))
	if err != nil {
		return err
	}
	request.Header = p.header.Clone()
	if host := p.header.Get("Host"); host != "" {
		request.Host = host
	}
	response, err := p.client.Do(request)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	text, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if response.StatusCode/100 == 2 {
		p.proved = true
		return nil // whatever became of the answer's text
	}
	if err != nil {
		return err
	}
	failure := fmt.Errorf("%s answered %s: %s", p.url, response.Status, oneLine(shorten(strings.TrimSpace(string(text)))))
	if p.proved && refused(response.StatusCode) {
		return fmt.Errorf("%w: %w", dlq.ErrPoison, failure)
	}
	return failure
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

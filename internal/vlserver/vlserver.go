// Package vlserver runs a real VictoriaLogs where victoria-logs is on PATH, and reads back what any VictoriaLogs, the
// stand-in of package vlreceiver included, has stored.
package vlserver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Look finds the victoria-logs program.
func Look() (path string, ok bool) {
	path, err := exec.LookPath("victoria-logs")
	return path, err == nil
}

// Server is a victoria-logs process. Start and Stop may be called in turn; the address and the data stay.
type Server struct {
	path, addr, dir string

	cmd    *exec.Cmd
	output syncBuffer
}

// New prepares a server with its data in dir. An empty addr means a free port of 127.0.0.1.
func New(path, addr, dir string) (*Server, error) {
	if addr == "" {
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		addr = l.Addr().String()
		if err := l.Close(); err != nil {
			return nil, err
		}
	}
	return &Server{path: path, addr: addr, dir: dir}, nil
}

// URL is http://host:port.
func (s *Server) URL() string { return "http://" + s.addr }

// PID is the process's, between Start and Stop.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Start starts the process and returns when it answers, or with an error when ctx ends before.
func (s *Server) Start(ctx context.Context) error {
	s.cmd = exec.Command(s.path, "-storageDataPath="+s.dir, "-httpListenAddr="+s.addr) //nolint:gosec,noctx // Stop ends it
	s.cmd.Stderr = &s.output
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", s.path, err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if ask(ctx, s.URL()+"/health") == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s does not answer on %s: %w; it said:\n%s", s.path, s.addr, ctx.Err(), s.output.String()),
				s.Stop())
		}
	}
}

// Stop sends SIGTERM and waits for the end.
func (s *Server) Stop() error {
	if s.cmd == nil {
		return nil
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // one that has ended cannot be signalled
	err := s.cmd.Wait()
	s.cmd = nil
	return err
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Count returns how many rows are stored at the server, those that it took a moment ago included.
func Count(ctx context.Context, base string) (int64, error) {
	if err := ask(ctx, base+"/internal/force_flush"); err != nil {
		return 0, err
	}
	body, err := get(ctx, base+"/select/logsql/query?query="+url.QueryEscape("* | stats count() n"))
	if err != nil {
		return 0, err
	}
	defer func() { _ = body.Close() }()
	var answer struct {
		N string `json:"n"`
	}
	if err := json.NewDecoder(body).Decode(&answer); err != nil {
		return 0, fmt.Errorf("counting rows at %s: %w", base, err)
	}
	return strconv.ParseInt(answer.N, 10, 64)
}

// Rows calls f with each stored row, or with the newest ones when limit is above 0, in no order.
func Rows(ctx context.Context, base string, limit int, f func(row map[string]string)) error {
	if err := ask(ctx, base+"/internal/force_flush"); err != nil {
		return err
	}
	query := "/select/logsql/query?query=*"
	if limit > 0 {
		query += "&limit=" + strconv.Itoa(limit)
	}
	body, err := get(ctx, base+query)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	lines := bufio.NewReaderSize(body, 1<<20)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var row map[string]string
			if err := json.Unmarshal(line, &row); err != nil {
				return fmt.Errorf("%s answered a row that is no JSON: %w", base, err)
			}
			f(row)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

var client = &http.Client{Timeout: time.Minute}

// ask is get for an answer whose text does not matter.
func ask(ctx context.Context, address string) error {
	body, err := get(ctx, address)
	if err != nil {
		return err
	}
	return body.Close()
}

func get(ctx context.Context, address string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		_ = response.Body.Close()
		return nil, fmt.Errorf("%s answered %s", address, response.Status)
	}
	return response.Body, nil
}

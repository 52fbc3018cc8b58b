package vlreceiver_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// startVictoriaLogs runs the real server, if there is one, until the end of the test.
func startVictoriaLogs(t *testing.T) string {
	t.Helper()
	bin, err := exec.LookPath("victoria-logs")
	if err != nil {
		t.Skip("victoria-logs is not on PATH: the contract is not compared with the real server")
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := ln.Addr().String()
	require.NoError(t, ln.Close())

	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, bin, "-storageDataPath="+t.TempDir(), "-httpListenAddr="+addr, "-loggerOutput=stdout")
	var logs bytes.Buffer
	cmd.Stdout = &logs
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cancel()
		var exit *exec.ExitError
		if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
			t.Errorf("victoria-logs: %s", err)
		}
		if t.Failed() {
			t.Logf("victoria-logs said:\n%.10000s", logs.String())
		}
	})

	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	ready, done := context.WithTimeout(t.Context(), 20*time.Second)
	defer done()
	for !healthy(ready, "http://"+addr) {
		select {
		case <-tick.C:
		case <-ready.Done():
			t.Fatal("victoria-logs did not become healthy")
		}
	}
	return "http://" + addr
}

func healthy(ctx context.Context, base string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/health", nil)
	if err != nil {
		return false
	}
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
}

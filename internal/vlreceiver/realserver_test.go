package vlreceiver_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/vlserver"
)

// startVictoriaLogs runs the real server, if there is one, until the end of the test.
func startVictoriaLogs(t *testing.T) string {
	t.Helper()
	path, ok := vlserver.Look()
	if !ok {
		t.Skip("victoria-logs is not on PATH: the contract is not compared with the real server")
	}
	server, err := vlserver.New(path, "", t.TempDir())
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, server.Start(ctx))
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	return server.URL()
}

package tlsconf

import (
	"testing"

	"github.com/stretchr/testify/require"

	telegraftls "github.com/influxdata/telegraf/plugins/common/tls"
)

// Telegraf itself would take the older ones, too.
func TestVersions(t *testing.T) {
	for _, old := range []string{"TLS10", "TLS11", "SSL30", "1.2"} {
		_, err := Client(&telegraftls.ClientConfig{TLSMinVersion: old})
		require.ErrorContains(t, err, `must be "TLS12" or "TLS13"`)
		_, err = Server(&telegraftls.ServerConfig{TLSMinVersion: old})
		require.ErrorContains(t, err, `must be "TLS12" or "TLS13"`)
	}
	for _, version := range []string{"", "TLS12", "TLS13"} {
		_, err := Client(&telegraftls.ClientConfig{TLSMinVersion: version})
		require.NoError(t, err)
		_, err = Server(&telegraftls.ServerConfig{TLSMinVersion: version})
		require.NoError(t, err)
	}
}

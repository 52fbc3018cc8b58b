// Package tlsconf builds a client's TLS configuration from Telegraf's common tls_… options, with errors that name the
// option, its value and what would be right. Telegraf's own name neither option nor remedy.
package tlsconf

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	telegraftls "github.com/influxdata/telegraf/plugins/common/tls"
)

// Client returns the TLS configuration; nil without an error means that none of the options is set.
func Client(c *telegraftls.ClientConfig) (*tls.Config, error) {
	for _, file := range []struct{ key, path, holds string }{
		{"tls_ca", c.TLSCA, "certificates of the authorities to trust"},
		{"tls_cert", c.TLSCert, "this client's certificate"},
		{"tls_key", c.TLSKey, "this client's private key"},
	} {
		if file.path == "" {
			continue
		}
		content, err := os.ReadFile(file.path)
		if err != nil {
			return nil, fmt.Errorf("%s = %q: %w; must be a readable PEM file with %s", file.key, file.path, err, file.holds)
		}
		if file.key == "tls_ca" && !x509.NewCertPool().AppendCertsFromPEM(content) {
			return nil, fmt.Errorf("%s = %q: holds no certificate; must be a PEM file with %s", file.key, file.path, file.holds)
		}
	}
	if c.TLSCert != "" && c.TLSKey == "" {
		return nil, fmt.Errorf(`tls_key = "": must name the private key of tls_cert = %q`, c.TLSCert)
	}
	if c.TLSKey != "" && c.TLSCert == "" {
		return nil, fmt.Errorf(`tls_cert = "": must name the certificate of tls_key = %q`, c.TLSKey)
	}
	if c.TLSMinVersion != "" {
		if _, err := telegraftls.ParseTLSVersion(c.TLSMinVersion); err != nil {
			return nil, fmt.Errorf(`tls_min_version = %q: must be "TLS12" or "TLS13"`, c.TLSMinVersion)
		}
	}
	config, err := c.TLSConfig()
	if err != nil {
		return nil, fmt.Errorf("tls_… options: %w", err)
	}
	return config, nil
}

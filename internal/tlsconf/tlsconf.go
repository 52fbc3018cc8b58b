// Package tlsconf builds the TLS configuration of a client or a server from Telegraf's common tls_… options, with errors that
// name the option, its value and what would be right. Telegraf's own name neither option nor remedy.
package tlsconf

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	telegraftls "github.com/influxdata/telegraf/plugins/common/tls"
)

// Client returns the TLS configuration; nil without an error means that none of the options is set.
func Client(c *telegraftls.ClientConfig) (*tls.Config, error) {
	err := readable([]file{
		{"tls_ca", c.TLSCA, "certificates of the authorities to trust"},
		{"tls_cert", c.TLSCert, "this client's certificate"},
		{"tls_key", c.TLSKey, "this client's private key"},
	})
	if err != nil {
		return nil, err
	}
	if err := pair(c.TLSCert, c.TLSKey); err != nil {
		return nil, err
	}
	if err := checkVersion("tls_min_version", c.TLSMinVersion); err != nil {
		return nil, err
	}
	config, err := c.TLSConfig()
	if err != nil {
		return nil, fmt.Errorf("tls_… options: %w", err)
	}
	return config, nil
}

// Server returns the TLS configuration of a server; nil without an error means that none of the options is set.
func Server(c *telegraftls.ServerConfig) (*tls.Config, error) {
	if c.TLSCert == "" && c.TLSKey == "" && (len(c.TLSAllowedCACerts) > 0 || len(c.TLSAllowedDNSNames) > 0) {
		return nil, errors.New(`tls_cert = "": must name the server's certificate, beside options about those of clients`)
	}
	if len(c.TLSAllowedDNSNames) > 0 && len(c.TLSAllowedCACerts) == 0 {
		return nil, fmt.Errorf("tls_allowed_dns_names = %q: must stand beside tls_allowed_cacerts, or no client is asked for its names",
			c.TLSAllowedDNSNames)
	}
	files := []file{
		{"tls_cert", c.TLSCert, "this server's certificate"},
		{"tls_key", c.TLSKey, "this server's private key"},
	}
	for _, path := range c.TLSAllowedCACerts {
		files = append(files, file{"tls_allowed_cacerts", path, "certificates of the authorities that sign those of clients"})
	}
	if err := readable(files); err != nil {
		return nil, err
	}
	if err := pair(c.TLSCert, c.TLSKey); err != nil {
		return nil, err
	}
	for _, version := range []struct{ key, value string }{{"tls_min_version", c.TLSMinVersion}, {"tls_max_version", c.TLSMaxVersion}} {
		if err := checkVersion(version.key, version.value); err != nil {
			return nil, err
		}
	}
	config, err := c.TLSConfig()
	if err != nil {
		return nil, fmt.Errorf("tls_… options: %w", err)
	}
	return config, nil
}

// file is one that an option names.
type file struct{ key, path, holds string }

// readable finds the first file that cannot be what its option wants.
func readable(files []file) error {
	for _, f := range files {
		if f.path == "" {
			continue
		}
		content, err := os.ReadFile(f.path)
		if err != nil {
			return fmt.Errorf("%s = %q: %w; must be a readable PEM file with %s", f.key, f.path, err, f.holds)
		}
		authorities := f.key == "tls_ca" || f.key == "tls_allowed_cacerts"
		if authorities && !x509.NewCertPool().AppendCertsFromPEM(content) {
			return fmt.Errorf("%s = %q: holds no certificate; must be a PEM file with %s", f.key, f.path, f.holds)
		}
	}
	return nil
}

// pair wants a certificate and its key, or neither.
func pair(certificate, key string) error {
	if certificate != "" && key == "" {
		return fmt.Errorf(`tls_key = "": must name the private key of tls_cert = %q`, certificate)
	}
	if key != "" && certificate == "" {
		return fmt.Errorf(`tls_cert = "": must name the certificate of tls_key = %q`, key)
	}
	return nil
}

// checkVersion refuses what is older than TLS 1.2, which Telegraf itself would take.
func checkVersion(key, version string) error {
	number, err := telegraftls.ParseTLSVersion(version)
	if version != "" && (err != nil || number < tls.VersionTLS12) {
		return fmt.Errorf(`%s = %q: must be "TLS12" or "TLS13"`, key, version)
	}
	return nil
}

package mqtt_hardware

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// authority signs a certificate for 127.0.0.1 and one for a client, which the server requires where it asks.
type authority struct {
	dir    string // holds ca.pem, server.pem, server-key.pem, client.pem and client-key.pem
	server *tls.Config
	client *tls.Config // trusts the authority; has no certificate
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	template := func(name string) *x509.Certificate {
		serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
		require.NoError(t, err)
		return &x509.Certificate{
			SerialNumber: serial,
			Subject:      pkix.Name{CommonName: name},
			NotBefore:    time.Now().Add(-time.Hour),
			NotAfter:     time.Now().Add(time.Hour),
			KeyUsage:     x509.KeyUsageDigitalSignature,
			ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
			IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		}
	}
	sign := func(name string, of, by *x509.Certificate, key, byKey *ecdsa.PrivateKey) {
		der, err := x509.CreateCertificate(rand.Reader, of, by, &key.PublicKey, byKey)
		require.NoError(t, err)
		secret, err := x509.MarshalPKCS8PrivateKey(key)
		require.NoError(t, err)
		for file, block := range map[string]*pem.Block{
			name + ".pem":     {Type: "CERTIFICATE", Bytes: der},
			name + "-key.pem": {Type: "PRIVATE KEY", Bytes: secret},
		} {
			require.NoError(t, os.WriteFile(a.file(file), pem.EncodeToMemory(block), 0o600))
		}
	}
	newKey := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		return key
	}
	ca, caKey := template("test authority"), newKey()
	ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = true, true, x509.KeyUsageCertSign
	sign("ca", ca, ca, caKey, caKey)
	sign("server", template("server"), ca, newKey(), caKey)
	sign("client", template("client"), ca, newKey(), caKey)

	pool := x509.NewCertPool()
	authorityPEM, err := os.ReadFile(a.file("ca.pem"))
	require.NoError(t, err)
	require.True(t, pool.AppendCertsFromPEM(authorityPEM))
	pair, err := tls.LoadX509KeyPair(a.file("server.pem"), a.file("server-key.pem"))
	require.NoError(t, err)
	a.server = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, MinVersion: tls.VersionTLS12}
	a.client = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return a
}

package tcp_exporter

import (
	"bufio"
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
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// certificates are of one authority: one for the server, one for clients.
type certificates struct {
	authority, server, serverKey string // files
	roots                        *x509.CertPool
	client                       tls.Certificate
}

func newCertificates(t *testing.T) certificates {
	t.Helper()
	directory := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(directory, name)
		require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return path
	}
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Unix(0, 0),
		NotAfter: time.Now().AddDate(10, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	authorityDER, err := x509.CreateCertificate(rand.Reader, authority, authority, &authorityKey.PublicKey, authorityKey)
	require.NoError(t, err)
	sign := func(serial int64, usage x509.ExtKeyUsage) (der []byte, key *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		leaf := &x509.Certificate{
			SerialNumber: big.NewInt(serial), NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(10, 0, 0),
			ExtKeyUsage: []x509.ExtKeyUsage{usage}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		}
		der, err = x509.CreateCertificate(rand.Reader, leaf, authority, &key.PublicKey, authorityKey)
		require.NoError(t, err)
		return der, key
	}
	c := certificates{roots: x509.NewCertPool(), authority: write("ca.pem", "CERTIFICATE", authorityDER)}
	parsed, err := x509.ParseCertificate(authorityDER)
	require.NoError(t, err)
	c.roots.AddCert(parsed)
	der, key := sign(2, x509.ExtKeyUsageServerAuth)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	c.server, c.serverKey = write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", keyDER)
	der, key = sign(3, x509.ExtKeyUsageClientAuth)
	c.client = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return c
}

func (c certificates) serve(clients bool) func(*TCPExporter) {
	return func(p *TCPExporter) {
		p.TLSCert, p.TLSKey = c.server, c.serverKey
		if clients {
			p.TLSAllowedCACerts = []string{c.authority}
		}
	}
}

// overTLS makes a client speak TLS.
func (v *viewer) overTLS(c *tls.Config) *viewer {
	conn := tls.Client(v.Conn, c)
	v.tb.Cleanup(func() { _ = conn.Close() })
	return &viewer{Conn: conn, tb: v.tb, frames: bufio.NewReader(conn)}
}

func TestTLS(t *testing.T) {
	c := newCertificates(t)
	r := start(t, c.serve(true), func(p *TCPExporter) { p.Listen = ":0" })
	require.Empty(t, r.logged('W'), "it need not warn")
	good := &tls.Config{RootCAs: c.roots, ServerName: "127.0.0.1", Certificates: []tls.Certificate{c.client}}
	v := r.dial().overTLS(good)
	require.Equal(t, hello, v.next().GetMetadata().GetName())

	for what, bad := range map[string]*tls.Config{
		"no certificate": {RootCAs: c.roots, ServerName: "127.0.0.1"},
		"TLS 1.1":        {RootCAs: c.roots, ServerName: "127.0.0.1", Certificates: good.Certificates, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11},
	} {
		before := r.server.stats.refused[refusedTLS].Get()
		_, err := r.dial().overTLS(bad).read()
		require.Error(t, err, what)
		r.waitFor("refused: "+what, func() bool { return r.server.stats.refused[refusedTLS].Get() == before+1 })
	}
	plain := r.dial()
	_, err := plain.Write([]byte("hello, is this plain text?"))
	require.NoError(t, err)
	r.waitFor("refused", func() bool { return r.server.stats.refused[refusedTLS].Get() == 3 })

	for n := 1; n <= 5000; n++ {
		r.Add(sample(n))
		if n%500 == 0 {
			r.waitFor("sent", func() bool { return r.server.stats.sent.Get() == int64(2+n) })
		}
	}
	for n := 1; n <= 5000; n++ {
		require.Equal(t, n, v.value())
	}
	r.stop()
	require.Empty(t, v.rest(), "it ends with TLS's own farewell")
}

// Over TLS, too, a client may close its direction alone, and one that leaves is noticed at once.
func TestTLSHalfClosedAndLeft(t *testing.T) {
	c := newCertificates(t)
	r := start(t, c.serve(false))
	v := r.dial().overTLS(&tls.Config{RootCAs: c.roots, ServerName: "127.0.0.1"})
	require.Equal(t, hello, v.next().GetMetadata().GetName())
	conn, ok := v.Conn.(*tls.Conn)
	require.True(t, ok)
	require.NoError(t, conn.CloseWrite())
	require.Nil(t, v.next().GetEvent())
	r.Add(sample(1))
	require.Equal(t, 1, v.value())
	require.NoError(t, v.Close())
	r.Add(sample(2))
	r.waitClients(0)

	v = r.dial().overTLS(&tls.Config{RootCAs: c.roots, ServerName: "127.0.0.1"})
	require.Equal(t, hello, v.next().GetMetadata().GetName())
	require.NoError(t, v.Close())
	r.waitClients(0)
}

// A client that never shakes hands holds up nobody, and goes when its time is over.
func TestTLSHandshakeThatNeverComes(t *testing.T) {
	c := newCertificates(t)
	synctest.Test(t, func(t *testing.T) {
		r := prepare(t, c.serve(false), func(p *TCPExporter) { p.MaxClients = 2 })
		listen, _ := r.inMemory()
		silent, other := net.Pipe()
		listen(silent)
		conn, client := net.Pipe()
		listen(conn)
		v := &viewer{Conn: client, tb: t}
		v = v.overTLS(&tls.Config{InsecureSkipVerify: true})
		require.Equal(t, hello, v.next().GetMetadata().GetName())
		require.Equal(t, int64(2), r.server.stats.clients.Get())
		time.Sleep(handshakeTime) //nolint:forbidigo // in synctest's time
		synctest.Wait()
		require.Equal(t, int64(1), r.server.stats.clients.Get())
		require.Equal(t, int64(1), r.server.stats.refused[refusedTLS].Get())

		silent, last := net.Pipe()
		listen(silent)
		synctest.Wait()
		go func() { v.rest() }()
		began := time.Now()
		r.stop()
		require.Equal(t, began, time.Now(), "a handshake does not delay the end")
		require.NoError(t, other.Close())
		require.NoError(t, last.Close())
		require.NoError(t, client.Close())
	})
}

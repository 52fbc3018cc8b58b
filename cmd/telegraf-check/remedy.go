package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
)

// remedy says what to do about a connection that did not come about. option names where the other side stands.
func remedy(err error, option string) string {
	var (
		name      *net.DNSError
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
		timeout   net.Error
	)
	switch {
	case errors.As(err, &name):
		return "correct the host in " + option + ", or this machine's name resolution"
	case errors.As(err, &authority):
		return "set tls_ca to the authority that signed its certificate"
	case errors.As(err, &host):
		return "use a name of its certificate in " + option + ", or set tls_server_name to one"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "renew its certificate, or set this machine's clock"
	case errors.As(err, &invalid):
		return "replace its certificate"
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return "one side speaks TLS and the other does not: correct the scheme or the port in " + option
	case refusedTLS(err):
		return "it refused our side of TLS: set tls_cert and tls_key to a certificate that it takes"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "start it, or correct the host and port in " + option
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return "it hung up: see its log, and that its port speaks what the scheme in " + option + " says"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "mend this machine's network or route, or correct " + option
	case errors.Is(err, os.ErrPermission):
		return "give the agent's user the right to it"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "see that it runs and that no firewall is between, or correct " + option
	}
	return "see that it runs and can be reached from here, and that " + option + " is right"
}

// refusedTLS reports whether the other side ended TLS, and said so.
func refusedTLS(err error) bool {
	var alert tls.AlertError
	return errors.As(err, &alert) || strings.Contains(err.Error(), "remote error: tls")
}

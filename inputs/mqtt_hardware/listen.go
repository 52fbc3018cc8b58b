package mqtt_hardware

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
	"golang.org/x/crypto/bcrypt"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/config"

	"github.com/edgetide/telegraf-victorialogs/internal/logbridge"
	"github.com/edgetide/telegraf-victorialogs/internal/redact"
)

// ListenOptions are those of the embedded broker.
type ListenOptions struct {
	Listen              string                    `toml:"listen"`
	ListenUsers         string                    `toml:"listen_users"`
	ListenPasswords     map[string]*config.Secret `toml:"listen_passwords"`
	ListenAnonymous     bool                      `toml:"listen_allow_anonymous"`
	ListenTLSCert       string                    `toml:"listen_tls_cert"`
	ListenTLSKey        string                    `toml:"listen_tls_key"`
	ListenTLSClientCAs  []string                  `toml:"listen_tls_client_cas"`
	ListenMaxClients    int64                     `toml:"listen_max_clients"`
	ListenMaxPacketSize config.Size               `toml:"listen_max_packet_size"`
	ListenMaxRetained   int                       `toml:"listen_max_retained"`
}

// The library's tests have their data in the library, where it would be a tenth of what an idle Telegraf keeps on the heap.
func init() { packets.TPacketData = nil }

func defaultListen() ListenOptions {
	return ListenOptions{ListenMaxClients: 1000, ListenMaxPacketSize: 1 << 20, ListenMaxRetained: 10_000}
}

// newEmbedded checks the options and prepares the broker.
func (o *ListenOptions) newEmbedded(log telegraf.Logger, f *flow, topics []string) (*embedded, error) {
	const right = `must be a URL such as "tcp://127.0.0.1:1883" or "ssl://0.0.0.0:8883"`
	address, err := url.Parse(o.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen = %q: is no URL; %s", redact.URL(o.Listen), right)
	}
	secure := slices.Contains(tlsSchemes, address.Scheme)
	_, err = strconv.ParseUint(address.Port(), 10, 16)
	if !secure && !slices.Contains(plainSchemes, address.Scheme) || err != nil || address.Path != "" || address.User != nil {
		return nil, fmt.Errorf("listen = %q: %s", redact.URL(o.Listen), right)
	}
	switch {
	case o.ListenMaxClients < 1:
		return nil, fmt.Errorf("listen_max_clients = %d: must be 1 or more", o.ListenMaxClients)
	case o.ListenMaxPacketSize < 1<<10 || o.ListenMaxPacketSize > 256<<20:
		return nil, fmt.Errorf(`listen_max_packet_size = %d: must be from "1KiB" to "256MiB"`, o.ListenMaxPacketSize)
	case o.ListenMaxRetained < 0:
		return nil, fmt.Errorf("listen_max_retained = %d: must not be negative", o.ListenMaxRetained)
	}
	e := &embedded{
		log: log, flow: f, topics: topics, address: address.Host, passwords: o.ListenPasswords,
		maxRetained: o.ListenMaxRetained, retained: make(map[string]bool),
		busy: make(map[uint16]bool), devices: make(map[string]map[uint16]*devicePublish), told: make(map[string]time.Time),
		maxClients: o.ListenMaxClients, maxPacket: uint32(o.ListenMaxPacketSize),
	}
	if o.ListenUsers != "" {
		if e.users, err = readUsers(o.ListenUsers); err != nil {
			return nil, fmt.Errorf("listen_users = %q: %w", o.ListenUsers, err)
		}
	}
	for name, password := range e.passwords {
		switch {
		case e.users[name] != nil:
			return nil, fmt.Errorf("listen_passwords: %q is in listen_users, too: name each device once", name)
		case name == "" || password.Empty():
			return nil, fmt.Errorf("listen_passwords: %q: name and password must not be empty", name)
		}
	}
	known := e.users != nil || len(e.passwords) > 0
	e.anonymous = o.ListenAnonymous || !known && isLoopback(address.Hostname())
	if !known && !e.anonymous {
		return nil, fmt.Errorf("listen = %q: is open to other machines; set listen_users or listen_passwords, or "+
			"listen_allow_anonymous = true if anybody may publish", o.Listen)
	}
	if e.tls, err = o.serverTLS(secure); err != nil {
		return nil, err
	}
	capabilities := mochi.NewDefaultServerCapabilities()
	capabilities.MaximumClients = o.ListenMaxClients + 1 // the hook refuses before, and says so
	capabilities.MaximumPacketSize = e.maxPacket
	e.server = mochi.New(&mochi.Options{
		Capabilities: capabilities, Logger: logbridge.New(quiet{log}, "Broker: "),
	})
	e.inline = e.server.NewClient(nil, "inline", "telegraf", true)
	return e, e.server.AddHook(&hook{embedded: e}, nil)
}

// quiet is a log for a library that has errors to tell of each client that leaves.
type quiet struct{ telegraf.Logger }

func (q quiet) Error(args ...any) { q.Debug(args...) }
func (q quiet) Warn(args ...any)  { q.Debug(args...) }
func (q quiet) Info(args ...any)  { q.Debug(args...) }

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// readUsers reads lines of name:hash, the hash being bcrypt's, as htpasswd -B writes them.
func readUsers(path string) (map[string][]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was read only
	users := make(map[string][]byte)
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, hash, ok := strings.Cut(line, ":")
		if _, err := bcrypt.Cost([]byte(hash)); !ok || name == "" || err != nil {
			return nil, fmt.Errorf("line %d: must be NAME:HASH with a hash of bcrypt, as htpasswd -nB NAME makes it", n)
		}
		users[name] = []byte(hash)
	}
	return users, lines.Err()
}

func (o *ListenOptions) serverTLS(secure bool) (*tls.Config, error) {
	switch {
	case !secure && (o.ListenTLSCert != "" || o.ListenTLSKey != "" || len(o.ListenTLSClientCAs) > 0):
		return nil, fmt.Errorf("listen = %q: must begin with ssl:// when listen_tls_… is set", o.Listen)
	case !secure:
		return nil, nil //nolint:nilnil // no TLS
	case o.ListenTLSCert == "" || o.ListenTLSKey == "":
		return nil, fmt.Errorf("listen = %q: needs listen_tls_cert and listen_tls_key", o.Listen)
	}
	pair, err := tls.LoadX509KeyPair(o.ListenTLSCert, o.ListenTLSKey)
	if err != nil {
		return nil, fmt.Errorf("listen_tls_cert = %q, listen_tls_key = %q: %w", o.ListenTLSCert, o.ListenTLSKey, err)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	for _, path := range o.ListenTLSClientCAs {
		pem, err := os.ReadFile(path)
		if c.ClientCAs == nil {
			c.ClientCAs, c.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		}
		if err == nil && !c.ClientCAs.AppendCertsFromPEM(pem) {
			err = errors.New("holds no certificate")
		}
		if err != nil {
			return nil, fmt.Errorf("listen_tls_client_cas: %q: %w", path, err)
		}
	}
	return c, nil
}

// embedded is a broker inside the plugin. A device's message is acknowledged to it as one from a broker is: when Telegraf
// has delivered it.
type embedded struct {
	log         telegraf.Logger
	flow        *flow
	topics      []string
	address     string
	tls         *tls.Config
	users       map[string][]byte // bcrypt
	passwords   map[string]*config.Secret
	anonymous   bool
	maxRetained int
	server      *mochi.Server
	connection  int
	bound       string // the address, once it listens

	maxClients int64
	maxPacket  uint32        // bytes
	inline     *mochi.Client // passes messages on

	mu       sync.Mutex
	retained map[string]bool // topics
	busy     map[uint16]bool // identifiers that we made for messages in the flow
	last     uint16
	devices  map[string]map[uint16]*devicePublish // by client and identifier: what the device may repeat
	told     map[string]time.Time                 // when a refusal was logged, by reason
}

// listen begins to take devices in.
func (e *embedded) listen() error {
	var l listeners.Listener = listeners.NewTCP(listeners.Config{ID: "listen", Address: e.address, TLSConfig: e.tls})
	if err := e.server.AddListener(l); err != nil {
		return fmt.Errorf("listen: %w; where a broker runs already, name it in servers", err)
	}
	e.connection = e.flow.connecting()
	e.flow.connected(false, direct)
	if err := e.server.Serve(); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	e.flow.stats.connected.Set(1)
	e.bound = l.Address()
	e.log.Infof("Listening for MQTT devices on %s", e.bound)
	return nil
}

// run waits until the plugin stops.
func (e *embedded) run(ctx context.Context) {
	<-ctx.Done()
	e.flow.stats.connected.Set(0)
	e.flow.disconnected(e.connection)
	if err := e.server.Close(); err != nil {
		e.log.Warnf("Closing the embedded broker: %v", err)
	}
}

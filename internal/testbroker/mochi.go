package testbroker

import (
	"fmt"
	"log/slog"
	"net"
	"sync"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
)

// MochiOptions configures a [Mochi]. The zero value is a broker on a free port with a window of [DefaultMaxInflight].
type MochiOptions struct {
	// Addr is the host:port to listen on. Empty, or with port 0, means a free port of 127.0.0.1, chosen by the first
	// Start and kept.
	Addr string
	// MaxInflight is the window: how many QoS 1 and 2 messages may be unacknowledged at one client. 0 means
	// [DefaultMaxInflight]; at most 16384. An MQTT 5 client's receive maximum lowers it for that client.
	MaxInflight int
	// Volatile makes Stop forget every session and message, as a broker without persistence does.
	Volatile bool
	// Logger receives mochi's log. nil discards it.
	Logger *slog.Logger
}

// Mochi is a mochi-mqtt broker in this process.
type Mochi struct {
	opts   MochiOptions
	window *window

	mu       sync.Mutex
	addr     string        // host:port; with the real port from the first Start on
	reserved *reservation  // nil if the port was given
	server   *mochi.Server // nil while stopped
}

var _ Broker = (*Mochi)(nil)

// NewMochi checks the options. Start starts the broker.
func NewMochi(opts MochiOptions) (*Mochi, error) {
	if opts.Addr == "" {
		opts.Addr = "127.0.0.1:0"
	}
	if _, _, err := net.SplitHostPort(opts.Addr); err != nil {
		return nil, fmt.Errorf("testbroker: Addr must be host:port: %w", err)
	}
	if opts.MaxInflight == 0 {
		opts.MaxInflight = DefaultMaxInflight
	}
	if opts.MaxInflight < 0 || opts.MaxInflight > maxWindow {
		return nil, fmt.Errorf("testbroker: MaxInflight is %d, it must be from 1 to %d", opts.MaxInflight, maxWindow)
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	return &Mochi{opts: opts, addr: opts.Addr, window: newWindow(opts.MaxInflight)}, nil
}

// URL is tcp://host:port.
func (m *Mochi) URL() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return "tcp://" + m.addr
}

// Start listens; clients can connect when it returns.
func (m *Mochi) Start() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.start()
}

// Stop closes the listener and all connections, and keeps the persistent sessions for the next Start.
func (m *Mochi) Stop() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stop()
}

// Restart is Stop, then Start, on the same port.
func (m *Mochi) Restart() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.stop(); err != nil {
		return err
	}
	return m.start()
}

// Unacked returns how many QoS 1 and 2 messages the broker holds for the client, also while the client is away and
// while the broker is stopped. Without a session it returns [ErrNoSession].
func (m *Mochi) Unacked(clientID string) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.window.unacked(m.server, clientID)
}

func (m *Mochi) start() error {
	if m.server != nil {
		return fmt.Errorf("start mochi on %s: %w", m.addr, ErrRunning)
	}

	if host, port, err := net.SplitHostPort(m.addr); err == nil && port == "0" {
		if port, m.reserved, err = reservePort(host); err != nil {
			return fmt.Errorf("start mochi: %w", err)
		}
		m.addr = net.JoinHostPort(host, port)
	}

	caps := mochi.NewDefaultServerCapabilities()
	caps.MaximumClientWritesPending = 1 << 16 // retained messages and wills alone go that way
	caps.MaximumInflight = 1<<16 - 1          // the window is ours
	caps.ReceiveMaximum = 1<<16 - 1           // a client above it, publishing at QoS 2, would be disconnected
	caps.MaximumMessageExpiryInterval = 0     // never
	server := mochi.New(&mochi.Options{
		Capabilities:             caps,
		ClientNetReadBufferSize:  64 << 10,
		ClientNetWriteBufferSize: 64 << 10,
		Logger:                   m.opts.Logger,
		SysTopicResendInterval:   3600, // seconds; it stops the world to read the memory statistics
	})
	m.window.topics = server.Topics
	if err := server.AddHook(new(auth.AllowHook), nil); err != nil {
		return fmt.Errorf("start mochi on %s: %w", m.addr, err)
	}
	if err := server.AddHook(m.window, nil); err != nil {
		return fmt.Errorf("start mochi on %s: %w", m.addr, err)
	}
	bind := listen
	if m.reserved != nil {
		bind = listenAgain
	}
	l, err := bind(m.addr)
	if err != nil {
		return fmt.Errorf("start mochi: %w", err)
	}
	if err := server.AddListener(l); err != nil {
		l.Close(nil)
		return fmt.Errorf("start mochi on %s: %w", m.addr, err)
	}
	if err := server.Serve(); err != nil {
		l.Close(nil)
		return fmt.Errorf("start mochi on %s: %w", m.addr, err)
	}
	m.addr = l.Address()
	m.server = server
	return nil
}

func (m *Mochi) stop() error {
	if m.server == nil {
		return nil
	}
	server := m.server
	m.server = nil
	if err := server.Close(); err != nil {
		return fmt.Errorf("stop mochi on %s: %w", m.addr, err)
	}
	if m.opts.Volatile {
		m.window.forget()
	} else {
		m.window.snapshot(server)
	}
	return nil
}

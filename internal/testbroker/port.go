package testbroker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"syscall"
	"time"
)

// Ports of brokers are below those that Linux gives to connections, and to listeners that ask for port 0 (32768 and above,
// ip_local_port_range in ip(7)), so that nobody has taken the port when a broker comes back to it.
const (
	firstPort = 20000
	ports     = 12000
)

// reservation keeps a TCP port from the brokers of this and other processes, by holding the UDP port of the same number.
// It ends with the broker that has it, by the garbage collector: a broker that is stopped may start again.
type reservation struct{ net.PacketConn }

// reservePort returns a port on which nobody listens. It looks by connecting: see listenAgain.
func reservePort(host string) (port string, r *reservation, err error) {
	var (
		lc net.ListenConfig
		d  net.Dialer
	)
	for range 100 {
		port = strconv.Itoa(firstPort + rand.IntN(ports))
		addr := net.JoinHostPort(host, port)
		var udp net.PacketConn
		if udp, err = lc.ListenPacket(context.Background(), "udp", addr); err != nil {
			continue
		}
		conn, refused := d.DialContext(context.Background(), "tcp", addr)
		if refused != nil {
			return port, &reservation{udp}, nil //nolint:nilerr // that is what we wish for
		}
		err = errors.Join(errors.New("somebody listens on "+addr), conn.Close(), udp.Close())
	}
	return "", nil, fmt.Errorf("find a free port: %w", err)
}

// listenAgain listens on a port that is reserved. The listener that was closed there may live on for a moment: a process
// that is being started elsewhere has a copy of it until its exec.
func listenAgain(addr string) (l *listener, err error) {
	retry := time.NewTicker(10 * time.Millisecond)
	defer retry.Stop()
	for end := time.Now().Add(startTimeout); ; <-retry.C {
		if l, err = listen(addr); !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(end) {
			return l, err
		}
	}
}

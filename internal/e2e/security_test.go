package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	psnet "github.com/shirou/gopsutil/v4/net"
	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/agentproc"
)

// certificate is one for a server, and files with it and its key.
func certificate(t *testing.T) (pair tls.Certificate, certFile, keyFile string) {
	t.Helper()
	s := httptest.NewTLSServer(nil)
	s.Close()
	pair = s.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	require.NoError(t, err)
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, keyFile: {Type: "PRIVATE KEY", Bytes: key},
	} {
		require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(block), 0o600))
	}
	return pair, certFile, keyFile
}

// shakingHands is a TLS server that says how each handshake ended, and closes.
func shakingHands(t *testing.T, config *tls.Config) (addr string, ended <-chan error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ends := make(chan error, 1000)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.SetDeadline(time.Now().Add(patience))
			ends <- tls.Server(conn, config).Handshake()
			_ = conn.Close()
		}
	})
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		serving.Wait()
	})
	return l.Addr().String(), ends
}

// Neither what dials nor what listens speaks a TLS older than 1.2, whoever asks for it and whether it checks certificates.
func TestTLSIsNew(t *testing.T) {
	t.Parallel()
	pair, certFile, keyFile := certificate(t)
	for version, works := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			t.Parallel()
			config := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS10, MaxVersion: version}
			broker, brokerEnded := shakingHands(t, config)
			broker5, broker5Ended := shakingHands(t, config)
			web, webEnded := shakingHands(t, config)
			logs, logsEnded := shakingHands(t, config)
			plain, plainEnded := shakingHands(t, config)
			mqttAddr, tcpAddr := freeAddr(t), freeAddr(t)
			dir := t.TempDir()
			var text strings.Builder
			text.WriteString("[agent]\n  interval = \"200ms\"\n  skip_processors_after_aggregators = true\n")
			for _, input := range []string{
				fmt.Sprintf("servers = [\"ssl://%s\"]", broker),
				fmt.Sprintf("servers = [\"ssl://%s\"]\nprotocol = \"5\"", broker5),
				fmt.Sprintf("servers = [\"wss://%s\"]", web),
				fmt.Sprintf("servers = []\nlisten = \"ssl://%s\"\nlisten_tls_cert = %q\nlisten_tls_key = %q", mqttAddr, certFile, keyFile),
			} {
				fmt.Fprintf(&text, "[[inputs.mqtt_hardware]]\ntopics = [\"#\"]\nhardware = [\"load\"]\n%s\n", input)
				if !strings.Contains(input, "listen") {
					text.WriteString("insecure_skip_verify = true\n")
				}
			}
			fmt.Fprintf(&text, "[[outputs.victorialogs]]\nurl = \"https://%s\"\ninsecure_skip_verify = true\nretry_budget = \"100ms\"\n", logs)
			fmt.Fprintf(&text, "[[outputs.victorialogs]]\nurl = \"https://%s\"\ntls_ca = %q\nretry_budget = \"100ms\"\n", plain, certFile)
			fmt.Fprintf(&text, "[[outputs.tcp_exporter]]\nlisten = %q\ntls_cert = %q\ntls_key = %q\n", tcpAddr, certFile, keyFile)
			path := filepath.Join(dir, "telegraf.conf")
			require.NoError(t, os.WriteFile(path, []byte(text.String()), 0o600))
			agent, err := agentproc.Start(agentproc.Options{Path: telegraf(t), Configs: []string{path}})
			require.NoError(t, err)
			t.Cleanup(agent.Kill)

			for who, ended := range map[string]<-chan error{
				"MQTT 3.1.1": brokerEnded, "MQTT 5": broker5Ended, "websocket": webEnded, "VictoriaLogs": logsEnded, "with tls_ca": plainEnded,
			} {
				select {
				case err := <-ended:
					require.Equal(t, works, err == nil, "%s: %v", who, err)
					if !works {
						require.ErrorContains(t, err, "version", who)
					}
				case <-time.After(patience):
					require.Fail(t, "nobody came", "%s\n%s", who, agent.Log())
				}
			}
			for who, addr := range map[string]string{"listen": mqttAddr, "tcp_exporter": tcpAddr} {
				require.Eventually(t, func() bool {
					conn, err := net.Dial("tcp", addr)
					if err == nil {
						_ = conn.Close()
					}
					return err == nil
				}, patience, 20*time.Millisecond, "%s\n%s", who, agent.Log())
				conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: version})
				require.Equal(t, works, err == nil, "%s: %v", who, err)
				if works {
					require.NoError(t, conn.Close())
				} else {
					require.ErrorContains(t, err, "protocol version", who)
				}
			}
			require.NoError(t, agent.Stop(within(t, patience)))
		})
	}
}

// What an option says about where to listen is, by default, nothing or this machine alone.
func TestSamplesListenHere(t *testing.T) {
	t.Parallel()
	samples, err := filepath.Glob("../../*/*/sample.conf")
	require.NoError(t, err)
	found := 0
	for _, path := range append(samples, "../../sample.conf") {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, option := range regexp.MustCompile(`(?m)^[ #]*(listen|\w*_listen|service_address|\w*address) = "(.*)"`).FindAllStringSubmatch(string(text), -1) {
			found++
			if option[2] != "" {
				require.Regexp(t, `^(\$\{\w+:-)?(\w+://)?(127\.0\.0\.1|localhost|\[::1\]):`, option[2], "%s: %s", path, option[1])
			}
		}
	}
	require.GreaterOrEqual(t, found, 3)
}

// An agent with all our plugins as they are listens on nothing but what it is told to, and on this machine alone.
func TestListensHere(t *testing.T) {
	t.Parallel()
	server, mqttAddr, tcpAddr := standIn(t), freeAddr(t), freeAddr(t)
	r := newRig(t, "", server.URL(), "", fmt.Sprintf("[[outputs.tcp_exporter]]\n  listen = %q", tcpAddr))
	text, err := os.ReadFile(r.config)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(r.config, regexp.MustCompile(`servers = .*`).ReplaceAll(text, fmt.Appendf(nil, "listen = \"tcp://%s\"\n  servers = []", mqttAddr)), 0o600))
	r.launch()
	var open []string
	listening := func() []string {
		connections, err := psnet.ConnectionsPid("all", int32(r.agent.PID()))
		require.NoError(t, err)
		open = nil
		for _, c := range connections {
			if c.Status == "LISTEN" || c.Laddr.IP != "" && c.Raddr.IP == "" && c.Status == "NONE" { // of UDP
				open = append(open, net.JoinHostPort(c.Laddr.IP, fmt.Sprint(c.Laddr.Port)))
			}
		}
		return open
	}
	require.Eventually(t, func() bool { return len(listening()) >= 2 }, patience, 50*time.Millisecond)
	require.NoError(t, r.agent.WaitFor(within(t, patience), func(a *agentproc.Agent) bool {
		return a.Self("internal_victorialogs.metrics_delivered") > 0
	}))
	require.ElementsMatch(t, []string{mqttAddr, tcpAddr}, listening())
	r.stop()
}

package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	mochipackets "github.com/mochi-mqtt/server/v2/packets"
	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
)

// rules are a broker's.
type rules struct {
	mochi.HookBase
	filter func(filter string) bool
	qos    byte // that is granted at most
}

func (*rules) ID() string { return "rules" }

func (*rules) Provides(b byte) bool {
	return b == mochi.OnConnectAuthenticate || b == mochi.OnACLCheck || b == mochi.OnSubscribe || b == mochi.OnSessionEstablished
}

func (*rules) OnConnectAuthenticate(*mochi.Client, mochipackets.Packet) bool { return true }

func (r *rules) OnACLCheck(_ *mochi.Client, topic string, write bool) bool {
	return write || r.filter(topic)
}

func (r *rules) OnSubscribe(_ *mochi.Client, p mochipackets.Packet) mochipackets.Packet {
	for i := range p.Filters {
		p.Filters[i].Qos = min(p.Filters[i].Qos, r.qos)
	}
	return p
}

// OnSessionEstablished keeps mochi from a lock that it takes twice, as in the plugin's own broker.
func (*rules) OnSessionEstablished(c *mochi.Client, _ mochipackets.Packet) {
	c.State.Inflight.ResetSendQuota(0)
}

func ruled(t *testing.T, r *rules, more ...listeners.Listener) (url string) {
	t.Helper()
	server := mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, server.AddHook(r, nil))
	plain := listeners.NewTCP(listeners.Config{ID: "plain", Address: "127.0.0.1:0"})
	for _, l := range append(more, plain) {
		require.NoError(t, server.AddListener(l))
	}
	require.NoError(t, server.Serve())
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	return "tcp://" + plain.Address()
}

func all(string) bool { return true }

func oneTopic(servers ...string) string {
	return fmt.Sprintf("[[inputs.mqtt_hardware]]\nservers = [\"%s\"]\ntopics = [\"a/#\"]\n", strings.Join(servers, `", "`))
}

// nobody listens at the address that it returns.
func nobody(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return l.Addr().String()
}

func TestBrokerFaults(t *testing.T) {
	secure := listeners.NewTCP(listeners.Config{ID: "secure", Address: "127.0.0.1:0", TLSConfig: selfSigned(t)})
	certain := selfSigned(t)
	certain.ClientAuth = tls.RequireAnyClientCert
	mutual := listeners.NewTCP(listeners.Config{ID: "mutual", Address: "127.0.0.1:0", TLSConfig: certain})
	plain := ruled(t, &rules{filter: all, qos: 2}, secure, mutual)
	quiet, err := net.Listen("tcp", "127.0.0.1:0") // takes connections in, and says nothing
	require.NoError(t, err)
	t.Cleanup(func() { _ = quiet.Close() })

	for name, c := range map[string]struct {
		config     string
		step, text string
		todo       string
	}{
		"away":      {input("tcp://" + nobody(t)), "broker", "connection refused", "start it, or correct the host and port in servers"},
		"no name":   {input("tcp://broker.invalid:1883"), "broker", "broker.invalid", "correct the host in servers"},
		"no TLS":    {input("ssl://" + plain[len("tcp://"):]), "broker", "TLS handshake", "speaks what the scheme in servers says"},
		"needs TLS": {input("tcp://" + secure.Address()), "broker", "connected, and cannot log in without credentials", "a port for TLS needs ssl://"},
		"authority": {input("ssl://" + secure.Address()), "broker", "unknown authority", "set tls_ca"},
		"no certificate": {
			input("ssl://"+mutual.Address(), "insecure_skip_verify = true"), "broker", "certificate required", "set tls_cert and tls_key",
		},
		"no certificate, 5": {
			input("ssl://"+mutual.Address(), "insecure_skip_verify = true", `protocol = "5"`), "broker", "certificate required", "set tls_cert and tls_key",
		},
		"silent":      {input("tcp://" + quiet.Addr().String()), "broker", "no answer in time", "see the broker's log"},
		"refused":     {input(ruled(t, &rules{filter: func(f string) bool { return f != "b/+" }, qos: 2})), "subscribe", `refuses "b/+" with code 0x80`, "the right to subscribe"},
		"refused, 5":  {input(ruled(t, &rules{filter: func(f string) bool { return f != "b/+" }, qos: 2}), `protocol = "5"`), "subscribe", `with code 0x87 (Not authorized)`, "the right to subscribe"},
		"lesser QoS":  {oneTopic(ruled(t, &rules{filter: all, qos: 0})), "subscribe", `grants QoS 0 instead of 1 for "a/#"`, "or set qos = 0"},
		"one is away": {oneTopic(plain, "tcp://"+nobody(t)), "broker", "connection refused", "start it"},
	} {
		t.Run(name, func(t *testing.T) {
			got := command(t, "--json", "--timeout", "2s", "--config", file(t, c.config))
			got.failed(c.step, c.text, c.todo)
		})
	}
	t.Run("insecure, and all is well", func(t *testing.T) {
		require.Zero(t, checked(t, input("ssl://"+secure.Address(), "insecure_skip_verify = true")).code)
	})
}

// Mosquitto knows who may log in. Its acl_file does not refuse a subscription: what may not be read is left out, which nobody
// can see from here.
func TestMosquittoPasswordsAndRights(t *testing.T) {
	program, err := exec.LookPath("mosquitto_passwd")
	if err != nil {
		t.Skip("mosquitto_passwd is not installed")
	}
	dir := t.TempDir()
	passwords, rights := filepath.Join(dir, "passwords"), filepath.Join(dir, "rights")
	require.NoError(t, exec.Command(program, "-b", "-c", passwords, "me", sesame).Run())
	require.NoError(t, os.WriteFile(rights, []byte("user me\ntopic read a/#\n"), 0o600))
	m := testbroker.StartMosquitto(t, testbroker.MosquittoOptions{Dir: t.TempDir(), Lines: []string{
		"password_file " + passwords, "acl_file " + rights,
	}})
	for _, protocol := range []string{`protocol = "3.1.1"`, `protocol = "5"`} {
		got := checked(t, input(m.URL(), credentials, protocol))
		require.Zero(t, got.code, got.out)
		require.Contains(t, got.step("broker").Text, "logged in with username and password")
		require.Contains(t, got.step("subscribe").Text, `granted "a/#", "b/+"`)

		got = checked(t, input(m.URL(), "username = \"me\"\npassword = \"wrong\"", protocol))
		got.failed("broker", "with username and password", "set username and password to what the broker knows")
	}
}

func TestListen(t *testing.T) {
	address := nobody(t)
	embedded := func(address string) string {
		return "[[inputs.mqtt_hardware]]\nlisten = \"tcp://" + address + "\"\ntopics = [\"a/#\"]\n[[outputs.tcp_exporter]]\nlisten = \"" + nobody(t) + "\""
	}
	got := checked(t, embedded(address))
	require.Zero(t, got.code, got.out)
	require.Contains(t, got.steps[1].Text, "is free; no agent listens")
	require.Equal(t, "outputs.tcp_exporter", got.steps[3].Plugin)
	require.Contains(t, got.steps[3].Text, "is free; no agent listens")

	plain := ruled(t, &rules{filter: all})[len("tcp://"):]
	got = checked(t, embedded(plain))
	require.Zero(t, got.code, got.out)
	require.Contains(t, got.steps[1].Text, "a broker answers")

	other, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = other.Close() })
	got = command(t, "--json", "--timeout", "1s", "--config", file(t, embedded(other.Addr().String())))
	got.failed("listen", "no answer in time", "name an address of this machine in listen")
	got = checked(t, "[[outputs.tcp_exporter]]\nlisten = \""+other.Addr().String()+"\"")
	require.Contains(t, got.step("listen").Text, "something listens")
	checked(t, "[[outputs.tcp_exporter]]\nlisten = \"192.0.2.1:5000\"").failed("listen", "192.0.2.1:5000", "name an address of this machine")
}

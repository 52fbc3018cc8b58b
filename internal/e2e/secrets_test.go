package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"

	"github.com/edgetide/telegraf-victorialogs/internal/agentproc"
)

// heard is what servers were sent, so that a test knows that the secrets were used.
type heard struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (h *heard) add(text []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.text.Write(text)
}

func (h *heard) has(text string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return bytes.Contains(h.text.Bytes(), []byte(text))
}

// answering is a server that answers each request so, whatever it is.
func answering(t *testing.T, h *heard, code int) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.add(fmt.Appendf(nil, "%v\n", r.Header))
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Location", "/elsewhere")
		http.Error(w, "this is the server's answer", code)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// saying is a server that reads once from each connection, answers so, and closes it.
func saying(t *testing.T, h *heard, answer ...byte) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			buffer := make([]byte, 4<<10)
			_ = conn.SetDeadline(time.Now().Add(patience))
			n, _ := conn.Read(buffer)
			h.add(buffer[:n])
			_, _ = conn.Write(answer)
			_ = conn.Close()
		}
	})
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		serving.Wait()
	})
	return l.Addr().String()
}

// No secret is in what the agent writes, whatever fails: not in its log with all there is to log, not in the dead letters,
// not in the self-metrics, not in what bin/dlq prints.
func TestNoSecretIsTold(t *testing.T) {
	t.Parallel()
	h := new(heard)
	// Each is one word, so that no form of it is changed on the way.
	secrets := make(map[string]string) // the first of each kind
	var all []string
	secret := func(of string) string {
		text := fmt.Sprintf("s3cr3t-%s-%d", of, len(all))
		all = append(all, text)
		if secrets[of] == "" {
			secrets[of] = text
		}
		return text
	}
	config, written := t.TempDir(), t.TempDir()
	hash, err := bcrypt.GenerateFromPassword([]byte(secret("device-hashed")), bcrypt.MinCost)
	require.NoError(t, err)
	all = append(all, string(hash))
	users := filepath.Join(config, "users")
	require.NoError(t, os.WriteFile(users, fmt.Appendf(nil, "garden:%s\n", hash), 0o600))

	refused := string([]byte{0x20, 2, 0, 5}) // CONNACK: not authorized
	refused5 := string([]byte{0x20, 3, 0, 0x87, 0})
	listen := freeAddr(t)
	var text strings.Builder
	fmt.Fprintf(&text, `
[agent]
  interval = "200ms"
  flush_interval = "200ms"
  hostname = "edge"
  debug = true
  logfile = %q
  skip_processors_after_aggregators = true
[[inputs.internal]]
[[outputs.file]]
  files = [%q]
  namepass = ["internal_*"]
[[inputs.mqtt_hardware]]
  servers = []
  topics = ["#"]
  hardware = ["load", "memory"]
  listen = "tcp://%s"
  listen_users = %q
  listen_passwords = {"kitchen" = %q}
  client_trace = true
`, filepath.Join(written, "log"), filepath.Join(written, "self-metrics"), listen, users, secret("device"))
	for _, broker := range []struct{ protocol, server string }{
		{"3.1.1", "tcp://" + saying(t, h, []byte(refused)...)},
		{"5", "tcp://" + saying(t, h, []byte(refused5)...)},
		{"3.1.1", "tcp://" + saying(t, h)},
		{"5", "ws://" + strings.TrimPrefix(answering(t, h, http.StatusForbidden), "http://")},
		{"3.1.1", "ws://broker.invalid:80"}, // through the proxies
		{"5", "tcp://broker.invalid:1883"},
		{"3.1.1", "ssl://127.0.0.1:1"},
	} {
		fmt.Fprintf(&text, `
[[inputs.mqtt_hardware]]
  servers = [%q]
  topics = ["#"]
  hardware = []
  protocol = %q
  username = "edge"
  password = %q
  client_trace = true
`, broker.server, broker.protocol, secret("mqtt"))
	}
	proxy := func() string { return "http://edge:" + secret("proxy") + "@" }
	for _, options := range []string{
		fmt.Sprintf("url = %q\nusername = \"edge\"\npassword = %q", answering(t, h, http.StatusUnauthorized), secret("password")),
		fmt.Sprintf("url = %q\nbearer_token = %q", answering(t, h, http.StatusServiceUnavailable), secret("token")),
		fmt.Sprintf("url = %q\nheaders = {\"X-Key\" = %q}", answering(t, h, http.StatusFound), secret("header")),
		fmt.Sprintf("url = %q\nheaders = {\"Authorization\" = \"Bearer %s\"}", answering(t, h, http.StatusBadRequest), secret("authorization")),
		fmt.Sprintf("url = \"http://127.0.0.1:1\"\nbearer_token = %q", secret("unsent")),
		fmt.Sprintf("url = \"http://logs.invalid\"\nhttp_proxy_url = %q", proxy()+strings.TrimPrefix(answering(t, h, http.StatusProxyAuthRequired), "http://")),
		fmt.Sprintf("url = \"https://logs.invalid\"\nhttp_proxy_url = %q", proxy()+strings.TrimPrefix(answering(t, h, http.StatusProxyAuthRequired), "http://")),
		fmt.Sprintf("url = \"http://logs.invalid\"\nhttp_proxy_url = %q", proxy()+"127.0.0.1:1"),
		fmt.Sprintf("url = \"http://logs.invalid\"\nhttp_proxy_url = \"socks5://edge:%s@%s\"", secret("socks"), saying(t, h, 5, 0xff)),
		"url = \"http://logs.invalid\"\nuse_system_proxy = true",
		"url = \"https://logs.invalid\"\nuse_system_proxy = true",
	} {
		dir := filepath.Join(written, fmt.Sprintf("dlq%d", text.Len()))
		fmt.Fprintf(&text, "\n[[outputs.victorialogs]]\n%s\nnamedrop = [\"internal_*\"]\ncontent_encoding = \"identity\"\n"+
			"retry_budget = \"300ms\"\nmax_batch_size = \"4KiB\"\n[outputs.victorialogs.dlq]\ndirectory = %q\nflush_interval = \"100ms\"\n", options, dir)
	}
	path := filepath.Join(config, "telegraf.conf")
	require.NoError(t, os.WriteFile(path, []byte(text.String()), 0o600))

	for name, env := range map[string][]string{
		"proxies": {
			"HTTP_PROXY=" + proxy() + strings.TrimPrefix(answering(t, h, http.StatusProxyAuthRequired), "http://"),
			"HTTPS_PROXY=" + proxy() + "127.0.0.1:1",
			"ALL_PROXY=socks5://edge:" + secret("socks-environment") + "@" + saying(t, h, 5, 2),
			"NO_PROXY=127.0.0.1",
		},
		"broken proxies": {
			"HTTP_PROXY=http://edge:" + secret("broken") + "%zz@127.0.0.1:1",
			"HTTPS_PROXY=" + secret("broken2") + ":" + secret("broken3") + "@:x",
			"ALL_PROXY=socks5://edge:" + secret("broken4") + "%zz@127.0.0.1:1",
			"NO_PROXY=127.0.0.1",
		},
	} {
		agent, err := agentproc.Start(agentproc.Options{Path: telegraf(t), Configs: []string{path}, Env: env})
		require.NoError(t, err)
		t.Cleanup(agent.Kill)
		logged := func() string {
			log, _ := os.ReadFile(filepath.Join(written, "log")) // which is not there at once
			return string(log)
		}
		require.Eventually(t, func() bool {
			conn, err := net.Dial("tcp", listen)
			if err == nil {
				_ = conn.Close()
			}
			return err == nil
		}, patience, 50*time.Millisecond, name)
		for _, login := range []struct{ user, password string }{
			{"kitchen", secrets["device"]}, {"garden", secrets["device-hashed"]}, {"kitchen", secret("guess")}, {"nobody", secret("guess2")},
		} {
			client := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + listen).SetAutoReconnect(false).
				SetUsername(login.user).SetPassword(login.password))
			token := client.Connect()
			require.True(t, token.WaitTimeout(patience))
			require.Equal(t, strings.HasPrefix(login.password, "s3cr3t-guess"), token.Error() != nil, login.user)
			if token.Error() == nil {
				require.True(t, client.Publish("e2e/device", 1, false, "the door is open").WaitTimeout(patience))
				client.Disconnect(0)
			}
		}
		require.Eventually(t, func() bool {
			return len(regexp.MustCompile(`[WE]! .* takes no batches`).FindAllString(logged(), -1)) == 11 &&
				len(regexp.MustCompile(`[WE]! .* (cannot connect to|the broker refused)`).FindAllString(logged(), -1)) == 7
		}, patience, 100*time.Millisecond, name)
		require.NoError(t, agent.Stop(within(t, patience)))
		require.NoError(t, os.WriteFile(filepath.Join(written, "stderr "+name), []byte(agent.Log()), 0o600))
		require.NoError(t, os.Rename(filepath.Join(written, "log"), filepath.Join(written, "log "+name)))
	}

	// They were used.
	basic := func(secret string) string { return base64.StdEncoding.EncodeToString([]byte("edge:" + secret)) }
	for _, sent := range []string{
		secrets["mqtt"], basic(secrets["password"]), "Bearer " + secrets["token"], secrets["header"], "Bearer " + secrets["authorization"], basic(secrets["proxy"]),
	} {
		require.True(t, h.has(sent), "%q was not used", sent)
	}

	directories, err := filepath.Glob(filepath.Join(written, "dlq*"))
	require.NoError(t, err)
	require.Len(t, directories, 11)
	for i, dir := range directories {
		letters := dlqCommand(t, "cat", dir)
		require.Contains(t, letters, "the door is open")
		listed := dlqCommand(t, "ls", dir, "--json") + dlqCommand(t, "cat", dir, "--json") + letters
		require.NoError(t, os.WriteFile(filepath.Join(written, fmt.Sprint("printed", i)), []byte(listed), 0o600))
	}
	files, metrics := 0, 0
	require.NoError(t, filepath.WalkDir(written, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if strings.HasPrefix(path, filepath.Join(written, "dlq")) {
			info, err := entry.Info()
			require.NoError(t, err)
			require.Zero(t, info.Mode().Perm()&0o077, "%s: dead letters hold payloads, and are for their owner alone", path)
		}
		if entry.IsDir() {
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		metrics += bytes.Count(content, []byte("internal_victorialogs"))
		for _, secret := range all {
			for _, form := range []string{
				secret, base64.StdEncoding.EncodeToString([]byte(secret)), basic(secret), url.QueryEscape(secret), // what %v makes of bytes:
				strings.Trim(fmt.Sprintf("%d", []byte(secret)), "[]"), hex.EncodeToString([]byte(secret)),
			} {
				if at := bytes.Index(content, []byte(form)); at >= 0 {
					t.Errorf("%s is in %s: %q", secret, filepath.Base(path), content[max(0, at-200):min(len(content), at+100)])
				}
			}
		}
		return nil
	}))
	require.Greater(t, files, 3*11)
	require.Positive(t, metrics)
	t.Logf("%d secrets, %d files", len(all), files)
}

package packaging

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
)

// What these tests need is made by make dist-test: a deb, the same with a higher version, and a small Debian.
const (
	debDir    = "../.build/dist/debs" // first.deb and second.deb
	debianDir = "../.build/dist/debian"
)

// root is a Debian of its own, to be thrown away.
type root struct {
	t   *testing.T
	dir string
}

func newRoot(t *testing.T) root {
	t.Helper()
	if os.Getenv("DIST_TEST") == "" {
		t.Skip("make dist-test runs this")
	}
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		t.Skip("a scratch root needs Linux and its root")
	}
	if _, err := os.Stat(debianDir); err != nil {
		t.Skip("there is no scratch root: debootstrap is not installed or failed")
	}
	r := root{t, filepath.Join(t.TempDir(), "root")}
	out, err := exec.CommandContext(t.Context(), "cp", "-a", debianDir, r.dir).CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, name := range []string{"first.deb", "second.deb"} {
		out, err = exec.CommandContext(t.Context(), "cp", filepath.Join(debDir, name), r.dir).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	return r
}

// command runs in the root, with process numbers and a /proc of its own, so that nothing outlives it.
func (r root) command(ctx context.Context, words ...string) *exec.Cmd {
	inside := `mount -t proc proc "$0/proc" && exec chroot "$0" "$@"`
	cmd := exec.CommandContext(ctx, "unshare", append([]string{
		"--mount", "--pid", "--fork", "--kill-child", "sh", "-c", inside, r.dir,
	}, words...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"}
	return cmd
}

func (r root) run(words ...string) string {
	r.t.Helper()
	out, err := r.command(r.t.Context(), words...).CombinedOutput()
	require.NoError(r.t, err, "%q: %s", words, out)
	return string(out)
}

func (r root) path(name string) string { return filepath.Join(r.dir, name) }

func (r root) write(name, content string) {
	r.t.Helper()
	require.NoError(r.t, os.WriteFile(r.path(name), []byte(content), 0o600)) // what is there keeps its mode and owner
}

func (r root) read(name string) string {
	r.t.Helper()
	content, err := os.ReadFile(r.path(name))
	require.NoError(r.t, err)
	return string(content)
}

// stat is mode, owner and group as the root's own stat prints them.
func (r root) stat(name string) string {
	r.t.Helper()
	return strings.TrimSpace(r.run("stat", "-c", "%a %U %G", name))
}

// files are all that the root has, without what dpkg, its logs and the password file do to themselves.
func (r root) files() []string {
	r.t.Helper()
	own := []string{
		"/var/lib/dpkg/", "/var/cache/debconf/", "/var/log/", "/proc/", "/run/",
		"/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/subuid", "/etc/subgid", "/etc/.pwd.lock",
	}
	var names []string
	err := filepath.WalkDir(r.dir, func(path string, _ fs.DirEntry, err error) error {
		name := strings.TrimPrefix(path, r.dir)
		if err == nil && !slices.ContainsFunc(own, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			names = append(names, name)
		}
		return err
	})
	require.NoError(r.t, err)
	slices.Sort(names)
	return names
}

// added are the files that were not there before.
func (r root) added(before []string) []string {
	r.t.Helper()
	return slices.DeleteFunc(r.files(), func(name string) bool {
		_, there := slices.BinarySearch(before, name)
		return there
	})
}

// start runs the service as its unit says: user, environment, directories, command line. stop ends it and returns its
// log.
func (r root) start() (stop func() string) {
	r.t.Helper()
	u := readUnit(r.t, r.path("/usr/lib/systemd/system/"+unitFile))
	environment := map[string]string{}
	for _, line := range append(u["Environment"], strings.Split(r.read(etc+"/environment"), "\n")...) {
		if name, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			environment[name] = value
		}
	}
	for name := range strings.FieldsSeq(u["StateDirectory"][0]) {
		r.run("install", "-d", "-m", u["StateDirectoryMode"][0], "-o", u["User"][0], "-g", u["Group"][0], "/var/lib/"+name)
	}
	words := []string{
		"setpriv", "--reuid=" + u["User"][0], "--regid=" + u["Group"][0], "--init-groups", "--no-new-privs",
		"--bounding-set=-all", "env",
	}
	for name, value := range environment {
		words = append(words, name+"="+value)
	}
	// The shell passes SIGTERM on: what has process number 1 gets no signal that it does not handle.
	words = append(words, u.command(environment)...)
	var log bytes.Buffer
	cmd := r.command(context.WithoutCancel(r.t.Context()),
		append([]string{"sh", "-c", `trap 'kill -TERM $!' TERM; "$@" & wait $!; wait $!`, "sh"}, words...)...)
	cmd.Stdout, cmd.Stderr = &log, &log
	require.NoError(r.t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return func() string {
		r.t.Helper()
		out, err := exec.CommandContext(r.t.Context(), "pkill", "-TERM", "-P", fmt.Sprint(cmd.Process.Pid)).CombinedOutput()
		require.NoError(r.t, err, "%s", out)
		select {
		case err := <-ended:
			require.NoError(r.t, err, "%s", log.String())
		case <-time.After(time.Minute):
			require.NoError(r.t, cmd.Process.Kill())
			<-ended
			r.t.Fatalf("it did not end: %s", log.String())
		}
		return log.String()
	}
}

// The deb is installed, runs as its unit says, is upgraded, and is removed and purged, with dpkg in a scratch root.
func TestDeb(t *testing.T) {
	r := newRoot(t)
	before := r.files()
	server, err := vlreceiver.Start(vlreceiver.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })

	require.Contains(t, r.run("dpkg", "-i", "/first.deb"), "is installed and not started yet")
	t.Log("installed:", strings.Join(r.added(before), "\n"))
	for path, want := range map[string]string{
		etc + "/telegraf.conf": "640 root " + user,
		etc + "/environment":   "640 root " + user,
		etc + "/telegraf.d":    "750 root " + user,
		program:                "755 root root",
	} {
		require.Equal(t, want, r.stat(path), path)
	}
	require.Contains(t, r.run("getent", "passwd", user), state+":/usr/sbin/nologin")
	require.Contains(t, r.run("telegraf-victorialogs", "--version"), "Telegraf 1.37.2")

	// An edited configuration; and the service, which reads it.
	edited := "MQTT_URL=\nMQTT_LISTEN=tcp://127.0.0.1:0\nVICTORIALOGS_URL=" + server.URL() + "\nTELEGRAF_OPTS=--debug\n"
	r.write(etc+"/environment", edited)
	configuration := r.read(etc+"/telegraf.conf") + "\n# edited\n"
	r.write(etc+"/telegraf.conf", configuration)
	stop := r.start()
	require.Eventually(t, func() bool { return server.Count(vlreceiver.Tenant{}) > 0 }, time.Minute, 100*time.Millisecond)
	log := stop()
	require.Contains(t, log, "Closed. Metrics: ")
	require.Contains(t, log, " 0 dropped + 0 in memory")

	// Upgraded over itself, and to a higher version.
	for _, deb := range []string{"/first.deb", "/second.deb"} {
		out := r.run("dpkg", "-i", deb)
		require.NotContains(t, out, "not started yet")
		require.Equal(t, edited, r.read(etc+"/environment"))
		require.Equal(t, configuration, r.read(etc+"/telegraf.conf"))
		require.Equal(t, "640 root "+user, r.stat(etc+"/environment"))
	}
	require.Contains(t, r.run("dpkg", "-s", "telegraf-victorialogs"), "Version: 9.9.9-1")

	// The server is away, and what was sampled goes to the disk, for nobody else to read.
	r.write(etc+"/environment", strings.Replace(edited, server.URL(), "http://127.0.0.1:1", 1))
	stop = r.start()
	dumped := func() []string {
		found, err := filepath.Glob(r.path(state + "/dead-letters/*"))
		require.NoError(t, err)
		return slices.DeleteFunc(found, func(path string) bool { return filepath.Ext(path) != ".dump" })
	}
	require.Eventually(t, func() bool { return len(dumped()) > 0 }, time.Minute, 100*time.Millisecond)
	stop()
	require.Equal(t, "700 "+user+" "+user, r.stat(state))
	require.Equal(t, "700 "+user+" "+user, r.stat(state+"/dead-letters"))
	for _, path := range dumped() {
		require.Equal(t, "600 "+user+" "+user, r.stat(strings.TrimPrefix(path, r.dir)))
	}
	require.Contains(t, r.run("dlq", "cat", state+"/dead-letters", "--limit", "1"), "hardware_")

	// Removed: configuration and data stay, and nothing else.
	r.run("dpkg", "-r", "telegraf-victorialogs")
	left := r.added(before)
	t.Log("left after removal:", strings.Join(left, "\n"))
	for _, name := range left {
		require.True(t, strings.HasPrefix(name, etc) || strings.HasPrefix(name, state) || name == "/first.deb", name)
	}
	require.Equal(t, configuration, r.read(etc+"/telegraf.conf"))
	require.NotEmpty(t, dumped())

	// Purged: the configuration goes, what was not delivered stays and is named.
	out := r.run("dpkg", "-P", "telegraf-victorialogs")
	require.Contains(t, out, state+" has data that was not delivered, and stays")
	left = r.added(before)
	t.Log("left after purge with dead letters:", strings.Join(left, "\n"))
	for _, name := range left {
		require.True(t, strings.HasPrefix(name, state), name)
	}
	require.NotEmpty(t, dumped())

	// Installed again, it delivers them.
	r.run("dpkg", "-i", "/second.deb")
	r.write(etc+"/environment", edited)
	rows := server.Count(vlreceiver.Tenant{})
	stop = r.start()
	require.Eventually(t, func() bool { return server.Count(vlreceiver.Tenant{}) > rows && len(dumped()) == 0 }, time.Minute,
		100*time.Millisecond)
	stop()
	require.NotContains(t, r.run("dpkg", "-P", "telegraf-victorialogs"), "not delivered")
	require.Empty(t, r.added(before), "left after purge without dead letters")
	require.Contains(t, r.run("getent", "passwd", user), user, "the user stays")
}

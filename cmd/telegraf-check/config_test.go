package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
)

// What is not ours is said and passed over, whatever stands in it.
func TestPluginsOfOthers(t *testing.T) {
	r := receiver(t, vlreceiver.Config{})
	t.Setenv("RECEIVER", r.URL())
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.conf"), []byte(`
[agent]
  interval = "10s"
[[processors.starlark]]
  # it's '''
  source = '''
[[outputs.victorialogs]]
def apply(metric):
  x = [
[1],
  ]
'''
  [processors.starlark.constants]
    a = 1
[[inputs.cpu]]
  nonsense = 1
[[aggregators.minmax]] # a comment
  period = "1s"
[[secretstores.vault]]
  id = "v"
[[outputs.file]]
  files = ["/nowhere"]
`), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "b.conf"), []byte(output("${RECEIVER}")), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "c.txt"), []byte("nonsense"), 0o600))
	got := command(t, "--json", "--config-directory", dir, "--config", file(t, "[[inputs.mqtt_hardware]]\nhardware = [\"memory\"]\n"))
	require.Zero(t, got.code, got.out+got.err)
	require.Contains(t, got.step("configuration").Text,
		"inputs.mqtt_hardware, outputs.victorialogs; not checked, since not ours: aggregators.minmax, inputs.cpu, outputs.file, processors.starlark, secretstores.vault")
	require.Equal(t, ok, got.step("read").Status)
	require.Equal(t, skipped, got.step("broker").Status)
}

func TestConfigurationFaults(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		config     string
		step, text string
		todo       string
	}{
		"unknown key":      {output("http://127.0.0.1:1", "nonsense = 1"), "configuration", `["nonsense"]`, "sample.conf"},
		"syntax":           {"[[outputs.victorialogs]]\nurl = \n", "configuration", "line 3: invalid TOML", "correct the file"},
		"wrong type":       {output("http://127.0.0.1:1", "password = [\""+sesame+"\"]"), "configuration", "Password", "correct the file"},
		"wrong format":     {input("tcp://127.0.0.1:1", `data_format = "parquet"`), "configuration", "parser not found", "correct data_format"},
		"option":           {output("ftp://127.0.0.1:1"), "options", "url = \"ftp://127.0.0.1:1\"", "the agent does not start with it"},
		"password in URL":  {output("http://me:" + sesame + "@127.0.0.1:1"), "options", "must not hold credentials", "correct the option"},
		"tenant":           {output("http://127.0.0.1:1", "account_id = 4294967296"), "options", "must be from 0 to 4294967295", "correct the option"},
		"TLS file":         {output("http://127.0.0.1:1", `tls_ca = "/nowhere/ca.pem"`), "configuration", "tls_ca = \"/nowhere/ca.pem\"", "correct the file"},
		"shared directory": {output("http://127.0.0.1:1", deadLetters(dir)) + output("http://127.0.0.1:2", deadLetters(dir+"/")), "configuration", "outputs.victorialogs #2: dlq: directory", "correct the file"},
		"shared client id": {input("tcp://127.0.0.1:1", `client_id = "x"`) + input("tcp://127.0.0.1:1", `client_id = "x"`), "configuration", `client_id = "x" is that of inputs.mqtt_hardware at the same broker`, "correct the file"},
	} {
		t.Run(name, func(t *testing.T) { checked(t, c.config).failed(c.step, c.text, c.todo) })
	}
}

func TestSecrets(t *testing.T) {
	r := receiver(t, vlreceiver.Config{Auth: vlreceiver.Auth{Bearer: sesame}})
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "token"), []byte(sesame), 0o600))
	store := "[[secretstores.docker]]\nid = \"files\"\npath = \"" + dir + "\"\n"
	token := func(reference string) string { return output(r.URL(), `bearer_token = "@{`+reference+`}"`) }

	got := checked(t, store+token("files:token"))
	require.Zero(t, got.code, got.out+got.err)
	require.Contains(t, got.step("write").Text, "bearer_token")

	// Telegraf keeps each reference for the life of the process, to link it again.
	for name, c := range map[string]struct{ config, text, todo string }{
		"missing":         {store + token("files:other"), "files:other", "secret"},
		"no such store":   {token("nowhere:token"), `unknown secret-store for "@{nowhere:token}"`, "configure the secret store"},
		"store of others": {"[[secretstores.vault]]\nid = \"v\"\n" + token("v:token"), `unknown secret-store for "@{v:token}"`, "secretstores.vault, which is not in telegraf-check"},
	} {
		t.Run(name, func(t *testing.T) {
			got := process(t, "--json", "--config", file(t, c.config))
			name := "configuration"
			if len(got.steps) > 1 {
				name = "write"
			}
			got.failed(name, c.text, c.todo)
		})
	}
}

// Who runs this without the agent's environment is told so, and not that the password is wrong.
func TestUnsetVariables(t *testing.T) {
	t.Setenv("IS_SET", "")
	r := receiver(t, vlreceiver.Config{})
	got := checked(t, "# ${OF_A_COMMENT}\n[[inputs.exec]]\ncommands = [\"echo ${OF_A_SHELL}\"]\n[[processors.regex]]\nx = \"${OF_OTHERS}\"\n"+
		output(r.URL(), `bearer_token = "a#${NOT_SET}" # ${OF_A_COMMENT}`, `extra_fields = {"a" = "${IS_SET}${1}${HAS:-default}$${ESCAPED}"}`))
	got.failed("environment", "NOT_SET is not set, and ${NOT_SET} in ", "run this with the agent's environment")
	require.Equal(t, ok, got.step("read").Status, "the rest is checked all the same")
}

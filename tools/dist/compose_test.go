package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/stretchr/testify/require"
)

// compose.yaml is what the Compose specification allows, and shuts our container in. It is not run here: that needs an
// engine.
func TestCompose(t *testing.T) {
	options, err := cli.NewProjectOptions([]string{filepath.Join("..", "..", "compose.yaml")})
	require.NoError(t, err)
	project, err := options.LoadProject(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"mosquitto", "telegraf", "victorialogs"}, project.ServiceNames())

	telegraf, err := project.GetService("telegraf")
	require.NoError(t, err)
	require.True(t, telegraf.ReadOnly)
	require.Equal(t, []string{"ALL"}, telegraf.CapDrop)
	require.Equal(t, []string{"no-new-privileges:true"}, telegraf.SecurityOpt)
	configuration, err := os.ReadFile(filepath.Join("..", "..", "sample.conf"))
	require.NoError(t, err)
	for name := range telegraf.Environment {
		require.Contains(t, string(configuration), "${"+name+":-", "the configuration reads it")
	}
	for _, service := range project.Services {
		for _, port := range service.Ports {
			require.Equal(t, "127.0.0.1", port.HostIP, service.Name)
		}
	}
}

// The Dockerfile copies what there is, ends as an ordinary user, and its command line names the file that it brings.
func TestDockerfile(t *testing.T) {
	content, err := os.ReadFile(filepath.Join("..", "..", "Dockerfile"))
	require.NoError(t, err)
	text := string(content)
	last := text[strings.LastIndex(text, "\nFROM "):]
	require.Contains(t, last, "FROM gcr.io/distroless/static-")
	require.Contains(t, last, "\nUSER 65532:65532\n")

	makefile, err := os.ReadFile(filepath.Join("..", "..", "packaging", "dist.mk"))
	require.NoError(t, err)
	target := regexp.MustCompile(`RUN make (\S+) `).FindStringSubmatch(text)
	require.NotNil(t, target)
	require.Contains(t, string(makefile), "\n"+target[1]+":")

	// What is linked in may be given away with its licences alone, in images as in archives.
	papers := regexp.MustCompile(`-bin (\S+) \\\n\t-papers -out (\S+)\n`).FindStringSubmatch(text)
	require.NotNil(t, papers)
	require.Contains(t, text, "DIST_BIN="+papers[1]+"\n")
	require.Equal(t, "/root-fs/usr/share/doc/telegraf-victorialogs", papers[2])

	for _, path := range regexp.MustCompile(`sample\.conf|LICENSE|README\.md`).FindAllString(text, -1) {
		require.FileExists(t, filepath.Join("..", "..", path))
	}
	configuration := regexp.MustCompile(`"--config", "([^"]+)"`).FindStringSubmatch(last)
	require.NotNil(t, configuration)
	require.Contains(t, text, "sample.conf /root-fs"+configuration[1])
}

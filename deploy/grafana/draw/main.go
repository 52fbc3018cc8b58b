// Command draw makes docs/pictures/dashboard.png, where there is no Grafana: it runs bin/telegraf between devices and a server
// that goes away for a while, scrapes it, has Prometheus's engine evaluate each panel of dashboard.json over that run, and
// draws what comes out as a page, which chromium turns into a picture. Only what the panels need is drawn: time series, a
// stat, rows, units and legends.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"image/png"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"time"
)

func main() {
	var o options
	flag.StringVar(&o.telegraf, "telegraf", "bin/telegraf", "the telegraf binary with our plugins")
	flag.StringVar(&o.dashboard, "dashboard", "deploy/grafana/dashboard.json", "the dashboard")
	flag.StringVar(&o.page, "page", ".build/dashboard.html", "the page to write")
	flag.StringVar(&o.picture, "picture", "docs/pictures/dashboard.png", "the picture to write")
	flag.StringVar(&o.browser, "browser", "chromium", "what makes the picture of the page")
	flag.DurationVar(&o.before, "before", time.Minute, "how long the server is there at first")
	flag.DurationVar(&o.outage, "outage", time.Minute, "how long it is away")
	flag.DurationVar(&o.after, "after", 2*time.Minute, "how long it is there again")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		log.Fatalln("draw:", err)
	}
}

type options struct {
	telegraf, dashboard    string
	page, picture, browser string
	before, outage, after  time.Duration
}

func run(ctx context.Context, o options) error {
	d, err := readDashboard(o.dashboard)
	if err != nil {
		return err
	}
	seen, err := record(ctx, o)
	if err != nil {
		return err
	}
	page, width, height, err := draw(ctx, d, seen)
	if err != nil {
		return err
	}
	if err := os.WriteFile(o.page, page, 0o600); err != nil {
		return err
	}
	return photograph(ctx, o, width, height)
}

// photograph has the browser make a picture of the page, with a profile that is new and goes away.
func photograph(ctx context.Context, o options, width, height int) (err error) {
	profile, err := os.MkdirTemp("", "draw")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(profile)) }()
	page, err := filepath.Abs(o.page)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(o.picture), 0o750); err != nil {
		return err
	}
	args := []string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--hide-scrollbars", "--user-data-dir=" + profile,
		fmt.Sprintf("--window-size=%d,%d", width, height), "--screenshot=" + o.picture, "file://" + page,
	}
	out, err := exec.CommandContext(ctx, o.browser, args...).CombinedOutput() //nolint:gosec // whoever calls us says which browser
	if err != nil {
		return fmt.Errorf("%s: %w: %s", o.browser, err, out)
	}
	return squeeze(o.picture)
}

// squeeze writes a picture anew, as small as it can be: browsers are in a hurry.
func squeeze(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	picture, err := png.Decode(bytes.NewReader(content))
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, picture); err != nil {
		return err
	}
	return os.WriteFile(path, out.Bytes(), 0o600)
}

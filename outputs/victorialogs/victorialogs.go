// Package victorialogs is the Telegraf output outputs.victorialogs.
//
// It takes each metric the moment that it leaves the processors (telegraf.AggregatingOutput), encodes it once, straight
// into the open batch, and sends closed batches to VictoriaLogs' /insert/jsonline. A batch closes when no metric came
// for idle_gap, or for ack_gap while it holds a metric that an input waits for (a fifth of it behind a dense burst of them),
// at max_batch_size, at max_batch_age, or when the plugin closes. Without a metric there is no batch and no request.
//
// What it promises: a metric is Accept()ed only after the server answered that it took the metric's batch, or after the batch
// is fsynced in the dead letters, where it waits to be restored. Every retry sends the same bytes. At most max_pending bytes
// are held in memory; past that, if the disk does not take them either, the oldest closed batch is dropped and its metrics
// are Reject()ed, so that their input sends them again. A row that the server would drop silently, or refuses for good, is
// set aside with a reason instead. Every metric ends in exactly one of metrics_delivered, metrics_rejected and
// metrics_dropped, or is pending, or on disk.
//
// What it does not promise: after a connection that broke while a batch was under way, the server may hold it twice,
// since VictoriaLogs does not deduplicate (possibly_doubled counts such batches); and what is pending when the process is
// killed is lost here, and sent again only by inputs that wait for their acknowledgement.
//
// Add and Write may be called concurrently with each other; Add never waits for the network or the disk.
package victorialogs

import (
	"crypto/tls"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/influxdata/telegraf"
	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/plugins/common/proxy"
	telegraftls "github.com/influxdata/telegraf/plugins/common/tls"
	"github.com/influxdata/telegraf/plugins/outputs"
	"github.com/influxdata/telegraf/selfstat"

	"github.com/edgetide/telegraf-victorialogs/internal/deadletter"
	"github.com/edgetide/telegraf-victorialogs/internal/redact"
	"github.com/edgetide/telegraf-victorialogs/internal/tlsconf"
)

//go:embed sample.conf
var sampleConfig string

// VictoriaLogs is the plugin. Its exported fields are its options.
type VictoriaLogs struct {
	URL              string                    `toml:"url"`
	IdleGap          config.Duration           `toml:"idle_gap"`
	AckGap           config.Duration           `toml:"ack_gap"`
	MaxBatchAge      config.Duration           `toml:"max_batch_age"`
	MaxBatchSize     config.Size               `toml:"max_batch_size"`
	ContentEncoding  string                    `toml:"content_encoding"`
	Concurrency      int                       `toml:"concurrency"`
	Timeout          config.Duration           `toml:"timeout"`
	StreamFields     []string                  `toml:"stream_fields"`
	MessageFields    []string                  `toml:"message_fields"`
	MeasurementField string                    `toml:"measurement_field"`
	ExtraFields      map[string]string         `toml:"extra_fields"`
	AccountID        int64                     `toml:"account_id"`
	ProjectID        int64                     `toml:"project_id"`
	Username         config.Secret             `toml:"username"`
	Password         config.Secret             `toml:"password"`
	BearerToken      config.Secret             `toml:"bearer_token"`
	Headers          map[string]*config.Secret `toml:"headers"`
	RetryInitial     config.Duration           `toml:"retry_initial"`
	RetryMax         config.Duration           `toml:"retry_max"`
	RetryBudget      config.Duration           `toml:"retry_budget"`
	MaxPending       config.Size               `toml:"max_pending"`
	MaxAge           config.Duration           `toml:"max_age"`
	MaxFuture        config.Duration           `toml:"max_future"`
	NameOverride     string                    `toml:"name_override"`
	NamePrefix       string                    `toml:"name_prefix"`
	NameSuffix       string                    `toml:"name_suffix"`
	DLQ              DeadLetterOptions         `toml:"dlq"`
	proxy.HTTPProxy
	telegraftls.ClientConfig

	Log        telegraf.Logger     `toml:"-"`
	Statistics *selfstat.Collector `toml:"-"`

	stats    *stats
	delivery *delivery
	buffers  *buffers

	mu       sync.Mutex // guards what follows
	encoder  encoder
	open     *batch              // nil until a metric comes
	gap      *time.Timer         // fires when the open batch may have been quiet for long enough
	closed   bool                // Close was called, or Connect was not
	rejected map[error]time.Time // when a reason was last logged
	stop     chan struct{}
	watching sync.WaitGroup
}

// New returns the plugin with its defaults.
func New() *VictoriaLogs {
	return &VictoriaLogs{
		URL:              "http://127.0.0.1:9428",
		IdleGap:          config.Duration(100 * time.Millisecond),
		AckGap:           config.Duration(5 * time.Millisecond),
		MaxBatchAge:      config.Duration(time.Second),
		MaxBatchSize:     1 << 20,
		ContentEncoding:  "zstd",
		Concurrency:      2,
		Timeout:          config.Duration(15 * time.Second),
		StreamFields:     []string{"host", "measurement"},
		MessageFields:    []string{"message", "msg"},
		MeasurementField: "measurement",
		RetryInitial:     config.Duration(250 * time.Millisecond),
		RetryMax:         config.Duration(30 * time.Second),
		RetryBudget:      config.Duration(3 * time.Second),
		MaxPending:       64 << 20,
		MaxFuture:        config.Duration(48 * time.Hour),
		DLQ:              defaultDeadLetters(),
		closed:           true,
	}
}

func init() {
	outputs.Add("victorialogs", func() telegraf.Output { return New() })
}

// SampleConfig returns the documented configuration.
func (*VictoriaLogs) SampleConfig() string { return sampleConfig }

// TLSConfig is called by Telegraf while it loads the configuration, so that a wrong tls_… option fails there.
func (v *VictoriaLogs) TLSConfig() (*tls.Config, error) { return tlsconf.Client(&v.ClientConfig) }

// Init checks the options and prepares delivery; nothing starts yet.
func (v *VictoriaLogs) Init() error {
	if err := v.check(); err != nil {
		return err
	}
	target, err := v.newTarget()
	if err != nil {
		return err
	}
	encoding, err := newEncoding(v.ContentEncoding)
	if err != nil {
		return err
	}
	if v.Statistics == nil { // hosts other than the agent set none
		v.Statistics = selfstat.NewCollector(nil)
	}
	v.stats = newStats(v.Statistics)
	v.buffers = &buffers{most: 2 * (int(v.MaxBatchSize) + maxLineBytes)}
	v.rejected = make(map[error]time.Time)
	v.encoder = encoder{
		measurementField: v.MeasurementField,
		messageFields:    v.MessageFields,
		maxAge:           time.Duration(v.MaxAge),
		maxFuture:        time.Duration(v.MaxFuture),
		nameOverride:     v.NameOverride,
		namePrefix:       v.NamePrefix,
		nameSuffix:       v.NameSuffix,
	}
	v.encoder.prepare(v.ExtraFields)
	v.delivery = &delivery{
		log:         v.Log,
		stats:       v.stats,
		target:      target,
		encoding:    encoding,
		buffers:     v.buffers,
		concurrency: v.Concurrency,
		timeout:     time.Duration(v.Timeout),
		maxBytes:    int64(v.MaxPending - v.MaxBatchSize), // the rest is for the open batch
		retryFirst:  time.Duration(v.RetryInitial),
		retryMax:    time.Duration(v.RetryMax),
		retryBudget: time.Duration(v.RetryBudget),
		maxAge:      time.Duration(v.MaxAge),
	}
	if v.DLQ.Directory != "" {
		v.delivery.dead = &deadLetters{options: v.DLQ, log: v.Log, stats: v.stats, load: v.load}
	}
	return nil
}

// check finds the first option that cannot work, and says which, and what would.
func (v *VictoriaLogs) check() error {
	for _, d := range []struct {
		key     string
		value   config.Duration
		example string
	}{
		{"idle_gap", v.IdleGap, "100ms"},
		{"ack_gap", v.AckGap, "5ms"},
		{"max_batch_age", v.MaxBatchAge, "1s"},
		{"timeout", v.Timeout, "15s"},
		{"retry_initial", v.RetryInitial, "250ms"},
		{"retry_max", v.RetryMax, "30s"},
		{"retry_budget", v.RetryBudget, "3s"},
	} {
		if d.value <= 0 {
			return fmt.Errorf("%s = %q: must be longer than zero, such as %q", d.key, time.Duration(d.value), d.example)
		}
	}
	for _, d := range []struct {
		key   string
		value config.Duration
	}{{"max_age", v.MaxAge}, {"max_future", v.MaxFuture}} {
		if d.value < 0 {
			return fmt.Errorf(`%s = %q: must be a duration such as "48h", or "0s" for no bound`, d.key, time.Duration(d.value))
		}
	}
	if v.Timeout >= config.Duration(time.Minute) {
		return fmt.Errorf("timeout = %q: must be shorter than 1m, since VictoriaLogs may still take a request that waits "+
			"up to 1m in its queue, and a retry would store it twice; 15s to 30s are good", time.Duration(v.Timeout))
	}
	if v.RetryMax < v.RetryInitial {
		return fmt.Errorf("retry_max = %q: must not be shorter than retry_initial = %q", time.Duration(v.RetryMax),
			time.Duration(v.RetryInitial))
	}
	const leastBatch, mostBatch = 1 << 10, 4 << 20
	if v.MaxBatchSize < leastBatch || v.MaxBatchSize > mostBatch {
		return fmt.Errorf(`max_batch_size = %d: must be from "1KiB" to "4MiB"`, v.MaxBatchSize)
	}
	if v.Concurrency < 1 || v.Concurrency > 64 {
		return fmt.Errorf("concurrency = %d: must be from 1 to 64 requests", v.Concurrency)
	}
	if least := v.MaxBatchSize * config.Size(v.Concurrency+2); v.MaxPending < least {
		return fmt.Errorf("max_pending = %d: must be %d bytes or more, which is max_batch_size for each request in flight "+
			"and two more", v.MaxPending, least)
	}
	for _, t := range []struct {
		key   string
		value int64
	}{{"account_id", v.AccountID}, {"project_id", v.ProjectID}} {
		if t.value < 0 || t.value > 1<<32-1 {
			return fmt.Errorf("%s = %d: must be from 0 to 4294967295", t.key, t.value)
		}
	}
	if err := v.DLQ.check(); err != nil {
		return err
	}
	return v.checkNames()
}

func (v *VictoriaLogs) checkNames() error {
	for _, name := range v.StreamFields {
		if name == "" || len(name) > maxNameBytes || strings.Contains(name, ",") || name == "_time" || name == "_msg" {
			return fmt.Errorf("stream_fields = %q: %q cannot be a stream field; must be names of tags or fields, "+
				"of 1 to %d bytes and without a comma", v.StreamFields, name, maxNameBytes)
		}
	}
	if slices.Contains(v.MessageFields, "") {
		return fmt.Errorf("message_fields = %q: must not hold an empty name", v.MessageFields)
	}
	reserved := []string{"_time", "_msg", "_stream", "_stream_id"}
	if len(v.MeasurementField) > maxNameBytes || slices.Contains(reserved, v.MeasurementField) {
		return fmt.Errorf("measurement_field = %q: must be a name of at most %d bytes that VictoriaLogs does not use "+
			"itself, or empty", v.MeasurementField, maxNameBytes)
	}
	for _, name := range slices.Sorted(maps.Keys(v.ExtraFields)) {
		if name == "" || len(name) > maxNameBytes || name == v.MeasurementField || slices.Contains(reserved, name) {
			return fmt.Errorf("extra_fields: %q cannot be set; must be a name of 1 to %d bytes that is neither "+
				"measurement_field nor used by VictoriaLogs itself", name, maxNameBytes)
		}
	}
	return nil
}

// newTarget makes of the options where requests go.
func (v *VictoriaLogs) newTarget() (*target, error) {
	base, err := parseURL(v.URL)
	switch shown := redact.URL(v.URL); {
	case err != nil:
		return nil, fmt.Errorf(`url = %q: %w; must be a base URL such as "http://127.0.0.1:9428"`, shown, err)
	case base.Scheme != "http" && base.Scheme != "https", base.Host == "", base.Opaque != "":
		return nil, fmt.Errorf(`url = %q: must be a base URL such as "http://127.0.0.1:9428"`, shown)
	case base.User != nil:
		return nil, fmt.Errorf("url = %q: must not hold credentials; set username and password", shown)
	case base.RawQuery != "" || base.Fragment != "":
		return nil, fmt.Errorf("url = %q: must end with the path; tenant, stream and extra fields have options of their own", shown)
	case !isPort(base.Port()):
		return nil, fmt.Errorf("url = %q: %q is no port; must be from 1 to 65535", shown, base.Port())
	case strings.Contains(base.Path, "/insert/"):
		return nil, fmt.Errorf("url = %q: must be the base URL; /insert/jsonline is added", shown)
	}
	route := deadletter.Route{Path: "/insert/jsonline", Encoding: v.ContentEncoding}
	if len(v.StreamFields) > 0 {
		route.Query = url.Values{"_stream_fields": {strings.Join(v.StreamFields, ",")}}.Encode()
	}

	header := http.Header{}
	for _, name := range slices.Sorted(maps.Keys(v.Headers)) {
		canonical := http.CanonicalHeaderKey(name)
		if !httpguts.ValidHeaderFieldName(name) {
			return nil, fmt.Errorf("headers: %q cannot be a header's name; must be letters, digits and dashes", name)
		}
		if strings.HasPrefix(canonical, "Vl-") {
			return nil, fmt.Errorf("headers: %q must not be set; what VictoriaLogs takes from it has options of its own", name)
		}
		switch canonical {
		case "Content-Type", "Content-Encoding", "Content-Length", "Transfer-Encoding", "Host":
			return nil, fmt.Errorf("headers: %q must not be set; without the right one VictoriaLogs answers 200 and "+
				"stores nothing", name)
		case "Accountid", "Projectid":
			return nil, fmt.Errorf("headers: %q must not be set; use account_id and project_id", name)
		case "Authorization":
			if !v.Username.Empty() || !v.BearerToken.Empty() {
				return nil, fmt.Errorf("headers: %q must not be set beside username or bearer_token", name)
			}
		}
	}
	header.Set("Content-Type", "application/stream+json")
	if v.ContentEncoding != "identity" {
		header.Set("Content-Encoding", v.ContentEncoding)
	}
	header.Set("User-Agent", "telegraf-victorialogs")
	if v.AccountID != 0 || v.ProjectID != 0 {
		route.AccountID = strconv.FormatInt(v.AccountID, 10)
		route.ProjectID = strconv.FormatInt(v.ProjectID, 10)
		header.Set("AccountID", route.AccountID)
		header.Set("ProjectID", route.ProjectID)
	}
	if !v.BearerToken.Empty() && !v.Username.Empty() {
		return nil, errors.New("bearer_token: must not be set beside username; the server takes one of them")
	}
	if v.Username.Empty() && !v.Password.Empty() {
		return nil, errors.New(`username = "": must be set beside password`)
	}

	tlsConfig, err := v.TLSConfig()
	if err != nil {
		return nil, err
	}
	if v.HTTPProxyURL != "" {
		address, err := parseURL(v.HTTPProxyURL)
		if err == nil && (address.Host == "" || !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, address.Scheme)) {
			err = errors.New("is no proxy's address")
		}
		if err != nil {
			return nil, fmt.Errorf(`http_proxy_url = %q: %w; must be a URL such as "http://proxy:3128"`,
				redact.URL(v.HTTPProxyURL), err)
		}
	}
	proxied, err := v.Proxy()
	if err != nil {
		return nil, err
	}
	t := &target{
		base:   base,
		route:  route,
		header: header,
		transport: &http.Transport{
			Proxy:               proxied,
			TLSClientConfig:     tlsConfig,
			DialContext:         (&net.Dialer{Timeout: min(time.Duration(v.Timeout), 10*time.Second)}).DialContext,
			TLSHandshakeTimeout: time.Duration(v.Timeout),
			MaxIdleConnsPerHost: v.Concurrency,
			IdleConnTimeout:     45 * time.Second, // below the server's 60 s, so that it does not close under a request
			DisableCompression:  true,
			ForceAttemptHTTP2:   true,
		},
	}
	t.url = t.endpoint(route)
	if !v.Username.Empty() || !v.BearerToken.Empty() || len(v.Headers) > 0 {
		t.authorize = v.authorize
	}
	return t, nil
}

// isPort takes the empty port, too, which is the scheme's own.
func isPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return port == "" || err == nil && n > 0
}

// parseURL is url.Parse without the URL in its errors, which may hold a password.
func parseURL(text string) (*url.URL, error) {
	parsed, err := url.Parse(text)
	if broken := (*url.Error)(nil); errors.As(err, &broken) {
		return nil, broken.Err
	}
	return parsed, err
}

// authorize sets the headers that may hold secrets.
func (v *VictoriaLogs) authorize(header http.Header) error {
	for name, secret := range v.Headers {
		value, err := text(secret)
		if err != nil {
			return fmt.Errorf("headers: reading %q: %w", name, err)
		}
		if !httpguts.ValidHeaderFieldValue(value) {
			return fmt.Errorf("headers: the value of %q has characters that a header cannot hold, such as a line's end", name)
		}
		header.Set(name, value)
	}
	switch {
	case !v.BearerToken.Empty():
		token, err := text(&v.BearerToken)
		if err != nil {
			return fmt.Errorf("reading bearer_token: %w", err)
		}
		header.Set("Authorization", "Bearer "+strings.TrimSpace(token))
	case !v.Username.Empty():
		username, err := text(&v.Username)
		if err != nil {
			return fmt.Errorf("reading username: %w", err)
		}
		password, err := text(&v.Password)
		if err != nil {
			return fmt.Errorf("reading password: %w", err)
		}
		header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(username+":"+password)))
	}
	return nil
}

func text(secret *config.Secret) (string, error) {
	value, err := secret.Get()
	if err != nil {
		return "", err
	}
	defer value.Destroy()
	return value.String(), nil
}

// load is the share of max_pending that is in use.
func (v *VictoriaLogs) load() float64 {
	return float64(v.stats.pendingBytes.Get()) / float64(v.MaxPending)
}

// Connect takes the directory of the dead letters and starts delivery. A server that is away is no error here: batches wait
// for it.
func (v *VictoriaLogs) Connect() error {
	dead := v.delivery.dead
	if dead == nil {
		v.Log.Warn("dlq: no directory is set: what cannot be delivered waits in memory, and is lost with the process")
	} else if err := dead.open(v.delivery.restore); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed = false
	v.stop = make(chan struct{})
	v.gap = time.NewTimer(time.Hour)
	v.delivery.start()
	if dead != nil {
		dead.restorer.Start()
	}
	v.watching.Go(v.watchGap)
	return nil
}

// Add takes the metric over. It is called on the goroutine that feeds all outputs and never waits.
func (v *VictoriaLogs) Add(m telegraf.Metric) {
	v.stats.received.Incr(1)
	v.mu.Lock()
	if v.closed {
		v.mu.Unlock()
		v.stats.dropped[droppedShutdown].Incr(1)
		m.Reject()
		return
	}
	now := v.now()
	dropped, err := v.append(m, now)
	if v.open != nil && (errors.Is(err, errTooOld) || errors.Is(err, errTooNew)) { // by a clock that may have been set since
		now = time.Now()
		dropped, err = v.append(m, now)
	}
	if err != nil {
		v.logRejected(m, now, err)
		dropped = v.refuse(m, now, err)
	}
	v.mu.Unlock()
	v.reject(dropped, droppedMaxPending)
}

// now is time.Now at half the cost while a batch is open, since then it reads the monotonic clock alone. A clock that is set
// meanwhile, or a host that slept, shows with the next batch.
func (v *VictoriaLogs) now() time.Time {
	if v.open == nil {
		return time.Now()
	}
	return v.open.opened.Add(time.Since(v.open.opened))
}

// refuse sets a metric aside that VictoriaLogs would not store.
func (v *VictoriaLogs) refuse(m telegraf.Metric, now time.Time, reason error) (dropped []*batch) {
	if v.delivery.dead == nil {
		v.stats.rejected[reason.Error()].Incr(1)
		m.Drop() // not Reject: it would come again, and be no better
		return nil
	}
	b := &batch{
		lines: v.encoder.render(nil, m, v.encoder.message(m.FieldList())), count: 1, opened: now, last: now, first: m.Time(), newest: m.Time(),
		refusal: &refusal{reason: reason.Error()},
	}
	v.encoder.takeRepairs(func(repair, int64) {})
	if _, waits := m.(telegraf.TrackingMetric); waits {
		b.tracked = []tracked{{metric: m}}
	}
	v.stats.pendingMetrics.Incr(1)
	v.stats.pendingBytes.Incr(b.size())
	return v.delivery.enqueue(b)
}

// append puts the metric into the open batch, and closes that when it is full.
func (v *VictoriaLogs) append(m telegraf.Metric, now time.Time) (dropped []*batch, err error) {
	b := v.open
	if b == nil {
		b = &batch{lines: v.buffers.get()}
	}
	lines, err := v.encoder.appendLine(b.lines, m, now)
	v.encoder.takeRepairs(func(kind repair, n int64) { v.stats.repaired[kind].Incr(n) })
	if err != nil {
		if v.open == nil {
			v.buffers.put(lines)
		}
		return nil, err
	}
	v.stats.pendingBytes.Incr(int64(len(lines) - len(b.lines)))
	if len(lines) > int(v.MaxBatchSize) && b.count > 0 { // this line opens the next batch
		line := append(v.buffers.get(), lines[len(b.lines):]...)
		b.lines = lines[:len(b.lines)]
		dropped = v.closeOpen()
		b, lines = &batch{}, line
		now = time.Now() // or under full flow nobody would see that the clock was set
	}
	b.lines = lines
	b.last = now
	t := m.Time()
	if b.count == 0 || t.After(b.newest) {
		b.newest = t
	}
	if b.count == 0 || t.Before(b.first) {
		b.first = t
	}
	if b.count == 0 {
		b.opened = now
		v.open = b
		v.gap.Reset(min(time.Duration(v.IdleGap), time.Duration(v.MaxBatchAge)))
	}
	if _, waits := m.(telegraf.TrackingMetric); waits {
		if b.tracked == nil {
			b.tracked = v.buffers.getList()
		}
		b.tracked = append(b.tracked, tracked{metric: m, line: b.count})
		switch len(b.tracked) { // from when on it may close sooner
		case 1:
			v.gap.Reset(v.closesAt(b).Sub(now))
		case burstSize:
			v.gap.Reset(min(time.Duration(v.AckGap)/burstShare, v.closesAt(b).Sub(now)))
		}
	}
	b.count++
	v.stats.pendingMetrics.Incr(1)
	if len(b.lines) >= int(v.MaxBatchSize) {
		dropped = append(dropped, v.closeOpen()...)
	}
	return dropped, nil
}

// A burst of metrics that an input waits for, such as a broker's whole window, is at its end when it has been quiet for much
// longer than its metrics were apart. The broker sends no more before the acknowledgements, so ack_gap would be waited for in vain.
const (
	burstSize  = 10 // metrics
	burstQuiet = 50 // times what they are apart
	burstShare = 5  // of ack_gap at least
)

// closesAt says when the batch closes if no other metric comes.
func (v *VictoriaLogs) closesAt(b *batch) time.Time {
	gap := time.Duration(v.IdleGap)
	if len(b.tracked) > 0 {
		gap = min(gap, time.Duration(v.AckGap))
	}
	if n := len(b.tracked); n >= burstSize {
		spacing := b.last.Sub(b.opened) / time.Duration(n)
		gap = min(gap, max(burstQuiet*spacing, time.Duration(v.AckGap)/burstShare))
	}
	quiet, aged := b.last.Add(gap), b.opened.Add(time.Duration(v.MaxBatchAge))
	if aged.Before(quiet) {
		return aged
	}
	return quiet
}

// closeOpen hands the open batch to delivery, if there is one.
func (v *VictoriaLogs) closeOpen() (dropped []*batch) {
	b := v.open
	if b == nil {
		return nil
	}
	v.open = nil
	return v.delivery.enqueue(b)
}

// watchGap closes the open batch when its gap or its age has come. Add does not touch the timer for each metric;
// instead the timer is set again here when metrics came since.
func (v *VictoriaLogs) watchGap() {
	for {
		select {
		case <-v.stop:
			return
		case <-v.gap.C:
		}
		v.mu.Lock()
		var dropped []*batch
		if v.open != nil {
			if wait := time.Until(v.closesAt(v.open)); wait > 0 {
				v.gap.Reset(wait)
			} else {
				dropped = v.closeOpen()
			}
		}
		v.mu.Unlock()
		v.reject(dropped, droppedMaxPending)
	}
}

// reject gives up batches and tells their inputs, which will send the metrics again if they can.
func (v *VictoriaLogs) reject(batches []*batch, reason string) (metrics int) {
	for _, b := range batches {
		metrics += b.count
		v.stats.dropped[reason].Incr(int64(b.count))
		v.stats.pendingMetrics.Incr(-int64(b.count))
		if b.refusal != nil {
			b.drop() // it would come again, and be no better
		} else {
			b.reject()
		}
	}
	return metrics
}

// logRejected logs a reason at most once a minute; the counter tells how many.
func (v *VictoriaLogs) logRejected(m telegraf.Metric, now time.Time, reason error) {
	if last, ok := v.rejected[reason]; ok && now.Sub(last) < time.Minute {
		return
	}
	v.rejected[reason] = now
	v.Log.Errorf("Rejecting a metric %q of %s with the tags %v and %d fields: %v; VictoriaLogs would not store it. More like it "+
		"are counted in metrics_rejected", m.Name(), m.Time().Format(time.RFC3339), m.Tags(), len(m.FieldList()), reason)
}

// Push returns nothing: Add delivers by itself, so the agent has nothing to write.
func (*VictoriaLogs) Push() []telegraf.Metric { return nil }

// Reset does nothing, for the same reason.
func (*VictoriaLogs) Reset() {}

// Write is for hosts that do not call Add. It holds the acknowledgement of each metric back until its batch is
// delivered, so the host may count all of them as written.
func (v *VictoriaLogs) Write(metrics []telegraf.Metric) error {
	for _, m := range metrics {
		if _, waits := m.(telegraf.TrackingMetric); waits {
			m = m.Copy()
		}
		v.Add(m)
	}
	return nil
}

// Close sends what is pending, for the length of timeout at most, and of retry_budget if the server is away. What is
// left then is counted, logged and rejected.
func (v *VictoriaLogs) Close() error {
	v.mu.Lock()
	if v.closed {
		v.mu.Unlock()
		return nil
	}
	v.closed = true
	dropped := v.closeOpen()
	v.mu.Unlock()
	close(v.stop)
	v.watching.Wait()
	v.gap.Stop()
	v.reject(dropped, droppedMaxPending)

	dead := v.delivery.dead
	if dead != nil {
		dead.stopRestoring()
	}
	left := v.delivery.close()
	if dead != nil {
		if err := dead.close(); err != nil {
			v.Log.Errorf("Closing the dead letters: %v", err)
		}
	}
	if lost := v.reject(left, droppedShutdown); lost > 0 {
		v.Log.Errorf("Closing with %d metrics in %d batches undelivered; their inputs were told, and those that can will "+
			"send them again", lost, len(left))
	}
	v.Log.Infof("Closed. Metrics: %d received + %d recovered from disk = %d delivered + %d on disk + %d rejected + %d dropped + "+
		"%d in memory", v.stats.received.Get(), v.stats.recovered.Get(), v.stats.delivered.Get(), v.stats.onDisk.Get(),
		sum(v.stats.rejected), sum(v.stats.dropped), v.stats.pendingMetrics.Get())
	return nil
}

func sum(stats map[string]selfstat.Stat) (total int64) {
	for _, stat := range stats {
		total += stat.Get()
	}
	return total
}

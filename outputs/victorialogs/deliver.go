package victorialogs

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/influxdata/telegraf"

	"github.com/edgetide/telegraf-victorialogs/internal/deadletter"
)

// delivery takes closed batches and brings them to the server, oldest first, with so many requests in flight at a time.
//
// A batch that fails goes back to its place in the queue and waits for its own backoff. A failure also says that the
// server is away: from then on only one request at a time goes out, after a backoff that all batches share, until one
// gets through. Batches in the queue may be dropped to keep the bound on memory; those in flight may not.
type delivery struct {
	log         telegraf.Logger
	stats       *stats
	target      *target
	encoding    *encoding
	buffers     *buffers
	concurrency int
	timeout     time.Duration // of one request
	maxBytes    int64         // of closed batches, in flight or not
	retryFirst  time.Duration
	retryMax    time.Duration
	retryBudget time.Duration // how long a batch is tried from memory; without a disk it is so at close alone
	maxAge      time.Duration // of restored rows; 0: any age
	dead        *deadLetters  // nil: there is no disk

	mu       sync.Mutex
	queue    []*batch // closed and not in flight, oldest first
	bytes    int64    // of closed batches, in flight or not
	inFlight int
	away     away
	full     bool // batches were dropped since half of the memory was free
	closing  bool
	patient  bool // while closing: the retry budget is not spent

	refused       []*batch                    // to be set aside on disk, oldest first
	diskUntil     time.Time                   // the disk refused a batch, and is left alone until then
	rejectedUntil time.Time                   // the same of the one for refused rows
	restoring     []*homecoming               // letters from the disk that are not on their way yet, oldest first
	homes         int                         // batches of such letters that are under way
	taken         time.Time                   // when the server took a batch last
	homeRetry     *backoff.ExponentialBackOff // nil: the last such batch was taken
	homeUntil     time.Time                   // none goes out before
	dumpWake      chan struct{}               // holds a token when dumpAll should look

	wake    chan struct{} // holds a token when a worker should look at the queue
	done    chan struct{} // closed when closing has come to its end
	ctx     context.Context
	cancel  context.CancelFunc
	workers sync.WaitGroup
	quiet   map[error]time.Time // when a line of this kind was last logged
}

// away is what is known of a server that does not take batches; the zero value is one that does.
type away struct {
	since   time.Time // of the first failure
	blamed  bool      // and that it is a wrong configuration
	told    bool      // in the log; a batch that the server alone cannot take would fill it otherwise
	until   time.Time // no request goes out before
	retry   *backoff.ExponentialBackOff
	dropped int  // metrics that had to be dropped meanwhile
	live    bool // what comes from the disk was answered and not taken: a live batch is to find out whose fault it is
}

// What lines in the log are about, for mayLog.
var (
	errAway       = errors.New("the server is away")
	errMaxPending = errors.New("max_pending is reached")
)

func (d *delivery) start() {
	d.wake = make(chan struct{}, 1)
	d.done = make(chan struct{})
	d.quiet = make(map[error]time.Time)
	d.ctx, d.cancel = context.WithCancel(context.Background())
	for range d.concurrency {
		d.workers.Go(d.work)
	}
	d.dumpWake = make(chan struct{}, 1)
	if d.dead != nil {
		d.workers.Go(d.dumpAll)
	}
}

// enqueue takes a closed batch over. It returns the batches that had to give way, which are no longer its own.
func (d *delivery) enqueue(b *batch) (dropped []*batch) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b.closed = time.Now()
	if b.refusal != nil {
		d.refused = append(d.refused, b)
	} else {
		d.queue = append(d.queue, b)
	}
	d.bytes += b.size() // and counted in pending_bytes since it was open
	dropped = d.overflow()
	d.signal()
	if d.dead != nil && (b.refusal != nil || !d.away.since.IsZero() || d.bytes > d.maxBytes/2) {
		d.signalDump()
	}
	return dropped
}

// overflow takes the oldest batches out while there are more bytes than there may be. What comes from the disk takes none
// of them.
func (d *delivery) overflow() (dropped []*batch) {
	for d.bytes > d.maxBytes {
		from := &d.queue
		i := slices.IndexFunc(d.queue, func(b *batch) bool { return b.home == nil })
		if i < 0 || i == len(d.queue)-1 {
			from = &d.refused
			i = slices.IndexFunc(d.refused, func(b *batch) bool { return b.home == nil })
		}
		if i < 0 {
			break
		}
		oldest := (*from)[i]
		*from = slices.Delete(*from, i, i+1)
		d.release(oldest)
		d.grow(-oldest.size())
		dropped = append(dropped, oldest)
		d.away.dropped += oldest.count
		if !d.full && d.mayLog(errMaxPending) {
			d.full = true
			d.log.Errorf("max_pending is reached, since %s takes batches too slowly or not at all: dropping the oldest "+
				"metrics, and counting them in metrics_dropped", d.target)
		}
	}
	return dropped
}

// grow counts memory that closed batches take or give back.
func (d *delivery) grow(bytes int64) {
	d.bytes += bytes
	d.stats.pendingBytes.Incr(bytes)
}

// close delivers what it can: for the length of one request's timeout while the server takes batches, and of the retry
// budget while it does not; with a disk for the length of the retry budget while it does, and the rest goes there. It
// returns what is left, after the last request ended.
func (d *delivery) close() (left []*batch) {
	d.mu.Lock()
	d.closing, d.patient = true, d.dead == nil
	d.giveAllBack()
	if !d.away.since.IsZero() {
		d.away.until = time.Time{}
		d.away.retry.Reset()
	}
	for _, b := range d.queue {
		b.due, b.retry = time.Time{}, nil
	}
	d.finish()
	d.signal()
	d.mu.Unlock()

	budget := time.AfterFunc(d.retryBudget, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.patient = false
		d.finish()
	})
	defer budget.Stop()
	most := max(d.timeout, d.retryBudget)
	if d.dead != nil {
		most = d.retryBudget // the disk has room for the rest
	}
	end := time.NewTimer(most)
	defer end.Stop()
	select {
	case <-d.done:
	case <-end.C:
	}
	d.cancel()
	d.workers.Wait()
	d.target.transport.CloseIdleConnections()
	if d.dead != nil {
		d.dumpRest()
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	left, d.queue, d.refused = append(d.queue, d.refused...), nil, nil
	d.grow(-d.bytes)
	return left
}

// finish notices that closing need not go on: nothing is left, or the server is away and the budget spent.
func (d *delivery) finish() {
	drained := d.inFlight == 0 && len(d.queue) == 0
	if !d.closing || !drained && (d.patient || d.away.since.IsZero()) {
		return
	}
	select {
	case <-d.done:
	default:
		close(d.done)
	}
}

// signal gives one worker a reason to look at the queue. The lock need not be held.
func (d *delivery) signal() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// work is a worker: it takes a batch that is due, makes one attempt, and settles what came of it.
func (d *delivery) work() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for d.ctx.Err() == nil {
		b, wait := d.take(time.Now())
		if b == nil {
			timer.Reset(wait)
			select {
			case <-d.wake:
			case <-timer.C:
			case <-d.ctx.Done():
			}
			continue
		}
		if d.isStale(b) {
			d.takeStale(b)
			continue
		}
		started := time.Now()
		err := d.try(b)
		if failure := (*Failure)(nil); b.count > 1 && errors.Is(err, ErrBadData) && errors.As(err, &failure) {
			d.halve(b, failure)
			continue
		}
		d.settle(b, started, err)
	}
}

// try sends the batch, unless the answer is known. A row is never refused without having been asked for alone, and the halves
// of what was too large may both be small enough.
func (d *delivery) try(b *batch) error {
	if b.bad != nil && b.count > 1 && b.bad.Status != http.StatusRequestEntityTooLarge {
		return b.bad
	}
	d.encode(b)
	return d.attempt(b)
}

// take returns the oldest batch that is due, which is then in flight, or how long to wait for one at most.
func (d *delivery) take(now time.Time) (*batch, time.Duration) {
	const noBatch = time.Hour
	d.mu.Lock()
	defer d.mu.Unlock()
	isAway := !d.away.since.IsZero()
	if isAway {
		if d.inFlight > 0 {
			return nil, noBatch // settle wakes us
		}
		if wait := d.away.until.Sub(now); wait > 0 {
			return nil, wait
		}
	}
	wait, live := noBatch, isAway && d.away.live
	for i, b := range d.queue {
		if b.held || b.anew || b.home != nil && live && d.hasLive() {
			continue
		}
		if until := d.homeUntil.Sub(now); b.home != nil && until > 0 {
			wait = min(wait, until)
			continue
		}
		if until := b.due.Sub(now); until > 0 {
			wait = min(wait, until)
			continue
		}
		if reason, _ := d.dumpReason(b, now); reason != "" && !live {
			d.signalDump()
			continue
		}
		d.queue = slices.Delete(d.queue, i, i+1)
		return d.fly(b), 0
	}
	// Live traffic comes first, and of what comes from the disk one batch is under way at a time, so that it has a worker.
	if !d.closing && d.homes == 0 && len(d.restoring) > 0 {
		until := d.homeUntil.Sub(now)
		if until <= 0 {
			return d.fly(d.gather()), 0
		}
		wait = min(wait, until)
	}
	return nil, wait
}

// fly counts a request that begins.
func (d *delivery) fly(b *batch) *batch {
	d.inFlight++
	if len(d.queue) > 0 {
		d.signal()
	}
	return b
}

// encode makes the batch's body, once, and gives the memory of its lines back.
func (d *delivery) encode(b *batch) {
	if b.body != nil {
		return
	}
	before := b.size()
	if d.encoding.compress == nil {
		b.body = b.lines
		return
	}
	b.body = d.encoding.compress(d.buffers.get(), b.lines)
	d.buffers.put(b.lines)
	b.lines = nil
	if b.home != nil {
		return
	}
	d.mu.Lock()
	d.grow(b.size() - before)
	d.mu.Unlock()
}

// attempt sends the batch once. A retry costs what the HTTP client costs and no copy of the bytes.
func (d *delivery) attempt(b *batch) error {
	ctx, cancel := context.WithTimeout(d.ctx, d.timeout)
	defer cancel()
	b.begun.Store(false)
	b.whole.Store(false)
	request, err := d.target.request(ctx, b)
	if err != nil {
		return &Failure{Kind: ErrConfiguration, Err: err}
	}
	started := time.Now()
	response, err := d.target.transport.RoundTrip(request)
	if err != nil {
		if b.whole.Load() {
			d.stats.possiblyDoubled.Incr(1)
		}
		return transportFailure(err, b.begun.Load())
	}
	text, _ := io.ReadAll(io.LimitReader(response.Body, 4096)) // the status decides, however much of the text comes
	_ = response.Body.Close()
	d.stats.requestTime.Incr(time.Since(started).Nanoseconds())
	if failure := answerFailure(response.StatusCode, response.Header, string(text), time.Now()); failure != nil {
		return failure
	}
	d.stats.batchesSent.Incr(1)
	d.stats.bytesSent.Incr(int64(len(b.body)))
	return nil
}

// settle puts the batch where the attempt says that it belongs: away from here, or back into the queue.
func (d *delivery) settle(b *batch, started time.Time, err error) {
	var failure *Failure
	var unlocked func() // calls into inputs are made without the lock

	d.mu.Lock()
	d.inFlight--
	switch {
	case err == nil:
		d.stats.delivered.Incr(int64(b.count))
		d.taken = time.Now()
		if b.home != nil {
			d.homeRetry, d.homeUntil = nil, time.Time{}
		}
		if b.sibling != nil {
			b.sibling.bad = b.refused
		}
		d.gone(b)
		d.isBack()
		unlocked = func() {
			b.accept()
			d.recycle(b)
		}
	case errors.Is(err, ErrBadData) && errors.As(err, &failure):
		d.isBack()
		unlocked = d.setAside(b, failure)
	default:
		d.requeue(b, started, err)
	}
	d.finish()
	d.mu.Unlock()
	if unlocked != nil {
		unlocked()
	}
	d.signal()
}

// gone counts a batch that is in memory no longer.
func (d *delivery) gone(b *batch) {
	d.release(b)
	if b.home != nil {
		d.goneHome(b)
		return
	}
	d.stats.pendingMetrics.Incr(-int64(b.count))
	d.grow(-b.size())
	d.full = d.full && d.bytes > d.maxBytes/2
}

// release lets the other half of a batch go on, now that this one has.
func (d *delivery) release(b *batch) {
	if b.sibling != nil {
		b.sibling.held, b.sibling = false, nil
		d.signal()
	}
}

// isBack notes that the server answers for itself.
func (d *delivery) isBack() {
	if d.away.since.IsZero() {
		return
	}
	if d.away.told {
		d.log.Infof("The server takes batches again after %s; %d batches wait, %d metrics were dropped",
			time.Since(d.away.since).Round(time.Millisecond), len(d.queue), d.away.dropped)
	}
	d.away = away{}
}

// requeue puts the batch back to be sent again, and holds all others back for a while.
func (d *delivery) requeue(b *batch, started time.Time, err error) {
	if b.home != nil {
		d.requeueHome(b, err)
		return
	}
	now := time.Now()
	d.insert(b)
	if d.ctx.Err() != nil {
		return // our own cancellation says nothing about the server
	}
	d.away.live = false
	d.stats.batchesRetried.Incr(1)
	b.attempts++
	if b.retry == nil {
		b.retry = d.newBackoff()
	}
	wait := b.retry.NextBackOff()

	first := d.away.since.IsZero()
	if first {
		d.away.since = now
		d.away.told, d.away.blamed = false, false // what was logged of letters from the disk is not about this
		d.away.retry = d.newBackoff()
	}
	if first || !started.Before(d.away.until) { // requests that were in flight together count once
		hold := d.away.retry.NextBackOff()
		if errors.Is(err, ErrConfiguration) {
			hold = d.retryMax
		}
		if failure := (*Failure)(nil); errors.As(err, &failure) {
			hold = max(hold, failure.RetryAfter)
		}
		d.away.until = now.Add(hold)
	}
	b.due = now.Add(wait)

	if d.blame(err) {
		return
	}
	tell := !d.away.told && d.mayLog(errAway) // an outage soon after another is told when the minute is over
	d.away.told = d.away.told || tell
	if tell {
		d.log.Warnf("%s takes no batches: %v; the data is kept and tried again, next in %s", d.target, err,
			d.away.until.Sub(now).Round(time.Millisecond))
	} else {
		d.log.Debugf("Attempt %d for a batch of %d metrics failed: %v", b.attempts, b.count, err)
	}
}

// blame logs a wrong configuration, once an outage, whatever the outage began with: somebody must do something about it. It
// reports whether the failure is one.
func (d *delivery) blame(err error) bool {
	if !errors.Is(err, ErrConfiguration) {
		return false
	}
	if !d.away.blamed && d.mayLog(ErrConfiguration) {
		d.away.told, d.away.blamed = true, true
		d.log.Errorf("%s takes no batches: %v; the data is kept and tried again every %s", d.target, err, d.retryMax)
	}
	return true
}

func (d *delivery) newBackoff() *backoff.ExponentialBackOff {
	return &backoff.ExponentialBackOff{
		InitialInterval:     min(d.retryFirst, d.retryMax*2/3),
		RandomizationFactor: 0.5,
		Multiplier:          2,
		MaxInterval:         d.retryMax * 2 / 3, // which the jitter brings up to retry_max
	}
}

// insert puts the batch where its age belongs.
func (d *delivery) insert(b *batch) {
	i, _ := slices.BinarySearchFunc(d.queue, b, func(other, b *batch) int {
		if other.opened.After(b.opened) {
			return 1
		}
		return -1
	})
	d.queue = slices.Insert(d.queue, i, b)
}

// halve puts the halves of a batch that the server refused for good into its place, so that in the end the offending lines
// stand alone. The second is held until the first is settled: if that is taken, the fault is in the second, and need not be
// asked for.
func (d *delivery) halve(b *batch, failure *Failure) {
	lines, broken := d.lines(b)
	if broken != nil {
		d.settle(b, time.Now(), broken)
		return
	}
	first, second := b.split(lines)
	first.sibling, first.refused, second.held = second, failure, true
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inFlight--
	d.release(b)
	d.isBack()
	d.replace(b, first, second)
	d.signal()
}

// setAside rejects what the server refused for good. It returns what is to be done without the lock.
func (d *delivery) setAside(b *batch, failure *Failure) (unlocked func()) {
	if d.mayLog(failure.Kind) {
		d.log.Errorf("%s will never take a row: %v; it is rejected and counted in metrics_rejected", d.target, failure)
	}
	if d.dead != nil {
		d.release(b)
		b.refusal = &refusal{reason: rejectedByServer, status: failure.Status, answer: failure.Err.Error()}
		d.refused = append(d.refused, b)
		d.signalDump()
		return nil
	}
	d.stats.rejected[rejectedByServer].Incr(int64(b.count))
	d.gone(b)
	return b.drop
}

// mayLog keeps lines of one kind a minute apart.
func (d *delivery) mayLog(kind error) bool {
	now := time.Now()
	if last, ok := d.quiet[kind]; ok && now.Sub(last) < time.Minute {
		return false
	}
	d.quiet[kind] = now
	return true
}

// recycle gives the batch's memory back, unless the HTTP transport still reads it.
func (d *delivery) recycle(b *batch) {
	if b.readers.Load() == 0 {
		d.buffers.put(b.body)
	}
	d.buffers.putList(b.tracked)
	b.body, b.lines, b.tracked = nil, nil, nil
}

// target is where requests go and what they carry beside the body.
type target struct {
	base      *url.URL
	url       *url.URL // of the route
	route     deadletter.Route
	header    http.Header // shared by all requests, never changed
	authorize func(http.Header) error
	transport interface {
		http.RoundTripper
		CloseIdleConnections()
	}
}

func (t *target) String() string {
	return t.url.Scheme + "://" + t.url.Host
}

// request makes the request of one attempt. Credentials are read anew each time, so that a rotated secret is used.
func (t *target) request(ctx context.Context, b *batch) (*http.Request, error) {
	header, address := t.header, t.url
	if b.route != nil && *b.route != t.route {
		header, address = t.elsewhere(*b.route)
	}
	if t.authorize != nil {
		header = header.Clone()
		if err := t.authorize(header); err != nil {
			return nil, err
		}
	}
	request := &http.Request{
		Method:        http.MethodPost,
		URL:           address,
		Host:          t.url.Host,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        header,
		ContentLength: int64(len(b.body)),
		Body:          b.reader(),
		GetBody:       func() (io.ReadCloser, error) { return b.reader(), nil },
	}
	return request.WithContext(ctx), nil
}

// elsewhere is for a batch that was meant to go somewhere else than new ones: with its own path, query, tenant and encoding
// to the server that there is now.
func (t *target) elsewhere(r deadletter.Route) (http.Header, *url.URL) {
	header := t.header.Clone()
	for name, value := range map[string]string{
		"Content-Encoding": strings.TrimPrefix(r.Encoding, "identity"), "AccountID": r.AccountID, "ProjectID": r.ProjectID,
	} {
		if header.Del(name); value != "" {
			header.Set(name, value)
		}
	}
	return header, t.endpoint(r)
}

// endpoint is a route's URL.
func (t *target) endpoint(r deadletter.Route) *url.URL {
	endpoint := t.base.JoinPath(r.Path)
	endpoint.Path = "/" + strings.TrimPrefix(endpoint.Path, "/") // which JoinPath leaves out behind a bare host
	endpoint.RawQuery = r.Query
	return endpoint
}

package victorialogs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/edgetide/telegraf-victorialogs/dlq"
	"github.com/edgetide/telegraf-victorialogs/internal/deadletter"
)

// This file is the part of delivery that goes through the disk: batches that cannot be delivered now are dumped by one
// goroutine, many with one fsync; letters come back from the restorer and join the others on their way to the server.

// dumpedTogether is how many batches are under way to the disk at most.
const dumpedTogether = 64

// diskRetry is how long a disk that refused a batch is left alone.
const diskRetry = time.Second

// errDisk is what lines in the log about the disk are about, for mayLog.
var errDisk = errors.New("the disk refuses")

// dump is a letter on its way to the disk, and the batches that it holds.
type dump struct {
	batches []*batch
	reason  string // of batches that go to the dead letters; the refusal of others says theirs
}

func (d *delivery) signalDump() {
	select {
	case d.dumpWake <- struct{}{}:
	default:
	}
}

// dumpAll is the goroutine that dumps.
func (d *delivery) dumpAll() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for d.ctx.Err() == nil {
		d.stats.age()
		d.dead.room()
		d.mu.Lock()
		dumps, wait := d.takeDumps(time.Now())
		d.mu.Unlock()
		if len(dumps) > 0 {
			d.write(dumps)
			continue
		}
		timer.Reset(wait)
		select {
		case <-d.dumpWake:
		case <-timer.C:
		case <-d.ctx.Done():
		}
	}
}

// takeDumps takes what is to go to the disk now, or says how long to wait at most.
func (d *delivery) takeDumps(now time.Time) (dumps []dump, wait time.Duration) {
	wait = time.Second // so that the age of the oldest dump is right
	if until := d.rejectedUntil.Sub(now); until <= 0 {
		dumps = d.takeRefused()
	} else if len(d.refused) > 0 {
		wait = min(wait, until)
	}
	if until := d.diskUntil.Sub(now); until > 0 {
		return dumps, min(wait, until)
	}
	tight := d.bytes > d.maxBytes*3/4
	for i := 0; i < len(d.queue) && len(dumps) < dumpedTogether; {
		b := d.queue[i]
		reason, until := d.dumpReason(b, now)
		switch {
		case b.anew:
			reason = dumpedBudget
		case reason == "" && tight && b.home == nil:
			reason = dumpedPending
		}
		if reason == "" {
			wait = min(wait, until)
			i++
			continue
		}
		d.queue = slices.Delete(d.queue, i, i+1)
		dumps = append(dumps, dump{batches: []*batch{b}, reason: reason})
	}
	return dumps, wait
}

// dumpReason says why a batch in the queue goes to the disk, or how long it is still tried from memory at most.
func (d *delivery) dumpReason(b *batch, now time.Time) (reason string, wait time.Duration) {
	if d.dead == nil || b.home != nil || now.Before(d.diskUntil) {
		return "", time.Hour
	}
	budget := b.closed.Add(d.retryBudget).Sub(now)
	if !d.away.since.IsZero() {
		wait = d.away.since.Add(d.retryBudget).Sub(now)
		if d.closing || wait <= 0 {
			return dumpedAway, 0
		}
		budget = min(budget, wait)
	}
	if budget <= 0 {
		return dumpedBudget, 0
	}
	return "", budget
}

// takeRefused takes the rows that are to be set aside, those that belong together as one letter.
func (d *delivery) takeRefused() (dumps []dump) {
	for _, b := range d.refused {
		if n := len(dumps); n > 0 && d.belong(dumps[n-1].batches, b) {
			dumps[n-1].batches = append(dumps[n-1].batches, b)
		} else {
			dumps = append(dumps, dump{batches: []*batch{b}})
		}
	}
	d.refused = nil
	return dumps
}

func (d *delivery) belong(batches []*batch, b *batch) bool {
	const most = 1000
	first := batches[0]
	return len(batches) < most && *first.refusal == *b.refusal && d.routeOf(first) == d.routeOf(b)
}

// routeOf is where a batch was meant to go.
func (d *delivery) routeOf(b *batch) deadletter.Route {
	if b.route != nil {
		return *b.route
	}
	return d.target.route
}

// write puts letters on disk, all with as few fsyncs as the disk can, and settles what came of it.
func (d *delivery) write(dumps []dump) {
	var writing sync.WaitGroup
	for _, part := range dumps {
		writing.Go(func() {
			queue, l := d.dead.queue, d.letter(part)
			if part.batches[0].refusal != nil {
				queue = d.dead.rejected
			}
			d.settleDump(part, queue.EnqueueDurable(context.Background(), l))
		})
	}
	writing.Wait()
}

// letter makes a letter of what is to be dumped.
func (d *delivery) letter(part dump) *deadletter.Letter {
	first := part.batches[0]
	l := &deadletter.Letter{Reason: part.reason, First: first.first, Last: first.newest, Attempts: first.attempts, Run: d.dead.run}
	for _, b := range part.batches {
		d.encode(b)
		l.Count += b.count
		if b.first.Before(l.First) {
			l.First = b.first
		}
		if b.newest.After(l.Last) {
			l.Last = b.newest
		}
		if len(part.batches) == 1 {
			l.Body = b.body
		} else {
			l.Body = append(l.Body, b.body...)
		}
	}
	l.First, l.Last = l.First.UTC(), l.Last.UTC()
	l.Route = d.routeOf(first)
	if r := first.refusal; r != nil {
		l.Reason, l.Status, l.Answer = r.reason, r.status, r.answer
	}
	l.Seal()
	return l
}

// settleDump counts what is safe on disk, or takes back what is not.
func (d *delivery) settleDump(part dump, err error) {
	var settled []*batch
	d.mu.Lock()
	if err != nil {
		if part.batches[0].refusal != nil {
			d.rejectedUntil = time.Now().Add(diskRetry)
		} else {
			d.diskUntil = time.Now().Add(diskRetry)
		}
		if d.mayLog(errDisk) {
			d.log.Errorf("Cannot put batches on disk: %v; they stay in memory, which max_pending bounds", err)
		}
	}
	for _, b := range part.batches {
		switch {
		case err != nil && b.home != nil && b.refusal != nil && d.diskUntil.IsZero():
			b.refusal, b.anew = nil, true // nothing else must wait until it can be set aside
			d.insert(b)
			d.signalDump()
			continue
		case err != nil && b.home != nil && b.refusal != nil:
			d.giveBack(b.home, err)
			continue
		case err != nil && b.refusal != nil:
			d.refused = append(d.refused, b)
			continue
		case err != nil:
			d.insert(b)
			d.signal()
			continue
		case b.refusal != nil:
			d.gone(b)
			d.stats.rejected[b.refusal.reason].Incr(int64(b.count))
		default:
			d.stats.dumped[part.reason].Incr(1)
			d.stats.onDisk.Incr(int64(b.count))
			d.gone(b) // a part of a letter leaves the disk as that, and is there as a new one
		}
		settled = append(settled, b)
	}
	d.finish()
	d.mu.Unlock()
	for _, b := range settled { // calls into inputs are made without the lock
		if b.refusal != nil {
			b.drop()
		} else {
			b.accept()
		}
		d.recycle(b)
	}
}

// home is what the restorer waits for: letters of which the rows are under way again, as one batch or the parts of one.
type home struct {
	letters []*homecoming
	ours    bool // they are of this life of the process
	parts   int  // that are not settled
	settled int  // rows that are
	split   bool // there are, or were, several parts
	ended   bool // the restorer was told
}

// homecoming is a letter that the restorer gave us.
type homecoming struct {
	letter *deadletter.Letter
	done   chan error // takes one error without waiting
}

var errClosing = errors.New("the plugin closes")

// restore brings letters to the server, those together that can go in one request, and returns when that is done. An error
// says that a letter cannot be read, or that the plugin closes.
func (d *delivery) restore(_ context.Context, letters []*deadletter.Letter) []error {
	errs := make([]error, len(letters))
	waiting := make([]*homecoming, len(letters))
	for i, l := range letters {
		if err := l.Check(); err != nil {
			errs[i] = fmt.Errorf("%w: %w", dlq.ErrPoison, err)
			continue
		}
		waiting[i] = &homecoming{letter: l, done: make(chan error, 1)}
	}
	d.mu.Lock()
	for _, h := range waiting {
		switch {
		case h == nil:
		case d.closing:
			h.done <- errClosing
		default:
			d.restoring = append(d.restoring, h)
		}
	}
	d.signal()
	d.mu.Unlock()
	for i, h := range waiting {
		if h != nil {
			errs[i] = <-h.done
		}
	}
	return errs
}

// isStale reports that the server would drop rows of the batch silently by now, since they are too old.
func (d *delivery) isStale(b *batch) bool { return d.maxAge > 0 && time.Since(b.first) > d.maxAge }

// takeStale takes the rows that are too old out of a batch in flight, to be set aside; the others go back into the queue.
func (d *delivery) takeStale(b *batch) {
	lines, err := d.lines(b)
	if err != nil {
		d.settle(b, time.Now(), err)
		return
	}
	now := time.Now()
	oldest := now // of those that are kept
	old, rest := b.part(lines, func(line []byte) bool {
		t, ok := lineTime(line)
		if ok && now.Sub(t) > d.maxAge {
			return true
		}
		if ok && t.Before(oldest) {
			oldest = t
		}
		return false
	})
	old.refusal = &refusal{reason: errTooOld.Error()}
	rest.first = oldest
	if old.count > 0 {
		d.mu.Lock()
		if d.mayLog(errTooOld) {
			d.log.Errorf("Rows have become older than max_age before they could be delivered; they are set aside, and counted in "+
				"metrics_rejected: %d of a batch of %d", old.count, b.count)
		}
		d.mu.Unlock()
	}
	parts := slices.DeleteFunc([]*batch{old, rest}, func(part *batch) bool { return part.count == 0 })
	d.mu.Lock()
	d.inFlight--
	d.replace(b, parts...)
	d.mu.Unlock()
	d.signal()
}

// lines returns a batch's rows. A batch of which they cannot be had, and that comes from the disk, is the restorer's again:
// one letter at a time, until it is found which one is broken.
func (d *delivery) lines(b *batch) ([]byte, error) {
	if b.lines != nil {
		return b.lines, nil
	}
	lines, err := deadletter.Decompress(d.routeOf(b).Encoding, b.body)
	switch {
	case err == nil:
		return lines, nil
	case b.home == nil:
		return nil, &Failure{Kind: ErrBadData, Err: fmt.Errorf("its body cannot be read: %w", err)}
	case len(b.home.letters) > 1:
		return nil, &Failure{Kind: errBroken, Err: err}
	default:
		return nil, &Failure{Kind: errBroken, Err: fmt.Errorf("%w: its body cannot be read: %w", dlq.ErrPoison, err)}
	}
}

// errBroken is the kind of a failure that is no server's: the bytes from the disk are not what we wrote.
var errBroken = errors.New("broken batch")

// replace puts the parts of a batch into its place; no request holds it.
func (d *delivery) replace(b *batch, parts ...*batch) {
	if b.home != nil {
		b.home.parts += len(parts) - 1
		b.home.split = b.home.split || len(parts) > 1
	} else {
		d.grow(-b.size())
	}
	for _, part := range parts {
		if part.route != nil {
			part.route.Encoding = d.encoding.name
		}
		if part.home == nil {
			d.grow(part.size())
		}
		if part.refusal != nil {
			d.refused = append(d.refused, part)
			d.signalDump()
		} else {
			d.insert(part)
		}
	}
}

// gather makes a batch of letters that can go in one request, in their order.
func (d *delivery) gather() *batch {
	const most = 256_000 // bytes; a server that refuses a larger body early closes the connection, too
	n, size := 0, 0
	for _, h := range d.restoring {
		first, l := d.restoring[0].letter, h.letter
		stale := d.maxAge > 0 && (time.Since(first.First) > d.maxAge || time.Since(l.First) > d.maxAge) // is halved alone
		if size += len(l.Body); n > 0 && (stale || l.Route != first.Route || d.isOurs(l) != d.isOurs(first) || size > most) {
			break
		}
		n++
	}
	b := d.batchOf(slices.Clone(d.restoring[:n]))
	d.restoring = slices.Delete(d.restoring, 0, n)
	return b
}

func (d *delivery) isOurs(l *deadletter.Letter) bool { return l.Run == d.dead.run }

// batchOf makes a batch of letters of one route: their bodies one behind the other, which each content encoding allows.
func (d *delivery) batchOf(letters []*homecoming) *batch {
	first := letters[0].letter
	b := &batch{
		body: first.Body, route: &first.Route, opened: first.First, first: first.First, newest: first.Last, closed: time.Now(),
		attempts: first.Attempts, home: &home{letters: letters, parts: 1, ours: d.isOurs(first)},
	}
	for i, h := range letters {
		l := h.letter
		if i > 0 {
			b.body = append(b.body[:len(b.body):len(b.body)], l.Body...)
		}
		b.count += l.Count
		if l.First.Before(b.first) {
			b.first = l.First
		}
		if l.Last.After(b.newest) {
			b.newest = l.Last
		}
	}
	d.homes++
	return b
}

// goneHome counts a part of restored letters that is settled, and tells the restorer when it was the last.
func (d *delivery) goneHome(b *batch) {
	if b.home.ended {
		d.stats.recovered.Incr(int64(b.count)) // it was given back, and comes again
		return
	}
	d.stats.offDisk(b.count, b.home.ours)
	b.home.settled += b.count
	b.home.parts--
	if b.home.parts == 0 && !b.home.ended {
		d.stats.batchesRestored.Incr(int64(len(b.home.letters)))
		d.endHome(b.home, nil)
	}
}

// requeueHome decides what becomes of a batch from the disk that was not taken. It says little about the server: the fault may
// be its own, as that of a tenant which is no more. So it neither begins an outage nor ends one, and has a backoff of its own.
// If the server was reached each letter is tried alone, and one that is still not taken, while others are, goes to the end of
// the line: it becomes a new letter.
func (d *delivery) requeueHome(b *batch, err error) {
	reached := !errors.Is(err, ErrCannotConnect)
	switch {
	case errors.Is(err, errBroken) || d.closing && !b.home.split && b.failed.IsZero():
		d.giveBack(b.home, err)
	case d.closing || b.home.split || reached && len(b.home.letters) == 1 && d.isAtFault(b):
		b.anew = true
		d.insert(b)
		d.signalDump()
	case reached && len(b.home.letters) > 1:
		half := len(b.home.letters) / 2
		d.homes--
		for _, letters := range [][]*homecoming{b.home.letters[:half], b.home.letters[half:]} {
			part := d.batchOf(letters)
			part.failed = time.Now()
			d.insert(part)
		}
	default:
		d.insert(b)
	}
	if d.ctx.Err() != nil || errors.Is(err, errBroken) {
		return // which says nothing about the server
	}
	now := time.Now()
	d.stats.batchesRetried.Incr(1)
	b.attempts++
	b.tries++
	if b.failed.IsZero() {
		b.failed = now
	}
	if d.homeRetry == nil {
		d.homeRetry = d.newBackoff()
	}
	hold := d.homeRetry.NextBackOff()
	if errors.Is(err, ErrConfiguration) {
		hold = d.retryMax
	}
	if failure := (*Failure)(nil); errors.As(err, &failure) {
		hold = max(hold, failure.RetryAfter)
	}
	d.homeUntil = now.Add(hold)
	if isAway := !d.away.since.IsZero(); isAway {
		d.away.until = now.Add(hold)
		d.away.live = reached
		d.blame(err)
	} else if !d.blame(err) && d.mayLog(errHome) {
		d.log.Warnf("%s does not take a batch from the dead letters: %v; it is kept and tried again", d.target, err)
	}
}

// isAtFault reports that the server took others since this batch was not taken for the first time, or that it is time for
// others.
func (d *delivery) isAtFault(b *batch) bool {
	const often = 5
	return !b.failed.IsZero() && d.taken.After(b.failed) || b.tries >= often
}

// errHome is what lines in the log about batches from the disk are about, for mayLog.
var errHome = errors.New("a batch from the disk is not taken")

// hasLive reports that a batch waits that does not come from the disk.
func (d *delivery) hasLive() bool {
	return slices.ContainsFunc(d.queue, func(b *batch) bool { return b.home == nil && !b.held })
}

// giveBack leaves letters to the restorer, which has them on disk still. Rows of them that are settled come again.
func (d *delivery) giveBack(h *home, err error) {
	if h.ours && !h.ended && h.settled > 0 {
		d.stats.onDisk.Incr(int64(h.settled))
		d.stats.recovered.Incr(int64(h.settled))
	}
	d.queue = slices.DeleteFunc(d.queue, func(b *batch) bool { return b.home == h })
	d.refused = slices.DeleteFunc(d.refused, func(b *batch) bool { return b.home == h })
	if !h.ended {
		d.endHome(h, err)
	}
}

func (d *delivery) endHome(h *home, err error) {
	h.ended = true
	for _, l := range h.letters {
		l.done <- err
	}
	d.homes--
	d.signal()
}

// giveAllBack ends all restoring.
func (d *delivery) giveAllBack() {
	for _, h := range d.restoring {
		h.done <- errClosing
	}
	d.restoring = nil
	for _, b := range slices.Concat(d.queue, d.refused) {
		switch {
		case b.home == nil:
		case b.home.split || !b.failed.IsZero():
			b.anew = b.refusal == nil
		default:
			d.giveBack(b.home, errClosing)
		}
	}
}

// lineTime reads the time of a row that we wrote, in nanoseconds or as RFC 3339.
func lineTime(line []byte) (time.Time, bool) {
	const begin = `{"_time":`
	if len(line) < len(begin) || string(line[:len(begin)]) != begin {
		return time.Time{}, false
	}
	line = line[len(begin):]
	end := slices.IndexFunc(line, func(b byte) bool { return b == ',' || b == '}' })
	if end < 0 {
		return time.Time{}, false
	}
	text := string(line[:end])
	if ns, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Unix(0, ns), true
	}
	text, err := strconv.Unquote(text)
	if err != nil {
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	return t, err == nil
}

// dumpRest puts on disk what is left in memory when the plugin closes. What the disk refuses stays where it is.
func (d *delivery) dumpRest() {
	d.mu.Lock()
	d.giveAllBack()
	dumps := d.takeRefused()
	for _, b := range d.queue {
		dumps = append(dumps, dump{batches: []*batch{b}, reason: dumpedShutdown})
	}
	d.queue = nil
	d.mu.Unlock()
	for part := range slices.Chunk(dumps, dumpedTogether) {
		d.write(part)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, b := range slices.Concat(d.queue, d.refused) {
		if b.home != nil { // the disk refuses, and has its letter still
			d.giveBack(b.home, errClosing)
		}
	}
}

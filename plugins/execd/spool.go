package execd

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/influxdata/telegraf"
)

// spool keeps what outputs.execd wrote through the death of this process. outputs.execd takes a metric for delivered once
// it is in the pipe, so two things must outlive a kill -9: what we have read, and what is still in the pipe.
//
//	outputs.execd ─ pipe ─┬─ journal ─ parser ─ outputs ─ delivered, or in the dead letters: safe
//	                      └─ heir, once we are dead
//
// What we read goes from the pipe into a file in one step of the kernel (splice), before it is parsed, and out of the
// file when the outputs have it safe. The pipe's content would be gone with its last reader, so there is a second one,
// the heir: a process that does nothing until we die, and then moves what is in the pipe behind what we moved. The next
// process begins with that. Some of it may have been delivered already, so it may come twice.
//
// The directory is locked by the process or its heir, and holds a journal of each life that could not end well.
type spool struct {
	own  *journal
	left []string // journals of earlier lives, oldest first
	lock *os.File
	log  telegraf.Logger

	mu      sync.Mutex // guards what follows
	heir    *exec.Cmd
	life    *os.File      // a pipe; its end without a byte tells the heir that we died
	unused  chan struct{} // closed at a good end, when there is nothing to inherit
	kept    chan struct{} // closed when there will be no more heirs
	ending  bool
	replays []*journal // of left, those that are open
}

// lockTime is how long to wait for the heir of the process before, which ends when Telegraf closes its pipe.
const lockTime = 10 * time.Second

func openSpool(dir string, log telegraf.Logger) (*spool, error) {
	if !canSpool {
		return nil, errors.New("this works on Linux alone, where a pipe can be moved into a file")
	}
	if info, err := os.Stdin.Stat(); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		return nil, errors.New("standard input must be a pipe, as outputs.execd makes it")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	s := &spool{lock: lock, log: log, unused: make(chan struct{}), kept: make(chan struct{})}
	if err := acquire(lock, lockTime); err != nil {
		err = fmt.Errorf("it is in use by another process (%w); each outputs.execd needs a spool of its own", err)
		return nil, errors.Join(err, lock.Close())
	}
	if err := s.open(dir); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return s, nil
}

// open makes the journal of this life and starts its heir.
func (s *spool) open(dir string) (err error) {
	found, err := filepath.Glob(filepath.Join(escape(dir), "*.lines"))
	if err != nil {
		return err
	}
	number := 0
	for _, path := range found {
		if n, err := strconv.Atoi(strings.TrimSuffix(filepath.Base(path), ".lines")); err == nil {
			number = max(number, n)
		}
		if info, err := os.Stat(path); err == nil && info.Size() <= headerBytes { // many starts may fail before one does not
			if err := os.Remove(path); err != nil {
				return err
			}
			continue
		}
		s.left = append(s.left, path)
	}
	if s.own, err = newJournal(filepath.Join(dir, fmt.Sprintf("%010d.lines", number+1)), os.Stdin, s.log); err != nil {
		return err
	}
	if err := s.startHeir(); err != nil {
		return err
	}
	go s.keepHeir()
	return nil
}

// heirDelay is how long to wait before another heir is started in the place of one that somebody killed.
const heirDelay = time.Second

// keepHeir sees to it that there is one, until a good end.
func (s *spool) keepHeir() {
	defer close(s.kept)
	for {
		how := s.heir.Wait()
		select {
		case <-s.unused:
			return
		case <-time.After(heirDelay):
		}
		s.mu.Lock()
		select {
		case <-s.unused:
			s.mu.Unlock()
			return
		default:
		}
		s.log.Warnf("The spool's heir ended before its time (%v); starting another", how)
		_ = s.life.Close()
		err := s.startHeir()
		s.mu.Unlock()
		if err != nil {
			s.log.Errorf("Starting the spool's heir: %v; until this process is restarted, what is in the pipe is lost if it is killed", err)
			return
		}
	}
}

// replay opens the journal of an earlier life; there is none if nothing is left in it. Those before it that are done with
// are removed.
func (s *spool) replay(path string) (*journal, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.replays) > 0 && s.replays[0].done() {
		if _, err := s.replays[0].close(); err != nil {
			return nil, err
		}
		s.replays = s.replays[1:]
	}
	j, err := openJournal(path, s.log)
	if j != nil {
		j.closing = s.ending
		s.replays = append(s.replays, j)
	}
	return j, err
}

// closing says that what the outputs reject from now on is for the next life.
func (s *spool) closing() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ending = true
	for _, j := range append(s.replays, s.own) {
		j.mu.Lock()
		j.closing = true
		j.mu.Unlock()
	}
}

// close removes what is safe. After the end of standard input the heir has nothing to do; after an error, which leaves
// the pipe as it is, it has.
func (s *spool) close(inputEnded bool) error {
	if inputEnded {
		s.own.ended()
	}
	s.mu.Lock()
	var errs []error
	kept := 0
	for _, j := range append(s.replays, s.own) {
		empty, err := j.close()
		if !empty {
			kept++
		}
		errs = append(errs, err)
	}
	if inputEnded && kept > 0 {
		s.log.Warnf("The outputs could not take all: the next process goes on with what is in %s", filepath.Dir(s.own.path))
	}
	if inputEnded {
		close(s.unused)
		_, _ = s.life.Write([]byte{1}) // an heir that somebody killed is not there to hear it
		_ = s.life.Close()
	}
	s.mu.Unlock()
	if inputEnded {
		<-s.kept // it has the lock, too
	}
	return errors.Join(append(errs, s.lock.Close())...)
}

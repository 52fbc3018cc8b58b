package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jedib0t/go-pretty/v6/progress"
	"github.com/shirou/gopsutil/v4/disk"

	"github.com/edgetide/telegraf-victorialogs/dlq"
	"github.com/edgetide/telegraf-victorialogs/outputs/victorialogs"
)

// letters checks the directory of the dead letters. It makes neither the directory nor a lock: they would be of who checks, and
// the agent may be somebody else.
func (c *check) letters(name string, v *victorialogs.VictoriaLogs) {
	dir := v.DLQ.Directory
	if dir == "" {
		c.report.skipped(name, "directory", "dlq: no directory is set: what cannot be delivered waits in memory, and is lost with the process")
		return
	}
	if !c.directory(name, dir) {
		return
	}
	files, err := dlq.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		c.report.failed(name, "backlog", "run this as the agent's user, or as root", "%v", err)
		return
	}
	c.room(name, dir, files, int64(v.DLQ.MaxSize))
	c.backlog(name, dir, files)
	c.setAside(name, dir, files)
}

// directory reports whether there is one to look into, or may be.
func (c *check) directory(name, dir string) bool {
	const step = "directory"
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return c.creatable(name, dir)
	case err != nil:
		c.report.failed(name, step, "run this as the agent's user; if it is, give it the directories above", "%v", err)
		return false
	case !info.IsDir():
		c.report.failed(name, step, "name a directory", "%s is a file", dir)
		return false
	}
	owner := ownerOf(info)
	what := fmt.Sprintf("%s (%s, mode %04o)", dir, owner, info.Mode().Perm())
	if info.Mode().Perm()&0o022 != 0 {
		c.report.failed(name, step, "chmod 700 "+dir, "%s: others may write into it", what)
		return true
	}
	behind, err := filepath.EvalSymlinks(dir) // for a link is root's, and chown -R does not follow it
	if err != nil {
		behind = dir
	}
	if stranger, whose := strangers(behind, info); stranger != "" {
		c.report.failed(name, step, fmt.Sprintf("chown -R %s %s", userOf(info), behind), "%s: %s in it is of %s", what, stranger, whose)
		return true
	}
	used, err := dlq.InUse(dir)
	switch {
	case err != nil:
		c.report.failed(name, step, "run this as the agent's user, or as root", "%s: %v", what, err)
		return false
	case used:
		c.report.ok(name, step, "%s: an agent has it, so nothing was written", what)
		return true
	}
	began := time.Now()
	if err := probe(dir); err != nil {
		c.report.failed(name, step, probeTodo(err, info), "%s: no agent has it, and a file cannot be written: %v", what, err)
		return true
	}
	c.report.ok(name, step, "%s: no agent has it; a file was written, synced and removed in %s%s", what, shown(time.Since(began)), asRoot(info))
	return true
}

// asRoot says what a success of root does not.
func asRoot(info fs.FileInfo) string {
	user := userOf(info)
	switch {
	case os.Geteuid() != 0 || user == "":
		return ""
	case user != "root":
		return fmt.Sprintf("; by root, who may write anywhere: runuser -u %s -- telegraf-check … tells more", user)
	case info.Mode().Perm()&0o022 == 0:
		return "; by root, and for root alone: an agent of another user cannot"
	}
	return ""
}

// creatable looks at the nearest directory above that is there.
func (c *check) creatable(name, dir string) bool {
	const step = "directory"
	parent := filepath.Dir(filepath.Clean(dir))
	info, err := os.Stat(parent)
	for errors.Is(err, fs.ErrNotExist) && parent != filepath.Dir(parent) {
		parent = filepath.Dir(parent)
		info, err = os.Stat(parent)
	}
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is no directory", parent)
	}
	if err == nil {
		err = probe(parent)
	}
	if err != nil {
		todo := fmt.Sprintf("make it and give it to the agent's user: install -d -m 700 -o USER %s", dir)
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EROFS) {
			todo = probeTodo(err, info) // nobody can make it
		}
		c.report.failed(name, step, todo, "%s is not there and cannot be made: %v", dir, err)
		return false
	}
	c.report.ok(name, step, "%s is not there; the agent makes it in %s%s", dir, parent, asRoot(info))
	return true
}

// probe writes a file as the dead letters are written, and removes it.
func probe(dir string) (err error) {
	f, err := os.CreateTemp(dir, ".telegraf-check-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	const block = 128 << 10
	if _, err := f.Write(make([]byte, block)); err != nil {
		return err
	}
	return f.Sync()
}

func probeTodo(err error, info fs.FileInfo) string {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "make room on this file system; docs/operations.md says what may go"
	case errors.Is(err, syscall.EROFS):
		return "mount it for writing; in a unit with ProtectSystem=strict, add it to ReadWritePaths"
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 && userOf(info) != "":
		return fmt.Sprintf("run this as the agent's user; if it is, give it the directory, which is %s's", userOf(info))
	}
	return "name a directory that the agent's user can write in"
}

// room compares what the dumps may come to with what there is.
func (c *check) room(name, dir string, files []dlq.File, most int64) {
	const step = "room"
	at := dir
	for {
		if _, err := os.Stat(at); err == nil || at == filepath.Dir(at) {
			break
		}
		at = filepath.Dir(at)
	}
	usage, err := disk.Usage(at)
	if err != nil {
		c.report.failed(name, step, "see that the file system is there", "%s: %v", at, err)
		return
	}
	var used int64
	for _, f := range files {
		if f.State != dlq.StateQuarantined {
			used += f.Size
		}
	}
	free := int64(min(usage.Free, 1<<62)) //nolint:gosec // bounded
	if left := most - used; free < left {
		todo := "make room"
		if used+free > 0 {
			todo += fmt.Sprintf(", or set max_size to less than %s, or the disk is full before max_size says so", size(used+free))
		}
		c.report.failed(name, step, todo, "%s free on the file system, and max_size allows %s more", size(free), size(left))
		return
	}
	c.report.ok(name, step, "%s free on the file system; the dumps are %s of max_size, %s", size(free), size(used), size(most))
}

func size(bytes int64) string { return progress.FormatBytes(bytes) }

func count[T int | uint64](n T, what string) string {
	switch {
	case n == 1:
	case strings.HasSuffix(what, "ch"):
		what += "es"
	default:
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func (c *check) backlog(name, dir string, files []dlq.File) {
	const step = "backlog"
	var dumps, open, damaged int
	var items uint64
	var bytes int64
	var oldest time.Time
	for _, f := range files {
		switch {
		case f.State == dlq.StateSealed && f.Damaged:
			damaged++
			fallthrough
		case f.State == dlq.StateSealed:
			dumps++
			items += f.Items - min(f.Items, f.Delivered)
			bytes += f.Size
			if oldest.IsZero() || f.Created.Before(oldest) {
				oldest = f.Created
			}
		case f.State == dlq.StateOpen:
			open++
		}
	}
	text := "nothing waits"
	if dumps > 0 {
		text = fmt.Sprintf("%s of %s (%s) to be sent, the oldest for %s; the agent does so by itself", count(dumps, "dump"),
			count(items, "batch"), size(bytes), time.Since(oldest).Round(time.Second))
	}
	if open > 0 {
		text += fmt.Sprintf("; %d open, which is being written, or is salvaged when the agent starts", open)
	}
	if damaged > 0 {
		c.report.failed(name, step, "dlq verify "+dir, "%s; damaged: %d", text, damaged)
		return
	}
	c.report.ok(name, step, "%s", text)
}

// setAside counts what waits for a person.
func (c *check) setAside(name, dir string, files []dlq.File) {
	const step = "set aside"
	var quarantined int
	for _, f := range files {
		if f.State == dlq.StateQuarantined {
			quarantined++
		}
	}
	rejectedDir := filepath.Join(dir, "rejected")
	rejected, err := dlq.List(rejectedDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.report.failed(name, step, "run this as the agent's user, or as root", "%v", err)
		return
	}
	var items uint64
	for _, f := range rejected {
		items += f.Items
	}
	var found, todo []string
	if quarantined > 0 {
		found = append(found, count(quarantined, "dump")+" in quarantine")
		todo = append(todo, "dlq quarantine ls "+dir)
	}
	if len(rejected) > 0 {
		found = append(found, fmt.Sprintf("%s of rows that the server will never take, %s", count(len(rejected), "dump"), count(items, "batch")))
		todo = append(todo, "dlq cat "+rejectedDir+" says why; mend what sends them, and dlq purge "+rejectedDir)
	}
	if len(found) > 0 {
		c.report.failed(name, step, strings.Join(todo, "; "), "%s", strings.Join(found, "; "))
		return
	}
	c.report.ok(name, step, "nothing is in quarantine, and no row was rejected")
}

package dlq

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// fileSystem is all that the disk storage needs of one: a directory that it has for itself. Tests break it in every way
// that a disk can break. Names are relative to the directory, with / between their parts.
type fileSystem interface {
	// Create makes a file that is not there yet.
	Create(name string) (file, error)
	// Open opens a file for reading and for WriteAt, which makes it when create is set.
	Open(name string, create bool) (file, error)
	// Rename fails when there is a file of the new name.
	Rename(from, to string) error
	Remove(name string) error
	// Mkdir makes a directory; one that is there is no error.
	Mkdir(name string) error
	// List returns what is in a directory, in the order of the names.
	List(dir string) ([]fileInfo, error)
	// SyncDir makes what was created, renamed and removed in the directory durable.
	SyncDir(dir string) error
	// Free is how many bytes may still be written.
	Free() (int64, error)
}

type fileInfo struct {
	name    string // without the directory
	odd     bool   // it is no file
	size    int64
	changed time.Time
}

type file interface {
	io.Writer
	io.ReaderAt
	io.WriterAt
	// WriteBack has the disk begin with these bytes, and does not wait. It promises nothing: that is for Sync.
	WriteBack(at, n int64)
	// Sync makes what was written durable. After an error nothing is known of it, and never will be through this file.
	Sync() error
	Truncate(size int64) error
	Size() (int64, error)
	Close() error
}

// osFS is the operating system's, below dir.
type osFS struct{ dir string }

const (
	fileMode = 0o600
	dirMode  = 0o700
)

func (o osFS) path(name string) string { return filepath.Join(o.dir, filepath.FromSlash(name)) }

func (o osFS) Create(name string) (file, error) {
	f, err := openShared(o.path(name), os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode)
	return osFile{f}, err
}

func (o osFS) Open(name string, create bool) (file, error) {
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE
	}
	f, err := openShared(o.path(name), flags, fileMode)
	if !create && (errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)) { // restoring only reads
		f, err = openShared(o.path(name), os.O_RDONLY, 0)
	}
	return osFile{f}, err
}

func (o osFS) Rename(from, to string) error {
	if _, err := os.Lstat(o.path(to)); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("renaming %s to %s: %w", from, to, fs.ErrExist) // nobody else writes here: we hold the lock
	}
	return os.Rename(o.path(from), o.path(to))
}

func (o osFS) Remove(name string) error { return os.Remove(o.path(name)) }

func (o osFS) Mkdir(name string) error {
	return os.MkdirAll(o.path(name), dirMode)
}

func (o osFS) List(dir string) ([]fileInfo, error) {
	entries, err := os.ReadDir(o.path(dir))
	if err != nil {
		return nil, err
	}
	infos := make([]fileInfo, 0, len(entries))
	for _, entry := range entries {
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		infos = append(infos, fileInfo{
			name: entry.Name(), odd: !entry.Type().IsRegular(), size: info.Size(), changed: info.ModTime(),
		})
	}
	return infos, nil
}

func (o osFS) SyncDir(dir string) error { return syncDir(o.path(dir)) }

func (o osFS) Free() (int64, error) { return freeSpace(o.dir) }

type osFile struct{ *os.File }

func (f osFile) WriteBack(at, n int64) { writeBack(f.File, at, n) }

func (f osFile) Sync() error { return syncData(f.File) }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

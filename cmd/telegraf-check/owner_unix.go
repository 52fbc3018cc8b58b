//go:build unix

package main

import (
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// ownerOf names who has a file.
func ownerOf(info fs.FileInfo) string { return "of " + userOf(info) }

// userOf is the user's name, or number where there is none.
func userOf(info fs.FileInfo) string {
	s, is := info.Sys().(*syscall.Stat_t)
	if !is {
		return ""
	}
	id := strconv.FormatUint(uint64(s.Uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

// strangers finds the first file that is not of who has the directory, who could then not read it: as when root salvaged.
func strangers(dir string, info fs.FileInfo) (name, whose string) {
	owner, is := info.Sys().(*syscall.Stat_t)
	if !is || owner.Uid == 0 {
		return "", "" // root reads all
	}
	_ = filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // what cannot be looked at is told by those who need it
		}
		file, err := entry.Info()
		if err != nil {
			return nil //nolint:nilerr // it is gone
		}
		if s, is := file.Sys().(*syscall.Stat_t); is && s.Uid != owner.Uid {
			name, whose = path, userOf(file)
			return filepath.SkipAll
		}
		return nil
	})
	if name != "" {
		name = fmt.Sprintf("%q", name)
	}
	return name, whose
}

package main

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

const (
	binaryMode = 0o755
	textMode   = 0o644
)

// each calls add for all that an archive holds, in order.
func (s set) each(add func(name string, mode os.FileMode, content []byte) error) error {
	for _, part := range []struct {
		paths []string
		mode  os.FileMode
	}{{s.binaries, binaryMode}, {s.texts, textMode}} {
		for _, p := range part.paths {
			content, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			if err := add(path.Join(s.name, filepath.Base(p)), part.mode, content); err != nil {
				return fmt.Errorf("adding %s: %w", p, err)
			}
		}
	}
	return nil
}

func (s set) writeTar(name string) error {
	return writeFile(name, func(f io.Writer) error {
		zipped, err := gzip.NewWriterLevel(f, gzip.BestCompression)
		if err != nil {
			return err
		}
		w := tar.NewWriter(zipped)
		err = s.each(func(name string, mode os.FileMode, content []byte) error {
			err := w.WriteHeader(&tar.Header{
				Name: name, Mode: int64(mode), Size: int64(len(content)), ModTime: s.time, Format: tar.FormatUSTAR,
			})
			if err == nil {
				_, err = w.Write(content)
			}
			return err
		})
		if err == nil {
			err = w.Close()
		}
		if err == nil {
			err = zipped.Close()
		}
		return err
	})
}

func (s set) writeZip(name string) error {
	return writeFile(name, func(f io.Writer) error {
		w := zip.NewWriter(f)
		err := s.each(func(name string, mode os.FileMode, content []byte) error {
			header := &zip.FileHeader{Name: name, Method: zip.Deflate, Modified: s.time}
			header.SetMode(mode)
			entry, err := w.CreateHeader(header)
			if err == nil {
				_, err = entry.Write(content)
			}
			return err
		})
		if err == nil {
			err = w.Close()
		}
		return err
	})
}

// layOut makes what packages have below /usr: binaries out of the way of another Telegraf's, and links to them in
// bin, where telegraf itself is called telegraf-victorialogs.
func (s set) layOut(root, bill string) error {
	if err := os.RemoveAll(root); err != nil {
		return err
	}
	lib := filepath.Join(root, "lib", "telegraf-victorialogs")
	bin := filepath.Join(root, "bin")
	doc := filepath.Join(root, "share", "doc", "telegraf-victorialogs")
	for _, dir := range []string{lib, bin, doc} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	put := func(from, to string, mode os.FileMode) error {
		content, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := os.WriteFile(to, content, mode); err != nil {
			return err
		}
		return os.Chmod(to, mode) // whatever the umask is
	}
	for _, binary := range s.binaries {
		name := filepath.Base(binary)
		if err := put(binary, filepath.Join(lib, name), binaryMode); err != nil {
			return err
		}
		link := name
		if name == "telegraf" {
			link = "telegraf-victorialogs"
		}
		if err := os.Symlink("../lib/telegraf-victorialogs/"+name, filepath.Join(bin, link)); err != nil {
			return err
		}
	}
	for _, text := range append(slices.Clone(s.texts), bill) {
		name := filepath.Base(text)
		switch {
		case name == "LICENSE":
			name = "copyright" // as Debian calls it
		case text == bill:
			name = "sbom.cdx.json"
		}
		if err := put(text, filepath.Join(doc, name), textMode); err != nil {
			return err
		}
	}
	return filepath.WalkDir(root, func(name string, d os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			err = os.Chmod(name, 0o755)
		case d.Type()&os.ModeSymlink != 0:
			return nil
		}
		if err == nil {
			err = os.Chtimes(name, s.time, s.time)
		}
		return err
	})
}

// writeSums writes what sha256sum --check reads.
func writeSums(dir, name string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, entry := range entries {
		if entry.Name() == name {
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%x  %s\n", sha256.Sum256(content), entry.Name())
	}
	return os.WriteFile(filepath.Join(dir, name), []byte(b.String()), textMode)
}

func writeFile(name string, write func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	err = write(f)
	if closed := f.Close(); err == nil {
		err = closed
	}
	return err
}

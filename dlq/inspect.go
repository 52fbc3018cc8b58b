package dlq

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gofrs/flock"
)

// What is in this file only reads. It holds no lock and changes nothing, so that it works beside a running Disk, on a
// read-only file system, and on a copy. What it says of a running Disk's directory may be outdated when it is said.

// InUse reports whether something has the directory. Unlike [Lock] it makes no file. For the moment of asking an OpenDisk of
// another process is refused, as it would be by any lock.
func InUse(dir string) (bool, error) {
	lock := flock.New(filepath.Join(dir, lockName), flock.SetFlag(os.O_RDONLY))
	free, err := lock.TryRLock()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil // nothing ever had it
	case err != nil:
		return false, fmt.Errorf("dlq: asking for the lock of %s: %w", dir, err)
	case free:
		return false, lock.Unlock()
	}
	return true, nil
}

// State is how far a dump is.
type State string

// The states.
const (
	StateOpen        State = "open"        // being written, or its process died
	StateSealed      State = "sealed"      // waits to be restored
	StateQuarantined State = "quarantined" // set aside
)

// File is a dump that List found.
type File struct {
	// Info is what header and footer say. Without a footer, which an open dump does not have, Reason is 0 and Items and
	// Bytes are not known; Verify counts them.
	Info
	// Name is the file's below the directory, with / between its parts.
	Name  string
	State State
	// Delivered is how many items, counted from the first, are noted as delivered.
	Delivered uint64
	// Why is why a quarantined dump was set aside.
	Why string

	dir string
}

// List returns the dumps of a directory: those to be restored and the open one, oldest first, and then what is in quarantine.
// It reads headers and footers alone.
func List(dir string) ([]File, error) {
	found, err := listFiles(dir, ".")
	if err != nil {
		return nil, fmt.Errorf("dlq: %w", err)
	}
	aside, err := listFiles(dir, quarantineDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("dlq: %w", err)
	}
	found = slices.DeleteFunc(found, func(f File) bool { // set aside while we looked
		if !slices.ContainsFunc(aside, func(a File) bool { return path.Base(a.Name) == f.Name }) {
			return false
		}
		_, err := os.Lstat(osFS{dir}.path(f.Name))
		return errors.Is(err, fs.ErrNotExist)
	})
	return append(found, aside...), nil
}

func listFiles(dir, sub string) (found []File, err error) {
	fsys := readOnlyFS{osFS{dir}}
	infos, err := fsys.List(sub)
	if err != nil {
		return nil, err
	}
	for _, info := range infos {
		sequence, suffix, ok := parseName(info.name)
		if !ok || info.odd || suffix != dumpSuffix && suffix != openSuffix && (sub == "." || strings.HasSuffix(suffix, reasonSuffix)) {
			continue
		}
		f := File{Name: path.Join(sub, info.name), dir: dir}
		f.Info = Info{Sequence: sequence, Size: info.size, Created: info.changed}
		switch {
		case sub != ".":
			f.State = StateQuarantined
			f.Why = fsys.reason(f.Name)
		case suffix == openSuffix:
			f.State = StateOpen
		default:
			f.State = StateSealed
			progress, _ := (&Disk{fs: fsys}).progress(sequence) // it may be written just now
			f.Delivered = progress.delivered
		}
		if err := f.describe(); errors.Is(err, fs.ErrNotExist) {
			continue // removed, sealed or set aside while we looked
		}
		found = append(found, f)
	}
	slices.SortStableFunc(found, func(a, b File) int { return cmp.Compare(a.Sequence, b.Sequence) })
	return found, nil
}

// describe reads what header and footer say.
func (f *File) describe() error {
	file, err := readOnlyFS{osFS{f.dir}}.Open(f.Name, false)
	if err != nil {
		f.Damaged = true
		return err
	}
	f.Info = readInfo(file, f.Info)
	_ = file.Close() // it was read only
	f.Damaged = f.Damaged && f.State != StateOpen
	return nil
}

// Open opens the dump for reading all of its items, delivered or not. A dump that was open when it was listed is found, too,
// if it was sealed since. The error wraps fs.ErrNotExist when the dump is gone.
func (f File) Open() (*FileReader, error) {
	fsys := readOnlyFS{osFS{f.dir}}
	file, err := fsys.Open(f.Name, false)
	if f.State == StateOpen && errors.Is(err, fs.ErrNotExist) {
		f.State, f.Name = StateSealed, fileName(f.Sequence, dumpSuffix)
		file, err = fsys.Open(f.Name, false)
	}
	if err != nil {
		return nil, fmt.Errorf("dlq: %w", err)
	}
	r, err := openFile(f, file)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("dlq: %s: %w", f.Name, err), file.Close())
	}
	return r, nil
}

func openFile(f File, file file) (*FileReader, error) {
	size, err := file.Size()
	if err != nil {
		return nil, err
	}
	r := &FileReader{file: f, sealed: strings.HasSuffix(f.Name, dumpSuffix), size: size}
	sequence := f.Sequence
	h, err := r.checkHeaders(file)
	switch {
	case err == nil:
		sequence = h.sequence // it can be read whatever its name is
	case !errors.Is(err, errDamaged):
		return nil, err
	}
	begin, end, err := bounds(file, sequence)
	if err != nil {
		return nil, err
	}
	r.scanner = scanner{file: file, sequence: sequence, at: begin, end: end}
	if r.sealed {
		if r.foot, err = readFooter(file, size); err != nil {
			r.fault("it is not whole: %w", err)
		}
	}
	return r, nil
}

// FileReader reads all items of one dump that are whole. It is not safe for concurrent use.
type FileReader struct {
	file    File
	sealed  bool // or was meant to be
	size    int64
	foot    footer
	scanner scanner
	items   uint64
	bytes   uint64
	torn    int64
	ended   bool
	faults  []error
}

// checkHeaders looks at both headers, and returns the one that counts.
func (r *FileReader) checkHeaders(file file) (header, error) {
	h, end, err := readHeader(file, r.size)
	if err != nil {
		if errors.Is(err, errDamaged) && r.sealed {
			r.fault("its version is not known: %w", err)
		}
		return h, err
	}
	if end == 0 {
		r.fault("both headers at its beginning are damaged; the one at its end is whole")
		return h, nil
	}
	b := make([]byte, end)
	if _, err := file.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return h, err
	}
	_, n, err := parseHeader(b)
	if err == nil {
		_, _, err = parseHeader(b[n:])
	}
	if err != nil {
		r.fault("one of its two headers: %w", err)
	}
	if h.sequence != r.file.Sequence {
		r.fault("it was renamed: its header says %d; a Disk will not restore it", h.sequence)
	}
	return h, nil
}

func (r *FileReader) fault(format string, args ...any) {
	r.faults = append(r.faults, fmt.Errorf(format, args...))
}

// Next returns the next items, or io.EOF. Damage is passed over; Faults says what it was.
func (r *FileReader) Next() (Items, error) {
	at := r.scanner.at
	h, raw, err := r.scanner.next()
	damage := r.scanner.damaged
	r.scanner.damaged = nil
	switch {
	case errors.Is(err, io.EOF):
		r.end(at, damage)
		return Items{}, io.EOF
	case err != nil:
		return Items{}, fmt.Errorf("dlq: %s: %w", r.file.Name, err)
	case damage != nil:
		r.faults = append(r.faults, damage)
	case len(r.faults) == 0 && h.first != r.items:
		r.fault("the block that ends at byte %d begins with item %d instead of %d", r.scanner.at, h.first, r.items)
	}
	r.items += uint64(h.items)
	r.bytes += itemBytes(raw)
	return Items{raw: raw, first: h.first, left: h.items}, nil
}

// end compares what was read with what the footer says. last is where the last whole block ends.
func (r *FileReader) end(last int64, damage error) {
	if r.ended {
		return
	}
	r.ended = true
	switch {
	case damage != nil && r.sealed:
		r.faults = append(r.faults, damage)
	case damage != nil:
		r.torn = r.scanner.end - last
	}
	if r.foot.reason != 0 && (r.foot.items != r.items || r.foot.bytes != r.bytes) {
		r.fault("%d items of %d bytes are whole, of %d of %d bytes", r.items, r.bytes, r.foot.items, r.foot.bytes)
	}
}

// Faults says what is wrong with the dump, as far as it was read; all of it once Next returned io.EOF.
func (r *FileReader) Faults() []error { return slices.Clone(r.faults) }

// Close ends the reading.
func (r *FileReader) Close() error { return r.scanner.file.Close() }

// Report is what Verify found in a dump.
type Report struct {
	// Items and Bytes are whole and can be read.
	Items, Bytes uint64
	// Torn is how many bytes stand behind the last whole block of a dump that is not sealed. They are being written, or were
	// when the process died; they are no fault, since nobody was told that they are durable.
	Torn int64
	// Faults are what is wrong; none says that the dump is whole.
	Faults []error
}

// Verify reads every block of the dump. The error says that it could not be read, and wraps fs.ErrNotExist when it is gone.
func (f File) Verify() (Report, error) {
	r, err := f.Open()
	if err != nil {
		return Report{}, err
	}
	for {
		if _, err = r.Next(); err != nil {
			break
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return Report{Items: r.items, Bytes: r.bytes, Torn: r.torn, Faults: r.faults}, errors.Join(err, r.Close())
}

// readOnlyFS opens files for reading alone.
type readOnlyFS struct{ osFS }

func (r readOnlyFS) Open(name string, _ bool) (file, error) {
	f, err := openShared(r.path(name), os.O_RDONLY, 0)
	return osFile{f}, err
}

// reason reads why a file was set aside.
func (r readOnlyFS) reason(name string) string {
	f, err := r.Open(name+reasonSuffix, false)
	if err != nil {
		return ""
	}
	b := make([]byte, 4<<10)
	n, _ := f.ReadAt(b, 0) // a short one has what it has
	_ = f.Close()          // it was read only
	return strings.TrimSpace(string(b[:n]))
}

package dlq

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"time"
)

// recover lists the dumps, salvages those that a process left open, and returns the next sequence number.
func (d *Disk) recover() (next uint64, err error) {
	files, err := d.fs.List(".")
	if err != nil {
		return 0, err
	}
	sealed := make(map[uint64]bool)
	var open, strays []uint64
	for _, f := range files {
		sequence, suffix, ok := parseName(f.name)
		if !ok {
			continue
		}
		next = max(next, sequence)
		if f.odd {
			continue // whatever it is, its number is taken
		}
		switch suffix {
		case dumpSuffix:
			sealed[sequence] = true
			d.dumps = append(d.dumps, d.inspect(sequence, f))
			d.size += f.size
		case openSuffix:
			open = append(open, sequence)
		case partSuffix:
			if err := d.fs.Remove(f.name); err != nil {
				return 0, err
			}
		case progressSuffix:
			strays = append(strays, sequence)
		}
	}
	for _, sequence := range strays {
		if !sealed[sequence] {
			_ = d.fs.Remove(fileName(sequence, progressSuffix)) // it only takes room
		}
	}
	for _, sequence := range open {
		if sealed[sequence] { // a salvage was cut short after it had published what could be saved
			i := slices.IndexFunc(d.dumps, func(i Info) bool { return i.Sequence == sequence })
			d.size -= d.dumps[i].Size // and not before the salvage has come to its end
			d.dumps = slices.Delete(d.dumps, i, i+1)
		}
		if err := d.salvage(sequence); err != nil {
			d.o.Logger.Error("a dump that was not sealed cannot be salvaged yet", "sequence", sequence, "error", err)
			d.unsalvaged = append(d.unsalvaged, sequence)
		}
	}
	slices.SortFunc(d.dumps, func(a, b Info) int { return int(int64(a.Sequence - b.Sequence)) }) //nolint:gosec // its sign
	set, err := d.fs.List(quarantineDir)
	if err != nil {
		return 0, err // a number must not come twice
	}
	for _, f := range set {
		if sequence, _, ok := parseName(f.name); ok {
			next = max(next, sequence)
		}
	}
	return next + 1, nil
}

// inspect reads what header and footer say of a sealed dump.
func (d *Disk) inspect(sequence uint64, info fileInfo) Info {
	i := Info{Sequence: sequence, Size: info.size, Created: info.changed}
	f, err := d.fs.Open(fileName(sequence, dumpSuffix), false)
	if err != nil {
		d.o.Metrics.Failed(err)
		if !d.unread[sequence] {
			d.o.Logger.Error("a dump cannot be opened, and will be tried again", "sequence", sequence, "error", err)
		}
		d.unread[sequence] = true
		i.unread = true
		return i
	}
	i = readInfo(f, i)
	_ = f.Close() // it was read only
	return i
}

// readInfo adds what header and footer say of a dump whose sequence number and size are known.
func readInfo(f file, i Info) Info {
	h, _, herr := readHeader(f, i.Size)
	foot, ferr := readFooter(f, i.Size)
	if herr == nil && h.sequence == i.Sequence {
		i.Version, i.Created = h.version, h.created
	}
	i.Reason, i.Items, i.Bytes = foot.reason, foot.items, foot.bytes
	i.Damaged = herr != nil || ferr != nil || h.sequence != i.Sequence
	return i
}

// survey is what a dump that was not sealed holds.
type survey struct {
	header  header
	begin   int64 // of the blocks
	end     int64 // of the last one that is whole
	size    int64 // of the file
	items   uint64
	bytes   uint64
	damaged error // there are whole blocks behind damage
}

func surveyDump(f file, sequence uint64) (s survey, err error) {
	if s.size, err = f.Size(); err != nil {
		return s, err
	}
	s.header, s.begin, err = readHeader(f, s.size)
	if err != nil && !errors.Is(err, errDamaged) {
		return s, err
	}
	if err != nil || s.header.sequence != sequence {
		s.header, s.begin = header{sequence: sequence}, 0
	}
	s.end = s.begin
	scan := scanner{file: f, sequence: sequence, at: s.begin, end: s.size}
	for {
		h, raw, err := scan.next()
		if errors.Is(err, io.EOF) {
			return s, nil
		}
		if err != nil {
			return s, err
		}
		s.damaged = scan.damaged
		s.end = scan.at
		s.items += uint64(h.items)
		s.bytes += itemBytes(raw)
	}
}

// salvage seals what a process that died left open. Nothing whole is lost, and nothing damaged deleted: it is set aside.
func (d *Disk) salvage(sequence uint64) error {
	name := fileName(sequence, openSuffix)
	if rest, err := d.fs.Open(fileName(sequence, dumpSuffix), false); err == nil { // the rest was rewritten already
		size, err := rest.Size()
		if err := errors.Join(err, rest.Close()); err != nil {
			return err
		}
		return d.replace(name, "a damaged dump, of which the rest was salvaged", sequence, size)
	}
	f, err := d.fs.Open(name, false)
	if err != nil {
		return err
	}
	s, err := surveyDump(f, sequence)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	switch {
	case s.items == 0 && s.size <= s.begin:
		return errors.Join(f.Close(), d.fs.Remove(name)) // its process died before anything was in it
	case s.items == 0:
		return errors.Join(f.Close(), d.setAside(name, "not sealed, and nothing in it is whole"))
	case s.damaged != nil:
		err := d.rewrite(f, s)
		return errors.Join(err, f.Close())
	}
	err = d.sealInPlace(f, s)
	return errors.Join(err, f.Close())
}

// itemBytes is how many of the raw bytes are the items' own.
func itemBytes(raw []byte) (size uint64) {
	for len(raw) > 0 {
		var item []byte
		item, raw, _ = cutItem(raw)
		size += uint64(len(item))
	}
	return size
}

// sealInPlace cuts off what is behind the last whole block, most likely what was being written, and seals the rest.
func (d *Disk) sealInPlace(f file, s survey) error {
	foot := footer{reason: ReasonSalvaged, items: s.items, bytes: s.bytes, length: uint64(s.end)} //nolint:gosec // a length
	end := s.end
	_, blocksEnd, berr := bounds(f, s.header.sequence)
	if tail, err := readFooter(f, s.size); err == nil && berr == nil && blocksEnd == s.end {
		foot.reason = tail.reason // it was sealed, and only not renamed
	} else if err := d.keepTail(f, s); err != nil {
		return err
	}
	if err := f.Truncate(end); err != nil {
		return err
	}
	b := appendTail(nil, s.header, foot)
	if _, err := f.WriteAt(b, end); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := d.publishFile(s.header.sequence, openSuffix); err != nil {
		return err
	}
	d.add(s, foot, end+int64(len(b)))
	return nil
}

func (d *Disk) add(s survey, foot footer, size int64) {
	d.size += size
	d.dumps = append(d.dumps, Info{
		Sequence: s.header.sequence, Version: s.header.version, Reason: foot.reason, Created: s.header.created,
		Items: foot.items, Bytes: foot.bytes, Size: size,
	})
	d.o.Logger.Info("salvaged a dump that was not sealed", "sequence", s.header.sequence, "items", foot.items)
}

// keepTail sets aside what stands behind the last whole block, unless it is nothing but zeros or the beginning of what seals
// a dump: it may be a block that was durable once.
func (d *Disk) keepTail(f file, s survey) error {
	if s.size == s.end {
		return nil
	}
	tail := make([]byte, min(s.size-s.end, maxRaw))
	if _, err := f.ReadAt(tail, s.end); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if s.beginsSeal(bytes.TrimRight(tail, "\x00")) {
		return nil
	}
	name := path.Join(quarantineDir, fileName(s.header.sequence, ".tail"))
	err := d.writeWhole(name+reasonSuffix, fmt.Appendf(nil, "behind the last whole block of a dump that was not sealed\n"))
	if err == nil {
		err = d.writeWhole(name, tail)
	}
	if err == nil {
		err = d.fs.SyncDir(quarantineDir)
	}
	return err
}

// beginsSeal reports whether the tail is the beginning of what seals this dump, for any reason: a full disk had no room for
// more of it, or a crash came before it was durable.
func (s survey) beginsSeal(tail []byte) bool {
	for reason := ReasonSize; reason <= ReasonSalvaged; reason++ {
		foot := footer{reason: reason, items: s.items, bytes: s.bytes, length: uint64(s.end)} //nolint:gosec // a length
		if bytes.HasPrefix(appendTail(nil, s.header, foot), tail) {
			return true
		}
	}
	return false
}

// rewrite publishes a dump with the whole blocks of a damaged one.
func (d *Disk) rewrite(f file, s survey) error {
	part := fileName(s.header.sequence, partSuffix)
	if err := d.fs.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) { // of an attempt that failed
		return err
	}
	out, err := d.fs.Create(part)
	if err != nil {
		return err
	}
	foot, err := copyBlocks(out, f, s)
	if err == nil {
		err = out.Sync()
	}
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	if err := d.publishFile(s.header.sequence, partSuffix); err != nil {
		return err
	}
	name := fileName(s.header.sequence, openSuffix)
	reason := "not sealed, and damaged " + s.damaged.Error()
	return d.replace(name, reason, s.header.sequence, int64(foot.length)+footerSize) //nolint:gosec // a length
}

// replace sets a damaged dump aside of which the rest is published, and only then lists that: the two must not both be
// restored.
func (d *Disk) replace(name, reason string, sequence uint64, size int64) error {
	if err := d.setAside(name, reason); err != nil {
		return err
	}
	i := d.inspect(sequence, fileInfo{size: size, changed: time.Now()})
	d.size += size
	d.dumps = append(d.dumps, i)
	d.o.Logger.Info("salvaged a dump that was not sealed", "sequence", sequence, "items", i.Items)
	return nil
}

func copyBlocks(out io.Writer, f file, s survey) (foot footer, err error) {
	h := encodeHeader(s.header)
	length, err := out.Write(append(h, h...))
	if err != nil {
		return foot, err
	}
	foot = footer{reason: ReasonSalvaged, items: s.items, bytes: s.bytes, length: uint64(length)} //nolint:gosec // a length
	scan := scanner{file: f, sequence: s.header.sequence, at: s.begin, end: s.size}
	first := uint64(0)
	for {
		h, raw, err := scan.next()
		if errors.Is(err, io.EOF) {
			tail := appendTail(nil, s.header, foot)
			foot.length += uint64(len(tail)) - footerSize
			_, err = out.Write(tail)
			return foot, err
		}
		if err != nil {
			return foot, err
		}
		b := append(make([]byte, blockHeader), raw...)
		h.codec, h.stored, h.first = codecNone, h.raw, first
		putBlock(b, h, int64(foot.length)) //nolint:gosec // a length
		if _, err := out.Write(b); err != nil {
			return foot, err
		}
		foot.length += uint64(len(b))
		first += uint64(h.items)
	}
}

// publishFile gives a sealed file its final name. That it is durable matters little: recovery finds the other one, too.
func (d *Disk) publishFile(sequence uint64, from string) error {
	if err := d.fs.Rename(fileName(sequence, from), fileName(sequence, dumpSuffix)); err != nil {
		return err
	}
	if err := d.fs.SyncDir("."); err != nil {
		d.o.Logger.Error("the name of a sealed dump may not be durable yet", "sequence", sequence, "error", err)
	}
	return nil
}

// trim seals what is durable of a dump whose file was given up. If that fails, too, the next OpenDisk does it.
func (d *Disk) trim(o *openDump) {
	name := fileName(o.sequence, openSuffix)
	if o.durable.items == 0 {
		if err := d.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			d.o.Logger.Error("cannot remove an empty dump", "sequence", o.sequence, "error", err)
			return
		}
		d.release(int64(o.durable.length)) //nolint:gosec // a length
		return
	}
	foot := o.durable
	foot.reason = ReasonSalvaged
	b := appendTail(nil, d.header(o), foot)
	f, err := d.fs.Open(name, false)
	truncated := false
	if err == nil {
		err = f.Truncate(int64(foot.length)) //nolint:gosec // a length
		if err == nil {
			truncated = true
			_, err = f.WriteAt(b, int64(foot.length)) //nolint:gosec // a length
		}
		if err == nil {
			err = f.Sync()
		}
		err = errors.Join(err, f.Close())
	}
	if err == nil {
		err = d.publishFile(o.sequence, openSuffix)
	}
	switch {
	case err == nil:
	case truncated: // what was not durable is gone from it, and the rest is sealed when there is room
		d.release(int64(o.durable.length)) //nolint:gosec // a length, which the salvage counts again
		d.salvageLater(o.sequence)
		return
	default:
		d.o.Logger.Error("a dump that was given up stays open until the next start", "sequence", o.sequence, "error", err)
		return
	}
	d.release(-int64(len(b))) // the footer, which no quota keeps out
	d.publish(Info{
		Sequence: o.sequence, Version: d.o.Version, Reason: foot.reason, Created: o.created,
		Items: foot.items, Bytes: foot.bytes, Size: int64(foot.length) + int64(len(b)), //nolint:gosec // a length
	})
}

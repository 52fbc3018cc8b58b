package dlq

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// memFS is a file system in memory that has a disk below it.
//
//	Write, Truncate ─► what readers see        Create, Rename, Remove ─► what names there are
//	                      │ Sync                                              │ SyncDir
//	                      ▼                                                   ▼
//	                   durable                                             durable
//
// What is not durable yet is kept by a crash only as far as a share says, in order or not. A Sync that fails drops what
// was not durable for good, although readers still see it, as Linux does.
type memFS struct {
	mu      sync.Mutex
	dirs    map[string]*memDir
	pending []dirChange
	writes  int // operations that change something, so far
	all     int // operations
	crashAt int // the number of the writing operation before which the process dies; 0 is never
	dead    bool
	removed []*inode // dumps that were deleted, not set aside

	// What a test sets before, or between, its calls.
	fail        func(operation) error // an error instead of the operation, or errShort
	hook        func(operation)       // is called before the operation, and may wait
	free        int64
	noSync      bool // negative control: Sync says yes and does nothing
	noSyncDir   bool // negative control: SyncDir says yes and does nothing
	splitRename bool // a crash may leave both names of a renamed file
}

type memDir struct {
	entries, durable map[string]*inode
	named            bool // its own name is durable
}

type inode struct {
	data, durable []byte
	pending       []dataChange
	changed       time.Time
}

type dataChange struct {
	at       int64
	data     []byte
	truncate bool
}

// dirChange is atomic.
type dirChange []nameChange

type nameChange struct {
	dir, name string
	node      *inode // nil: the name goes
}

type opKind string

const (
	opCreate   opKind = "create"
	opOpen     opKind = "open"
	opWrite    opKind = "write"
	opRead     opKind = "read"
	opTruncate opKind = "truncate"
	opSync     opKind = "sync"
	opRename   opKind = "rename"
	opRemove   opKind = "remove"
	opMkdir    opKind = "mkdir"
	opList     opKind = "list"
	opSyncDir  opKind = "syncdir"
	opSize     opKind = "size"
)

type operation struct {
	kind   opKind
	name   string
	number int  // among all operations
	write  int  // among those that change something; 0: it does not
	grows  bool // it needs space
}

var (
	errDead  = errors.New("the process is dead")
	errShort = errors.New("short write") // a write stores half, and says ENOSPC
)

func newMemFS() *memFS {
	return &memFS{free: math.MaxInt64, dirs: map[string]*memDir{".": newMemDir(true)}}
}

func newMemDir(named bool) *memDir {
	return &memDir{entries: make(map[string]*inode), durable: make(map[string]*inode), named: named}
}

// step counts an operation and says whether it takes place.
func (m *memFS) step(kind opKind, name string, changes, grows bool) error {
	m.mu.Lock()
	if m.dead {
		m.mu.Unlock()
		return errDead
	}
	m.all++
	op := operation{kind: kind, name: name, number: m.all, grows: grows}
	if changes {
		m.writes++
		op.write = m.writes
		if m.writes == m.crashAt {
			m.dead = true
			m.mu.Unlock()
			return errDead
		}
	}
	fail, hook := m.fail, m.hook
	m.mu.Unlock()
	if hook != nil {
		hook(op)
	}
	if fail != nil {
		return fail(op)
	}
	return nil
}

func split(name string) (dir, base string) { return path.Dir(name), path.Base(name) }

// lookup is called with the lock.
func (m *memFS) lookup(name string) (*inode, error) {
	dir, base := split(name)
	d := m.dirs[dir]
	if d == nil || d.entries[base] == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return d.entries[base], nil
}

// change is called with the lock.
func (m *memFS) change(c dirChange) {
	for _, n := range c {
		if n.node == nil {
			delete(m.dirs[n.dir].entries, n.name)
		} else {
			m.dirs[n.dir].entries[n.name] = n.node
		}
	}
	m.pending = append(m.pending, c)
}

func (m *memFS) Create(name string) (file, error) {
	if err := m.step(opCreate, name, true, true); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.lookup(name); err == nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	dir, base := split(name)
	if m.dirs[dir] == nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrNotExist}
	}
	node := &inode{changed: time.Now()}
	m.change(dirChange{{dir, base, node}})
	return &memFile{fs: m, node: node, name: name}, nil
}

func (m *memFS) Open(name string, create bool) (file, error) {
	m.mu.Lock()
	_, err := m.lookup(name)
	m.mu.Unlock()
	makes := create && err != nil
	if err := m.step(opOpen, name, makes, makes); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	node, err := m.lookup(name)
	if err != nil && !create {
		return nil, err
	}
	if err != nil {
		dir, base := split(name)
		if m.dirs[dir] == nil {
			return nil, err
		}
		node = &inode{changed: time.Now()}
		m.change(dirChange{{dir, base, node}})
	}
	return &memFile{fs: m, node: node, name: name}, nil
}

func (m *memFS) Rename(from, to string) error {
	if err := m.step(opRename, from, true, false); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	node, err := m.lookup(from)
	if err != nil {
		return err
	}
	if _, err := m.lookup(to); err == nil {
		return &fs.PathError{Op: "rename", Path: to, Err: fs.ErrExist}
	}
	fromDir, fromBase := split(from)
	toDir, toBase := split(to)
	goes, comes := nameChange{fromDir, fromBase, nil}, nameChange{toDir, toBase, node}
	if m.splitRename {
		m.change(dirChange{comes})
	}
	m.change(dirChange{goes, comes})
	return nil
}

func (m *memFS) Remove(name string) error {
	if err := m.step(opRemove, name, true, false); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	node, err := m.lookup(name)
	if err != nil {
		return err
	}
	dir, base := split(name)
	if dir == "." && strings.HasSuffix(base, dumpSuffix) {
		m.removed = append(m.removed, node)
	}
	m.change(dirChange{{dir, base, nil}})
	return nil
}

func (m *memFS) Mkdir(name string) error {
	if err := m.step(opMkdir, name, true, false); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dirs[name] == nil {
		m.dirs[name] = newMemDir(false)
	}
	return nil
}

func (m *memFS) List(dir string) ([]fileInfo, error) {
	if err := m.step(opList, dir, false, false); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dirs[dir] == nil {
		return nil, &fs.PathError{Op: "list", Path: dir, Err: fs.ErrNotExist}
	}
	var infos []fileInfo
	for name, node := range m.dirs[dir].entries {
		infos = append(infos, fileInfo{name: name, size: int64(len(node.data)), changed: node.changed})
	}
	slices.SortFunc(infos, func(a, b fileInfo) int { return cmp.Compare(a.name, b.name) })
	return infos, nil
}

func (m *memFS) SyncDir(dir string) error {
	if err := m.step(opSyncDir, dir, true, false); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.noSyncDir {
		return nil
	}
	var left []dirChange
	for _, c := range m.pending {
		if !slices.ContainsFunc(c, func(n nameChange) bool { return n.dir == dir }) {
			left = append(left, c)
			continue
		}
		m.settle(c)
	}
	m.pending = left
	if dir == "." {
		for _, d := range m.dirs {
			d.named = true
		}
	}
	return nil
}

// settle makes a change of names durable.
func (m *memFS) settle(c dirChange) {
	for _, n := range c {
		if n.node == nil {
			delete(m.dirs[n.dir].durable, n.name)
		} else {
			m.dirs[n.dir].durable[n.name] = n.node
		}
	}
}

func (m *memFS) Free() (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.free, nil
}

// files returns what readers see, by name.
func (m *memFS) files() map[string][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make(map[string][]byte)
	for dir, d := range m.dirs {
		for name, node := range d.entries {
			all[path.Join(dir, name)] = bytes.Clone(node.data)
		}
	}
	return all
}

// put makes a file, durably.
func (m *memFS) put(name string, data []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base := split(name)
	if m.dirs[dir] == nil {
		m.dirs[dir] = newMemDir(true)
	}
	node := &inode{data: bytes.Clone(data), durable: bytes.Clone(data), changed: time.Now()}
	m.dirs[dir].entries[base] = node
	m.dirs[dir].durable[base] = node
}

func (m *memFS) died() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dead
}

func (m *memFS) set(change func(m *memFS)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(m)
}

type memFile struct {
	fs   *memFS
	node *inode
	name string
	at   int64
}

func (f *memFile) Write(b []byte) (int, error) {
	n, err := f.WriteAt(b, f.at)
	f.at += int64(n)
	return n, err
}

func (f *memFile) WriteAt(b []byte, at int64) (int, error) {
	err := f.fs.step(opWrite, f.name, true, true)
	switch {
	case errors.Is(err, errShort):
		b = b[:len(b)/2]
		err = syscall.ENOSPC
	case err != nil:
		return 0, err
	}
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	c := dataChange{at: at, data: bytes.Clone(b)}
	f.node.data = c.apply(f.node.data)
	f.node.pending = append(f.node.pending, c)
	f.node.changed = time.Now()
	return len(b), err
}

func (c dataChange) apply(data []byte) []byte {
	if c.truncate {
		if int64(len(data)) > c.at {
			return data[:c.at:c.at]
		}
		return append(data, make([]byte, c.at-int64(len(data)))...)
	}
	if end := c.at + int64(len(c.data)); end > int64(len(data)) {
		data = append(data, make([]byte, end-int64(len(data)))...)
	}
	copy(data[c.at:], c.data)
	return data
}

func (f *memFile) ReadAt(b []byte, at int64) (int, error) {
	if err := f.fs.step(opRead, f.name, false, false); err != nil {
		return 0, err
	}
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if at >= int64(len(f.node.data)) {
		return 0, io.EOF
	}
	n := copy(b, f.node.data[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (*memFile) WriteBack(int64, int64) {} // any share of what is not synced is kept at a crash as it is

func (f *memFile) Sync() error {
	err := f.fs.step(opSync, f.name, true, false)
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.fs.dead {
		return errDead
	}
	if err != nil {
		f.node.pending = nil // never to be durable, and no later Sync says so
		return err
	}
	if f.fs.noSync {
		return nil
	}
	for _, c := range f.node.pending {
		f.node.durable = c.apply(f.node.durable)
	}
	f.node.pending = nil
	return nil
}

func (f *memFile) Truncate(size int64) error {
	if err := f.fs.step(opTruncate, f.name, true, false); err != nil {
		return err
	}
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	c := dataChange{at: size, truncate: true}
	f.node.data = c.apply(f.node.data)
	f.node.pending = append(f.node.pending, c)
	return nil
}

func (f *memFile) Size() (int64, error) {
	if err := f.fs.step(opSize, f.name, false, false); err != nil {
		return 0, err
	}
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return int64(len(f.node.data)), nil
}

func (f *memFile) Close() error {
	if f.fs.died() {
		return errDead
	}
	return nil
}

// kept says what a crash leaves of what was not durable.
type kept struct {
	percent int
	order   keptOrder
}

type keptOrder string

const (
	inOrder   keptOrder = "the first"
	lastFirst keptOrder = "the last"
	scattered keptOrder = "scattered sectors"
)

func (k kept) String() string { return fmt.Sprintf("%d %% kept, %s", k.percent, k.order) }

var allKept = []kept{
	{0, inOrder},
	{10, inOrder},
	{10, lastFirst},
	{10, scattered},
	{50, inOrder},
	{50, lastFirst},
	{50, scattered},
	{90, inOrder},
	{90, lastFirst},
	{90, scattered},
	{100, inOrder},
}

const sector = 512 // bytes

// keeps says whether the i-th of n units stays.
func (k kept) keeps(i, n int) bool {
	switch {
	case k.percent == 0:
		return false
	case k.percent == 100:
		return true
	case k.order == inOrder:
		return i*100 < n*k.percent
	case k.order == lastFirst:
		return (n-1-i)*100 < n*k.percent
	default:
		return int(uint64(i+1)*0x9e3779b97f4a7c15>>33%100) < k.percent
	}
}

// after returns the disk that a crash leaves now.
func (m *memFS) after(k kept) *memFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	image := newMemFS()
	image.noSync, image.noSyncDir, image.splitRename, image.free = m.noSync, m.noSyncDir, m.splitRename, m.free
	names := make(map[string]map[string]*inode)
	for dir, d := range m.dirs {
		if d.named || k.percent == 100 {
			names[dir] = maps.Clone(d.durable)
		}
	}
	for i, c := range m.pending {
		if !k.keeps(i, len(m.pending)) {
			continue
		}
		if slices.ContainsFunc(c, func(n nameChange) bool { return names[n.dir] == nil }) {
			continue
		}
		for _, n := range c {
			if n.node == nil {
				delete(names[n.dir], n.name)
			} else {
				names[n.dir][n.name] = n.node
			}
		}
	}
	copies := make(map[*inode]*inode)
	for dir, entries := range names {
		image.dirs[dir] = newMemDir(true)
		for name, node := range entries {
			if copies[node] == nil {
				data := node.after(k)
				copies[node] = &inode{data: data, durable: bytes.Clone(data), changed: node.changed}
			}
			image.dirs[dir].entries[name] = copies[node]
			image.dirs[dir].durable[name] = copies[node]
		}
	}
	return image
}

func (n *inode) after(k kept) []byte {
	var units []dataChange
	for _, c := range n.pending {
		if c.truncate {
			units = append(units, c)
			continue
		}
		for at, b := c.at, c.data; len(b) > 0; {
			size := min(int64(len(b)), sector-at%sector)
			units = append(units, dataChange{at: at, data: b[:size]})
			at, b = at+size, b[size:]
		}
	}
	data := bytes.Clone(n.durable)
	for i, c := range units {
		if k.keeps(i, len(units)) {
			data = c.apply(data)
		}
	}
	return data
}

// clone is the disk as it is, with nothing lost.
func (m *memFS) clone() *memFS { return m.after(kept{100, inOrder}) }

func TestMemFSKeepsWhatIsDurable(t *testing.T) {
	m := newMemFS()
	f, err := m.Create("a")
	require.NoError(t, err)
	_, err = f.Write([]byte("durable"))
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	require.Empty(t, m.after(kept{0, inOrder}).files(), "the name is not durable")
	require.NoError(t, m.SyncDir("."))
	_, err = f.Write([]byte(" lost"))
	require.NoError(t, err)
	require.Equal(t, "durable", string(m.after(kept{0, inOrder}).files()["a"]))
	require.Equal(t, "durable lost", string(m.after(kept{100, inOrder}).files()["a"]))

	m.fail = func(op operation) error {
		if op.kind == opSync {
			return syscall.EIO
		}
		return nil
	}
	require.ErrorIs(t, f.Sync(), syscall.EIO)
	m.fail = nil
	require.NoError(t, f.Sync())
	require.Equal(t, "durable lost", string(m.files()["a"]))
	require.Equal(t, "durable", string(m.after(kept{100, inOrder}).files()["a"]), "a failed Sync dropped it")

	require.NoError(t, m.Rename("a", "b"))
	require.Contains(t, m.after(kept{0, inOrder}).files(), "a")
	require.Contains(t, m.after(kept{100, inOrder}).files(), "b")

	_, err = f.WriteAt(bytes.Repeat([]byte("x"), 10*sector), 0)
	require.NoError(t, err)
	require.NoError(t, m.SyncDir("."))
	require.Len(t, m.after(kept{50, inOrder}).files()["b"], 5*sector)
	late := m.after(kept{50, lastFirst}).files()["b"]
	require.Len(t, late, 10*sector)
	require.NotEqual(t, byte('x'), late[sector])
}

package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"banger/api"
)

// node is one inode of a root that is being made; hard links share it. The file on the
// host stands in for it: always ours, always 0600 or 0700, never a device. What it shall
// be in the guest stands here, and mke2fs is told so (see fakeState).
type node struct {
	kind       byte  // a tar type flag: TypeDir, TypeReg, TypeSymlink, TypeChar, TypeBlock or TypeFifo
	mode       int64 // permissions, setuid and the like: 0 to 07777
	uid, gid   int
	major      int64
	minor      int64
	size       int64
	target     string // of a symlink
	capability []byte // security.capability
	mtime      time.Time
}

// unpacker takes the entries of a foreign archive into a directory. Names, links and types
// are checked against its own idea of the tree and never against the host's, and every
// file is opened through an os.Root, so that nothing can come to lie outside.
type unpacker struct {
	root *os.Root
	// limit is how many bytes all contents may have together.
	limit int64
	// owner maps owners; nil keeps them.
	owner func(uid, gid int) (int, int)

	nodes   map[string]*node // by clean name without a leading slash; the root itself is "."
	bytes   int64
	dropped map[string]int // what was left out, and how often
	buf     []byte
}

func newUnpacker(dir string, limit int64) (*unpacker, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &unpacker{
		root: root, limit: limit, dropped: map[string]int{}, buf: make([]byte, 1<<20),
		nodes: map[string]*node{".": {kind: tar.TypeDir, mode: 0o755}},
	}, nil
}

// maxEntries bounds the memory that a hostile archive can cost us: some 300 bytes each.
const maxEntries = 4 << 20

// refuse is the error for an archive that cannot be a root file system.
func refuse(name, format string, args ...any) error {
	return api.Errorf(api.CodeInvalid, "refused %q in the archive: %s", name, fmt.Sprintf(format, args...))
}

// cleanName confines an absolute name (as tar does) and refuses one with "..".
func cleanName(name string) (string, error) {
	if strings.ContainsRune(name, 0) || len(name) > 4095 {
		return "", refuse(name, "not a name for a file")
	}
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "..":
			return "", refuse(name, `its name has ".." in it`)
		case len(part) > 255:
			return "", refuse(name, "a part of its name is longer than 255 bytes")
		}
	}
	return path.Clean(strings.TrimLeft(name, "/")), nil
}

// add takes one entry.
func (u *unpacker) add(h *tar.Header, body io.Reader) error {
	name, err := cleanName(h.Name)
	if err != nil {
		return err
	}
	if err := u.fits(h, name); err != nil {
		return err
	}
	n, err := u.nodeOf(h, name)
	if n == nil || err != nil {
		return err
	}
	if name == "." {
		if n.kind != tar.TypeDir {
			return refuse(h.Name, "the root must be a directory")
		}
		u.nodes["."] = n
		return nil
	}
	if err := u.makeParents(h.Name, path.Dir(name)); err != nil {
		return err
	}
	if done, err := u.replace(h.Name, name, n); done || err != nil {
		return err
	}
	if h.Typeflag == tar.TypeLink {
		err = u.link(h, name)
	} else {
		err = u.make(name, n, body)
	}
	if err != nil {
		return diskError(fmt.Errorf("cannot unpack %q: %w", h.Name, err))
	}
	return nil
}

// fits checks what needs no look at the tree.
func (u *unpacker) fits(h *tar.Header, name string) error {
	base := path.Base(name)
	switch {
	case strings.HasPrefix(base, ".wh."):
		return refuse(h.Name, "a whiteout: this is one layer of a container image, not a whole root (docker export or podman export gives that)")
	case len(u.nodes) >= maxEntries:
		return refuse(h.Name, "more than %d entries", maxEntries)
	case h.Size < 0 || h.Size > u.limit-u.bytes:
		return api.Errorf(api.CodeExhausted, "the archive's contents need more than the %d MiB that are free here", u.limit>>20)
	case h.Uid < 0 || h.Gid < 0 || int64(h.Uid) > maxID || int64(h.Gid) > maxID:
		return refuse(h.Name, "owner %d:%d", h.Uid, h.Gid)
	}
	return nil
}

// maxID is the largest uid; the next stands for "no uid" in the kernel.
const maxID = 1<<32 - 2

// makeParents makes the directories above an entry that the archive did not name. One that
// is a symlink is not followed: where it leads is the archive's word only.
func (u *unpacker) makeParents(entry, dir string) error {
	if dir == "." {
		return nil
	}
	if n, ok := u.nodes[dir]; ok {
		if n.kind != tar.TypeDir {
			return refuse(entry, "%q, which it lies in, is no directory", dir)
		}
		return nil
	}
	if err := u.makeParents(entry, path.Dir(dir)); err != nil {
		return err
	}
	n := &node{kind: tar.TypeDir, mode: 0o755}
	if err := u.make(dir, n, nil); err != nil {
		return diskError(fmt.Errorf("cannot unpack %q: %w", entry, err))
	}
	return nil
}

// replace makes room for a name that is there already: the last one wins, as in tar.
func (u *unpacker) replace(entry, name string, n *node) (done bool, err error) {
	old, ok := u.nodes[name]
	switch {
	case !ok:
		return false, nil
	case old.kind == tar.TypeDir && n.kind == tar.TypeDir:
		*old = *n
		return true, nil
	case old.kind == tar.TypeDir || n.kind == tar.TypeDir:
		return false, refuse(entry, "once a directory and once not")
	case old == n:
		return true, nil // a hard link to what it is already
	}
	delete(u.nodes, name)
	return false, u.root.Remove(name)
}

func (u *unpacker) link(h *tar.Header, name string) error {
	to, err := cleanName(h.Linkname)
	if err != nil {
		return err
	}
	if err := u.root.Link(to, name); err != nil {
		return err
	}
	u.nodes[name] = u.nodes[to]
	return nil
}

// make makes the stand-in on the host.
func (u *unpacker) make(name string, n *node, body io.Reader) error {
	var err error
	switch n.kind {
	case tar.TypeDir:
		err = u.root.Mkdir(name, 0o700)
	case tar.TypeSymlink:
		err = u.root.Symlink(n.target, name)
	default:
		err = u.file(name, n, body)
	}
	if err == nil {
		u.nodes[name] = n
	}
	return err
}

func (u *unpacker) file(name string, n *node, body io.Reader) error {
	f, err := u.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if n.kind == tar.TypeReg && n.size > 0 {
		// Hiding f's ReadFrom keeps the copy in our own buffer.
		wrote, err := io.CopyBuffer(struct{ io.Writer }{f}, io.LimitReader(body, n.size), u.buf)
		u.bytes += wrote
		if err == nil && wrote != n.size {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return errors.Join(err, f.Close())
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	return u.root.Chtimes(name, n.mtime, n.mtime)
}

// finish sets the times of directories, which every entry made in them has changed.
func (u *unpacker) finish() error {
	for name, n := range u.nodes {
		if n.kind == tar.TypeDir {
			if err := u.root.Chtimes(name, n.mtime, n.mtime); err != nil {
				return err
			}
		}
	}
	return nil
}

func (u *unpacker) close() error { return u.root.Close() }

// diskError gives a full disk its code.
func diskError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return api.Errorf(api.CodeExhausted, "%w", err).WithHint("banger prune")
	}
	return err
}

// exists is for our own names, not an archive's.
func (u *unpacker) exists(name string) bool {
	_, ok := u.nodes[name]
	return ok
}

// remove takes a file, or a directory with all in it, out again; a missing one is no error.
func (u *unpacker) remove(name string) error {
	for n := range u.nodes {
		if n == name || strings.HasPrefix(n, name+"/") {
			delete(u.nodes, n)
		}
	}
	err := u.root.RemoveAll(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

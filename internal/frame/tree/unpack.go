package tree

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"banger/api"
)

// Owner is a numeric user and group.
type Owner struct{ UID, GID int }

// UnpackOptions change how Unpack works.
type UnpackOptions struct {
	// Owner of everything that is made; nil: whoever runs this. What the stream says of owners does not count.
	Owner *Owner
	// As replaces the first component of every name; empty leaves them as they are.
	As string
}

type unpacker struct {
	o    UnpackOptions
	root *os.Root
	// rootFD is the same directory.
	rootFD int
	// parent is the open directory that the last entry went to, -1 for none, under the name it was asked for.
	parent     int
	parentName string
	// small takes the small files, buf is what large ones are copied through.
	small *filler
	buf   []byte
	// made are the directories that were made, whose metadata come last: writing into
	// them changes their mtime, and some may not be written to once they have their mode.
	made []madeDir
}

type madeDir struct {
	name string
	h    *tar.Header
}

// Unpack puts a tar stream below dst, an open directory. Files that are there are
// replaced (never written into), directories are joined. It stops at the first thing that it
// refuses, with code invalid; what was unpacked before stays.
func Unpack(ctx context.Context, r io.Reader, dst *os.File, o UnpackOptions) (err error) {
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", dst.Fd()))
	if err != nil {
		return fmt.Errorf("cannot unpack into %s: %w", dst.Name(), err)
	}
	u := &unpacker{o: o, root: root, rootFD: int(dst.Fd()), parent: -1, buf: make([]byte, blockSize)}
	u.small = newFiller(u)
	defer func() {
		if serr := u.small.finish(); err == nil {
			err = serr
		}
		err = errors.Join(err, u.finish())
		u.forget()
		_ = root.Close()
	}()
	// Headers and small files are taken from the stream many at a time: each read of it may be a long way.
	end := &ending{r: &cancellable{ctx, r}}
	in := bufio.NewReaderSize(end, blockSize)
	tr := tar.NewReader(in)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			// The writer's padding: read it, or the one who sends it is cut off.
			if _, err := io.Copy(io.Discard, in); err != nil {
				return err
			}
			if end.zeros < endOfArchive {
				return api.Errorf(api.CodeInvalid, "cannot read the tar stream: it was cut off")
			}
			return nil
		}
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return api.Errorf(api.CodeInvalid, "cannot read the tar stream: %w", err)
		}
		if err := u.entry(h, tr); err != nil {
			return err
		}
	}
}

// endOfArchive is how many zero bytes end a tar stream at least; archive/tar takes a stream
// that ends before them for whole.
const endOfArchive = 1024

// ending counts the zero bytes that a stream ends with.
type ending struct {
	r     io.Reader
	zeros int64
}

func (e *ending) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	for i := n - 1; i >= 0; i-- {
		if p[i] != 0 {
			e.zeros = int64(n - 1 - i)
			return n, err
		}
	}
	e.zeros += int64(n)
	return n, err
}

func (u *unpacker) entry(h *tar.Header, body io.Reader) error {
	name, err := u.clean(h.Name)
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if name == "." {
		if h.Typeflag == tar.TypeDir {
			return nil // the target itself: it stays as it is
		}
		return refuse(h.Name, "has no name")
	}
	if sparse(h) {
		return refuse(h.Name, "is stored sparse (pack it without --sparse; zeros become holes here all the same)")
	}
	switch h.Typeflag {
	case tar.TypeDir:
		err = u.dir(name, h)
	case tar.TypeReg, '\x00', tar.TypeCont:
		err = u.file(name, h, body)
	case tar.TypeSymlink:
		err = u.symlink(name, h)
	case tar.TypeLink:
		err = u.link(name, h)
	case tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
		return refuse(h.Name, "is a device or a FIFO")
	default:
		return refuse(h.Name, fmt.Sprintf("is of the unknown kind %q", h.Typeflag))
	}
	if err != nil {
		return explain(h.Name, err)
	}
	return nil
}

// in returns the open directory that name goes into, and name's last component.
func (u *unpacker) in(name string) (fd int, base string, err error) {
	dir, base := path.Split(name)
	dir = path.Clean(dir)
	if u.parent < 0 || dir != u.parentName {
		u.forget()
		fd, err := u.open(dir, unix.O_PATH|unix.O_DIRECTORY)
		if errors.Is(err, fs.ErrNotExist) {
			if err = u.root.MkdirAll(dir, 0o755); err == nil {
				fd, err = u.open(dir, unix.O_PATH|unix.O_DIRECTORY)
			}
		}
		if err != nil {
			return -1, "", err
		}
		u.parent, u.parentName = fd, dir
	}
	return u.parent, base, nil
}

// open opens a directory within the target. The kernel does it in one call; one that does not know how, or refuses, leaves it
// to os.Root, which goes from component to component and knows the reason.
func (u *unpacker) open(dir string, flags int) (int, error) {
	fd, err := unix.Openat2(u.rootFD, dir, &unix.OpenHow{
		Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS, //nolint:gosec // a few bits
	})
	if err == nil {
		return fd, nil
	}
	f, err := u.root.OpenFile(dir, flags, 0)
	if err != nil {
		return -1, err
	}
	defer f.Close()
	return unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
}

func (u *unpacker) forget() {
	if u.parent >= 0 {
		_ = unix.Close(u.parent)
		u.parent = -1
	}
}

func (u *unpacker) dir(name string, h *tar.Header) error {
	fd, base, err := u.in(name)
	if err != nil {
		return err
	}
	err = unix.Mkdirat(fd, base, modeOf(h)&0o755|0o700) // writable to nobody else before it is full
	if errors.Is(err, unix.EEXIST) {
		st, err := u.root.Stat(name) // through a symbolic link within the target
		if err != nil {
			return err
		}
		if !st.IsDir() {
			return unix.ENOTDIR
		}
		return nil
	}
	if err == nil {
		u.made = append(u.made, madeDir{name, h})
	}
	return err
}

// vacate removes what stands in the way of a new entry, except a directory.
func vacate(fd int, base string) error {
	err := unix.Unlinkat(fd, base, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// file works on the bare descriptor: a tree has thousands of files, and in an emulated guest each call counts.
func (u *unpacker) file(name string, h *tar.Header, body io.Reader) error {
	dir, base, err := u.in(name)
	if err != nil {
		return err
	}
	mode := modeOf(h) & 0o777
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(dir, base, flags, mode)
	if errors.Is(err, unix.EEXIST) {
		if err = vacate(dir, base); err == nil {
			fd, err = unix.Openat(dir, base, flags, mode)
		}
	}
	if err != nil {
		return err
	}
	if h.Size < blockSize {
		return u.small.add(fd, h, body)
	}
	err = copySparse(fd, body, u.buf)
	if err == nil {
		err = u.own(fd, h)
	}
	if err == nil {
		err = futimens(fd, h)
	}
	return errors.Join(err, unix.Close(fd))
}

func (u *unpacker) symlink(name string, h *tar.Header) error {
	if h.Linkname == "" || strings.ContainsRune(h.Linkname, 0) {
		return refuse(h.Name, "is a symbolic link to nothing")
	}
	fd, base, err := u.in(name)
	if err != nil {
		return err
	}
	if err := vacate(fd, base); err != nil {
		return err
	}
	if err := unix.Symlinkat(h.Linkname, fd, base); err != nil {
		return err
	}
	if o := u.o.Owner; o != nil {
		if err := unix.Fchownat(fd, base, o.UID, o.GID, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	err = unix.UtimesNanoAt(fd, base, times(h), unix.AT_SYMLINK_NOFOLLOW)
	u.forget() // the way to the parent may lead through this very link
	return err
}

func (u *unpacker) link(name string, h *tar.Header) error {
	target, err := u.clean(h.Linkname)
	if err != nil {
		return refuse(h.Name, fmt.Sprintf("is a hard link to %q, which is outside", h.Linkname))
	}
	from, err := u.root.Open(path.Dir(target))
	if err != nil {
		return err
	}
	defer from.Close()
	fd, base, err := u.in(name)
	if err != nil {
		return err
	}
	if target == name {
		return refuse(h.Name, "is a hard link to itself")
	}
	if err := vacate(fd, base); err != nil {
		return err
	}
	return unix.Linkat(int(from.Fd()), path.Base(target), fd, base, 0) // 0: a symbolic link is not followed
}

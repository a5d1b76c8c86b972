// Package tree turns a directory into a tar stream and back. Both halves of the
// conversation use it: a guest's tree may be hostile to the host that unpacks it,
// and the other way round. It imports api and may be imported by anyone.
//
// What travels: regular files, directories, symbolic links (as they are, wherever
// they point), hard links within the tree; permission bits, mtime, numeric owner. Sockets,
// FIFOs and devices do not travel. Extended attributes are not carried, but for capabilities on request.
//
// Unpack never writes outside its directory: names with ".." and absolute ones are
// refused, and so is a name that leads out through a symbolic link, whether that link
// was there before or came with the stream.
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
	"sort"
	"time"

	"golang.org/x/sys/unix"
)

// PackOptions change how Pack works.
type PackOptions struct {
	// Name is what the top is called in the stream; "." for a directory puts its
	// contents at the stream's top.
	Name string
	// Skipped, if not nil, is told of what cannot travel.
	Skipped func(name, kind string)
	// Edit, if not nil, is asked what to make of each member; mode is as in stat(2).
	Edit func(name string, mode uint32) Edit
	// Capabilities makes file capabilities travel (capabilities(7)), as the PAX record that GNU tar uses.
	Capabilities bool
}

// Edit says what becomes of a member on its way. The zero value leaves it as it is.
type Edit struct {
	// Omit leaves it out, with all that is in it.
	Omit bool
	// Empty leaves out what is in it, a file's bytes or a directory's entries; Text replaces a file's bytes.
	Empty bool
	Text  string
}

type packer struct {
	ctx  context.Context
	tw   *tar.Writer
	skip func(name, kind string)
	edit func(name string, mode uint32) Edit
	caps bool
	// links maps a file with several names to the name it was first sent under.
	links map[inode]string
}

type inode struct{ dev, ino uint64 }

// Pack writes src, a directory or a regular file open for reading, as a tar stream.
// What vanishes meanwhile is left out; a file that shrinks is filled up with zeros.
func Pack(ctx context.Context, w io.Writer, src *os.File, o PackOptions) error {
	out := bufio.NewWriterSize(w, 2*blockSize) // many small members go together
	p := &packer{ctx: ctx, tw: tar.NewWriter(out), skip: o.Skipped, edit: o.Edit, caps: o.Capabilities, links: map[inode]string{}}
	if p.skip == nil {
		p.skip = func(string, string) {}
	}
	if p.edit == nil {
		p.edit = func(string, uint32) Edit { return Edit{} }
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(src.Fd()), &st); err != nil {
		return fmt.Errorf("cannot pack %s: %w", src.Name(), err)
	}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		err = p.dir(src, o.Name, &st)
	case unix.S_IFREG:
		err = p.file(src, o.Name, &st)
	default:
		p.skip(o.Name, kindOf(st.Mode))
	}
	if err == nil {
		err = p.tw.Close()
	}
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		return fmt.Errorf("cannot pack %s: %w", o.Name, err)
	}
	return nil
}

func (p *packer) dir(d *os.File, name string, st *unix.Stat_t) error {
	if err := p.header(tar.TypeDir, name+"/", "", st); err != nil {
		return err
	}
	if pseudo(d) || p.edit(name, st.Mode).Empty {
		return nil
	}
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	sort.Strings(names)
	for _, n := range names {
		if err := p.ctx.Err(); err != nil {
			return context.Cause(p.ctx)
		}
		if err := p.entry(d, n, path.Join(name, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: %w", path.Join(name, n), err)
		}
	}
	return nil
}

func (p *packer) entry(d *os.File, base, name string) error {
	fd := int(d.Fd())
	var st unix.Stat_t
	if err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if p.edit(name, st.Mode).Omit {
		return nil
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(fd, base, buf)
		if err != nil {
			return err
		}
		return p.header(tar.TypeSymlink, name, string(buf[:n]), &st)
	case unix.S_IFREG, unix.S_IFDIR:
	default:
		p.skip(name, kindOf(st.Mode))
		return nil
	}
	// O_NONBLOCK: it may have become a FIFO since.
	sub, err := unix.Openat(fd, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(sub), name)
	defer f.Close()
	if err := unix.Fstat(sub, &st); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return p.dir(f, name, &st)
	case unix.S_IFREG:
		return p.file(f, name, &st)
	default:
		p.skip(name, kindOf(st.Mode))
		return nil
	}
}

func (p *packer) file(f *os.File, name string, st *unix.Stat_t) error {
	if st.Nlink > 1 {
		id := inode{st.Dev, st.Ino}
		if first, ok := p.links[id]; ok {
			return p.header(tar.TypeLink, name, first, st)
		}
		p.links[id] = name
	}
	if e := p.edit(name, st.Mode); e.Empty || e.Text != "" {
		st.Size = int64(len(e.Text))
		if err := p.header(tar.TypeReg, name, "", st); err != nil {
			return err
		}
		_, err := io.WriteString(p.tw, e.Text)
		return err
	}
	if err := p.fileHeader(f, name, st); err != nil {
		return err
	}
	n, err := io.Copy(p.tw, &cancellable{p.ctx, io.LimitReader(f, st.Size)})
	if err != nil {
		return err
	}
	_, err = io.CopyN(p.tw, zeros{}, st.Size-n)
	return err
}

// capabilityRecord is how GNU tar writes the attribute down.
const capabilityRecord = "SCHILY.xattr.security.capability"

// fileHeader is header for a file's own bytes.
func (p *packer) fileHeader(f *os.File, name string, st *unix.Stat_t) error {
	h := headerOf(tar.TypeReg, name, "", st)
	if p.caps && st.Mode&0o111 != 0 {
		buf := make([]byte, 64) // it has 24 bytes at most
		if n, err := unix.Fgetxattr(int(f.Fd()), "security.capability", buf); err == nil {
			h.PAXRecords = map[string]string{capabilityRecord: string(buf[:n])}
		}
	}
	return p.tw.WriteHeader(h)
}

func (p *packer) header(kind byte, name, link string, st *unix.Stat_t) error {
	return p.tw.WriteHeader(headerOf(kind, name, link, st))
}

func headerOf(kind byte, name, link string, st *unix.Stat_t) *tar.Header {
	h := &tar.Header{
		Typeflag: kind, Name: name, Linkname: link,
		Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Sec, st.Mtim.Nsec), Format: tar.FormatPAX,
	}
	if kind == tar.TypeReg {
		h.Size = st.Size
	}
	return h
}

// pseudo reports whether a directory is the top of, or within, a file system that holds the
// kernel's own figures: those have no end and no meaning elsewhere.
func pseudo(d *os.File) bool {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(d.Fd()), &st); err != nil {
		return false
	}
	switch int64(st.Type) {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.DEVPTS_SUPER_MAGIC, unix.CGROUP_SUPER_MAGIC,
		unix.CGROUP2_SUPER_MAGIC, unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC,
		unix.BPF_FS_MAGIC, unix.PSTOREFS_MAGIC, unix.EFIVARFS_MAGIC:
		return true
	}
	return false
}

func kindOf(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFIFO:
		return "FIFO"
	default:
		return "device"
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// cancellable stops reading when its context ends.
type cancellable struct {
	ctx context.Context
	r   io.Reader
}

func (c *cancellable) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

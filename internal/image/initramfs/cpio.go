package initramfs

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// archive writes a newc cpio archive. Errors stick and come out of close. Owners are
// root and times zero throughout, so that only contents decide the bytes.
type archive struct {
	w     *bufio.Writer
	inode uint32
	off   int64
	err   error
}

func newArchive(w io.Writer) *archive { return &archive{w: bufio.NewWriterSize(w, 1<<20)} }

// File types as in stat(2)'s st_mode.
const (
	typeDir     = 0o040000
	typeFile    = 0o100000
	typeChar    = 0o020000
	typeSymlink = 0o120000
)

func (a *archive) dir(name string) { a.member(name, typeDir|0o755, nil, 0, 0) }

func (a *archive) file(name string, data []byte, mode uint32) {
	a.member(name, typeFile|mode, data, 0, 0)
}

func (a *archive) symlink(name, target string) {
	a.member(name, typeSymlink|0o777, []byte(target), 0, 0)
}

func (a *archive) charDevice(name string, major, minor uint32) {
	a.member(name, typeChar|0o600, nil, major, minor)
}

func (a *archive) member(name string, mode uint32, data []byte, major, minor uint32) {
	name = strings.TrimPrefix(name, "/")
	a.inode++
	links := 1
	if mode&0o170000 == typeDir {
		links = 2
	}
	a.write(fmt.Appendf(nil, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.inode, mode, 0, 0, links, 0, len(data), 0, 0, major, minor, len(name)+1, 0, name))
	a.pad()
	a.write(data)
	a.pad()
}

// pad aligns to 4 bytes, as the format wants after each name and each body.
func (a *archive) pad() {
	if n := a.off % 4; n != 0 {
		a.write(make([]byte, 4-n))
	}
}

func (a *archive) write(p []byte) {
	if a.err != nil {
		return
	}
	n, err := a.w.Write(p)
	a.off += int64(n)
	if err != nil {
		a.err = fmt.Errorf("cannot write initramfs: %w", err)
	}
}

func (a *archive) close() error {
	a.inode = 0xffffffff // the next is 0, as the trailer's should be
	a.member("TRAILER!!!", 0, nil, 0, 0)
	if a.err != nil {
		return a.err
	}
	if err := a.w.Flush(); err != nil {
		return fmt.Errorf("cannot write initramfs: %w", err)
	}
	return nil
}

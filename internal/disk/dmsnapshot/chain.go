package dmsnapshot

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"banger/api"
)

// link is a file of a chain, open.
type link struct {
	file *os.File
	size int64 // what it shows
	// disk is false for a raw image, whose header is empty.
	disk   bool
	header header
	// dev and inode are which file it is: it may have several names.
	dev, inode uint64
}

func (l *link) is(dev, inode uint64) bool { return l.dev == dev && l.inode == inode }

// chain is a disk and all that it lies on, the lowest first; the disk itself is the last.
type chain []*link

func (c chain) top() *link { return c[len(c)-1] }

// close closes the files.
func (c chain) close() {
	for _, l := range c {
		_ = l.file.Close()
	}
}

// deepest bounds chains: a file that lies on itself would have no end.
const deepest = 100

// openChain opens a disk, by flag, and reading what it lies on.
func openChain(path string, flag int) (c chain, err error) {
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	var upwards chain
	format := Format
	for path != "" {
		if len(upwards) == deepest {
			return upwards, api.Errorf(api.CodeConflict, "a chain of more than %d disks", deepest)
		}
		l, err := openLink(path, format, flag)
		if err != nil {
			return upwards, err
		}
		upwards = append(upwards, l)
		path, format, flag = l.header.Base, l.header.BaseFormat, os.O_RDONLY
	}
	for n := range upwards {
		c = append(c, upwards[len(upwards)-1-n])
	}
	return c, nil
}

func openLink(path, format string, flag int) (*link, error) {
	f, err := openFile(path, flag)
	if err != nil {
		return nil, err
	}
	l := &link{file: f, disk: format == Format}
	if l.disk {
		l.header, err = headerOf(f)
		l.size = l.header.Size
	} else {
		l.size, err = rawSize(f)
	}
	var st unix.Stat_t
	if err == nil {
		err = unix.Fstat(int(f.Fd()), &st)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	l.dev, l.inode = st.Dev, st.Ino
	return l, nil
}

// store reads the exceptions of a disk.
func (l *link) store() (store, error) {
	s, err := readStore(l.file, l.size)
	if err != nil {
		return store{}, fmt.Errorf("cannot read disk %s: %w", l.file.Name(), err)
	}
	return s, nil
}

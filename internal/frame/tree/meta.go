package tree

import (
	"archive/tar"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// finish gives the directories their owner, mode and time, innermost first.
func (u *unpacker) finish() error {
	var errs []error
	for i := len(u.made) - 1; i >= 0; i-- {
		d := u.made[i]
		if err := u.finishDir(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, explain(d.h.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (u *unpacker) finishDir(d madeDir) error {
	f, err := u.root.OpenFile(d.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	fd := int(f.Fd())
	if o, ok := u.owner(d.h); ok {
		if err := unix.Fchown(fd, o.UID, o.GID); err != nil {
			return err
		}
	}
	if err := unix.Fchmod(fd, u.mode(d.h)); err != nil {
		return err
	}
	return os.Chtimes(fmt.Sprintf("/proc/self/fd/%d", fd), time.Time{}, d.h.ModTime)
}

func (u *unpacker) owner(h *tar.Header) (Owner, bool) {
	switch {
	case u.o.Owner != nil:
		return *u.o.Owner, true
	case u.o.KeepOwner:
		return Owner{h.Uid, h.Gid}, true
	}
	return Owner{}, false
}

// mode is the member's mode. setuid, setgid and sticky travel only with their owner:
// a set-uid file must not become another user's by being copied.
func (u *unpacker) mode(h *tar.Header) uint32 {
	if u.o.KeepOwner && u.o.Owner == nil {
		return uint32(h.Mode & 0o7777)
	}
	return uint32(h.Mode & 0o1777)
}

func times(h *tar.Header) []unix.Timespec {
	t := unix.NsecToTimespec(h.ModTime.UnixNano())
	return []unix.Timespec{t, t}
}

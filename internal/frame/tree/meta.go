package tree

import (
	"archive/tar"
	"errors"
	"io/fs"

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
	fd, err := u.open(d.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// The time first: with its mode it may be closed to us.
	return errors.Join(unix.UtimesNanoAt(fd, ".", times(d.h), 0), u.own(fd, d.h))
}

// own gives an open file its owner and mode, as far as it does not have them already.
func (u *unpacker) own(fd int, h *tar.Header) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	has := st.Mode & 0o7777
	if o := u.o.Owner; o != nil && (int(st.Uid) != o.UID || int(st.Gid) != o.GID) {
		if err := unix.Fchown(fd, o.UID, o.GID); err != nil {
			return err
		}
		has &^= unix.S_ISUID | unix.S_ISGID // chown clears them
	}
	if mode := modeOf(h); mode != has {
		return unix.Fchmod(fd, mode)
	}
	return nil
}

// modeOf is the member's mode. setuid and setgid stay behind: such a file must not become another user's by being copied.
func modeOf(h *tar.Header) uint32 { return uint32(h.Mode & 0o1777) }

func times(h *tar.Header) []unix.Timespec {
	t := unix.NsecToTimespec(h.ModTime.UnixNano())
	return []unix.Timespec{t, t}
}

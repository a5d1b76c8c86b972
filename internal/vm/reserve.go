package vm

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/config"
)

// reserveBytes is enough for the database to record the deletes that make room again.
const reserveBytes = 4 << 20

// spareRoom is some room on the state directory's disk, for when there is no other.
type spareRoom struct {
	paths config.Paths
	log   *slog.Logger
}

// keep takes up some room for when there is none. On a disk that is full it fails, and is tried again later.
func (r *spareRoom) keep() error {
	f, err := os.OpenFile(r.paths.Reserve(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, reserveBytes), f.Close())
	if err != nil {
		err = errors.Join(err, os.Remove(r.paths.Reserve()))
	}
	return err
}

// with does what makes room, with the reserve given back where the disk is full: deleting must work
// when nothing else does.
func (r *spareRoom) with(fn func() error) error {
	err := fn()
	if api.CodeOf(err) == api.CodeExhausted || errors.Is(err, unix.ENOSPC) {
		if rerr := os.Remove(r.paths.Reserve()); errors.Is(rerr, fs.ErrNotExist) {
			return err
		}
		err = fn()
	}
	if kerr := r.keep(); kerr != nil {
		r.log.Warn("cannot keep a reserve for deletes on a full disk", "error", kerr)
	}
	return err
}

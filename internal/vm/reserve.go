package vm

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"banger/api"
)

// reserveBytes is enough for the database to record the deletes that make room again.
const reserveBytes = 4 << 20

// keepReserve takes up some room for when there is none. On a disk that is full it fails, and is tried again later.
func (s *Service) keepReserve() error {
	f, err := os.OpenFile(s.Paths.Reserve(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, reserveBytes), f.Close())
	if err != nil {
		err = errors.Join(err, os.Remove(s.Paths.Reserve()))
	}
	return err
}

// withReserve does what makes room, with the reserve given back where the disk is full: deleting must work
// when nothing else does.
func (s *Service) withReserve(fn func() error) error {
	err := fn()
	if api.CodeOf(err) == api.CodeExhausted || errors.Is(err, unix.ENOSPC) {
		if rerr := os.Remove(s.Paths.Reserve()); errors.Is(rerr, fs.ErrNotExist) {
			return err
		}
		err = fn()
	}
	if kerr := s.keepReserve(); kerr != nil {
		s.Log.Warn("cannot keep a reserve for deletes on a full disk", "error", kerr)
	}
	return err
}

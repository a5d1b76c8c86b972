package daemon

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// vanished returns when the socket is no longer found at its path, or with an error when it
// cannot be watched any more. Logging out, or a cleaner of /run, may take the socket away
// while we hold the lock: a daemon that nobody can reach would then block the next one.
// stop ends it with a nil error.
func (s *socket) vanished(stop <-chan struct{}) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "inotify")
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-stop:
		case <-done:
		}
		_ = f.Close()
	}()
	const events = unix.IN_DELETE | unix.IN_MOVE | unix.IN_CREATE | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(s.path), events); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	buf := make([]byte, 4096)
	for s.inPlace() {
		if _, err := f.Read(buf); err != nil {
			if errors.Is(err, os.ErrClosed) {
				return nil
			}
			return err
		}
	}
	return nil
}

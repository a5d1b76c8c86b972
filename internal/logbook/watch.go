package logbook

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// watch tells when one of some files is written, by inotify: no polling.
type watch struct {
	paths   []string
	file    *os.File
	changed chan struct{}
}

func newWatch(paths ...string) (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	// A non-blocking descriptor in an os.File waits in the runtime's poller and can be closed under a reader.
	w := &watch{paths: paths, file: os.NewFile(uintptr(fd), "inotify"), changed: make(chan struct{}, 1)}
	if err := w.add(); err != nil {
		w.file.Close()
		return nil, err
	}
	go w.run()
	return w, nil
}

// add watches the files that have the names now.
func (w *watch) add() error {
	conn, err := w.file.SyscallConn()
	if err != nil {
		return err
	}
	var errs []error
	err = conn.Control(func(fd uintptr) { // not after Close, when the number may be another's
		for _, path := range w.paths {
			if _, err := unix.InotifyAddWatch(int(fd), path, unix.IN_MODIFY); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, err)
			}
		}
	})
	return errors.Join(append(errs, err)...)
}

// Changed delivers a value when the file may have grown since the last one.
func (w *watch) Changed() <-chan struct{} { return w.changed }

func (w *watch) Close() error { return w.file.Close() }

func (w *watch) run() {
	buf := make([]byte, 4096)
	for {
		if _, err := w.file.Read(buf); err != nil {
			return
		}
		// A file may have been replaced. It is watched before anybody looks, so that nothing written in between is missed.
		_ = w.add()
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}

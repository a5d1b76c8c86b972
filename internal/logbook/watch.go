package logbook

import (
	"os"

	"golang.org/x/sys/unix"
)

// watch tells when a file is written, by inotify: no polling.
type watch struct {
	file    *os.File
	changed chan struct{}
}

func newWatch(path string) (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	// A non-blocking descriptor in an os.File waits in the runtime's poller and can be closed under a reader.
	w := &watch{file: os.NewFile(uintptr(fd), "inotify"), changed: make(chan struct{}, 1)}
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_MODIFY); err != nil {
		w.file.Close()
		return nil, err
	}
	go w.run()
	return w, nil
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
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}

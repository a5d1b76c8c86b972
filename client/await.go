package client

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// awaitSocket returns when something appears at or vanishes from the socket's path, at
// the latest after the pause; it fails only when ctx ends. It goes by inotify: polling for a
// socket costs more than the start of the daemon.
func awaitSocket(ctx context.Context, socket string, pause time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, pause, errPause)
	defer cancel()
	changed := make(chan struct{})
	if f, err := watchDir(filepath.Dir(socket)); err == nil {
		defer f.Close()
		go func() {
			defer close(changed)
			_, _ = f.Read(make([]byte, 4096)) // its only news is that there is news
		}()
	}
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		if cause := context.Cause(ctx); !errors.Is(cause, errPause) {
			return cause
		}
		return nil
	}
}

var errPause = errors.New("pause over")

func watchDir(dir string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_DELETE); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

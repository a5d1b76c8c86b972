package workspace

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
)

type unixStat = syscall.Stat_t

// settle is how long changes may go on before what has changed is looked at.
const settle = 50 * time.Millisecond

const watched = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_CLOSE_WRITE

// Watch calls changed after each change in the folder until ctx ends or changed fails.
func (f *Folder) Watch(ctx context.Context, changed func() error) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return api.Errorf(api.CodeExhausted, "cannot watch the folder: %w", err).WithHint("sysctl fs.inotify.max_user_instances")
	}
	events := os.NewFile(uintptr(fd), "inotify")
	defer events.Close()
	stop := context.AfterFunc(ctx, func() { _ = events.SetReadDeadline(time.Now()) })
	defer stop()
	buf := make([]byte, 64<<10)
	for {
		if err := f.watchAll(fd); err != nil {
			return err
		}
		// Also before the first event: what has changed since the last look and before the watches were there.
		if err := changed(); err != nil {
			return err
		}
		if _, err := events.Read(buf); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return api.Errorf(api.CodeInternal, "cannot watch the folder: %w", err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(settle):
		}
		for { // what has come meanwhile belongs to the same look
			if _, err := unix.Read(fd, buf); err != nil {
				break
			}
		}
	}
}

// watchAll watches every directory; one that is watched already stays so.
func (f *Folder) watchAll(fd int) error {
	top := "/proc/self/fd/" + strconv.Itoa(int(f.root.Fd())) + "/"
	return filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.IsDir() {
			return err
		}
		if name := p[min(len(p), len(top)):]; name != "" && f.excluded(name) {
			return fs.SkipDir
		}
		_, err = unix.InotifyAddWatch(fd, p, watched|unix.IN_ONLYDIR)
		switch {
		case errors.Is(err, unix.ENOSPC):
			return api.Errorf(api.CodeExhausted, "the folder has more directories than may be watched").WithHint("sysctl fs.inotify.max_user_watches, or --exclude")
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
			return nil
		}
		return err
	})
}

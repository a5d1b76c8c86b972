package agent

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// rootView is where the root disk is mounted once more, without anything in it.
const rootView = runDir + "/image"

// From include/uapi/linux/fs.h: FIFREEZE and FITHAW, _IOWR('X', 119, int) and _IOWR('X', 120, int).
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

// RootDisk shows the root disk alone: a bind mount leaves out what is mounted below, the work disk's /root and /home too, so that
// the image's own are seen. The file system is frozen meanwhile: it is whole, and who writes to it waits.
func (s *system) RootDisk(context.Context) (_ *os.File, _ func() error, err error) {
	s.change.Lock()
	defer s.change.Unlock()
	if err := os.MkdirAll(rootView, 0o700); err != nil {
		return nil, nil, fmt.Errorf("cannot show the root disk: %w", err)
	}
	if err := unix.Mount("/", rootView, "", unix.MS_BIND, ""); err != nil {
		return nil, nil, fmt.Errorf("cannot show the root disk: %w", err)
	}
	dir, err := os.Open(rootView)
	if err != nil {
		return nil, nil, errors.Join(err, unix.Unmount(rootView, unix.MNT_DETACH))
	}
	done := func() error {
		return errors.Join(unix.IoctlSetInt(int(dir.Fd()), fiThaw, 0), dir.Close(), unix.Unmount(rootView, unix.MNT_DETACH))
	}
	if err := unix.IoctlSetInt(int(dir.Fd()), fiFreeze, 0); err != nil {
		err = fmt.Errorf("cannot keep the root disk from changing: %w", err)
		return nil, nil, errors.Join(err, dir.Close(), unix.Unmount(rootView, unix.MNT_DETACH))
	}
	return dir, done, nil
}

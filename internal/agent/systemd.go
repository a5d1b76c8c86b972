package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// systemdSocket is there as soon as root may talk to PID 1 (systemd.io, "private" bus).
const systemdSocket = "/run/systemd/private"

// waitSystemd returns when systemd has started what there is to start, with the units
// that failed. systemctl waits by itself; it is asked again when it could not.
func waitSystemd(ctx context.Context, say func(clause string)) ([]string, error) {
	say("PID 1 is held back until the host has personalised the guest")
	if err := waitFile(ctx, systemdSocket); err != nil {
		return nil, err
	}
	say("systemd is starting")
	for {
		_, state, err := runCommand(ctx, nil, "systemctl", "is-system-running", "--wait")
		if err != nil {
			return nil, err
		}
		switch state {
		case "running":
			return []string{}, nil
		case "degraded":
			return failedUnits(ctx)
		case "stopping":
			say("systemd is stopping")
			return nil, errors.New("systemd is stopping")
		case "maintenance":
			say("systemd is in maintenance mode: see its console")
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func failedUnits(ctx context.Context) ([]string, error) {
	_, out, err := runCommand(ctx, nil, "systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager")
	if err != nil {
		return nil, err
	}
	units := []string{}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 0 {
			units = append(units, f[0])
		}
	}
	return units, nil
}

// waitFile waits until a file exists, by inotify on the directories that lead to it.
func waitFile(ctx context.Context, path string) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("cannot wait for %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	defer f.Close()
	defer context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })()
	buf := make([]byte, 16*(unsafe.Sizeof(unix.InotifyEvent{})+unix.NAME_MAX+1))
	for {
		// Watch first, look then: what appears in between is in the watch.
		for i := 1; i < len(path); i++ {
			if path[i] == '/' {
				_, _ = unix.InotifyAddWatch(fd, path[:i], unix.IN_CREATE|unix.IN_MOVED_TO)
			}
		}
		if _, err := os.Lstat(path); err == nil {
			return nil
		}
		if _, err := f.Read(buf); err != nil {
			return errors.Join(ctx.Err(), fmt.Errorf("cannot wait for %s: %w", path, err))
		}
	}
}

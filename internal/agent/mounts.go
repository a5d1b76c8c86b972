package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/api/agentapi"
)

// mount is one line of a mount table.
type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

func (m mount) mount() error { return m.mountIn("") }

// mountIn mounts below root, making the mount point where it is missing. A target that is
// mounted already (EBUSY) is left as it is.
func (m mount) mountIn(root string) error {
	target := root + m.target
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("cannot make mount point: %w", err)
	}
	if err := unix.Mount(m.source, target, m.kind, m.flags, m.data); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("cannot mount %s at %s: %w", m.kind, target, err)
	}
	return nil
}

// kernelMounts are needed before the root and move into it.
func kernelMounts() []mount {
	return []mount{
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
	}
}

// bareMounts are what an init would mount where there is none.
func bareMounts() []mount {
	return []mount{
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666"},
		{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"mqueue", "/dev/mqueue", "mqueue", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	}
}

// bareRoot finishes a root that has no init: mounts, the links in /dev that programs
// expect, /tmp.
func bareRoot() error {
	var errs []error
	for _, m := range bareMounts() {
		errs = append(errs, m.mount())
	}
	for name, target := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0",
		"/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
		"/dev/ptmx": "pts/ptmx",
	} {
		if _, err := os.Lstat(name); err != nil {
			errs = append(errs, os.Symlink(target, name))
		}
	}
	if _, err := os.Stat("/tmp"); err != nil {
		errs = append(errs, os.MkdirAll("/tmp", 0o755), os.Chmod("/tmp", 0o777|os.ModeSticky))
	}
	for _, d := range []string{"/run/lock", "/var/tmp"} {
		if _, err := os.Stat(d); err != nil {
			errs = append(errs, os.MkdirAll(d, 0o755), os.Chmod(d, 0o777|os.ModeSticky))
		}
	}
	if _, err := os.Lstat("/var/run"); err != nil {
		errs = append(errs, os.Symlink("/run", "/var/run"))
	}
	return errors.Join(errs...)
}

// mountExt4 mounts a disk that gives back to the host what is deleted on it. noinit_itable (ext4(5)):
// it was zeros when it was formatted, so there are no tables to initialise in the background. Nor are block bitmaps read ahead of their
// use (no_prefetch_block_bitmaps, Linux 5.13): the kernel's ext4lazyinit does that some seconds after the mount, which is after
// a template is frozen, and so in each of its clones.
func mountExt4(dev, target string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("cannot make mount point: %w", err)
	}
	const options = "discard,noinit_itable"
	err := unix.Mount(dev, target, "ext4", 0, options+",no_prefetch_block_bitmaps")
	if errors.Is(err, unix.EINVAL) { // an older kernel; or it is no ext4, as is found out again
		err = unix.Mount(dev, target, "ext4", 0, options)
	}
	if err != nil {
		return fmt.Errorf("cannot mount ext4 from %s at %s: %w", dev, target, err)
	}
	return nil
}

// mounted tells whether another file system begins at path: its device is not that of what it lies in. It does
// not see a part of one file system that is mounted elsewhere in the same; banger does that nowhere.
func mounted(path string) bool {
	here, ok1 := deviceOf(path)
	above, ok2 := deviceOf(filepath.Dir(path))
	return ok1 && ok2 && here != above
}

// deviceOf is the number of the file system that path is on.
func deviceOf(path string) (uint64, bool) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return 0, false
	}
	return st.Dev, true
}

// mountModules shows the modules of this kernel at /lib/modules, through whatever
// symbolic link /lib is. A guest without the disk has its image's own.
func mountModules(ctx context.Context) error {
	dev, err := waitDisk(ctx, agentapi.SerialModules, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	m := mount{dev, "/lib/modules", "ext4", unix.MS_RDONLY | unix.MS_NODEV | unix.MS_NOSUID, ""}
	return m.mount()
}

// cgroupRoot is where cgroup v2 is mounted, as systemd has it.
const cgroupRoot = "/sys/fs/cgroup"

// mountCgroups mounts cgroup v2 with banger's own group in it: systemd moves what it
// finds in the root group into init.scope, and leaves other groups alone.
func mountCgroups() error {
	m := mount{"cgroup2", cgroupRoot, "cgroup2", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "nsdelegate"}
	if err := m.mount(); err != nil {
		return err
	}
	return os.MkdirAll(agentCgroup, 0o755)
}

// agentCgroup holds the agent itself; commands get groups beside it.
const agentCgroup = cgroupRoot + "/banger/agent"

// enableControllers lets groups below the root be counted and limited, as podman in a
// guest without systemd wants it. A controller that the kernel lacks is left out.
func enableControllers() {
	have, _ := os.ReadFile(cgroupRoot + "/cgroup.controllers")
	for _, c := range strings.Fields(string(have)) {
		_ = os.WriteFile(cgroupRoot+"/cgroup.subtree_control", []byte("+"+c), 0)
	}
}

// kernelParam is the value of a parameter on the kernel's command line, the last one given.
func kernelParam(name string) string {
	data, _ := os.ReadFile("/proc/cmdline")
	value := ""
	for _, f := range strings.Fields(string(data)) {
		if v, ok := strings.CutPrefix(f, name+"="); ok {
			value = v
		}
	}
	return value
}

// retry calls f until it succeeds or the time is over, and returns its last error.
// It is for the few seconds of a boot only.
func retry(ctx context.Context, limit time.Duration, f func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := f()
		if err == nil || !time.Now().Before(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

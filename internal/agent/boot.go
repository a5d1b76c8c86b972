package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/api/agentapi"
)

// newRoot is where the guest's root is mounted before the switch.
const newRoot = "/newroot"

// holdTime is how long a systemd may be kept waiting for the first Personalise.
const holdTime = 5 * time.Second

// bootGuest is PID 1 from the kernel's hand to the image's init or the reaper. When
// the guest cannot be booted it says why on the console and powers off, so that the
// host learns it at once.
func bootGuest(ctx context.Context) {
	os.Clearenv() // what the kernel did not understand on its command line ends up here
	kind, err := prepareRoot(ctx)
	if err != nil {
		fatal(fmt.Errorf("cannot boot: %w", err))
	}
	if kind == initSystemd {
		err = handOver()
		fatal(fmt.Errorf("cannot start the image's init: %w", err))
	}
	reap()
}

// fatal ends a guest that cannot go on. It does not return.
func fatal(err error) {
	console("%v", err)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {} // PID 1 must not return, or the kernel panics
}

// console prints a line on the guest's console, which the host keeps.
func console(format string, args ...any) {
	line := fmt.Sprintf("banger: "+format+"\r\n", args...)
	f, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		_, _ = os.Stderr.WriteString(line)
		return
	}
	_, _ = f.WriteString(line)
	_ = f.Close()
}

// prepareRoot brings up the guest's root with the kernel's file systems in it and
// makes it this process's. It returns what PID 1 is to become.
func prepareRoot(ctx context.Context) (string, error) {
	for _, m := range kernelMounts() {
		if err := m.mount(); err != nil {
			return "", err
		}
	}
	if err := loadModules(agentapi.InitramfsModules); err != nil {
		return "", err
	}
	dev, err := waitDisk(ctx, agentapi.SerialRoot, 10*time.Second)
	if err != nil {
		return "", fmt.Errorf("cannot find the root disk: %w", err)
	}
	// Options of ext4(5): discard, so that what is deleted in the guest is given back on the host;
	// no writing of inode tables in the background, which a disk born as zeros does not need.
	if err := mountExt4(dev, newRoot, 0); err != nil {
		return "", err
	}
	for _, m := range kernelMounts() {
		if err := os.MkdirAll(newRoot+m.target, 0o755); err != nil {
			return "", err
		}
		if err := unix.Mount(m.target, newRoot+m.target, "", unix.MS_MOVE, ""); err != nil {
			return "", fmt.Errorf("cannot move %s into the root: %w", m.target, err)
		}
	}
	run := mount{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"}
	if err := run.mountIn(newRoot); err != nil {
		return "", err
	}
	if err := os.MkdirAll(newRoot+bootDir, 0o700); err != nil {
		return "", err
	}
	if err := unix.Mount(agentapi.InitramfsDir, newRoot+bootDir, "", unix.MS_BIND, ""); err != nil {
		return "", fmt.Errorf("cannot keep the initramfs in reach: %w", err)
	}
	if err := enterRoot(newRoot); err != nil {
		return "", err
	}
	return decideInit(), rest(ctx)
}

// enterRoot is switch_root(8) without the deleting: the initramfs holds nothing but
// what stays in use, apart from the modules, which go here.
func enterRoot(root string) error {
	_ = os.RemoveAll(agentapi.InitramfsModules)
	if err := unix.Chdir(root); err != nil {
		return fmt.Errorf("cannot enter the root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("cannot move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("cannot change the root: %w", err)
	}
	return unix.Chdir("/")
}

// rest mounts what an image cannot do without and its init would not mount.
func rest(ctx context.Context) error {
	if err := os.MkdirAll(runDir, 0o700); err != nil {
		return err
	}
	if err := mountCgroups(); err != nil {
		return err
	}
	return mountModules(ctx)
}

// decideInit looks at the kernel's command line, then at the root.
func decideInit() string {
	switch v := kernelParam(agentapi.ParamInit); v {
	case initNone, initSystemd:
		return v
	case "":
	default:
		console("%s=%s is neither %s nor %s: ignored", agentapi.ParamInit, v, initNone, initSystemd)
	}
	if target, err := filepath.EvalSymlinks("/sbin/init"); err == nil && filepath.Base(target) == "systemd" {
		return initSystemd
	}
	return initNone
}

// handOver starts the agent's supervisor, holds the image's init back until the host
// has made this guest the one machine that it is (host name, machine id, host key,
// /root and /home are then right from the first unit on), and executes it as PID 1. The host
// may leave the guest as it is: the wait is bounded. It returns only on failure.
func handOver() error {
	path, err := findSystemd()
	if err != nil {
		return err
	}
	if err := copyBoot(); err != nil {
		return err
	}
	released := make(chan os.Signal, 1)
	signal.Notify(released, unix.SIGUSR1)
	if err := os.WriteFile(heldFile, nil, 0o600); err != nil {
		return err
	}
	if _, err := startRole(roleSupervisor, initSystemd); err != nil {
		return err
	}
	select {
	case <-released:
	case <-time.After(holdTime):
	}
	if err := os.Remove(heldFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return syscall.Exec(path, []string{path}, []string{"HOME=/", "TERM=linux"})
}

// copyBoot puts a copy in the place of the mount of the initramfs: systemd would try to
// unmount that at the end, and say that it cannot. The copied is deleted, so this
// takes no memory for longer than it lasts.
func copyBoot() error {
	const half = runDir + "/boot.new"
	err := copyTree(bootDir, half)
	if err != nil {
		return fmt.Errorf("cannot copy the agent: %w", err)
	}
	names, err := os.ReadDir(bootDir)
	for _, n := range names {
		err = errors.Join(err, os.RemoveAll(filepath.Join(bootDir, n.Name())))
	}
	err = errors.Join(err, unix.Unmount(bootDir, unix.MNT_DETACH))
	if err == nil {
		err = os.Remove(bootDir)
	}
	if err == nil {
		err = os.Rename(half, bootDir)
	}
	if err != nil {
		return fmt.Errorf("cannot replace the mount of the initramfs: %w", err)
	}
	return nil
}

func findSystemd() (string, error) {
	for _, p := range []string{"/sbin/init", "/usr/lib/systemd/systemd", "/lib/systemd/systemd"} {
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", errors.New("no /sbin/init and no systemd in the image")
}

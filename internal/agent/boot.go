package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"banger/api/agentapi"
)

// newRoot is where the guest's root is mounted before the switch.
const newRoot = "/newroot"

// bootGuest is PID 1 from the kernel's hand to the image's init or the reaper. When
// the guest cannot be booted it says why on the console and powers off, so that the
// host learns it at once.
func bootGuest(ctx context.Context) {
	os.Clearenv() // what the kernel did not understand on its command line ends up here
	// systemd sets its own; without it programs get what it would have given them.
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1024, Max: 524288})
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
	settleIdle()
	if err := loadModules(agentapi.InitramfsModules); err != nil {
		return "", err
	}
	dev, err := waitDisk(ctx, agentapi.SerialRoot, 10*time.Second)
	if err != nil {
		return "", fmt.Errorf("cannot find the root disk: %w", err)
	}
	what, err := inspect(dev)
	if err != nil {
		return "", fmt.Errorf("cannot mount %s: %w", dev, err)
	}
	if err := (tools{dir: agentapi.InitramfsTools}).mountChecked(ctx, dev, newRoot, what); err != nil {
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

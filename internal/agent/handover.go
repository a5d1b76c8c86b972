package agent

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// holdTime is how long a systemd may be kept waiting for the first Personalise or a Release. A busy host
// may take a while to ask; one whose daemon is away may not.
const holdTime = 15 * time.Second

// handOver starts the agent's supervisor, holds the image's init back until the host
// has made this guest the one machine that it is (host name, machine id, host key,
// /root and /home are then right from the first unit on), and executes it as PID 1. The host
// may leave the guest as it is: the wait is bounded. It returns only on failure.
func handOver() error {
	path, err := findSystemd()
	if err != nil {
		return err
	}
	if err := errors.Join(copyBoot(), keepModules()); err != nil {
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

// keepModules keeps systemd from unmounting the modules disk before the very end, where it ends all mounts anyway: until
// udev has gone, it maps files there, and the unmount fails. The unit is named after the path, which
// differs where /lib is a link.
func keepModules() error {
	var errs []error
	for _, unit := range []string{"lib-modules.mount", "usr-lib-modules.mount"} {
		dir := "/run/systemd/system/" + unit + ".d"
		errs = append(errs, os.MkdirAll(dir, 0o755),
			os.WriteFile(dir+"/banger.conf", []byte("[Unit]\nDefaultDependencies=no\n"), 0o644))
	}
	return errors.Join(errs...)
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

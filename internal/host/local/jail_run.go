package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/host"
)

// jailCgroup is the parent of the cgroups of all jails of daemons that are root.
const jailCgroup = "banger"

// memoryCgroup says where the host's memory controller is: the version of its hierarchy, where that is mounted, and the
// name of the file with the limit. Version 0 is for none.
func memoryCgroup() (version int, top, limit string) {
	controllers, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if err == nil && strings.Contains(" "+strings.TrimSpace(string(controllers))+" ", " memory ") {
		return 2, "/sys/fs/cgroup", "memory.max"
	}
	if _, err := os.Stat("/sys/fs/cgroup/memory/memory.limit_in_bytes"); err == nil {
		return 1, "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
	}
	return 0, "", ""
}

// SpawnJailed starts the jailer, which becomes the VMM without another fork: neither its pid nor its start time change.
func (js jails) SpawnJailed(c host.Jailed) (host.Process, error) {
	if err := errors.Join(mayJail(), checkJail(c.Jail)); err != nil {
		return host.Process{}, err
	}
	if !filepath.IsAbs(c.Jailer) || !filepath.IsAbs(c.Binary) || filepath.Base(c.Binary) != c.Program {
		return host.Process{}, api.Errorf(api.CodeInternal, "cannot jail %q by %q: absolute paths are needed", c.Binary, c.Jailer)
	}
	args := []string{
		"--id", c.Name, "--exec-file", c.Binary, "--chroot-base-dir", c.Base,
		"--uid", strconv.Itoa(c.UID), "--gid", strconv.Itoa(c.GID),
	}
	if version, _, limit := memoryCgroup(); version != 0 && c.MemoryBytes > 0 {
		args = append(args, "--cgroup-version", strconv.Itoa(version), "--parent-cgroup", js.group, "--cgroup", fmt.Sprintf("%s=%d", limit, c.MemoryBytes))
	}
	cmd, err := js.processes.command(host.Command{Path: c.Jailer, Args: append(append(args, "--"), c.Args...), Dir: "/", Env: []string{}})
	if err != nil {
		return host.Process{}, err
	}
	if err := useJail(c.Jail); err != nil {
		return host.Process{}, err
	}
	cmd.SysProcAttr.Setsid = true
	// A jailer whose caller dies would make its VMM where nobody looks for one any more. The kernel forgets this when it becomes another
	// user's, as the VMM (commit_creds in the kernel's kernel/cred.c).
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	if c.Stdout != nil {
		cmd.Stdout = c.Stdout
	}
	if c.Stderr != nil {
		cmd.Stderr = c.Stderr
	}
	return js.processes.spawn(cmd, c.OOMScoreAdj)
}

// removeTimeout bounds waiting for a cgroup whose last process has just ended.
const removeTimeout = 5 * time.Second

// RemoveJail removes the jail when nobody is in it any more.
func (js jails) RemoveJail(ctx context.Context, j host.Jail) error {
	if err := checkJail(j); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	if _, top, _ := memoryCgroup(); top != "" {
		if err := removeCgroup(ctx, filepath.Join(top, js.group, j.Name)); err != nil {
			return err
		}
	}
	if _, err := os.Lstat(jailDir(j)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := mayJail(); err != nil {
		return err
	}
	if err := revokeNodes(jailDir(j)); err != nil {
		return err
	}
	// Nobody runs in it, so nothing changes under this; and it follows no links.
	for _, dir := range []string{filepath.Join(jailDir(j), "root"), jailDir(j)} { // in this order: as long as there is a node, it is known
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("cannot remove a jail: %w", err)
		}
	}
	return nil
}

// removeCgroup waits while the kernel says that a process is in it: one that has just ended may be there for some milliseconds.
func removeCgroup(ctx context.Context, dir string) error {
	for {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("cannot remove the cgroup %s: %w", dir, err)
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return api.Errorf(api.CodeBusy, "cannot remove the cgroup %s: a process is in it", dir)
		}
	}
}

package local

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/host"
)

// processes implements host.Processes.
type processes struct{ children *children }

func newProcesses() processes {
	return processes{children: &children{of: map[host.Process]*child{}}}
}

// Spawn starts a process in a session of its own. It is reaped by us while we
// live and by init after that; nothing we do later ends it.
func (ps processes) Spawn(c host.Command) (host.Process, error) {
	if c.LogPath == "" {
		return ps.SpawnTo(c, nil)
	}
	log, err := OpenLog(c.LogPath)
	if err != nil {
		return host.Process{}, fmt.Errorf("cannot open the log of %s: %w", c.Path, err)
	}
	defer log.Close()
	return ps.SpawnTo(c, log)
}

// SpawnTo is Spawn with a log that is open already, or nil; LogPath is not looked at.
func (ps processes) SpawnTo(c host.Command, log *os.File) (host.Process, error) {
	cmd, err := ps.command(c)
	if err != nil {
		return host.Process{}, err
	}
	cmd.SysProcAttr.Setsid = true
	cmd.ExtraFiles = c.Files
	if log != nil {
		cmd.Stdout, cmd.Stderr = log, log
	}
	if c.SmallPages {
		// A child has it from its parent, and keeps it when it executes a program (prctl(2)).
		ps.children.small.Lock()
		defer ps.children.small.Unlock()
		if err := unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0); err != nil {
			return host.Process{}, fmt.Errorf("cannot keep huge pages from %s: %w", cmd.Path, err)
		}
		defer unix.Prctl(unix.PR_SET_THP_DISABLE, 0, 0, 0, 0) //nolint:errcheck // what could be set can be unset
	}
	if c.Batch {
		// A child has the policy of the thread that makes it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if setPolicy(unix.SCHED_BATCH) == nil { // where a sandbox forbids it, everything works but for that
			defer setPolicy(unix.SCHED_NORMAL) //nolint:errcheck // there and back again
		}
	}
	return ps.spawn(cmd, c.OOMScoreAdj)
}

// setPolicy sets the calling thread's, between those that take no right; its nice value stays.
func setPolicy(policy uint32) error {
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil || attr.Policy != unix.SCHED_NORMAL && attr.Policy != unix.SCHED_BATCH {
		return err // somebody has chosen another for all of us
	}
	attr.Policy = policy
	return unix.SchedSetAttr(0, attr, 0)
}

// spawn starts what is to outlive us.
func (ps processes) spawn(cmd *exec.Cmd, oom int) (host.Process, error) {
	if err := cmd.Start(); err != nil {
		return host.Process{}, fmt.Errorf("cannot start %s: %w", cmd.Path, err)
	}
	// Not reaped before this function has read what it must, so the pid is surely the child's.
	p, err := ps.born(cmd.Process.Pid, oom)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return host.Process{}, err
	}
	ps.children.reap(p, cmd)
	return p, nil
}

// born reads a new child's start time and sets what can only be set from outside.
func (processes) born(pid, oom int) (host.Process, error) {
	st, err := readStat(pid)
	if err != nil {
		return host.Process{}, fmt.Errorf("cannot identify the new process: %w", err)
	}
	if oom != 0 && st.state != 'Z' {
		if err := setOOMScore(pid, oom); err != nil {
			return host.Process{}, err
		}
	}
	return host.Process{PID: pid, StartTime: st.start}, nil
}

// command builds what Spawn and Run have in common.
func (ps processes) command(c host.Command) (*exec.Cmd, error) {
	path, err := ps.LookPath(c.Path)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, c.Args...)
	cmd.Dir = c.Dir
	cmd.Env = c.Env
	if cmd.Env == nil {
		cmd.Env = plainEnv()
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	cmd.SysProcAttr.Credential, err = credential(c)
	return cmd, err
}

// credential is nil where the process runs as we do.
func credential(c host.Command) (*syscall.Credential, error) {
	uid, gid := c.UID, c.GID
	if (uid == 0 || uid == os.Geteuid()) && (gid == 0 || gid == os.Getegid()) {
		return nil, nil
	}
	if uid < 0 || gid < 0 || uid == 0 || gid == 0 {
		// Half a change of identity would leave the child in group root.
		return nil, api.Errorf(api.CodeInternal, "cannot run under uid %d and gid %d: both must be positive", uid, gid)
	}
	// Go calls setgroups with this list, so that no supplementary group of ours stays.
	groups := make([]uint32, 0, len(c.Groups))
	for _, g := range c.Groups {
		groups = append(groups, uint32(g))
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), Groups: groups}, nil
}

// OpenLog opens a log for appending. Its directory may belong to a less trusted
// uid, so nothing but a plain file with one name is accepted (trap 37).
func OpenLog(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 {
		unix.Close(fd)
		return nil, fmt.Errorf("%s is not a plain file", path)
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

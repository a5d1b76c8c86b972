package rootd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/host"
	"banger/internal/host/local"
	"banger/internal/host/verb"
)

// vmm reports whether a uid is one of those for VMMs.
func (s *Server) vmm(uid int) bool { return uid >= s.o.UIDBase && uid <= s.o.UIDBase+s.o.UIDCount }

func (s *Server) spawn(_ context.Context, q *question, a verb.SpawnArgs) (any, error) {
	c := host.Command{Path: a.Path, Args: a.Args, Env: a.Env, Dir: "/", UID: a.UID, GID: a.GID, Groups: a.Groups, OOMScoreAdj: a.OOMScoreAdj, SmallPages: a.SmallPages, Batch: a.Batch, Files: q.files}
	switch {
	case !s.vmm(a.UID) || a.GID != a.UID:
		return nil, refuse("uid %d and gid %d are no VMM's", a.UID, a.GID)
	case !filepath.IsAbs(a.Path):
		return nil, refuse("%q is no absolute path", a.Path)
	case a.OOMScoreAdj < 0 || a.OOMScoreAdj > 1000:
		return nil, refuse("oom_score_adj %d", a.OOMScoreAdj)
	}
	for _, g := range a.Groups {
		if g == 0 || g != kvmGroup() {
			return nil, refuse("a VMM cannot be in group %d", g)
		}
	}
	var log *os.File
	if a.Log {
		last := len(q.files) - 1
		if last < 0 {
			return nil, refuse("the log's descriptor is missing")
		}
		c.Files, log = q.files[:last], q.files[last]
	}
	return s.host.SpawnTo(c, log)
}

// kvmGroup is the group of /dev/kvm; 0 where there is none of its own.
func kvmGroup() int {
	var st unix.Stat_t
	if unix.Stat("/dev/kvm", &st) != nil {
		return 0
	}
	return int(st.Gid)
}

// reapTime is far more than it takes to hear of a child that has ended.
const reapTime = time.Second

func (s *Server) exitStatus(ctx context.Context, _ *question, a verb.ProcessArgs) (any, error) {
	if s.host.Alive(a.Process) {
		return verb.ExitReply{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, reapTime)
	defer cancel()
	_ = s.host.Wait(ctx, a.Process)
	status, ok := s.host.ExitStatus(a.Process)
	return verb.ExitReply{Ended: ok, Status: uint32(status)}, nil
}

// pinned is a process that is ours for as long as the descriptor is open: its number passes to no other.
type pinned struct{ fd, pid int }

func (p pinned) close() { _ = unix.Close(p.fd) }

// errGone is for a process that is there no more, or is another by now.
var errGone = errors.New("there is no such process")

// pin refuses a process that does not run under VMMs' uids with all of its own.
func (s *Server) pin(p host.Process) (pinned, error) {
	if p.PID <= 1 {
		return pinned{}, refuse("process %d is no VMM", p.PID)
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return pinned{}, errGone
	} else if err != nil {
		return pinned{}, refuse("process %d is no VMM: %w", p.PID, err)
	}
	if err := s.ours(p); err != nil {
		_ = unix.Close(fd)
		return pinned{}, err
	}
	return pinned{fd, p.PID}, nil
}

// ours is called while a pidfd keeps the number from passing on.
func (s *Server) ours(p host.Process) error {
	if now, ok := s.host.Identify(p.PID); !ok || now != p {
		return errGone
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
	if err != nil {
		return errGone
	}
	for line := range strings.Lines(string(text)) {
		// Uid: real, effective, saved set, file system (proc_pid_status(5))
		f := strings.Fields(line)
		if len(f) != 5 || f[0] != "Uid:" {
			continue
		}
		for _, field := range f[1:] {
			if uid, err := strconv.Atoi(field); err != nil || !s.vmm(uid) {
				return refuse("process %d runs under uid %s and is no VMM", p.PID, field)
			}
		}
		return nil
	}
	return refuse("process %d is no VMM", p.PID)
}

// signals are all that a VMM is ever sent.
func allowed(n int) bool {
	switch syscall.Signal(n) {
	case syscall.SIGTERM, syscall.SIGKILL, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGSTOP, syscall.SIGCONT:
		return true
	}
	return false
}

func (s *Server) signal(_ context.Context, _ *question, a verb.SignalArgs) (any, error) {
	if !allowed(a.Signal) {
		return nil, refuse("signal %d is not sent", a.Signal)
	}
	p, err := s.pin(a.Process)
	if errors.Is(err, errGone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer p.close()
	if err := unix.PidfdSendSignal(p.fd, syscall.Signal(a.Signal), nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("cannot signal process %d: %w", a.Process.PID, err)
	}
	return nil, nil
}

func (s *Server) setOOMScore(_ context.Context, _ *question, a verb.OOMArgs) (any, error) {
	if a.Adj < 0 || a.Adj > 1000 {
		return nil, refuse("oom_score_adj %d", a.Adj)
	}
	p, err := s.pin(a.Process)
	if err != nil {
		return nil, err
	}
	defer p.close()
	return nil, s.host.SetOOMScore(a.Process, a.Adj)
}

// openMemory opens first and looks whose it was then: an open file of /proc stays with its process.
func (s *Server) openMemory(_ context.Context, q *question, a verb.ProcessArgs) (any, error) {
	p, err := s.pin(a.Process)
	if err != nil {
		return nil, err
	}
	defer p.close()
	for _, of := range []struct {
		name string
		flag int
	}{{"maps", os.O_RDONLY}, {"pagemap", os.O_RDONLY}, {"mem", os.O_RDWR}} {
		f, err := os.OpenFile(fmt.Sprintf("/proc/%d/%s", p.pid, of.name), of.flag, 0)
		if err != nil {
			return nil, err
		}
		q.out = append(q.out, f)
	}
	return nil, s.ours(a.Process)
}

func (s *Server) openedAs(_ context.Context, _ *question, a verb.OpenedArgs) (any, error) {
	p, err := s.pin(a.Process)
	if err != nil {
		return nil, err
	}
	defer p.close()
	return local.OpenedBy(p.pid, func(fi os.FileInfo) bool {
		st, ok := fi.Sys().(*syscall.Stat_t)
		return ok && uint64(st.Dev) == a.Dev && st.Ino == a.Ino
	}), nil
}

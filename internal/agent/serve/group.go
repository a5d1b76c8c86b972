package serve

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// group is everything that a command has started. With a cgroup that is what the kernel
// says; without, it is the command's session and whoever descends from it, as far as can
// be seen: a process that has left the session and lost its parent before note is not found.
type group struct {
	parent string // cgroup directory of all commands; empty: none
	dir    string // this command's own
	fd     int    // dir, open while the command starts; below 0: not

	mu     sync.Mutex // protects the following
	pid    int        // the command's own process: leader of session and process group
	seen   map[procID]bool
	reaped bool // pid may be another's by now, unless its group or session lives on
	// tidy removes dir when the leader has ended; nil before.
	tidy *time.Timer
}

// procID names a process for good; see host.Process.
type procID struct {
	pid   int
	start uint64
}

// newGroup makes a cgroup below parent where that is possible.
func newGroup(parent string, store *groups) *group {
	g := &group{parent: parent, fd: -1, seen: map[procID]bool{}}
	if parent == "" {
		return g
	}
	for _, dir := range []string{store.take(parent), ""} {
		if dir == "" {
			var err error
			if dir, err = os.MkdirTemp(parent, cgroupPrefix); err != nil {
				return g
			}
		}
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err == nil {
			g.dir, g.fd = dir, fd
			return g
		}
		_ = os.Remove(dir)
	}
	return g
}

// groups keeps one cgroup made in advance. What a command needs for its start and its end is done before and
// after it, since in a clone each thing that is done for the first time takes long.
type groups struct {
	mu    sync.Mutex
	spare string
	tidy  *time.Timer // to prepare another; nil when it is not to come
}

// take returns the spare one, or "", and sees to another.
func (gs *groups) take(parent string) string {
	if gs == nil {
		return ""
	}
	gs.mu.Lock()
	defer gs.mu.Unlock()
	dir := gs.spare
	gs.spare = ""
	if gs.tidy == nil {
		gs.tidy = time.AfterFunc(tidyAfter, func() { gs.prepare(parent) })
	}
	return dir
}

// prepare takes away what commands have left, and makes the spare one.
func (gs *groups) prepare(parent string) {
	if gs == nil || parent == "" {
		return
	}
	sweep(parent)
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if gs.tidy != nil {
		gs.tidy.Stop()
		gs.tidy = nil
	}
	if gs.spare == "" {
		gs.spare, _ = os.MkdirTemp(parent, cgroupPrefix) // without one, it is made when it is needed
	}
}

// tidyAfter is after most commands.
const tidyAfter = time.Second

const cgroupPrefix = "exec-"

// sweep removes the cgroups of commands whose last process has ended since. Those in
// use cannot be removed; the kernel sees to that.
func sweep(parent string) {
	dirs, _ := filepath.Glob(filepath.Join(parent, cgroupPrefix+"*"))
	for _, d := range dirs {
		// A group just made, not entered yet, is left alone.
		if st, err := os.Stat(d); err == nil && time.Since(st.ModTime()) > time.Minute {
			_ = os.Remove(d)
		}
	}
}

// enter makes the process that is about to start a member from its birth.
func (g *group) enter(attr *syscall.SysProcAttr) {
	if g.fd >= 0 {
		attr.UseCgroupFD, attr.CgroupFD = true, g.fd
	}
}

func (g *group) entered() {
	if g.fd >= 0 {
		_ = unix.Close(g.fd)
		g.fd = -1
	}
}

func (g *group) lead(pid int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pid = pid
}

func (g *group) leaderEnded() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reaped = true
	g.tidy = time.AfterFunc(tidyAfter, g.remove)
}

// tidyUp removes the group of a command that has ended, so that nothing of it is left to be done.
func (g *group) tidyUp() {
	g.mu.Lock()
	if g.tidy != nil {
		g.tidy.Stop()
	}
	g.mu.Unlock()
	g.remove()
}

// remove gives the cgroup back if nobody is in it.
func (g *group) remove() {
	if g.dir != "" {
		_ = os.Remove(g.dir)
	}
}

// signal sends to the command's process group. A group whose leader has ended keeps its
// number for as long as it has members.
func (g *group) signal(sig syscall.Signal) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pid > 0 && (!g.reaped || g.led()) {
		_ = unix.Kill(-g.pid, sig)
	}
}

// led reports whether a process is still in the session that the command led: only
// then is its number certainly not another's.
func (g *group) led() bool {
	for _, p := range processes() {
		if p.session == g.pid {
			return true
		}
	}
	return false
}

// note remembers who belongs to the command now, for the case without a cgroup.
func (g *group) note() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.members()
}

// members are those that live, zombies left out. mu is held.
func (g *group) members() []procID {
	if g.dir != "" {
		return cgroupMembers(g.dir)
	}
	all := processes()
	mine := map[int]bool{}
	for _, p := range all {
		if p.session == g.pid || g.seen[p.procID] || (p.pid == g.pid && !g.reaped) {
			mine[p.pid] = true
		}
	}
	for grown := true; grown; {
		grown = false
		for _, p := range all {
			if !mine[p.pid] && mine[p.parent] {
				mine[p.pid], grown = true, true
			}
		}
	}
	var out []procID
	for _, p := range all {
		if mine[p.pid] {
			g.seen[p.procID] = true
			if !p.dead {
				out = append(out, p.procID)
			}
		}
	}
	return out
}

func (g *group) empty() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.members()) == 0
}

// kill ends every member, and those that they start meanwhile, and returns when none is left.
func (g *group) kill() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for range 200 { // a process in an uninterruptible sleep cannot be waited for longer than this
		if g.dir != "" {
			_ = os.WriteFile(filepath.Join(g.dir, "cgroup.kill"), []byte("1"), 0)
		}
		left := g.members()
		if len(left) == 0 {
			break
		}
		for _, p := range left {
			_ = unix.Kill(p.pid, unix.SIGKILL)
		}
		time.Sleep(10 * time.Millisecond)
	}
	g.remove()
}

// cgroupMembers reads the process ids of a cgroup and of those below it, which the
// command may have made (podman, systemd-run).
func cgroupMembers(dir string) []procID {
	var out []procID
	_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() != "cgroup.procs" {
			return nil //nolint:nilerr // a group that has gone meanwhile has no members
		}
		data, _ := os.ReadFile(path)
		for _, f := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(f); err == nil {
				if p, ok := readProcess(pid); ok && !p.dead {
					out = append(out, p.procID)
				}
			}
		}
		return nil
	})
	return out
}

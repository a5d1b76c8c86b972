package helper

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"banger/internal/host"
	"banger/internal/host/local"
	"banger/internal/host/verb"
)

// theirs reports whether a process runs under a uid that is not ours, so that only the helper may touch it.
func (h *Host) theirs(p host.Process) bool {
	uid, err := h.Owner(p.PID)
	return err == nil && uid != os.Geteuid()
}

// Spawn asks for processes under other uids. It opens the program's log itself, and looks the program up.
func (h *Host) Spawn(c host.Command) (host.Process, error) {
	if c.UID == 0 || c.UID == os.Geteuid() {
		return h.Host.Spawn(c)
	}
	path, err := h.LookPath(c.Path)
	if err != nil {
		return host.Process{}, err
	}
	if path == "/proc/self/exe" { // ours, not the helper's
		if path, err = os.Executable(); err != nil {
			return host.Process{}, err
		}
	}
	if path, err = filepath.Abs(path); err != nil {
		return host.Process{}, err
	}
	args := verb.SpawnArgs{Path: path, Args: c.Args, Env: c.Env, UID: c.UID, GID: c.GID, Groups: c.Groups, OOMScoreAdj: c.OOMScoreAdj, SmallPages: c.SmallPages, Batch: c.Batch}
	files := slices.Clone(c.Files)
	if c.LogPath != "" {
		log, err := local.OpenLog(c.LogPath)
		if err != nil {
			return host.Process{}, fmt.Errorf("cannot open the log of %s: %w", c.Path, err)
		}
		defer log.Close()
		files, args.Log = append(files, log), true
	}
	ctx, cancel := bounded()
	defer cancel()
	var p host.Process
	if err := h.ask(ctx, verb.Spawn, args, files, &p, nil); err != nil {
		return host.Process{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.spawned[p] = true
	return p, nil
}

// ExitStatus asks about what the helper spawned for us.
func (h *Host) ExitStatus(p host.Process) (syscall.WaitStatus, bool) {
	h.mu.Lock()
	asked := h.spawned[p]
	h.mu.Unlock()
	if !asked {
		return h.Host.ExitStatus(p)
	}
	ctx, cancel := bounded()
	defer cancel()
	var r verb.ExitReply
	if err := h.ask(ctx, verb.ExitStatus, verb.ProcessArgs{Process: p}, nil, &r, nil); err != nil || !r.Ended {
		return 0, false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.spawned, p)
	return syscall.WaitStatus(r.Status), true
}

// Signal asks for VMMs of other uids.
func (h *Host) Signal(p host.Process, s syscall.Signal) error {
	if !h.theirs(p) {
		return h.Host.Signal(p, s)
	}
	ctx, cancel := bounded()
	defer cancel()
	return h.tell(ctx, verb.Signal, verb.SignalArgs{Process: p, Signal: int(s)})
}

// SetOOMScore asks for VMMs of other uids.
func (h *Host) SetOOMScore(p host.Process, adj int) error {
	if !h.theirs(p) {
		return h.Host.SetOOMScore(p, adj)
	}
	ctx, cancel := bounded()
	defer cancel()
	return h.tell(ctx, verb.SetOOMScore, verb.OOMArgs{Process: p, Adj: adj})
}

// Give asks for a file or directory below the state directory.
func (h *Host) Give(path string, uid int) error {
	if uid == 0 || uid == os.Geteuid() {
		return nil
	}
	rel, err := h.below(path)
	if err != nil {
		return err
	}
	ctx, cancel := bounded()
	defer cancel()
	return h.tell(ctx, verb.Give, verb.GiveArgs{Path: rel, UID: uid})
}

// OpenMemory gets the open files from the helper.
func (h *Host) OpenMemory(p host.Process) (host.Memory, error) {
	if !h.theirs(p) {
		return host.Memory{}, nil
	}
	ctx, cancel := bounded()
	defer cancel()
	out := make([]*os.File, 3)
	if err := h.ask(ctx, verb.OpenMemory, verb.ProcessArgs{Process: p}, nil, nil, out); err != nil {
		return host.Memory{}, err
	}
	return host.Memory{Maps: out[0], PageMap: out[1], Mem: out[2]}, nil
}

// OpenedAs asks about VMMs of other uids.
func (h *Host) OpenedAs(p host.Process, path string) []string {
	if !h.theirs(p) {
		return h.Host.OpenedAs(p, path)
	}
	fi, err := os.Stat(path)
	if err != nil {
		return nil
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	ctx, cancel := bounded()
	defer cancel()
	var names []string
	_ = h.ask(ctx, verb.OpenedAs, verb.OpenedArgs{Process: p, Dev: uint64(st.Dev), Ino: st.Ino}, nil, &names, nil) // no answer tells of no names
	return names
}

var _ host.Host = (*Host)(nil)

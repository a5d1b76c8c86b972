package fake

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"banger/api"
	"banger/internal/host"
)

// firstPID is beyond any pid_max, so that no fake process can be mistaken for a real one.
const firstPID = 10_000_000

// processes implements host.Processes in memory.
type processes struct {
	script *transcript

	mu       sync.Mutex // protects the following
	programs map[string]Program
	missing  map[string]string
	running  map[host.Process]*process
	ended    map[host.Process]syscall.WaitStatus
	nextPID  int
}

// Program acts out a command that Run or Spawn was asked for; its error is theirs.
type Program func(ctx context.Context, c host.Command) error

type process struct {
	command host.Command
	gone    chan struct{}
}

func newProcesses(script *transcript) *processes {
	return &processes{
		script: script, programs: map[string]Program{}, missing: map[string]string{},
		running: map[host.Process]*process{}, ended: map[host.Process]syscall.WaitStatus{}, nextPID: firstPID,
	}
}

// Act sets what a program does, by its base name. One without an act succeeds and does nothing.
func (ps *processes) Act(name string, act Program) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.programs[name] = act
}

// Remove makes a program missing, with the hint that LookPath then gives.
func (ps *processes) Remove(name, hint string) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.missing[name] = hint
}

// LookPath finds everything in /usr/bin, except what was removed.
func (ps *processes) LookPath(name string) (string, error) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if hint, gone := ps.missing[filepath.Base(name)]; gone {
		return "", api.Errorf(api.CodeMissing, "cannot find the program %s", name).WithHint("%s", hint)
	}
	if strings.Contains(name, "/") {
		return name, nil
	}
	return "/usr/bin/" + name, nil
}

func (ps *processes) Run(ctx context.Context, c host.Command) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := ps.act(ctx, "run", c); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(c.Path), err)
	}
	return nil
}

// Spawn runs the program's act at once and then counts it as running until End or a fatal Signal.
func (ps *processes) Spawn(c host.Command) (host.Process, error) {
	if err := ps.act(context.Background(), "spawn", c); err != nil {
		return host.Process{}, fmt.Errorf("cannot start %s: %w", c.Path, err)
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := host.Process{PID: ps.nextPID, StartTime: uint64(ps.nextPID)}
	ps.nextPID++
	ps.running[p] = &process{command: c, gone: make(chan struct{})}
	return p, nil
}

func (ps *processes) act(ctx context.Context, verb string, c host.Command) error {
	if _, err := ps.LookPath(c.Path); err != nil {
		return err
	}
	line := strings.Join(append([]string{verb, filepath.Base(c.Path)}, c.Args...), " ")
	if c.UID != 0 {
		line += fmt.Sprintf(" (uid %d)", c.UID)
	}
	ps.script.add(line)
	ps.mu.Lock()
	act := ps.programs[filepath.Base(c.Path)]
	ps.mu.Unlock()
	if act == nil {
		return nil
	}
	return act(ctx, c)
}

// End makes a running process end with status.
func (ps *processes) End(p host.Process, status syscall.WaitStatus) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if r, ok := ps.running[p]; ok {
		delete(ps.running, p)
		ps.ended[p] = status
		close(r.gone)
	}
}

func (ps *processes) Alive(p host.Process) bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	_, ok := ps.running[p]
	return ok
}

func (ps *processes) Identify(pid int) (host.Process, bool) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for p := range ps.running {
		if p.PID == pid {
			return p, true
		}
	}
	return host.Process{}, false
}

func (ps *processes) Wait(ctx context.Context, p host.Process) error {
	ps.mu.Lock()
	r, ok := ps.running[p]
	ps.mu.Unlock()
	if !ok {
		return nil
	}
	select {
	case <-r.gone:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Signal ends the process for any signal but 0: nobody here catches one.
func (ps *processes) Signal(p host.Process, s syscall.Signal) error {
	if !ps.Alive(p) {
		return nil
	}
	ps.script.add(fmt.Sprintf("signal %d %s", p.PID, s))
	if s != 0 {
		ps.End(p, syscall.WaitStatus(s))
	}
	return nil
}

func (ps *processes) CommandLine(pid int) ([]string, error) {
	p, ok := ps.Identify(pid)
	if !ok {
		return nil, os.ErrNotExist
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	r, ok := ps.running[p]
	if !ok {
		return nil, os.ErrNotExist
	}
	return append([]string{r.command.Path}, r.command.Args...), nil
}

func (ps *processes) PIDs() ([]int, error) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	pids := []int{}
	for p := range ps.running {
		pids = append(pids, p.PID)
	}
	slices.Sort(pids)
	return pids, nil
}

func (ps *processes) Owner(pid int) (int, error) {
	p, ok := ps.Identify(pid)
	if !ok {
		return 0, os.ErrNotExist
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if r, ok := ps.running[p]; ok {
		return r.command.UID, nil
	}
	return 0, os.ErrNotExist
}

func (ps *processes) ExitStatus(p host.Process) (syscall.WaitStatus, bool) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	status, ok := ps.ended[p]
	delete(ps.ended, p)
	return status, ok
}

// SetOOMScore is in the transcript.
func (ps *processes) SetOOMScore(p host.Process, adj int) error {
	if !ps.Alive(p) {
		return os.ErrNotExist
	}
	ps.script.add(fmt.Sprintf("oom_score_adj %d", adj))
	return nil
}

func (ps *processes) Usage(p host.Process) (host.Usage, error) {
	if !ps.Alive(p) {
		return host.Usage{}, os.ErrNotExist
	}
	return host.Usage{}, nil
}

// BootID is always the same: this machine never boots.
func (ps *processes) BootID() string { return "00000000-0000-4000-8000-000000000000" }

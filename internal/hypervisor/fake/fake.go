// Package fake runs guests that are no machines: for each a process that stands where a
// VMM would, and below it one that serves the real agent code, whose commands are
// processes of this host. Scenario scripts act out all of banger with it, kill -9 of
// the daemon included, without root and without a VM. Only tests may import it; no user
// can ever be given one.
package fake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"banger/api"
	"banger/internal/host"
	"banger/internal/hypervisor"
	"banger/internal/hypervisor/vmm"
)

// ProgramName is looked up in PATH where Options.Program is empty.
const ProgramName = "banger-fake-vmm"

// HoldName is argv[0] of a session's holder; a program that looks at its own name (testscript's
// do) must hand this one to Main, too.
const HoldName = "@banger-hold"

// Name is that of a fake which has been given no other.
const Name = "fake"

// Options are what New needs.
type Options struct {
	// Name is what it is called; empty means Name.
	Name string
	// Host starts the processes: it must be the real one.
	Host host.Processes
	// Program calls Main(os.Args) and nothing else, or is a test binary whose TestMain does so
	// for the roles. Empty means ProgramName.
	Program string
	// Behaviour is a file with words, read at each start of a VM; it may be missing. The
	// words, and what the guest then does:
	//   start-fails    the VMM ends with an error before the guest runs
	//   silent         the agent never answers
	//   never-ready    the agent answers, but is never ready
	//   ignores-stop   it takes the request to power off and does nothing
	//   dies           the VMM ends by itself as soon as the guest is up
	//   freeze-fails   freezing finds the disk full (read at each freeze)
	//   thaw-fails     no state can be thawed
	//   taps-NAME      the hypervisor of this name has no user-mode network
	//   no-NAME        the hypervisor of this name cannot be used on this host
	//   other-version  states that were frozen without this word do not go on with it
	// In addition any VMM takes SIGUSR1 as the guest's own reboot and SIGUSR2 as its poweroff.
	Behaviour string
}

// Hypervisor starts fake VMMs.
type Hypervisor struct{ o Options }

var _ hypervisor.Hypervisor = (*Hypervisor)(nil)

// New returns a hypervisor without guests.
func New(o Options) *Hypervisor {
	if o.Program == "" {
		o.Program = ProgramName
	}
	if o.Name == "" {
		o.Name = Name
	}
	return &Hypervisor{o: o}
}

// Name is what it was given.
func (h *Hypervisor) Name() string { return h.o.Name }

// Features are always the same.
func (h *Hypervisor) Features(context.Context) (hypervisor.Features, error) {
	if slices.Contains(h.behaviour(), "no-"+h.o.Name) {
		return hypervisor.Features{}, api.Errorf(api.CodeMissing, "cannot find the program %s", h.o.Name).WithHint("sudo apt-get install %s", h.o.Name)
	}
	return hypervisor.Features{
		Accel: "fake", AccelReason: "guests of tests are processes of this host", Version: h.version(), MaxCPUs: 64,
		TapOnly: slices.Contains(h.behaviour(), "taps-"+h.o.Name),
	}, nil
}

func (h *Hypervisor) version() string {
	if slices.Contains(h.behaviour(), otherVersion) {
		return "2"
	}
	return "1"
}

func controlSocket(m *hypervisor.Machine) string { return filepath.Join(m.Dir, "q") }
func agentSocket(m *hypervisor.Machine) string   { return filepath.Join(m.Dir, "a") }
func consoleLog(m *hypervisor.Machine) string    { return filepath.Join(m.Dir, "console.log") }
func vmmLog(m *hypervisor.Machine) string        { return filepath.Join(m.Dir, "vmm.log") }

// Start launches the process, has it recorded and lets the guest run.
func (h *Hypervisor) Start(ctx context.Context, m hypervisor.Machine, record hypervisor.Record) (hypervisor.Instance, error) {
	return h.launch(ctx, machineSpec{Machine: plain(m), Behaviour: h.behaviour()}, m, record)
}

func (h *Hypervisor) launch(ctx context.Context, spec machineSpec, m hypervisor.Machine, record hypervisor.Record) (hypervisor.Instance, error) {
	p, err := h.spawn(&m, spec)
	if err != nil {
		return nil, fmt.Errorf("cannot start the fake VMM of %s: %w", m.ID, err)
	}
	i, err := h.bringUp(ctx, m, p, record)
	if err == nil {
		return i, nil
	}
	end, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if ctx.Err() == nil && errors.Is(err, errLost) {
		// It is about to end by itself: its last words are the reason.
		short, cancel := context.WithTimeout(end, 5*time.Second)
		_ = h.o.Host.Wait(short, p)
		cancel()
		words, _ := os.ReadFile(vmmLog(&m))
		err = fmt.Errorf("it ended: %s", words)
	}
	err = errors.Join(err, h.kill(end, p))
	return nil, fmt.Errorf("cannot start the fake VMM of %s: %w", m.ID, err)
}

func (h *Hypervisor) spawn(m *hypervisor.Machine, s machineSpec) (host.Process, error) {
	spec, err := json.Marshal(s)
	if err != nil {
		return host.Process{}, err
	}
	var files []*os.File
	for _, path := range []string{controlSocket(m), agentSocket(m)} {
		f, err := vmm.Listen(path)
		if err != nil {
			return host.Process{}, err
		}
		defer f.Close()
		files = append(files, f)
	}
	if err := os.Remove(vmmLog(m)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return host.Process{}, err
	}
	return h.o.Host.Spawn(host.Command{
		Path: h.o.Program, Args: []string{roleVMM, m.Dir, string(spec)}, Dir: "/",
		Files: files, LogPath: vmmLog(m),
	})
}

// plain drops what cannot be told to another process.
func plain(m hypervisor.Machine) hypervisor.Machine {
	m.NIC = nil
	return m
}

func (h *Hypervisor) bringUp(ctx context.Context, m hypervisor.Machine, p host.Process, record hypervisor.Record) (*instance, error) {
	if err := record(hypervisor.Handles{Process: p}); err != nil {
		return nil, fmt.Errorf("cannot record process %d: %w", p.PID, err)
	}
	i, err := h.connect(ctx, m, p)
	if err != nil {
		return nil, err
	}
	if err := i.ask(ctx, request{Do: doRun}, nil); err != nil {
		i.Detach()
		return nil, err
	}
	go i.watch()
	return i, nil
}

// Adopt takes up a VMM of an earlier daemon.
func (h *Hypervisor) Adopt(ctx context.Context, m hypervisor.Machine, p host.Process, _ hypervisor.Record) (hypervisor.Instance, error) {
	if !h.o.Host.Alive(p) || !h.isOurs(&m, p.PID) {
		return nil, fmt.Errorf("cannot adopt process %d: it is not the fake VMM of %s", p.PID, m.ID)
	}
	i, err := h.connect(ctx, m, p)
	if err != nil {
		return nil, fmt.Errorf("cannot adopt the fake VMM of %s: %w", m.ID, err)
	}
	if err := i.stand(ctx, doAdopt); err != nil {
		i.Detach()
		return nil, fmt.Errorf("cannot adopt the fake VMM of %s: %w", m.ID, err)
	}
	go i.watch()
	return i, nil
}

// Clean has nothing to do: a fake VMM holds nothing of the host.
func (*Hypervisor) Clean(context.Context, hypervisor.Machine) error { return nil }

// Find looks through all processes.
func (h *Hypervisor) Find(_ context.Context, m hypervisor.Machine) (host.Process, bool) {
	pids, err := h.o.Host.PIDs()
	if err != nil {
		return host.Process{}, false
	}
	for _, pid := range pids {
		p, ok := h.o.Host.Identify(pid)
		if ok && h.isOurs(&m, pid) && h.o.Host.Alive(p) {
			return p, true
		}
	}
	return host.Process{}, false
}

func (h *Hypervisor) isOurs(m *hypervisor.Machine, pid int) bool {
	args, err := h.o.Host.CommandLine(pid)
	return err == nil && len(args) == 4 && filepath.Base(args[0]) == filepath.Base(h.o.Program) &&
		slices.Equal(args[1:3], []string{roleVMM, m.Dir})
}

func (h *Hypervisor) kill(ctx context.Context, p host.Process) error {
	if err := h.o.Host.Signal(p, syscall.SIGKILL); err != nil {
		return err
	}
	return h.o.Host.Wait(ctx, p)
}

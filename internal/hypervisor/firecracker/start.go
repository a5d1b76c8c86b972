package firecracker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/host"
	"banger/internal/hypervisor"
	"banger/internal/hypervisor/bzimage"
	"banger/internal/hypervisor/vmm"
)

// oomScoreAdj makes a guest a likelier victim than the daemon, which can only then tell why it died.
const oomScoreAdj = 500

// endTimeout bounds waiting for a process that was sent SIGKILL.
const endTimeout = 30 * time.Second

// room is what Firecracker needs beside the guest's memory.
const room = 64 << 20

// Start launches Firecracker, has it recorded, and lets the guest run.
func (h *Hypervisor) Start(ctx context.Context, m hypervisor.Machine, record hypervisor.Record) (hypervisor.Instance, error) {
	if _, err := h.oracle.Ask(ctx); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, h.wrap(&m, "start", err)
	}
	m.Drives = slices.Clone(m.Drives) // a freeze moves them
	i := newInstance(h, m, record)
	if err := i.launch(ctx, i.boot); err != nil {
		return nil, h.wrap(&m, "start", err)
	}
	i.serve()
	return i, nil
}

// process is one Firecracker: a guest's reboot ends it, and begins another.
type process struct {
	p    host.Process
	jail host.Jail
	api  *client
	log  *vmm.LogTail
	// drives are what the guest's drives are on the host.
	drives []attached
	// life ends when the process does, or when we let go of it; its cause tells which.
	life context.Context
	end  context.CancelCauseFunc
	// reset: the guest stands, and has been sent the event that a snapshot sends.
	reset bool
	// thawed: its memory maps a file.
	thawed bool
	// next is closed when there is another process, or none to come.
	next chan struct{}
}

// launch starts a Firecracker and brings it to where begin has given it its drives and let the guest go. On error nothing of it is left.
func (i *instance) launch(ctx context.Context, begin func(context.Context, *process) error) error {
	h, m := i.h, &i.m
	ps, err := i.spawn(ctx)
	if err != nil {
		return err
	}
	err = i.publish(ps)
	if err == nil {
		err = i.recordHeld(ps)
	}
	if err == nil {
		alive, stop := h.whileAlive(ctx, ps.p)
		err = begin(alive, ps)
		stop()
		if err != nil && ctx.Err() == nil && h.soonDead(ps.p) {
			err = fmt.Errorf("%w: %w", vmm.ErrDied, err)
		}
	}
	if err == nil {
		return nil
	}
	ps.let(vmm.ErrDied)
	died := errors.Is(err, vmm.ErrDied)
	if uerr := h.undo(ps.p); uerr != nil {
		return errors.Join(err, uerr)
	}
	if died {
		status, known := h.o.Host.ExitStatus(ps.p)
		why := errors.New(vmm.Exit{Program: program, Status: status, Known: known, Words: i.words(ps)}.Why())
		// One that was killed says nothing about the state that it was loading.
		if api.CodeOf(err) == api.CodeConflict && (!known || !status.Signaled() || status.Signal() != syscall.SIGKILL) {
			why = vmm.CannotContinue(why)
		}
		err = why
	}
	return errors.Join(err, h.Clean(context.WithoutCancel(ctx), *m))
}

func (i *instance) recordHeld(ps *process) error {
	if err := i.record(hypervisor.Handles{Process: ps.p, Disks: disks(ps.drives)}); err != nil {
		return fmt.Errorf("cannot record process %d: %w", ps.p.PID, err)
	}
	return nil
}

// takeDrives gives a Firecracker its drives, once nobody else writes to what lies below them.
func (i *instance) takeDrives(ctx context.Context, ps *process) (err error) {
	if ps.drives, err = i.h.attach(ctx, &i.m); err != nil {
		return err
	}
	return errors.Join(i.h.furnishDrives(&i.m, ps.jail, ps.drives), i.recordHeld(ps))
}

// spawn makes the jail and starts Firecracker in it, which does nothing yet.
func (i *instance) spawn(ctx context.Context) (_ *process, err error) {
	h, m := i.h, &i.m
	if m.NIC != nil && m.NIC.Kind != hypervisor.NICTap {
		return nil, api.Errorf(api.CodeUnsupported, "Firecracker knows taps only, not a %s", m.NIC.Kind)
	}
	if m.UID == 0 {
		return nil, api.Errorf(api.CodeInternal, "a VMM in a jail needs a uid of its own")
	}
	f, err := h.oracle.Ask(ctx)
	if err != nil {
		return nil, err
	}
	j := h.jailOf(m)
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Clean(context.WithoutCancel(ctx), *m))
		}
	}()
	// A VMM that runs under this name is seen now, before its devices are touched.
	if err := h.o.Host.PrepareJail(ctx, j); err != nil {
		return nil, err
	}
	if err := h.furnish(m, j); err != nil {
		return nil, err
	}
	if m.NIC != nil && m.NIC.Tap != nil {
		// Firecracker opens the tap itself, and a tap is one's alone.
		if err := m.NIC.Tap.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			return nil, err
		}
	}
	stdout, err := openLog(consoleLog(m))
	if err != nil {
		return nil, err
	}
	defer stdout.Close()
	stderr, err := openLog(vmmLog(m))
	if err != nil {
		return nil, err
	}
	defer stderr.Close()
	ps := &process{jail: j, drives: make([]attached, len(m.Drives)), log: vmm.TailFrom(vmmLog(m), nil), next: make(chan struct{})}
	ps.p, err = h.o.Host.SpawnJailed(host.Jailed{
		Jail: j, Jailer: f.Jailer, Binary: f.Binary, MemoryBytes: m.MemoryBytes + room,
		Args:   []string{"--api-sock", "/" + inControl, "--log-path", "/" + inLog, "--level", "Info", "--metrics-path", "/" + inMetrics},
		Stdout: stdout, Stderr: stderr, OOMScoreAdj: oomScoreAdj,
	})
	if err != nil {
		if p, ok := h.Find(ctx, *m); ok { // it runs, and the answer was lost
			err = errors.Join(err, h.undo(p))
		}
		return nil, err
	}
	h.connect(ps)
	return ps, nil
}

// connect gives a process its life and the client of its API.
func (h *Hypervisor) connect(ps *process) {
	ps.life, ps.end = context.WithCancelCause(context.Background())
	ps.api = newClient(func(ctx context.Context) (net.Conn, error) { return h.o.Host.DialJailed(ctx, ps.jail, inControl, ps.p) })
}

// let ends what we hold of a process.
func (ps *process) let(cause error) {
	ps.end(cause)
	ps.api.close()
}

// openLog opens a log for appending: nothing but a plain file, through no link.
func openLog(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%s is not a plain file", path), err, f.Close())
	}
	return f, nil
}

// boot tells Firecracker what the machine is and starts it.
func (i *instance) boot(ctx context.Context, ps *process) error {
	m := &i.m
	if err := i.takeDrives(ctx, ps); err != nil {
		return err
	}
	kernel, err := bzimage.File(m.Kernel)
	if errors.Is(err, bzimage.ErrUnknown) {
		kernel, err = m.Kernel, nil
	}
	if err != nil {
		return err
	}
	for _, f := range []struct{ path, name string }{{kernel, inKernel}, {m.Initramfs, inInitramfs}} {
		if err := i.h.put(ps.jail, f.name, f.path, os.O_RDONLY, false); err != nil {
			return err
		}
	}
	type request struct {
		path string
		body any
	}
	requests := []request{
		{"/machine-config", machineConfig{m.CPUs, m.MemoryBytes >> 20}},
		{"/boot-source", bootSource{"/" + inKernel, "/" + inInitramfs, kernelCmdline(m)}},
	}
	for n, d := range m.Drives {
		c := driveConfig{ID: driveID(n), Path: "/" + driveID(n), ReadOnly: d.ReadOnly, Cache: "Writeback"}
		if d.ReadOnly {
			c.Cache = "Unsafe"
		}
		requests = append(requests, request{"/drives/" + c.ID, c})
	}
	if m.NIC != nil {
		requests = append(requests, request{"/network-interfaces/" + nicID, networkConfig{nicID, m.NIC.MAC, m.NIC.TapName}})
	}
	requests = append(requests, request{"/vsock", vsockConfig{guestCID, "/" + inVsock}}, request{"/entropy", struct{}{}})
	for _, r := range requests {
		if err := ps.api.put(ctx, r.path, r.body); err != nil {
			return err
		}
	}
	if err := i.beginConsole(); err != nil {
		return err
	}
	return ps.api.act(ctx, "InstanceStart")
}

const consoleParam = "console=ttyS0"

// kernelCmdline is m's with what this machine needs. A reboot goes by the keyboard's controller, which is how Firecracker is
// ended. Its drives have no serials, so the guest is told which is which.
func kernelCmdline(m *hypervisor.Machine) string {
	serials := make([]string, 0, len(m.Drives))
	for _, d := range m.Drives {
		serials = append(serials, d.Serial)
	}
	parts := []string{
		m.Cmdline, consoleParam, "8250.nr_uarts=1", "nowatchdog", "reboot=k", "panic=1",
		"i8042.noaux", "i8042.nomux", "i8042.dumbkbd", agentapi.ParamDisks + "=" + strings.Join(serials, ","),
	}
	return strings.TrimSpace(strings.Join(parts, " "))
}

// soonDead gives a Firecracker that has closed its connections the time to be gone.
func (h *Hypervisor) soonDead(p host.Process) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	return h.o.Host.Wait(ctx, p) == nil
}

// whileAlive is ctx, ended with vmm.ErrDied when the process ends.
func (h *Hypervisor) whileAlive(ctx context.Context, p host.Process) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		if h.o.Host.Wait(ctx, p) == nil {
			cancel(vmm.ErrDied)
		}
	}()
	return ctx, func() { cancel(nil) }
}

// kill ends a process and waits until it is gone.
func (h *Hypervisor) kill(ctx context.Context, p host.Process) error {
	if err := h.o.Host.Signal(p, syscall.SIGKILL); err != nil {
		return err
	}
	return h.o.Host.Wait(ctx, p)
}

// undo is kill for a start that failed, when the caller's context may be over already.
func (h *Hypervisor) undo(p host.Process) error {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	return h.kill(ctx, p)
}

package fake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/host"
	"banger/internal/host/local"
	"banger/internal/hypervisor"
)

// The descriptors that a VMM inherits.
const (
	fdControl = 3
	fdAgent   = 4
)

// monitor is the VMM's process: it holds the sockets and keeps the guest's process.
type monitor struct {
	// program is our own, by the name that it was started by: it may look at that name.
	program string
	spec    *machineSpec
	procs   *local.Host
	port    *port

	begin sync.Once
	begun chan struct{}

	mu     sync.Mutex // protects client and its writes
	client net.Conn

	// act protects the following: what is asked for, one thing after the other.
	act      sync.Mutex
	guest    int // the process's id; 0 while there is none
	standing bool
	files    map[string]string // the drives' files by serial
}

// runVMM lives until the guest powers off.
func runVMM(program string, spec *machineSpec) (int, error) {
	if spec.does(startFails) {
		return 1, errors.New("cannot set up guest memory: Cannot allocate memory")
	}
	for _, d := range spec.Machine.Drives {
		if _, err := os.Stat(d.Path); err != nil {
			return 1, err
		}
	}
	mon := &monitor{
		program: program, spec: spec, procs: local.New(), port: newPort(), begun: make(chan struct{}), files: map[string]string{},
	}
	for _, d := range spec.Machine.Drives {
		mon.files[d.Serial] = d.Path
	}
	control, err := listener(fdControl)
	if err != nil {
		return 1, err
	}
	agent, err := listener(fdAgent)
	if err != nil {
		return 1, err
	}
	go mon.serveControl(control)
	go mon.port.serve(agent)
	<-mon.begun
	return mon.keepGuest()
}

// listener takes up a listening socket. Listening again makes the kernel name this process as
// the one behind it, as QEMU's doing so does.
func listener(fd int) (net.Listener, error) {
	if err := unix.Listen(fd, 8); err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	return l, nil
}

// serveControl serves one client at a time.
func (mon *monitor) serveControl(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		mon.attach(conn)
		for dec := json.NewDecoder(conn); ; {
			var r request
			if dec.Decode(&r) != nil {
				break
			}
			mon.say(mon.answer(r))
		}
		mon.attach(nil)
		_ = conn.Close()
	}
}

func (mon *monitor) attach(conn net.Conn) {
	mon.mu.Lock()
	defer mon.mu.Unlock()
	mon.client = conn
}

func (mon *monitor) say(m message) {
	mon.mu.Lock()
	defer mon.mu.Unlock()
	if mon.client != nil {
		_ = json.NewEncoder(mon.client).Encode(m)
	}
}

func (mon *monitor) event(k hypervisor.EventKind) { mon.say(message{Event: k, At: time.Now()}) }

func (mon *monitor) answer(r request) message {
	mon.act.Lock()
	defer mon.act.Unlock()
	switch r.Do {
	case doRun, doAdopt:
		select {
		case <-mon.begun:
		default:
			if r.Do == doAdopt && mon.spec.Thawed != nil {
				return message{Error: "its thaw was cut off"}
			}
		}
		mon.begin.Do(func() { close(mon.begun) })
		return mon.status()
	case doStatus:
		return mon.status()
	case doPause, doResume:
		mon.stand(r.Do == doPause)
		return mon.status()
	case doFreeze:
		return mon.answerFreeze(r)
	case doStats:
		stats := map[string]hypervisor.DriveStats{}
		for _, d := range mon.spec.Machine.Drives {
			stats[d.Serial] = hypervisor.DriveStats{}
		}
		return message{Stats: stats}
	case doGrow, doFlatten:
		for _, d := range mon.spec.Machine.Drives {
			if d.Serial == r.Serial {
				return message{}
			}
		}
		return message{Error: fmt.Sprintf("no drive %q", r.Serial)}
	}
	return message{Error: "unknown request " + r.Do}
}

// keepGuest runs the guest, again after each of its reboots.
func (mon *monitor) keepGuest() (int, error) {
	acts := make(chan os.Signal, 1)
	signal.Notify(acts, syscall.SIGUSR1, syscall.SIGUSR2)
	for {
		code, err := mon.runOnce(acts)
		switch {
		case err != nil:
			return 1, err
		case code == exitPowerOff:
			mon.event(hypervisor.EventShutdown)
			return 0, nil
		case mon.spec.does(dies):
			return 3, errors.New("the fake VMM was told to die")
		}
		mon.spec.Thawed = nil // the next one is a boot
		mon.event(hypervisor.EventReset)
	}
}

// runOnce is one boot of the guest: from its start to its reboot or poweroff.
func (mon *monitor) runOnce(acts <-chan os.Signal) (int, error) {
	spec, err := json.Marshal(mon.spec)
	if err != nil {
		return 0, err
	}
	inside, err := mon.port.renew()
	if err != nil {
		return 0, err
	}
	defer inside.Close()
	life, lifeline, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer lifeline.Close()
	p, err := mon.procs.Spawn(host.Command{
		Path: mon.program, Args: []string{roleGuest, mon.spec.Machine.Dir, string(spec)}, Dir: "/",
		Files: []*os.File{inside, life}, LogPath: consoleLog(&mon.spec.Machine),
	})
	_ = life.Close()
	if err != nil {
		return 0, err
	}
	_ = inside.Close()
	ended := make(chan struct{})
	go func() { defer close(ended); _ = mon.procs.Wait(context.Background(), p) }()
	code := -1
	select {
	case s := <-acts:
		code = exitReboot
		if s == syscall.SIGUSR2 {
			code = exitPowerOff
		}
		_ = lifeline.Close() // the guest ends everything in it, then itself
		<-ended
	case <-ended:
	}
	if status, ok := mon.procs.ExitStatus(p); ok && code < 0 {
		code = status.ExitStatus()
	}
	return code, nil
}

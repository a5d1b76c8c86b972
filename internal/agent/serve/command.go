package serve

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
)

// killAfter is how long a command may take to end after it has been asked to.
const killAfter = 2 * time.Second

// Exit codes that a command does not give itself, as shells have them.
const (
	exitTimedOut      = 124
	exitNotExecutable = 126
	exitNotFound      = 127
)

// startError says that a command could not be executed at all.
type startError struct {
	exitCode int
	reason   string
}

func (e *startError) Error() string { return e.reason }

// place is where commands run.
type place struct {
	Root   string `json:"root"`
	Cgroup string `json:"cgroup"`
	// groups has a cgroup in store; may be nil.
	groups *groups
	// dies: commands are killed when this process is. Nobody would be left to stop them, or to read what they write.
	dies bool
	// Protected: this process is kept from the kernel's OOM killer, by means of oom, and what it starts is not.
	Protected bool `json:"protected"`
	oom       *protection
}

// own reports whether Root is this machine's own: users are then switched. Otherwise
// (the fake) commands run on the host as whoever runs this, in Root's directories.
func (p place) own() bool { return p.Root == "/" }

// command is one that has been started.
type command struct {
	pid     int
	group   *group
	started time.Time
	// stdin is nil where the command has none. With a terminal, stdin and stdout are
	// its master and stderr is nil.
	stdin, stdout, stderr *os.File
	// tty is the terminal's master, or nil. slave is kept open until the command has ended: a
	// program that closes its stdin and stdout before it ends would otherwise end the terminal.
	tty, slave *os.File
	// exited is closed when the command's own process has ended; status is set by then.
	exited chan struct{}
	status syscall.WaitStatus
}

// start runs the command. The error is a *startError, or has code invalid for a spec that
// makes no sense in this guest.
func (p place) start(spec api.ExecSpec) (*command, error) {
	if len(spec.Argv) == 0 || spec.Argv[0] == "" {
		return nil, api.Errorf(api.CodeInvalid, "a command needs at least one word")
	}
	who, err := p.lookupUser(spec.User)
	if err != nil {
		return nil, err
	}
	env := p.environment(spec, who)
	dir, err := p.workdir(spec.Cwd, who)
	if err != nil {
		return nil, err
	}
	path, err := findProgram(spec.Argv[0], dir, env)
	if err != nil {
		return nil, err
	}
	c := &command{exited: make(chan struct{})}
	// Not by os/exec: it is a tenth of what a clone's first command costs the agent.
	attr := &syscall.ProcAttr{Env: env, Dir: dir, Sys: &syscall.SysProcAttr{Setsid: true}}
	if p.dies {
		attr.Sys.Pdeathsig = syscall.SIGKILL
	}
	if p.own() {
		if err := who.become(attr.Sys); err != nil {
			return nil, err
		}
	}
	theirs, err := c.connect(attr, spec, who)
	defer func() {
		for _, fd := range theirs {
			_ = unix.Close(fd)
		}
	}()
	if err != nil {
		c.closeOurs()
		return nil, err
	}
	c.group = newGroup(p.Cgroup, p.groups)
	c.group.enter(attr.Sys)
	c.started = time.Now()
	protectAgain := p.oom.lend()
	c.pid, err = syscall.ForkExec(path, spec.Argv, attr)
	protectAgain()
	c.group.entered()
	if err != nil {
		c.closeOurs()
		c.group.remove()
		return nil, cannotStart(spec.Argv[0], err)
	}
	c.group.lead(c.pid)
	go c.wait()
	return c, nil
}

// connect makes the command's stdin, stdout and stderr, and returns its ends of them. All
// are files, so that waiting for the command waits for nothing else.
func (c *command) connect(attr *syscall.ProcAttr, spec api.ExecSpec, who user) (theirs []int, err error) {
	if spec.TTY {
		master, slave, err := openTerminal()
		if err != nil {
			return nil, err
		}
		if spec.Rows > 0 && spec.Cols > 0 {
			_ = resize(master, spec.Rows, spec.Cols)
		}
		if os.Geteuid() == 0 {
			_ = slave.Chown(who.uid, -1)
		}
		c.tty, c.slave, c.stdin, c.stdout = master, slave, master, master
		attr.Files = []uintptr{slave.Fd(), slave.Fd(), slave.Fd()}
		attr.Sys.Setctty, attr.Sys.Ctty = true, 0
		return nil, nil
	}
	give := func(fd int) { theirs, attr.Files = append(theirs, fd), append(attr.Files, uintptr(fd)) }
	if spec.Stdin {
		r, w, err := pipe()
		if err != nil {
			return theirs, err
		}
		give(r)
		c.stdin, err = ours(w)
		if err != nil {
			return theirs, err
		}
	} else {
		null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return theirs, fmt.Errorf("cannot open %s: %w", os.DevNull, err)
		}
		give(null)
	}
	for _, out := range []**os.File{&c.stdout, &c.stderr} {
		r, w, err := pipe()
		if err != nil {
			return theirs, err
		}
		give(w)
		if *out, err = ours(r); err != nil {
			return theirs, err
		}
	}
	return theirs, nil
}

// pipe is one of bare descriptors, which block.
func pipe() (r, w int, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return -1, -1, fmt.Errorf("cannot make a pipe: %w", err)
	}
	return p[0], p[1], nil
}

// ours makes an end of a pipe one that can be waited for with a deadline. It takes the descriptor over.
func ours(fd int) (*os.File, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("cannot make a pipe: %w", err)
	}
	return os.NewFile(uintptr(fd), "pipe"), nil
}

func (c *command) closeOurs() {
	for _, f := range []*os.File{c.stdin, c.stdout, c.stderr, c.slave} {
		if f != nil {
			_ = f.Close()
		}
	}
}

func (c *command) wait() {
	for {
		if _, err := syscall.Wait4(c.pid, &c.status, 0, nil); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if c.slave != nil {
		_ = c.slave.Close()
	}
	c.group.leaderEnded()
	close(c.exited)
}

// closeStdin tells the command that there is no more.
func (c *command) closeStdin() {
	switch {
	case c.tty != nil:
		_, _ = c.tty.Write([]byte{4}) // ^D, which terminals take for the end
	case c.stdin != nil:
		_ = c.stdin.Close()
	}
}

// cannotStart gives the error of execve the exit code that shells give it.
func cannotStart(name string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return &startError{exitNotFound, fmt.Sprintf("cannot run %s: it or its interpreter is not there", name)}
	case errors.Is(err, unix.ENOEXEC):
		return &startError{exitNotExecutable, fmt.Sprintf("cannot run %s: not a program for this machine", name)}
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EISDIR), errors.Is(err, unix.EPERM),
		errors.Is(err, unix.ETXTBSY), errors.Is(err, unix.ELIBBAD), errors.Is(err, unix.E2BIG):
		return &startError{exitNotExecutable, fmt.Sprintf("cannot run %s: %v", name, errnoOf(err))}
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOMEM):
		return api.Errorf(api.CodeExhausted, "cannot start %s: %w", name, err)
	}
	return fmt.Errorf("cannot start %s: %w", name, err)
}

func errnoOf(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

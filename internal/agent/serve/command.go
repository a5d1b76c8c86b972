package serve

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
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
}

// own reports whether Root is this machine's own: users are then switched. Otherwise
// (the fake) commands run on the host as whoever runs this, in Root's directories.
func (p place) own() bool { return p.Root == "/" }

// command is one that has been started.
type command struct {
	cmd     *exec.Cmd
	group   *group
	started time.Time
	// stdin is nil where the command has none. With a terminal, stdin and stdout are
	// its master and stderr is nil.
	stdin, stdout, stderr *os.File
	// tty is the terminal's master, or nil. slave is kept open until the command has ended: a
	// program that closes its stdin and stdout before it ends would otherwise end the terminal.
	tty, slave *os.File
	// exited is closed when the command's own process has ended; state is set by then.
	exited chan struct{}
	state  *os.ProcessState
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
	c.cmd = &exec.Cmd{Path: path, Args: spec.Argv, Env: env, Dir: dir, SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	if p.dies {
		c.cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	if p.own() {
		if err := who.become(c.cmd.SysProcAttr); err != nil {
			return nil, err
		}
	}
	theirs, err := c.connect(spec, who)
	defer func() {
		for _, f := range theirs {
			_ = f.Close()
		}
	}()
	if err != nil {
		c.closeOurs()
		return nil, err
	}
	c.group = newGroup(p.Cgroup, p.groups)
	c.group.enter(c.cmd.SysProcAttr)
	c.started = time.Now()
	err = c.cmd.Start()
	c.group.entered()
	if err != nil {
		c.closeOurs()
		c.group.remove()
		return nil, cannotStart(spec.Argv[0], err)
	}
	c.group.lead(c.cmd.Process.Pid)
	go c.wait()
	return c, nil
}

// connect makes the command's stdin, stdout and stderr, and returns its ends of them. All
// are files, so that waiting for the command waits for nothing else.
func (c *command) connect(spec api.ExecSpec, who user) (theirs []*os.File, err error) {
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
		c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = slave, slave, slave
		c.cmd.SysProcAttr.Setctty, c.cmd.SysProcAttr.Ctty = true, 0
		return nil, nil
	}
	add := func(f *os.File) *os.File { theirs = append(theirs, f); return f }
	if spec.Stdin {
		r, w, err := os.Pipe()
		if err != nil {
			return theirs, err
		}
		c.cmd.Stdin, c.stdin = add(r), w
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return theirs, err
	}
	c.cmd.Stdout, c.stdout = add(outW), outR
	errR, errW, err := os.Pipe()
	if err != nil {
		return theirs, err
	}
	c.cmd.Stderr, c.stderr = add(errW), errR
	return theirs, nil
}

func (c *command) closeOurs() {
	for _, f := range []*os.File{c.stdin, c.stdout, c.stderr, c.slave} {
		if f != nil {
			_ = f.Close()
		}
	}
}

func (c *command) wait() {
	_ = c.cmd.Wait()
	if c.slave != nil {
		_ = c.slave.Close()
	}
	c.state = c.cmd.ProcessState
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

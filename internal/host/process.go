package host

import (
	"context"
	"io"
	"os"
	"syscall"
	"time"
)

// Process names one process for good: a process id is used again, a pair of
// process id and start time is not.
type Process struct {
	PID int `json:"pid"`
	// StartTime is field 22 of /proc/PID/stat, in clock ticks since the host's boot.
	StartTime uint64 `json:"start_time"`
}

// Command is a program to run. Args do not hold the program's name. There is
// no shell anywhere.
type Command struct {
	Path string // absolute, or a name looked up in PATH and the sbin directories
	Args []string
	// Env is the whole environment; nil means PATH, HOME and LANG=C.UTF-8 only.
	Env []string
	Dir string
	// UID and GID switch the user before exec (supplementary groups are dropped); 0 means as we are.
	UID, GID int
	// Groups are the supplementary groups of a process that runs under another UID.
	Groups []int
	// Files become descriptors 3, 4, … of the process.
	Files []*os.File
	// Stdin, Stdout and Stderr are for Run.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// LogPath gets stdout and stderr of a Spawn (appended, 0600).
	LogPath string
	// OOMScoreAdj is -1000 to 1000, for Spawn.
	OOMScoreAdj int
	// SmallPages: a Spawn gets no huge pages, even where it asks for them.
	SmallPages bool
	// Batch: a Spawn has the policy SCHED_BATCH (sched(7)): it takes its share of the CPUs, and interrupts nobody when it wakes.
	Batch bool
}

// Usage is what a process has used.
type Usage struct {
	CPU      time.Duration
	RSSBytes int64
}

// Processes starts, finds and ends processes.
type Processes interface {
	// LookPath finds a program in PATH and the sbin directories; the error has code missing_dependency
	// and the hint that installs it where we know the package.
	LookPath(name string) (string, error)
	// Run waits for the command to end. When ctx ends, its whole process group is killed. The error of a failing
	// command quotes the end of its stderr.
	Run(ctx context.Context, c Command) error
	// Spawn starts a process in a session of its own that outlives the daemon. No signal is ever forwarded to it.
	Spawn(c Command) (Process, error)
	// Alive reports whether exactly this process still runs (a zombie does not).
	Alive(p Process) bool
	// Identify fills in the start time of a running pid; false when there is none.
	Identify(pid int) (Process, bool)
	// Wait returns when the process has ended, whoever's child it is.
	Wait(ctx context.Context, p Process) error
	// Signal sends by pidfd, never to a reused pid; a process that is gone is no error.
	Signal(p Process, s syscall.Signal) error
	// CommandLine is the argv of a process.
	CommandLine(pid int) ([]string, error)
	// PIDs lists all processes that we may see.
	PIDs() ([]int, error)
	// Owner is the user id that a process runs under.
	Owner(pid int) (int, error)
	// ExitStatus tells how a process ended that this daemon spawned; false while it runs and for anybody
	// else's. It is there as soon as Wait has returned, and forgotten after it was asked for.
	ExitStatus(p Process) (syscall.WaitStatus, bool)
	Usage(p Process) (Usage, error)
	// SetOOMScore sets oom_score_adj of a running process, -1000 to 1000. Without the right to lower it that is left undone.
	SetOOMScore(p Process, adj int) error
	// BootID is the host's /proc/sys/kernel/random/boot_id.
	BootID() string
}

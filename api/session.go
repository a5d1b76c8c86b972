package api

import (
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Session is a long-lived command in a VM, which outlives the command line, the daemon, the network and the guest's agent. Its
// trace is a directory in the guest, SessionsDir/ID, on the work disk.
type Session struct {
	// ID is twelve characters of a-z and 2-7, or "main" for the command of run -d. A fork's sessions have those of
	// its source.
	ID string `json:"id"`
	// Name is a DNS label, unique among the sessions of one VM.
	Name string `json:"name"`
	VMID string `json:"vm_id"`
	// VM is the name of the VM.
	VM     string            `json:"vm"`
	Labels map[string]string `json:"labels"`
	Argv   []string          `json:"argv"`
	// Env are the names of the variables that it was given; the values are kept nowhere.
	Env  []string `json:"env"`
	Cwd  string   `json:"cwd"`
	User string   `json:"user"`
	TTY  bool     `json:"tty"`
	// Stdin is closed or pipe.
	Stdin SessionStdin `json:"stdin"`
	State SessionState `json:"state"`
	// PID is the command's process in the guest; 0 before it has any.
	PID int `json:"pid"`
	// Stage is where a session failed that never ran; its name is free again.
	Stage SessionStage `json:"stage"`
	// ExitCode is null until it has exited: the command's own, 128+n when signal n ended it.
	ExitCode *int   `json:"exit_code"`
	Signal   string `json:"signal"` // "KILL"; empty if none
	// Error says why it failed.
	Error     string     `json:"error"`
	StartedAt time.Time  `json:"started_at"`
	EndedAt   *time.Time `json:"ended_at"` // null while it runs
	// StdoutBytes and StderrBytes are what it has written so far. What is before StdoutCut and StderrCut is gone: of each
	// stream the configured amount is kept. A terminal has stdout only.
	StdoutBytes int64 `json:"stdout_bytes"`
	StderrBytes int64 `json:"stderr_bytes"`
	StdoutCut   int64 `json:"stdout_cut"`
	StderrCut   int64 `json:"stderr_cut"`
}

// Ended reports whether a session is over.
func (s Session) Ended() bool { return s.State.Ended() }

// SessionState is where a session is in its life.
type SessionState string

// The states of a session.
const (
	SessionStarting SessionState = "starting"
	SessionRunning  SessionState = "running"
	SessionStopping SessionState = "stopping" // it was asked to end
	SessionExited   SessionState = "exited"   // ExitCode counts
	SessionFailed   SessionState = "failed"   // it never ran (Stage says where it failed), or was lost: Error says why
)

// Ended reports whether a session in this state is over.
func (s SessionState) Ended() bool { return s == SessionExited || s == SessionFailed }

// SessionStage is a step of a session's start.
type SessionStage string

// The stages.
const (
	StageCwd     SessionStage = "preflight_cwd"
	StageCommand SessionStage = "preflight_command"
	StageLaunch  SessionStage = "launch"
)

// SessionStdin says what a session's standard input is.
type SessionStdin string

// The kinds of standard input.
const (
	StdinClosed SessionStdin = "closed" // it reads end-of-file at once
	StdinPipe   SessionStdin = "pipe"   // attach and send feed it
)

// SessionCreate is POST /v1/vms/{ref}/sessions.
type SessionCreate struct {
	Name   string            `json:"name"` // empty: made of the command's
	Labels map[string]string `json:"labels"`
	Argv   []string          `json:"argv"`
	// Env is "KEY=VALUE". The values are never stored.
	Env []string `json:"env"`
	// Cwd is absolute; empty means the user's home.
	Cwd string `json:"cwd"`
	// User is a name or uid in the guest, optionally ":group"; empty means root.
	User string `json:"user"`
	// TTY gives it a terminal of Rows by Cols.
	TTY  bool `json:"tty"`
	Rows int  `json:"rows"`
	Cols int  `json:"cols"`
	// Stdin is closed if empty; with a terminal, pipe.
	Stdin SessionStdin `json:"stdin"`
	// Require are commands that must be found in the guest before anything is started.
	Require []string `json:"require"`
}

// SessionAttach is the query of POST /v1/vms/{ref}/sessions/{session}/attach, whose connection turns into frames (UpgradeFrames).
//
// The client begins with the control "start", whose Exec has Rows and Cols for a terminal, and may then send Stdin frames and
// the controls "resize", "signal" and "eof". What the command writes comes as it comes, and at its end "exit". When the client's side
// ends, it is detached; the session goes on.
//
// Without offsets, what is written from now on is sent; for a terminal first what its screen shows, of which
// everything that the command did not write itself comes as Stderr frames: a terminal has no other.
type SessionAttach struct {
	// StdoutOffset and StderrOffset are from where on to send: where a client goes on that has lost its connection. The
	// headers StdoutOffsetHeader and StderrOffsetHeader of the answer tell from where on it is.
	StdoutOffset, StderrOffset *int64
	// Key is the client's own. Whoever is attached refuses everybody else, but not the same key. The header StdinOffsetHeader of
	// the answer tells how much of what this key has sent before the command has been given: where a client goes on that has
	// lost its connection.
	Key string
}

// SessionsDir is where a guest keeps its sessions, each in a directory named by its id.
const SessionsDir = "/root/.local/state/banger/sessions"

// MainSession is the name, and the id, of the session of run -d.
const MainSession = "main"

// Headers of the answer to attach: the offset of the first byte of each stream that will be sent.
const (
	StdoutOffsetHeader = "Banger-Stdout-Offset"
	StderrOffsetHeader = "Banger-Stderr-Offset"
)

// StdinOffsetHeader, of the answer to attach and send, is how many bytes of Stdin frames the command has been given of this key, and
// one more for each "eof"; -1 where nothing is known of the key: it is new, or was last here more than five minutes ago.
const StdinOffsetHeader = "Banger-Stdin-Offset"

// maxRequire bounds SessionCreate.Require.
const maxRequire = 64

// Validate checks what can be checked without the guest.
func (c SessionCreate) Validate() error {
	if c.Name != "" && !isDNSLabel(c.Name) {
		return Errorf(CodeInvalid, "%q is no name for a session: use 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit", c.Name)
	}
	if c.Name == MainSession {
		return Errorf(CodeInvalid, "%q is the session of the command given to run -d: take another name", c.Name)
	}
	switch c.Stdin {
	case "", StdinClosed, StdinPipe:
	default:
		return Errorf(CodeInvalid, "stdin is %q: give closed or pipe", c.Stdin)
	}
	if len(c.Require) > maxRequire || slices.Contains(c.Require, "") {
		return Errorf(CodeInvalid, "require takes up to %d commands, none of them empty", maxRequire)
	}
	if err := c.Exec().Validate(); err != nil {
		return err
	}
	return validateLabels(c.Labels)
}

// Exec is the command.
func (c SessionCreate) Exec() ExecSpec {
	stdin := c.Stdin == StdinPipe || c.TTY && c.Stdin == ""
	return ExecSpec{Argv: c.Argv, Env: c.Env, Cwd: c.Cwd, User: c.User, TTY: c.TTY, Rows: c.Rows, Cols: c.Cols, Stdin: stdin}
}

// SessionName is the name of a session that was given none: its command's, with a number behind it where that is taken.
func SessionName(argv []string, taken func(string) bool) string {
	base := "session"
	if len(argv) > 0 {
		words := strings.FieldsFunc(strings.ToLower(path.Base(argv[0])), func(r rune) bool { return !strings.ContainsRune(smallLetters, r) })
		word := strings.Join(words, "-")
		if word = strings.Trim(word[:min(len(word), 50)], "-"); word != "" {
			base = word
		}
	}
	name := base
	for n := 2; taken(name) || name == MainSession; n++ {
		name = base + "-" + strconv.Itoa(n)
	}
	return name
}

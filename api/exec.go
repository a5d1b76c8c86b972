package api

// ExecSpec is a command to run in a guest.
type ExecSpec struct {
	// Argv is handed to execve as it is; never joined, never split. At least one element.
	Argv []string `json:"argv"`
	// Env is "KEY=VALUE", added to the guest's login environment. Never stored, never logged.
	Env []string `json:"env"`
	// Cwd is absolute; empty means the user's home.
	Cwd string `json:"cwd"`
	// User is a name or uid in the guest, optionally ":group"; empty means root.
	User string `json:"user"`
	// TTY gives the command a terminal: stdout and stderr are then one stream (stdout).
	TTY  bool `json:"tty"`
	Rows int  `json:"rows"`
	Cols int  `json:"cols"`
	// Stdin is false when the command reads end-of-file at once.
	Stdin bool `json:"stdin"`
	// TimeoutMS, if over 0: TERM to the command's process group after so long, then
	// after 2 s KILL to everything it started. It then counts as exit code 124.
	TimeoutMS int64 `json:"timeout_ms"`
	// StdinData is the standard input of a call that waits (Accept: application/json).
	StdinData []byte `json:"stdin_data,omitempty"`
	// OutputLimitBytes caps each of stdout and stderr in such a call; 0 means 1 MiB,
	// at most 64 MiB. What is beyond is read and thrown away.
	OutputLimitBytes int64 `json:"output_limit_bytes,omitempty"`
	// Main makes this the VM's main command: its output is kept for `logs`, its exit
	// code for `wait`, and VMSpec.AutoRemove follows its end.
	Main bool `json:"main,omitempty"`
}

// ExecResult is the answer of an exec call that waits.
type ExecResult struct {
	// ExitCode is the command's own, 128+n when signal n ended it, 124 after a time-out.
	ExitCode int    `json:"exit_code"`
	Signal   string `json:"signal"` // "KILL"; empty if none
	TimedOut bool   `json:"timed_out"`
	Stdout   string `json:"stdout"`
	Stderr   string `json:"stderr"`
	// StdoutBase64 and StderrBase64 stand instead of Stdout and Stderr where those are not UTF-8.
	StdoutBase64 string `json:"stdout_base64,omitempty"`
	StderrBase64 string `json:"stderr_base64,omitempty"`
	// Truncated is true when either stream went over the limit.
	Truncated  bool  `json:"truncated"`
	DurationMS int64 `json:"duration_ms"`
}

// ControlType tells what a control frame says. See package frame for the framing.
type ControlType string

// The control messages of a stream.
const (
	ControlStart  ControlType = "start"  // client, first: Exec
	ControlResize ControlType = "resize" // client: Rows, Cols
	ControlSignal ControlType = "signal" // client: Signal
	ControlEOF    ControlType = "eof"    // client: end of stdin
	ControlExit   ControlType = "exit"   // server, last: ExitCode, Signal, TimedOut, DurationMS
	ControlError  ControlType = "error"  // server, last: Error
)

// Control is the JSON payload of a control frame. Only the fields that its Type names are set.
type Control struct {
	Type       ControlType `json:"type"`
	Exec       *ExecSpec   `json:"exec,omitempty"`
	Rows       int         `json:"rows,omitempty"`
	Cols       int         `json:"cols,omitempty"`
	Signal     string      `json:"signal,omitempty"`
	ExitCode   int         `json:"exit_code,omitempty"`
	TimedOut   bool        `json:"timed_out,omitempty"`
	DurationMS int64       `json:"duration_ms,omitempty"`
	Error      *Error      `json:"error,omitempty"`
}

// Upgrade tokens of the two kinds of stream (HTTP Upgrade header).
const (
	UpgradeFrames = "banger-frames" // exec: frames both ways
	UpgradeRaw    = "banger-raw"    // dial: the bytes of a TCP connection; half-close is carried
)

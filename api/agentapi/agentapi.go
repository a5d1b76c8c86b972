// Package agentapi holds the nouns of the conversation between the daemon and
// the agent in a guest: HTTP/1.1 with JSON bodies on each stream of the guest's
// channel. It imports api and the standard library, and is for packages guest
// (the host's half) and agent (the guest's half) only. Both halves are always
// built together, so it carries no versions: a daemon gives its own agent to
// every guest it boots.
//
// Routes:
//
//	GET  /health?wait_ms=N&waiting=   Health; with wait_ms as soon as the guest is ready or waits for something else
//	                                  than waiting, at the latest after N ms
//	POST /release                     Release: lets the guest's boot go on without an identity → Health
//	POST /quiesce                     makes a released guest ready to be frozen → Health
//	POST /personalise                 Personalise → Health
//	POST /exec                        Upgrade: banger-frames; see package frame
//	POST /sessions                    SessionStart → Session
//	GET  /sessions                    []Session
//	GET  /sessions/{id}               Session; ?wait=true: once it has ended
//	DEL  /sessions/{id}               forgets a session that has ended, with its logs
//	GET  /sessions/{id}/log           ?stream=stdout|stderr&offset=N|tail=LINES&follow=true → bytes; Banger-Log-Offset
//	POST /sessions/{id}/signal        api.VMSignal
//	POST /sessions/{id}/stop          TERM, and the state stopping → Session
//	POST /sessions/{id}/attach        Upgrade: banger-frames; ?stdout_offset=N&stderr_offset=N&key=: see api.SessionAttach;
//	                                  Banger-Stdout-Offset, Banger-Stderr-Offset
//	POST /sessions/{id}/send          Upgrade: banger-frames: start, stdin, eof if it is to end, an empty stdin; then exit
//	GET  /files?path=                 one file's bytes; Banger-File-Mode: octal
//	PUT  /files?path=&mode=&user=     one file's bytes, put in place by rename
//	GET  /tree?path=                  a tar stream of path, its members named from its base name ("." for DIR/.)
//	PUT  /tree?path=&user=            a tar stream unpacked below the directory path, confined to it; owned by
//	                                  user (empty: root)
//	GET  /image                       a tar stream of the root disk as the root of other machines, without anything of this
//	                                  one's identity; its writers wait meanwhile, so the guest is to be of no more use
//	GET  /stat?path=                  api.FileStat
//	GET  /dial?port=N                 Upgrade: banger-raw, to 127.0.0.1:N (or ::1) in the guest; here, where
//	                                  connections have no half-close, its bytes travel as a frame.Duplex
//	GET  /ports                       []api.Port without Reach
//	GET  /stats                       Stats
//	GET  /activity                    Activity
//	POST /clock                       Clock → Health
//	POST /grow                        grows the file systems to their disks → Health
//	POST /sync                        sync(2)
//	POST /shutdown                    Shutdown; answers when synced, then ends the guest
package agentapi

import (
	"time"

	"banger/api"
)

// The life of a template: the guest is cold-booted and never personalised. /release lets it boot without an
// identity: its machine id is a passing one, its host name localhost, no sshd runs, the network device has no address.
// Its work disk is mounted, with the host's public keys in it, as in every new machine: mounting a disk is much of what a clone
// would do otherwise. Once it is ready, /quiesce trims the root disk, forgets what must not be the same in
// all clones, and runs one program so that a clone's first is quick; then the host hangs up and freezes it. A clone gets
// an ordinary Personalise, with its link down. So does a fork or a guest that goes on from its own
// frozen memory, with Thawed set.

// Health is the agent's word on the guest.
type Health struct {
	// Ready: the root is mounted and, beside systemd, is-system-running has settled.
	Ready bool `json:"ready"`
	// Waiting says what it is waiting for while Ready is false; Degraded lists units
	// that failed though the guest counts as ready.
	Waiting  string   `json:"waiting"`
	Degraded []string `json:"degraded"`
	// BootID changes with each boot of the guest, AgentID with each start of the agent. Both change when a
	// clone or a fork is personalised.
	BootID  string `json:"boot_id"`
	AgentID string `json:"agent_id"`
	Version string `json:"version"`
	// Init is "systemd" or "none".
	Init string `json:"init"`
	// Personalised is false after every boot until a Personalise has succeeded.
	Personalised bool  `json:"personalised"`
	UptimeMS     int64 `json:"uptime_ms"`
	// Now is the guest's clock when it answered.
	Now time.Time `json:"now"`
	// Unwritten says, in the answer to a Personalise, which of its Files are not there as they should be, and why.
	Unwritten []string `json:"unwritten,omitempty"`
}

// Personalise makes a guest the one machine that it is. Every step is idempotent; an empty field leaves that
// step out. First comes the entropy, then the clock, then the rest in no order that counts. When it has been answered, nothing
// that the guest was before can leave it any more: the host may plug in its network.
type Personalise struct {
	// Thawed tells a guest that was personalised before it was frozen what it is now; empty for one that
	// was booted, and for the clone of a template.
	Thawed string `json:"thawed"`
	// Entropy is 64 random bytes or more: credited (RNDADDENTROPY), then reseeded (RNDRESEEDCRNG).
	Entropy []byte `json:"entropy"`
	// Time is the host's clock at sending.
	Time      time.Time `json:"time"`
	Hostname  string    `json:"hostname"`
	MachineID string    `json:"machine_id"` // 32 hex digits
	Network   *Network  `json:"network"`
	// WorkDisk is formatted when blank, else checked and grown; then mounted.
	WorkDisk *WorkDisk `json:"work_disk"`
	// SSHHostKey is an OpenSSH private key (PEM, ed25519), SSHHostKeyPub its public line.
	SSHHostKey    []byte `json:"ssh_host_key"`
	SSHHostKeyPub string `json:"ssh_host_key_pub"`
	// AuthorizedKeys are lines for root and for the image's user dev if it has one.
	AuthorizedKeys []string `json:"authorized_keys"`
	// Git is what commits are made with where neither the image nor anybody in the guest says otherwise: it goes into
	// /etc/gitconfig, which every other configuration of git goes over.
	Git *api.GitIdentity `json:"git"`
	// Files are put onto the work disk, in this order. One that cannot be keeps no guest from starting: see Health.Unwritten.
	Files []File `json:"files"`
}

// File is a file or directory that is put into a guest. It belongs to whoever owns the home directory that it is in.
type File struct {
	// Path is absolute, below /root or /home/USER. It is reached through no symbolic link that leads out of there. Directories on
	// the way that are missing are made, for their owner alone.
	Path string `json:"path"`
	// Mode is the permission bits. A directory that is there keeps its own.
	Mode uint32 `json:"mode"`
	Dir  bool   `json:"dir"`
	Data []byte `json:"data"`
}

// Release lets a guest boot that is to be a template.
type Release struct {
	// WorkDisk is formatted when blank, and mounted; nil leaves it to each clone. A clone of a template with a
	// mounted work disk must lie on that very disk.
	WorkDisk *WorkDisk `json:"work_disk"`
	// AuthorizedKeys are as in Personalise; without a work disk they do not count.
	AuthorizedKeys []string `json:"authorized_keys"`
}

// Network is what the guest's one network device (eth0) gets, by netlink.
type Network struct {
	MAC string `json:"mac"`
	// Address is in CIDR form: 172.30.0.5/16.
	Address    string   `json:"address"`
	Gateway    string   `json:"gateway"`
	MTU        int      `json:"mtu"`
	Resolvers  []string `json:"resolvers"`
	SearchList []string `json:"search_list"`
}

// WorkDisk is the disk mounted at /root and /home.
type WorkDisk struct {
	// Device is its serial as set by the host: found as /sys/block/*/serial.
	Device string `json:"device"`
	// Bytes, if over 0, is the size that the host has given it: the guest waits until it knows of that.
	Bytes int64 `json:"bytes"`
}

// What a thawed guest is that was personalised before it was frozen.
const (
	// ThawedFork is another machine than its source. All fields count. Its mounts, processes, sessions and open files
	// stay, the commands of its source's callers included; TCP connections through its network device are cut off.
	ThawedFork = "fork"
	// ThawedResume is the machine that was frozen: Entropy, Time, Network, AuthorizedKeys and Files count and nothing else.
	ThawedResume = "resume"
)

// SessionStart starts a command that outlives this conversation and the agent.
type SessionStart struct {
	ID string `json:"id"` // [a-z0-9-]{1,63}, of the guest's sessions for good
	// Name is what people call it, unique among the guest's sessions; the id if empty.
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels"`
	// Exec is what runs. Stdin: a pipe, or a terminal's input, that attach and send feed.
	Exec api.ExecSpec `json:"exec"`
	// Require are commands that must be found before anything is started.
	Require []string `json:"require"`
	// LogLimitBytes bounds what is kept of each stream; 0 means DefaultSessionLog.
	LogLimitBytes int64 `json:"log_limit_bytes"`
}

// DefaultSessionLog is what is kept of each stream of a session where nothing else is said, in bytes.
const DefaultSessionLog = 16 << 20

// SessionSpec is what is known of a session before it runs, and is kept in the guest. Of the environment it has the names only.
type SessionSpec struct {
	ID        string            `json:"id"`
	Name      string            `json:"name"`
	Labels    map[string]string `json:"labels"`
	Argv      []string          `json:"argv"`
	Env       []string          `json:"env"`
	Cwd       string            `json:"cwd"`
	User      string            `json:"user"`
	TTY       bool              `json:"tty"`
	Stdin     bool              `json:"stdin"`
	Require   []string          `json:"require"`
	StartedAt time.Time         `json:"started_at"`
}

// Session is a long-lived command.
type Session struct {
	SessionSpec

	State api.SessionState `json:"state"`
	PID   int              `json:"pid"`
	Stage api.SessionStage `json:"stage"`
	// ExitCode is 126 or 127 of a failed session that could not be executed.
	ExitCode int        `json:"exit_code"`
	Signal   string     `json:"signal"`
	TimedOut bool       `json:"timed_out"`
	Error    *api.Error `json:"error"`
	EndedAt  *time.Time `json:"ended_at"`
	// Bytes written so far; offsets into the logs count from the start of the session. What is before the
	// Cut has been dropped.
	StdoutBytes int64 `json:"stdout_bytes"`
	StderrBytes int64 `json:"stderr_bytes"`
	StdoutCut   int64 `json:"stdout_cut"`
	StderrCut   int64 `json:"stderr_cut"`
}

// Stats are the guest's own figures.
type Stats struct {
	MemTotalBytes int64   `json:"mem_total_bytes"`
	MemUsedBytes  int64   `json:"mem_used_bytes"`
	NetRxBytes    int64   `json:"net_rx_bytes"`
	NetTxBytes    int64   `json:"net_tx_bytes"`
	Load1         float64 `json:"load1"`
}

// Activity is what goes on in the guest that its host does not see. Asking for it costs the guest a few milliseconds at most.
type Activity struct {
	// Sessions counts the sessions whose command runs.
	Sessions int `json:"sessions"`
	// Connections counts the TCP connections between the guest and other machines that are, or are being, established; those
	// of containers in it too.
	Connections int `json:"connections"`
}

// Clock moves the guest's clock; sent alone to keep it right. Health.Now in the answer tells what it is then, also
// where nothing is to be moved. It is by how much and not to which time, so that it does not matter how long
// the request takes.
type Clock struct {
	// AdjustUS is in microseconds; over 0 is forward. By more than 500 ms the clock is set, by less it goes a
	// little faster or slower for a while (half a millisecond per second; adjtime(3)).
	AdjustUS int64 `json:"adjust_us"`
	// Step sets it in any case: after the guest has stood still.
	Step bool `json:"step"`
}

// Shutdown ends the guest.
type Shutdown struct {
	Reboot bool `json:"reboot"`
	// TimeoutMS is how long services and commands may take to end before the agent
	// syncs and powers off regardless.
	TimeoutMS int64 `json:"timeout_ms"`
}

// Parameters of GET /health: how long it may take while the guest is not ready, in milliseconds, and the Waiting that
// the caller has read.
const (
	HealthWaitParam    = "wait_ms"
	HealthWaitingParam = "waiting"
)

// FileModeHeader carries a file's permission bits, octal, on GET /files.
const FileModeHeader = "Banger-File-Mode"

// Trailers of GET /tree and GET /image: an api.Error as JSON when the stream is not whole; and a JSON
// array of what cannot travel (sockets, FIFOs, devices), cut short after 20.
const (
	TreeErrorTrailer   = "Banger-Tree-Error"
	TreeSkippedTrailer = "Banger-Tree-Skipped"
)

// PortName is the virtio-serial port that carries the channel, as in
// /sys/class/virtio-ports/*/name.
const PortName = "banger.agent"

// VsockPort is where the agent listens in a guest with a vsock instead. A stream is a connection; its first byte, from the guest,
// is the version of its speech (package link).
const VsockPort = 1024

// Disk serials, as given by the host and found in /sys/block/*/serial.
const (
	SerialRoot    = "banger-root"
	SerialModules = "banger-modules"
	SerialWork    = "banger-work"
)

// Kernel command-line parameters that the agent reads.
const (
	// ParamInit is "systemd" or "none": what PID 1 becomes. Absent: found by looking at the root.
	ParamInit = "banger.init"
	// ParamDisks are the serials of the disks in their order, with commas between, where the machine has no serials to give.
	ParamDisks = "banger.disks"
)

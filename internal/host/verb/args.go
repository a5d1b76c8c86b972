package verb

import (
	"net/netip"

	"banger/api"
	"banger/internal/host"
)

// HelloReply is what the daemon must know of the helper.
type HelloReply struct {
	Version           string
	UIDBase, UIDCount int
	Bridge            string
	// StateDir is the one that it serves.
	StateDir string
	// NoBridge says why there can be no bridge; nil where there can.
	NoBridge *api.Error
}

// LinkArgs name a network device.
type LinkArgs struct{ Name string }

// SysctlArgs are a kernel setting's name, with slashes, and value.
type SysctlArgs struct{ Name, Value string }

// NamesArgs are RouteNames'.
type NamesArgs struct{ Link, Server, Domain string }

// ListenArgs are a socket's: Network is "udp4" or "tcp4".
type ListenArgs struct {
	Network string
	Address netip.AddrPort
}

// SpawnArgs are a host.Command's. Its Files come with the request, the log's behind them.
type SpawnArgs struct {
	Path        string
	Args        []string
	Env         []string
	UID, GID    int
	Groups      []int
	OOMScoreAdj int
	Log         bool
}

// ProcessArgs name a process.
type ProcessArgs struct{ Process host.Process }

// SignalArgs are a signal's number and whom it is for.
type SignalArgs struct {
	Process host.Process
	Signal  int
}

// OOMArgs are -1000 to 1000 and whom it is for.
type OOMArgs struct {
	Process host.Process
	Adj     int
}

// OpenedArgs name a file by its inode.
type OpenedArgs struct {
	Process  host.Process
	Dev, Ino uint64
}

// ExitReply is a wait status; Ended is false where there is none to tell.
type ExitReply struct {
	Ended  bool
	Status uint32
}

// GiveArgs are a path below the state directory, and a VMM's uid.
type GiveArgs struct {
	Path string
	UID  int
}

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
	// NoMap says why there can be no mapped devices; nil where there can.
	NoMap *api.Error
	// NoJail says why there can be no jails; nil where there can.
	NoJail *api.Error
	// Firecracker and Jailer are the only ones that it runs.
	Firecracker, Jailer string
	// NoBridge says why there can be no bridge; nil where there can.
	NoBridge *api.Error
}

// LinkArgs name a network device.
type LinkArgs struct{ Name string }

// LinkStateArgs name a network device and what it is to be.
type LinkStateArgs struct {
	Name string
	Up   bool
}

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
	SmallPages  bool
	Batch       bool
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

// LoopArgs are a wanted loop device; its file comes with the request.
type LoopArgs struct{ Loop host.Loop }

// LoopReply names what was made; its descriptor comes with the answer.
type LoopReply struct {
	Device host.Device
	Node   string
}

// LoopSizeArgs are a loop device and how many bytes it is to show, from 0 for all.
type LoopSizeArgs struct {
	Device host.Device
	Size   int64
}

// DeviceArgs name a loop device.
type DeviceArgs struct{ Device host.Device }

// MapArgs name a mapped device, or begin the names of some.
type MapArgs struct{ Name string }

// MapTableArgs are a table for a mapped device.
type MapTableArgs struct {
	Name     string
	Table    []host.MapTarget
	ReadOnly bool
}

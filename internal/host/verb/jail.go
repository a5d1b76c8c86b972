package verb

import "banger/internal/host"

// Jail names a VMM's jail. Where jails are is root's to say.
type Jail struct {
	Program, Name string
	UID, GID      int
}

// JailOf leaves out what is not the caller's to say.
func JailOf(j host.Jail) Jail { return Jail{Program: j.Program, Name: j.Name, UID: j.UID, GID: j.GID} }

// JailArgs name a jail.
type JailArgs struct{ Jail Jail }

// JailFileArgs name a file in a jail. Own is for LinkIntoJail, whose file comes with the request.
type JailFileArgs struct {
	Jail Jail
	File string
	Own  bool
}

// JailDeviceArgs are a wanted node.
type JailDeviceArgs struct {
	Jail     Jail
	File     string
	Device   host.Device
	ReadOnly bool
}

// JailedArgs are a host.Jailed's; Stdout and Stderr tell which descriptors come with the request, in this order.
type JailedArgs struct {
	Jail           Jail
	Jailer, Binary string
	Args           []string
	MemoryBytes    int64
	OOMScoreAdj    int
	Stdout, Stderr bool
}

// JailProcessArgs name a jail, a socket in it for DialJailed, and a process.
type JailProcessArgs struct {
	Jail    Jail
	File    string
	Process host.Process
}

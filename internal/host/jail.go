package host

import (
	"context"
	"net"
	"os"
)

// Jail is the place of one VMM: a root directory of its own, a uid, a cgroup. It lies under Base, which belongs to root, at
// Base/PROGRAM/Name/root, where the jailer looks for it.
type Jail struct {
	// Base is the same for all jails of a daemon, and on the file system of what is put into them.
	Base string
	// Program is the base name of the VMM's program, Name is unique among the jails: [A-Za-z0-9-]{1,64}.
	Program, Name string
	// UID and GID are the VMM's, never 0.
	UID, GID int
}

// Jailed is a VMM to start in its jail.
type Jailed struct {
	Jail
	// Jailer and Binary are absolute paths of programs that root owns.
	Jailer, Binary string
	// Args are the VMM's own.
	Args []string
	// MemoryBytes is the limit of its cgroup, where the host has a memory controller; 0 for none.
	MemoryBytes int64
	// Stdout and Stderr are the VMM's; nil is /dev/null.
	Stdout, Stderr *os.File
	// OOMScoreAdj is -1000 to 1000.
	OOMScoreAdj int
}

// Jails makes places for VMMs, starts VMMs in them and reaches what is there. Names in a jail are plain file names. In a jail that
// a VMM runs in, nothing is followed and nothing but what was asked for is opened: the VMM can write there.
type Jails interface {
	// CanJail is nil where it can be done, with these two programs: as root. The error has code permission_denied or unsupported.
	CanJail(binary, jailer string) error
	// PrepareJail makes an empty jail. One of that name that is there, which no process may be in, is removed first.
	PrepareJail(ctx context.Context, j Jail) error
	// LinkIntoJail makes an open plain file one of the jail's, under name. own: the VMM's uid may write it, and owns it from then on; else
	// it has to be readable for that uid.
	LinkIntoJail(j Jail, name string, file *os.File, own bool) error
	// DeviceIntoJail makes a node of a block device in the jail.
	DeviceIntoJail(j Jail, name string, major, minor uint32, readOnly bool) error
	// SpawnJailed starts the VMM, as Spawn does: the process is the VMM's as soon as the jailer has become it.
	SpawnJailed(c Jailed) (Process, error)
	// DialJailed connects to a socket in a jail, waiting until the VMM p has made it, and makes sure that it is p who listens.
	DialJailed(ctx context.Context, j Jail, name string, p Process) (net.Conn, error)
	// InJail reports whether a process has the jail's root directory for its own.
	InJail(j Jail, p Process) bool
	// OpenJailed opens a plain file that the VMM has made, for reading.
	OpenJailed(j Jail, name string) (*os.File, error)
	// RemoveJailed removes a file of the jail; a missing one is no error.
	RemoveJailed(j Jail, name string) error
	// RemoveJail removes the jail and its cgroup. A jail that is not there is no error; one whose VMM runs is.
	RemoveJail(ctx context.Context, j Jail) error
}

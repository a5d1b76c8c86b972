package verb

import "golang.org/x/sys/unix"

// Capability is one that bangerd-root keeps.
type Capability struct {
	Name   string
	Number int
	// For is what takes it.
	For string
}

// Capabilities are all that any verb takes, in the order of their names: bangerd-root keeps these for itself, and its unit gives it no more.
func Capabilities() []Capability {
	return []Capability{
		{"CAP_CHOWN", unix.CAP_CHOWN, "files given to VMMs, jails"},
		{"CAP_DAC_OVERRIDE", unix.CAP_DAC_OVERRIDE, "files of others"},
		{"CAP_FOWNER", unix.CAP_FOWNER, "modes and further names of files of others"},
		{"CAP_KILL", unix.CAP_KILL, "signals to VMMs"},
		{"CAP_MKNOD", unix.CAP_MKNOD, "nodes in jails, and of loop and mapped devices where nobody else makes them"},
		{"CAP_NET_ADMIN", unix.CAP_NET_ADMIN, "bridge, taps, packet filter"},
		{"CAP_NET_BIND_SERVICE", unix.CAP_NET_BIND_SERVICE, "port 53"},
		{"CAP_SETGID", unix.CAP_SETGID, "VMMs' groups"},
		{"CAP_SETUID", unix.CAP_SETUID, "VMMs' uids"},
		{"CAP_SYS_ADMIN", unix.CAP_SYS_ADMIN, "loop devices, device-mapper, and the jailer's mounts: the kernel has nothing narrower for any of them"},
		{"CAP_SYS_PTRACE", unix.CAP_SYS_PTRACE, "VMMs' memory, open files and root directories"},
		{"CAP_SYS_RESOURCE", unix.CAP_SYS_RESOURCE, "oom_score_adj, limits of open files"},
	}
}

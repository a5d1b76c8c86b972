// Package verb is what bangerd and bangerd-root say to each other: the closed list of what may be asked, the arguments
// of each, and the frames on the socket. It owns the list and decides nothing. rootd/ and helper/ import it, and the test
// of docs/privileges.md.
package verb

// Verb names one thing that bangerd-root does.
type Verb string

// The verbs.
const (
	Hello        Verb = "hello"
	EnsureBridge Verb = "bridge.ensure"
	OpenTap      Verb = "tap.open"
	JoinBridge   Verb = "bridge.join"
	SetTapUp     Verb = "tap.set"
	DeleteLink   Verb = "link.delete"
	ApplyRules   Verb = "rules.apply"
	ListRules    Verb = "rules.list"
	SetSysctl    Verb = "sysctl.set"
	RouteNames   Verb = "names.route"
	Listen       Verb = "listen"
	Spawn        Verb = "process.spawn"
	ExitStatus   Verb = "process.exit"
	Signal       Verb = "process.signal"
	SetOOMScore  Verb = "process.oom"
	OpenMemory   Verb = "process.memory"
	OpenedAs     Verb = "process.opened"
	Give         Verb = "file.give"

	OpenLoop      Verb = "loop.open"
	ResizeLoop    Verb = "loop.resize"
	LoopFile      Verb = "loop.file"
	CreateMapped  Verb = "map.create"
	LoadMapped    Verb = "map.load"
	ClearMapped   Verb = "map.clear"
	SuspendMapped Verb = "map.suspend"
	ResumeMapped  Verb = "map.resume"
	RemoveMapped  Verb = "map.remove"
	Mapped        Verb = "map.show"
	MappedNames   Verb = "map.list"

	PrepareJail    Verb = "jail.prepare"
	LinkIntoJail   Verb = "jail.link"
	DeviceIntoJail Verb = "jail.device"
	SpawnJailed    Verb = "jail.spawn"
	DialJailed     Verb = "jail.dial"
	InJail         Verb = "jail.holds"
	OpenJailed     Verb = "jail.open"
	RemoveJailed   Verb = "jail.unlink"
	RemoveJail     Verb = "jail.remove"
)

// Entry is a verb in words, for people.
type Entry struct {
	Verb Verb
	// Does is what is done; Gate is what is refused, in full.
	Does, Gate string
}

// Table is the closed list, in the order of the document.
func Table() []Entry {
	return []Entry{
		{Hello, "tells its version, the uids of VMMs, the bridge, and whether bridges, mapped devices and jails can be made here, with which programs", "nothing is changed"},
		{EnsureBridge, "makes the bridge, its address and MTU", "only the configured bridge; the address is the first of a private subnet (or of the configured one) of /8 to /29 that the host does not route elsewhere; a link that banger has not made is refused; MTU 576 to 65535"},
		{OpenTap, "makes a tap and hands its descriptor over", "only names of banger's pattern, bgr- and up to eight letters or digits; a device of that name that is not a tap of this bridge is refused; its owner is the caller or a VMM's uid"},
		{JoinBridge, "puts a tap into the bridge as an isolated port that knows one MAC", "only a tap of this bridge, only into this bridge; a unicast MAC"},
		{SetTapUp, "plugs a tap in or out", "only a tap of this bridge"},
		{DeleteLink, "removes a tap or the bridge", "only a tap of this bridge, or the bridge itself as banger made it"},
		{ApplyRules, "replaces banger's two tables of the packet filter", "typed state, never rules: the text is made here; only the tables of this bridge; names, MACs and addresses are checked, addresses must be in the subnet, the subnet is gated as for bridge.ensure"},
		{ListRules, "lists the packet filter's rules", "nothing is changed; the caller sees all tables, elements of sets left out"},
		{SetSysctl, "turns forwarding of IPv4 on or off", "only net/ipv4/ip_forward, only 0 or 1"},
		{RouteNames, "tells systemd-resolved to ask banger for NAME.vm", "only for this bridge, only below vm, only to an address of the bridge or the configured dns_address"},
		{Listen, "opens a UDP or TCP socket on port 53 and hands it over", "only port 53, only on an address of this bridge or the configured dns_address"},
		{Spawn, "starts a program under a VMM's uid", "uid and gid are the same number from the configured range; the only other group is that of /dev/kvm; no capability, no_new_privs, an own session; descriptors are the caller's own; oom_score_adj 0 to 1000; the program's path is resolved as that uid"},
		{ExitStatus, "tells how a process ended that was spawned here", "only processes spawned here"},
		{Signal, "sends a signal by pidfd", "only to a process all of whose uids are in the range, named by pid and start time; only TERM, KILL, INT, QUIT, STOP, CONT"},
		{SetOOMScore, "sets oom_score_adj", "as for process.signal; 0 to 1000"},
		{OpenMemory, "opens /proc/PID/maps, pagemap and mem and hands them over", "as for process.signal"},
		{OpenedAs, "tells by which names a process has opened a file", "as for process.signal; the file is named by device and inode"},
		{Give, "lets a VMM's group use a file of the caller's", "only below vms/ of the state directory, opened beneath it without links; it belongs to the caller, and to the caller's group or a VMM's; a plain file with one name, a directory or a socket; set-id bits go"},
		{OpenLoop, "makes a loop device of the caller's open file and hands its descriptor over, for reading", "only a plain file, by descriptor, opened for writing unless the device is read-only; multiples of 512; the device is marked as the caller's and clears itself when nothing uses it"},
		{ResizeLoop, "makes a loop device show more or less of its file", "only a loop device marked as the caller's"},
		{LoopFile, "tells which file is behind a loop device", "as for loop.resize"},
		{CreateMapped, "makes a device-mapper device without a table", "only names that begin with banger-, of a-z, 0-9, - and .; the device is marked as the caller's"},
		{LoadMapped, "gives a mapped device a table of zeros, linear stretches and snapshots", "only a device marked as the caller's, over loop and mapped devices marked as the caller's; typed targets, at most 16, whose text is made here"},
		{ClearMapped, "throws a waiting table away", "only a device marked as the caller's"},
		{SuspendMapped, "holds back a mapped device's input and output", "as for map.clear"},
		{ResumeMapped, "lets it go on", "as for map.clear"},
		{RemoveMapped, "removes a mapped device", "as for map.clear; not while a jail has a node of it"},
		{Mapped, "tells about a mapped device", "as for map.clear"},
		{MappedNames, "lists mapped devices' names", "only names that begin with banger-; nothing is changed"},
		{PrepareJail, "makes an empty jail for Firecracker, in place of one of that name", "only below root's own directory for jails, never below the state directory; a program's and a jail's name of [A-Za-z0-9-] (the program's with . and _); uid and gid are the same number from the range; not while a VMM is in it or being started in it"},
		{LinkIntoJail, "makes a file one of a jail's", "only a plain file without set-id bits, by descriptor, open as it is to be used; the caller's or root's, and readable for all; or the caller's with one name, and then the VMM's group may write it, as for file.give; a plain name, none that the jailer uses"},
		{DeviceIntoJail, "makes a node of a mapped device in a jail", "only a mapped device marked as the caller's; the node is root's, the VMM's group may open it, and it is revoked before the jail is removed"},
		{SpawnJailed, "starts the jailer, which becomes Firecracker in a jail", "only the firecracker and the jailer of root's configuration, files that root alone can change; once per jail; typed arguments: its control socket, log, level and metrics, with plain names; a limit of memory, in a cgroup below banger-UID; oom_score_adj 0 to 1000; it is answered when the process runs under the VMM's uid"},
		{DialJailed, "connects to a socket in a jail and hands the connection over", "no link is followed; only where the process named is who listens, by the kernel's word, and is a VMM as for process.signal; waits for a second at most"},
		{InJail, "tells whether a process has a jail for its root directory", "as for process.signal"},
		{OpenJailed, "opens a file that a VMM has made in its jail, for reading", "no link is followed; a plain file with one name that belongs to the uid, of the range"},
		{RemoveJailed, "removes a file of a jail", "a plain name; no link is followed"},
		{RemoveJail, "removes a jail and its cgroup", "as for jail.prepare"},
	}
}

// Package host is the only door to the machine that banger runs on: processes,
// network devices, packet-filter rules, routes, the jails of VMMs. local/ walks through it, fake/
// records what would have been done. No other package of the host's side may import os/exec,
// netlink or mount (client, which starts bangerd, and cli, which runs ssh, are the two
// exceptions). It imports api at most.
package host

// Host is all of it.
type Host interface {
	Processes
	Networks
	Files
	Blocks
	Jails
}

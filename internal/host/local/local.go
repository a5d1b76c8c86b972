// Package local is the real machine: it owns every use of os/exec, pidfds,
// netlink, nft, loop devices and device-mapper on the host's side. Only daemon, which builds it once, and tests import it.
package local

import "fmt"

// Host is the machine that banger runs on. Its parts hold no state that outlives a call except the children that
// this process must reap, and which packet filter rules it has just written.
type Host struct {
	processes // process*.go
	networks  // network*.go
	files     // files.go
	blocks    // blocks*.go
	jails     // jail*.go
}

// NewFor is New for a bangerd-root that serves the daemon of another user.
func NewFor(uid int) *Host {
	h := New()
	h.owner = uid
	h.group = fmt.Sprint(jailCgroup, "-", uid)
	return h
}

// New returns the machine. It touches nothing yet.
func New() *Host {
	ps := newProcesses()
	return &Host{processes: ps, networks: networks{&applied{last: map[string]appliedRules{}}}, jails: jails{processes: ps, group: jailCgroup}}
}

// Package vm says what a VM may do and in which order: create, start, stop, delete, what runs in it, and what is true
// about it now. It is imported by server and daemon, and builds on image, hypervisor, disk, network, guest, store and
// operation.
//
// Service is a table of parts, which New makes and puts together. A part holds those that it stands on, and of others a
// function or two; none holds the Service. From the ground up:
//
//   - Records is what is recorded, and who waits for it to change; vmLocks, names and the background are there for all.
//   - machines says what a VM's machine is made of; vmms is the VMMs that run.
//   - points are VMs at one moment, and their disks; chains keeps short what disks lie on.
//   - specs makes a record of what was asked for; bringUp makes a guest who it is, and ready.
//   - mains keeps the main commands, Logs what VMs have written, spareRoom what a full disk is relieved with.
//   - starts, stops, suspends and removals are what is done with one VM, with its lock held.
//   - Snapshots, forks and imageSaves are what is done with a point.
//   - queue is the clones that nobody has a name for yet, Pool makes and removes them, takes gives them away.
//   - uses is who uses a guest just now; idling suspends those that nobody does; Guests is what is done in them.
//   - creates, powers, changes, Objects, Stats and HostPower are what else users ask for.
//   - reactions is what is done when a VMM tells of something, reconciler what is done about an earlier daemon's leavings.
//
// Lock order: the locks of VMs, then a snapshot's (vmLocks) → the plain mutexes of the parts, and the store's transactions.
// These are leaves, but that an operation may be begun under the queue's and the uses'. Nothing waits for a guest or a
// process while holding one.
package vm

import (
	"log/slog"
	"time"

	"banger/api"
	"banger/internal/backend"
	"banger/internal/config"
	"banger/internal/guest/ssh"
	"banger/internal/host"
	"banger/internal/image"
	"banger/internal/layer"
	"banger/internal/network"
	"banger/internal/operation"
	"banger/internal/store"
	"banger/internal/template"
)

// Options are the parts that a Service stands on, and the defaults it fills in.
type Options struct {
	Store      *store.Store
	Operations *operation.Registry
	Host       host.Host
	Backends   backend.Set
	Layers     *layer.Service
	Network    *network.Network
	Images     *image.Service
	Templates  *template.Service
	KnownHosts ssh.KnownHosts
	Paths      config.Paths
	Log        *slog.Logger
	Now        func() time.Time
	// Random fills its argument; crypto/rand outside of tests.
	Random func([]byte)

	// Defaults fill the zero fields of a spec.
	Defaults api.VMSpec
	// ReadyTimeout bounds the wait for a guest's agent, StopTimeout a guest's own shutdown.
	ReadyTimeout, StopTimeout time.Duration
	Shutdown                  Shutdown
	// UIDBase and UIDCount are the host uids for VMMs; 0 runs them under the daemon's own.
	UIDBase, UIDCount int
	Clones            Clones
	// SessionLog is what is kept in the guest of each stream of a session, in bytes.
	SessionLog int64
	// FileSync are the host's files, below Home, that are put into guests at their starts.
	FileSync []config.FileSync
	Home     string
	// Memory is how the host is off for memory; nil means as /proc says.
	Memory func() template.Memory
}

// Shutdown says what becomes of VMs when the host goes down.
type Shutdown struct {
	// Suspend has them suspended, or else they are stopped; within Timeout.
	Suspend bool
	Timeout time.Duration
}

// Clones says how many clones of the default image and shape wait to be taken.
type Clones struct {
	Size int
	// Reserve is how many bytes of the host's memory they leave alone; 0 is an eighth.
	Reserve int64
	// Armed fills the pool before anybody has started such a VM.
	Armed bool
}

// Service is all VMs of one daemon, by its parts: what may be done with one of them, and, by its noun, what belongs to
// them. Safe for concurrent use.
type Service struct {
	*creates
	*powers
	*changes
	*forks
	*removals
	*imageSaves
	*reconciler

	Records   *Records
	Guests    *Guests
	Snapshots *Snapshots
	Objects   *Objects
	Pool      *Pool
	Logs      *Logs
	Stats     *Stats
	HostPower *HostPower

	vmms *vmms
	life *background
}

// Close lets go of all VMs without touching them: they outlive the daemon.
func (s *Service) Close() {
	s.life.end()
	s.vmms.detach()
	s.life.all.Wait()
}

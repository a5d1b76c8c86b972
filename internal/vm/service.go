// Package vm says what a VM may do and in which order: create, start, stop, delete,
// what runs in it, and what is true about it now. It is imported by server and
// daemon, and builds on image, hypervisor, disk, network, guest, store and operation.
//
// Lock order: the lock of a VM (locks, one per id) → pool.mu or Service.mu → the store's
// transaction. Nothing waits for a guest or a process while holding one of the latter.
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
	// ShutdownSuspends says what becomes of VMs when the host goes down: suspended, or else stopped, within ShutdownTimeout.
	ShutdownSuspends bool
	ShutdownTimeout  time.Duration
	// UIDBase and UIDCount are the host uids for VMMs; 0 runs them under the daemon's own.
	UIDBase, UIDCount int
	// PoolSize is how many clones of the default image and shape wait to be taken, PoolReserve how many bytes of the
	// host's memory they leave alone (0: an eighth). PoolArmed fills the pool before anybody has started such a VM.
	PoolSize    int
	PoolReserve int64
	PoolArmed   bool
	// SessionLog is what is kept in the guest of each stream of a session, in bytes.
	SessionLog int64
	// FileSync are the host's files, below Home, that are put into guests at their starts.
	FileSync []config.FileSync
	Home     string
	// Memory is how the host is off for memory; nil means as /proc says.
	Memory func() template.Memory
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
	Figures   *Figures
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

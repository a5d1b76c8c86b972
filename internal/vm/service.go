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

// Service is all VMs of one daemon. Safe for concurrent use.
type Service struct {
	Options
	Records *Records
	Logs    *Logs

	names    *names
	life     *background
	locks    *vmLocks
	machines *machines
	vmms     *vmms
	chains   *chains
	points   *points
	pool     pool
	uses     uses
}

// New makes the service; Reconcile must run before anything else is asked of it.
func New(o Options) *Service {
	s := &Service{Options: o}
	s.pool.wake, s.pool.armed = make(chan struct{}, 1), o.PoolArmed
	if s.Memory == nil {
		s.Memory = memoryOf
	}
	s.names, s.life, s.locks = &names{random: o.Random}, newBackground(), &vmLocks{}
	s.Records = &Records{store: o.Store, now: o.Now, life: s.life}
	s.machines = &machines{host: o.Host, backends: o.Backends, images: o.Images, paths: o.Paths}
	s.vmms = &vmms{
		host: o.Host, machines: s.machines, handles: handleCache{paths: o.Paths}, life: s.life, log: o.Log, live: map[string]*liveVM{},
		changed: s.Records.Wake, happened: s.happened, ended: s.ended, watchIdle: s.watchIdle,
	}
	s.Logs = &Logs{records: s.Records, paths: o.Paths, log: o.Log, running: s.vmms.ids}
	s.chains = &chains{
		store: o.Store, records: s.Records, locks: s.locks, machines: s.machines, layers: o.Layers, images: o.Images, alive: s.vmms.alive,
		life: s.life, paths: o.Paths, log: o.Log, now: o.Now, flattenings: map[string]*flattening{}, flattenDue: map[string]bool{},
	}
	s.points = &points{
		host: o.Host, store: o.Store, records: s.Records, machines: s.machines, layers: o.Layers, chains: s.chains, names: s.names,
		alive: s.vmms.alive, paths: o.Paths, log: o.Log, now: o.Now,
	}
	return s
}

// Close lets go of all VMs without touching them: they outlive the daemon.
func (s *Service) Close() {
	s.life.end()
	s.vmms.detach()
	s.life.all.Wait()
}

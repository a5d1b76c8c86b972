// Package template keeps frozen ready machines, which starts are thawed from. It owns their
// files and records, builds them once per key, and discards what does not thaw. It is
// imported by vm, server and daemon, and knows no VMs: who uses a template is told to it.
//
// Lock order: the lock of a key (while it is built or discarded) → the store's transaction.
package template

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"time"

	"banger/api"
	"banger/internal/backend"
	"banger/internal/config"
	"banger/internal/host"
	"banger/internal/hypervisor"
	"banger/internal/keylock"
	"banger/internal/network"
	"banger/internal/store"
)

// Options are the parts that a Service stands on.
type Options struct {
	Store    *store.Store
	Host     host.Host
	Backends backend.Set
	Network  *network.Network
	Paths    config.Paths
	Log      *slog.Logger
	Now      func() time.Time
	// NewID is twelve characters, never the same twice.
	NewID func() string
	// AuthorizedKeys are the public keys that the host logs in to its guests with.
	AuthorizedKeys func() ([]string, error)
	// ReadyTimeout bounds the wait for the guest of a build.
	ReadyTimeout time.Duration
	// UID is the host uid that builds run under; 0 means the daemon's own.
	UID int
}

// Service is all templates of one daemon. Safe for concurrent use.
type Service struct {
	Options
	locks keylock.Locks
}

// New makes a service; Reconcile must run before anything is built.
func New(o Options) *Service { return &Service{Options: o} }

// Want is what a start needs of a template: what a clone must have in common with it.
type Want struct {
	Image        api.Image
	KernelDigest string
	// Root is the image's sealed root disk; Modules the kernel's modules disk.
	Root, Modules string
	// Kernel, Initramfs and Cmdline are as in hypervisor.Machine; InitramfsDigest names the agent's version too.
	Kernel, Initramfs, Cmdline string
	CPUs                       int
	MemoryBytes                int64
	DiskBytes, RootBytes       int64
	Net                        api.NetKind
	// Hypervisor is what it runs on, by its name.
	Hypervisor string
}

// Key is the sha256 over everything that a template and its clones have in common. A path of an initramfs
// holds its digest, so it stands for the agent and the modules.
func (s *Service) Key(ctx context.Context, w Want) (string, error) {
	b, err := s.Backends.Get(w.Hypervisor)
	if err != nil {
		return "", err
	}
	stamp, err := b.Hypervisor.Stamp(ctx, s.shape(b, w))
	if err != nil {
		return "", err
	}
	text, err := json.Marshal([]any{
		w.Image.Digest, w.KernelDigest, w.Initramfs, w.Cmdline, w.CPUs, w.MemoryBytes, w.DiskBytes, w.RootBytes, w.Net,
		b.Name(), b.Disks.Name(), stamp,
	})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// Get finds the template for what is wanted, if there is a good one.
func (s *Service) Get(ctx context.Context, w Want) (t api.Template, found bool, err error) {
	key, err := s.Key(ctx, w)
	if err != nil {
		return t, false, err
	}
	return s.Store.TemplateByKey(ctx, key)
}

// Frozen is the state that a clone of t is thawed from.
func (s *Service) Frozen(t api.Template) hypervisor.Frozen {
	p := s.Paths.Template(t.ID)
	return hypervisor.Frozen{Device: p.Device(), Memory: p.Memory()}
}

// List returns all templates, oldest first, discarded ones that are still in use too.
func (s *Service) List(ctx context.Context) ([]api.Template, error) { return s.Store.Templates(ctx) }

// Package image makes and keeps root disks, kernels and the initramfs: built, imported,
// sealed read-only, named by the sha256 of their contents. It may be imported by vm,
// server, doctor and daemon. What a VM writes is package disk's; a sealed object never changes.
//
// Every root disk is made the same way: entries (of a tar, of a directory, or made here) go
// through the unpacker, which refuses or confines what is hostile, and mke2fs makes an ext4
// file of the tree. Neither needs root, a mount or a namespace.
//
// Lock order: the lock of a name (while it is built) is taken before the lock of a digest
// (while it is sealed or deleted).
package image

import (
	"fmt"
	"log/slog"
	"os"
	"time"

	"banger/internal/config"
	"banger/internal/host"
	"banger/internal/keylock"
	"banger/internal/store"
)

// Options are what a Service depends on.
type Options struct {
	Host  host.Host
	Paths config.Paths
	Store *store.Store
	// AgentPath is the static banger-agent that goes into the initramfs.
	AgentPath string
	// Packages and Mirror are the defaults of `image build debian`; empty means the recipe's
	// own list, and the Debian sources of the host's apt.
	Packages []string
	Mirror   string
	// Env is added to the environment of programs that download, as http_proxy=….
	Env []string
	// UID is the user that the daemon runs as.
	UID int
	Now func() time.Time
	Log *slog.Logger
}

// Service is all of it. Safe for concurrent use.
type Service struct {
	Options
	locks  keylock.Locks
	agents agentDigest
}

// New makes a service. It touches nothing yet; see Reconcile.
func New(o Options) *Service { return &Service{Options: o} }

// tempDir makes a directory (0700) for a half-made object, on the file system of the sealed ones.
func (s *Service) tempDir(what string) (dir string, remove func(), err error) {
	if err := os.MkdirAll(s.Paths.Temp(), 0o700); err != nil {
		return "", nil, fmt.Errorf("cannot make %s: %w", what, err)
	}
	dir, err = os.MkdirTemp(s.Paths.Temp(), what+"-*")
	if err != nil {
		return "", nil, fmt.Errorf("cannot make %s: %w", what, err)
	}
	return dir, func() {
		if err := os.RemoveAll(dir); err != nil {
			s.Log.Warn("cannot remove a temporary directory", "path", dir, "error", err)
		}
	}, nil
}

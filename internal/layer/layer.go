// Package layer keeps the disks' layers that VMs have in common: a VM's disk up to the moment at which it was forked or
// a snapshot of it was made. It owns their files and records, and knows which are still in use. It is imported by vm and daemon.
//
// A layer's file never changes once it is sealed. Its header names the one below by its path.
package layer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"banger/internal/config"
	"banger/internal/disk"
	"banger/internal/durable"
	"banger/internal/host"
	"banger/internal/store"
)

// Options are the parts that a Service stands on.
type Options struct {
	Store *store.Store
	Paths config.Paths
	Host  host.Files
}

// Service is all layers of one daemon. Safe for concurrent use.
type Service struct {
	Options

	// mu protects held: ids that something is about to lie on, which no sweep may touch.
	mu   sync.Mutex
	held map[string]int
}

// New makes a service.
func New(o Options) *Service { return &Service{Options: o, held: make(map[string]int)} }

// Hold keeps layers, made already or not, from being swept until release is called: when a record names them, or nothing will.
// Empty ids are none.
func (s *Service) Hold(ids ...string) (release func()) {
	s.count(ids, 1)
	return sync.OnceFunc(func() { s.count(ids, -1) })
}

func (s *Service) count(ids []string, by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if id == "" {
			continue
		}
		if s.held[id] += by; s.held[id] == 0 {
			delete(s.held, id)
		}
	}
}

func (s *Service) holding() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]string, 0, len(s.held))
	for id := range s.held {
		ids = append(ids, id)
	}
	return ids
}

// Path is the file of a layer.
func (s *Service) Path(id string) string { return s.Paths.Layer(id) }

// Seal gives the disk at path the name of a layer beside its own, and makes it the daemon's and read-only. A VMM that
// has it open goes on writing until it has moved on to a layer above; others may lie on it from now on. The name is not yet durable: see
// Sync.
func (s *Service) Seal(id, path string) error {
	if err := errors.Join(os.MkdirAll(s.Paths.Layers(), 0o711), os.Chmod(s.Paths.Layers(), 0o711)); err != nil {
		return err
	}
	f, err := disk.Open(path, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	// By descriptor: the directory is the VMM's, and what is linked must be what was looked at.
	if err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, s.Path(id), unix.AT_SYMLINK_FOLLOW); err != nil {
		return fmt.Errorf("cannot make a layer of disk %s: %w", path, err)
	}
	return errors.Join(f.Chown(os.Geteuid(), os.Getegid()), f.Chmod(0o444))
}

// Sync makes the names of new layers survive a power cut.
func (s *Service) Sync() error { return durable.SyncDir(s.Paths.Layers()) }

// Unseal takes Seal back: the disk at path belongs to a VM's uid again and can be written. It is for a disk that nothing has come to
// lie on. One that was never sealed is left as it is.
func (s *Service) Unseal(id, path string, uid int) error {
	if id != "" {
		if err := os.Remove(s.Path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	f, err := disk.Open(path, os.O_RDONLY)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(0o600), f.Close()); err != nil || uid == 0 {
		return err
	}
	return s.Host.Give(path, uid)
}

// Sweep removes what no VM's disk lies on any more, and files without a record.
func (s *Service) Sweep(ctx context.Context) error {
	// In this order: what was held when the files were listed is recorded, or still held, when the records are read.
	entries, err := os.ReadDir(s.Paths.Layers())
	if errors.Is(err, fs.ErrNotExist) {
		entries = nil
	} else if err != nil {
		return err
	}
	held := s.holding()
	left, err := s.Store.SweepLayers(ctx, held)
	if err != nil {
		return err
	}
	for _, id := range held {
		left[id] = true
	}
	var errs []error
	for _, e := range entries {
		if left[e.Name()] {
			continue
		}
		if err := os.Remove(s.Path(e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("cannot remove layer %s: %w", e.Name(), err))
		}
	}
	return errors.Join(errs...)
}

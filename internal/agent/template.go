package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"banger/api"
)

// releasedFile says, until the guest's next boot, that it has booted without an identity; a clone of it gets one
// with its first Personalise.
const releasedFile = runDir + "/released"

// transientID is where a machine id lies that is good for one boot only, as systemd has it (machine-id(5)).
const transientID = "/run/machine-id"

// Release lets the guest's boot go on without an identity. Repeating it is harmless.
func (s *system) Release(context.Context) error {
	s.change.Lock()
	defer s.change.Unlock()
	if s.isReleased() {
		return nil
	}
	if s.isPersonalised() {
		return api.Errorf(api.CodeConflict, "cannot release the guest: it has an identity")
	}
	if s.kind == initSystemd && !isHeld() {
		return api.Errorf(api.CodeConflict, "cannot release the guest: its init was held back for %v, and has gone on", holdTime)
	}
	if err := s.prepareAnonymous(); err != nil {
		return fmt.Errorf("cannot release the guest: %w", err)
	}
	if err := os.WriteFile(releasedFile, nil, 0o600); err != nil {
		return fmt.Errorf("cannot release the guest: %w", err)
	}
	if s.kind == initSystemd && !releaseInit() {
		return api.Errorf(api.CodeConflict, "cannot release the guest: its init has gone on by itself")
	}
	return nil
}

// prepareAnonymous sees to it that what the image's init does now fits any machine. The network device stays
// down: not even IPv6 may say who this is.
func (s *system) prepareAnonymous() error {
	if err := errors.Join(unix.Sethostname([]byte("localhost")), loopbackUp()); err != nil {
		return err
	}
	if dev, err := nic(); err == nil {
		if err := ipv6Off(dev.Attrs().Name); err != nil {
			return err
		}
	}
	if s.kind != initSystemd {
		return nil
	}
	for path, text := range anonymousFiles() {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return passingMachineID()
}

// passingMachineID gives systemd a machine id that does not stay: left to itself, it would make one up and
// write it to the disk.
func passingMachineID() error {
	const path = "/etc/machine-id"
	if err := os.WriteFile(transientID, []byte(hexID()+"\n"), 0o444); err != nil {
		return err
	}
	if _, err := os.Stat(path); err != nil {
		if err := os.WriteFile(path, nil, 0o444); err != nil {
			return err
		}
	}
	if err := unix.Mount(transientID, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("cannot lend the guest a machine id: %w", err)
	}
	return nil
}

// Quiesce makes a released guest ready to be frozen: what is on its root disk is there, what is free has gone back
// to the host, and nothing is remembered that must not be alike in all clones.
func (s *system) Quiesce(context.Context) error {
	s.change.Lock()
	defer s.change.Unlock()
	if !s.isReleased() || s.isPersonalised() {
		return api.Errorf(api.CodeConflict, "cannot quiesce the guest: it was not released, or it has an identity")
	}
	if err := forgetUnique(); err != nil {
		return fmt.Errorf("cannot quiesce the guest: %w", err)
	}
	unix.Sync()
	if err := trim("/"); err != nil {
		return err
	}
	// What is read once during a boot would lie in the memory of every clone. What programs have mapped stays.
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0); err != nil {
		return fmt.Errorf("cannot quiesce the guest: %w", err)
	}
	return nil
}

func (s *system) isReleased() bool { return exists(releasedFile) }

func (s *system) isPersonalised() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.personalised
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

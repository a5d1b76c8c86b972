package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/agent/serve"
)

// releasedFile says, until the guest's next boot, that it has booted without an identity; a clone of it gets one
// with its first Personalise.
const releasedFile = runDir + "/released"

// transientID is where a machine id lies that is good for one boot only, as systemd has it (machine-id(5)).
const transientID = "/run/machine-id"

// Release lets the guest's boot go on without an identity. Repeating it is harmless.
func (s *system) Release(ctx context.Context, r agentapi.Release) error {
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
	if err := errors.Join(s.prepareAnonymous(), s.furnish(ctx, r)); err != nil {
		return fmt.Errorf("cannot release the guest: %w", err)
	}
	if err := os.WriteFile(releasedFile, nil, 0o600); err != nil {
		return fmt.Errorf("cannot release the guest: %w", err)
	}
	s.mu.Lock()
	s.released = true
	s.mu.Unlock()
	if s.kind == initSystemd && !releaseInit() {
		return api.Errorf(api.CodeConflict, "cannot release the guest: its init has gone on by itself")
	}
	return nil
}

// furnish mounts the work disk that all clones will have, with the keys in it. It is remembered, so that a clone has nothing
// to do about either.
func (s *system) furnish(ctx context.Context, r agentapi.Release) error {
	if r.WorkDisk == nil {
		return nil
	}
	dev, err := s.waitWork(ctx, *r.WorkDisk)
	if err != nil {
		return err
	}
	if err := s.mountWork(ctx, dev); err != nil {
		return err
	}
	if err := setLogins(r.AuthorizedKeys); err != nil {
		return err
	}
	s.furnished = &r
	return nil
}

// prepareAnonymous sees to it that what the image's init does now fits any machine.
func (s *system) prepareAnonymous() error {
	if err := errors.Join(unix.Sethostname([]byte("localhost")), loopbackUp(), s.coverBootID()); err != nil {
		return err
	}
	s.looped = true
	if err := s.deviceUp(); err != nil {
		return err
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

// deviceUp brings the network device up, without any address and without IPv6, which would send by itself. Doing so takes
// a clone longer than all else that it does about its network. Before it gets its address it could
// send nothing of its own but what a program makes up as a whole, and its cable is out.
func (s *system) deviceUp() error {
	d, err := s.device()
	if api.CodeOf(err) == api.CodeNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(d.setUp(true), d.connect(), d.openMouth())
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
func (s *system) Quiesce(ctx context.Context) error {
	s.change.Lock()
	defer s.change.Unlock()
	if !s.isReleased() || s.isPersonalised() {
		return api.Errorf(api.CodeConflict, "cannot quiesce the guest: it was not released, or it has an identity")
	}
	if err := errors.Join(forgetUnique(), forgetHostKeys(), s.makeRoom()); err != nil {
		return fmt.Errorf("cannot quiesce the guest: %w", err)
	}
	unix.Sync()
	return errors.Join(trim("/"), s.awaitUnplugged(ctx))
}

// awaitUnplugged lets the kernel come to terms with a network cable that is out, which takes it up to a second (net/core/link_watch.c):
// it is better done once than in each clone.
func (s *system) awaitUnplugged(ctx context.Context) error {
	if s.nic == nil {
		return nil
	}
	dir := "/sys/class/net/" + s.nic.name
	return retry(ctx, 2*time.Second, func() error {
		carrier, err := os.ReadFile(dir + "/carrier")
		if err != nil || len(carrier) == 0 || carrier[0] != '0' {
			return nil //nolint:nilerr // it is plugged in, or down
		}
		state, err := os.ReadFile(dir + "/operstate")
		if err == nil && strings.TrimSpace(string(state)) != "down" {
			err = fmt.Errorf("the network device %s is %s without a cable", s.nic.name, state)
		}
		return err
	})
}

// makeRoom makes the files that every clone will write, with nothing of anybody in them: a clone adds to them, and
// cuts nothing off.
func (s *system) makeRoom() error {
	s.hosts = commonHosts()
	type file struct {
		path, text string
		mode       os.FileMode
	}
	files := []file{
		{"/etc/hostname", "", 0o644},
		{"/etc/hosts", s.hosts, 0o644},
		{hostKeyFile, "", 0o600},
		{hostKeyFile + ".pub", "", 0o644},
	}
	if text, usable := serve.ReadGitConfig("/"); usable {
		text = serve.GitConfig(text, nil)
		s.gitConfig = &text
		files = append(files, file{serve.GitConfigFile, text, 0o644})
	}
	for _, f := range files {
		if _, err := putFile(f.path, []byte(f.text), f.mode); err != nil {
			return err
		}
	}
	if s.nic != nil {
		if _, err := putFile("/etc/resolv.conf", nil, 0o644); err != nil {
			return err
		}
	}
	if exists(transientID) { // it lies over the file
		return nil
	}
	_, err := putFile("/etc/machine-id", nil, 0o444)
	return err
}

func (s *system) isReleased() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.released
}

func (s *system) isPersonalised() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.personalised
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/api/agentapi"
)

// changes are what a Personalise has found different, and units may have to hear of.
type changes struct {
	identity bool // host name or machine id
	hostKey  bool
	born     bool // it is the first identity of a guest that was released
}

// Personalise makes this guest the one machine that it is; every step may be done again. Modes that sshd wants
// are mended each time.
func (s *system) Personalise(ctx context.Context, p agentapi.Personalise) (agentapi.Health, error) {
	// Before anything else, and before anybody is waited for: what is random now is so in all clones.
	if len(p.Entropy) > 0 {
		if err := addEntropy(p.Entropy); err != nil {
			return s.Health(), err
		}
	}
	if !p.Time.IsZero() && time.Until(p.Time).Abs() > slewAfter {
		if err := stepClock(p.Time); err != nil {
			return s.Health(), err
		}
	}
	s.change.Lock()
	defer s.change.Unlock()
	switch p.Thawed {
	case "", agentapi.ThawedFork:
	case agentapi.ThawedResume:
		return s.Health(), s.resume(p)
	default:
		return s.Health(), api.Errorf(api.CodeInvalid, "a guest is thawed as %q or %q, not as %q", agentapi.ThawedFork, agentapi.ThawedResume, p.Thawed)
	}
	c := changes{born: s.isReleased() && !s.isPersonalised()}
	if err := s.personalise(ctx, p, &c); err != nil {
		return s.Health(), err
	}
	if err := os.WriteFile(personalisedFile, nil, 0o600); err != nil {
		return s.Health(), fmt.Errorf("cannot note that the guest is personalised: %w", err)
	}
	s.mu.Lock()
	s.personalised = true
	s.mu.Unlock()
	if s.kind == initSystemd && !releaseInit() {
		go tellUnits(context.WithoutCancel(ctx), c)
	}
	return s.Health(), nil
}

// resume is for a guest that is who it was: nothing that its users may have changed is touched.
func (s *system) resume(p agentapi.Personalise) error {
	if p.Network == nil {
		return nil
	}
	s.announcer.again.Store(true) // it may be at another port now
	return setNetwork(*p.Network, false)
}

func (s *system) personalise(ctx context.Context, p agentapi.Personalise, c *changes) error {
	another := c.born || p.Thawed == agentapi.ThawedFork // than the one that all this was made for
	if another {
		if err := s.becomeAnother(); err != nil {
			return err
		}
	}
	if p.Hostname != "" {
		changed, err := setHostname(p.Hostname)
		if err != nil {
			return err
		}
		c.identity = c.identity || changed
	}
	if p.MachineID != "" {
		changed, err := setMachineID(p.MachineID)
		if err != nil {
			return err
		}
		c.identity = c.identity || changed
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	if p.Network != nil {
		if err := setNetwork(*p.Network, p.Thawed == agentapi.ThawedFork); err != nil {
			return err
		}
	}
	if p.WorkDisk != nil {
		if err := s.mountWork(ctx, *p.WorkDisk); err != nil {
			return err
		}
	}
	if len(p.SSHHostKey) > 0 {
		changed, err := setHostKey(p.SSHHostKey, p.SSHHostKeyPub)
		if err != nil {
			return err
		}
		c.hostKey = changed
		if another {
			if err := forgetHostKeys(); err != nil {
				return fmt.Errorf("cannot install the ssh host key: %w", err)
			}
		}
	}
	return setLogins(p.AuthorizedKeys)
}

// becomeAnother gives up what the memory and the disk of this guest say of the one that it is a copy of.
func (s *system) becomeAnother() error {
	if err := renewBootID(); err != nil {
		return err
	}
	if err := forgetUnique(); err != nil {
		return err
	}
	s.mu.Lock()
	s.agentID = newAgentID()
	s.mu.Unlock()
	return nil
}

// isHeld tells whether PID 1 is held back from the image's init.
func isHeld() bool { return exists(heldFile) }

// releaseInit lets PID 1 go on to the image's init if it is still held back, and
// reports whether it was.
func releaseInit() bool { return isHeld() && unix.Kill(1, unix.SIGUSR1) == nil }

// mountWork brings up the work disk: formatted if blank, checked if need be, grown to
// its disk, mounted with its root and home at /root and /home.
func (s *system) mountWork(ctx context.Context, w agentapi.WorkDisk) error {
	dev, err := waitDisk(ctx, w.Device, 5*time.Second)
	if errors.Is(err, os.ErrNotExist) {
		return api.Errorf(api.CodeNotFound, "cannot mount the work disk: %w", err)
	}
	if err != nil {
		return fmt.Errorf("cannot mount the work disk: %w", err)
	}
	if _, mounted := mountedAt(workDir); !mounted {
		if err := s.openWork(ctx, dev); err != nil {
			return err
		}
	}
	if _, err := growExt4(dev, workDir); err != nil {
		return err
	}
	for _, dir := range []string{"root", "home"} {
		if err := bindWork(dir); err != nil {
			return err
		}
	}
	return nil
}

func (s *system) openWork(ctx context.Context, dev string) error {
	// A caller who goes away must not leave a disk half formatted or half mended.
	ctx = context.WithoutCancel(ctx)
	if err := dropCache(dev); err != nil {
		return err
	}
	what, err := inspect(dev)
	if err != nil {
		return fmt.Errorf("cannot mount the work disk: %w", err)
	}
	switch what {
	case contentBlank:
		err = s.tools.makeExt4(ctx, dev)
	case contentForeign:
		err = api.Errorf(api.CodeConflict, "cannot mount the work disk: it holds something that is not ext4, and is left as it is")
	}
	if err != nil {
		return err
	}
	return s.tools.mountChecked(ctx, dev, workDir)
}

// bindWork shows the work disk's directory dir at /dir. The first time, what the
// image has there moves in; a copy that was cut off is made anew.
func bindWork(dir string) error {
	have, target := workDir+"/"+dir, "/"+dir
	if dev, mounted := mountedAt(target); mounted {
		if work, _ := mountedAt(workDir); work == dev {
			return nil
		}
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("cannot make %s: %w", target, err)
	}
	if _, err := os.Lstat(have); errors.Is(err, os.ErrNotExist) {
		half := workDir + "/.new-" + dir
		if err := os.RemoveAll(half); err != nil {
			return fmt.Errorf("cannot fill the work disk: %w", err)
		}
		if err := copyTree(target, half); err != nil {
			return fmt.Errorf("cannot fill the work disk: %w", err)
		}
		unix.Sync()
		if err := os.Rename(half, have); err != nil {
			return fmt.Errorf("cannot fill the work disk: %w", err)
		}
	}
	if err := unix.Mount(have, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("cannot mount the work disk at %s: %w", target, err)
	}
	return nil
}

// dropCache forgets what the kernel has read of a disk that is not mounted: in a clone of
// a frozen guest it may be another disk by now.
func dropCache(dev string) error {
	f, err := os.Open(dev)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0); err != nil {
		return fmt.Errorf("cannot drop the cache of %s: %w", dev, err)
	}
	return nil
}

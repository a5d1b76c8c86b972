package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/agent/serve"
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
		if err := s.addEntropy(p.Entropy); err != nil {
			return s.Health(), err
		}
	}
	if off := time.Until(p.Time); !p.Time.IsZero() && off.Abs() > slewAfter {
		if err := moveClock(off); err != nil {
			return s.Health(), err
		}
	}
	s.change.Lock()
	defer s.change.Unlock()
	switch p.Thawed {
	case "", agentapi.ThawedFork:
	case agentapi.ThawedResume:
		err := s.resume(ctx, p)
		unwritten := serve.PutFiles("/", p.Files)
		h := s.Health()
		h.Unwritten = unwritten
		return h, err
	default:
		return s.Health(), api.Errorf(api.CodeInvalid, "a guest is thawed as %q or %q, not as %q", agentapi.ThawedFork, agentapi.ThawedResume, p.Thawed)
	}
	c := changes{born: s.isReleased() && !s.isPersonalised()}
	if err := s.personalise(ctx, p, &c); err != nil {
		return s.Health(), err
	}
	unwritten := serve.PutFiles("/", p.Files)
	if !s.isPersonalised() {
		if err := os.WriteFile(personalisedFile, nil, 0o600); err != nil {
			return s.Health(), fmt.Errorf("cannot note that the guest is personalised: %w", err)
		}
		s.mu.Lock()
		s.personalised = true
		s.mu.Unlock()
	}
	if s.kind == initSystemd && !releaseInit() {
		// The answer goes first: with one CPU, the units that start would hold it up.
		told := s.unitsChange()
		time.AfterFunc(answerTime, func() {
			defer told()
			tellUnits(context.WithoutCancel(ctx), c)
		})
	}
	h := s.Health()
	h.Unwritten = unwritten
	return h, nil
}

// resume is for a guest that is who it was: nothing that its users may have changed is touched, but for what would keep the
// host from logging in.
func (s *system) resume(ctx context.Context, p agentapi.Personalise) error {
	if p.AuthorizedKeys != nil {
		if err := setLogins(p.AuthorizedKeys); err != nil {
			return err
		}
	}
	if p.Network == nil {
		return nil
	}
	return s.setNetwork(*p.Network, p.Thawed, putFile)
}

func (s *system) personalise(ctx context.Context, p agentapi.Personalise, c *changes) error {
	another := c.born || p.Thawed == agentapi.ThawedFork // than the one that all this was made for
	write := put(putFile)
	switch {
	case c.born:
		write = overwriteFile
	case another:
		write = refreshFile
	}
	if another {
		if err := s.becomeAnother(c.born); err != nil {
			return err
		}
	}
	if c.born && s.isFurnished(p) || p.WorkDisk == nil && p.AuthorizedKeys == nil {
		return s.identify(p, c, write)
	}
	// The work disk waits for its disk, and the rest does not.
	work := make(chan error, 1)
	if p.WorkDisk != nil {
		dev, err := s.waitWork(ctx, *p.WorkDisk)
		if err != nil {
			return err
		}
		go func() { work <- s.mountWork(ctx, dev) }()
	} else {
		work <- nil
	}
	err := errors.Join(s.identify(p, c, write), <-work)
	if err != nil {
		return err
	}
	return setLogins(p.AuthorizedKeys)
}

// isFurnished tells whether the template has done already what p wants of the work disk.
func (s *system) isFurnished(p agentapi.Personalise) bool {
	f := s.furnished
	return f != nil && p.WorkDisk != nil && *f.WorkDisk == *p.WorkDisk && slices.Equal(f.AuthorizedKeys, p.AuthorizedKeys)
}

// identify does what has to do with who the guest is, outside of the work disk.
func (s *system) identify(p agentapi.Personalise, c *changes, write put) error {
	if !s.looped {
		if err := loopbackUp(); err != nil {
			return err
		}
		s.looped = true
	}
	if p.Network != nil {
		how := p.Thawed
		if c.born {
			how = born
		}
		if err := s.setNetwork(*p.Network, how, write); err != nil {
			return err
		}
	}
	if p.Hostname != "" {
		hosts := s.hosts
		if !c.born || hosts == "" {
			hosts = commonHosts()
		}
		changed, err := setHostname(p.Hostname, hosts, write)
		if err != nil {
			return err
		}
		c.identity = changed
	}
	if p.MachineID != "" {
		changed, err := setMachineID(p.MachineID, write)
		if err != nil {
			return err
		}
		c.identity = c.identity || changed
	}
	if p.Git != nil {
		if err := s.setGit(p.Git, c.born, write); err != nil {
			return err
		}
	}
	if len(p.SSHHostKey) == 0 {
		return nil
	}
	changed, err := setHostKey(p.SSHHostKey, p.SSHHostKeyPub, write)
	if err != nil {
		return err
	}
	c.hostKey = changed
	if p.Thawed != agentapi.ThawedFork { // a template has none but banger's
		return nil
	}
	if err := forgetHostKeys(); err != nil {
		return fmt.Errorf("cannot install the ssh host key: %w", err)
	}
	return nil
}

// setGit gives commits an author where nothing else does.
func (s *system) setGit(g *api.GitIdentity, born bool, write put) error {
	var config string
	if born && s.gitConfig != nil {
		config = *s.gitConfig
	} else if text, usable := serve.ReadGitConfig("/"); usable {
		config = text
	} else {
		return nil
	}
	_, err := write(serve.GitConfigFile, []byte(serve.GitConfig(config, g)), 0o644)
	return err
}

// becomeAnother gives up what the memory and the disk of this guest say of the one that it is a copy of.
func (s *system) becomeAnother(born bool) error {
	id, err := s.renewBootID()
	if err != nil {
		return err
	}
	if !born { // a template has forgotten them
		if err := forgetUnique(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.agentID, s.bootID = newAgentID(), id
	s.mu.Unlock()
	return nil
}

// isHeld tells whether PID 1 is held back from the image's init.
func isHeld() bool { return exists(heldFile) }

// releaseInit lets PID 1 go on to the image's init if it is still held back, and
// reports whether it was.
func releaseInit() bool { return isHeld() && unix.Kill(1, unix.SIGUSR1) == nil }

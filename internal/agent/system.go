package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/api/agentapi"
)

// personalisedFile says, until the guest's next boot, that a Personalise has succeeded.
const personalisedFile = runDir + "/personalised"

// system is the guest as serve sees it. Safe for concurrent use.
type system struct {
	kind    string // initNone or initSystemd
	version string
	tools   tools
	// change is held by what changes the guest: personalising and growing. It protects what follows, up to random.
	change sync.Mutex
	// looped: lo is up. nic is the network device, once it has no IPv6 any more; it stays open.
	looped bool
	nic    *netDevice
	// announcing is until the guest speaks on its network.
	announcing *time.Timer
	// hosts is what /etc/hosts of all clones has in common; empty in what is no template.
	hosts string
	// gitConfig is /etc/gitconfig as all clones have it, without any identity; nil in what is no template.
	gitConfig *string
	// covered: a file of ours lies over the kernel's boot id.
	covered bool
	// disks are the devices by serial, as far as they have been asked: a guest's disks are those it was booted with.
	disks map[string]string
	// furnished is what a template was released with; nil if its work disk is not mounted.
	furnished *agentapi.Release

	// random is the kernel's pool of random numbers.
	random, bootIDFile handle

	// mu protects the following.
	mu           sync.Mutex
	agentID      string
	waiting      map[string]string // what readiness waits for: key → clause
	changed      chan struct{}     // closed and replaced when waiting changes
	bootID       string            // as far as it has been read
	degraded     []string
	personalised bool
	released     bool
	// settling is closed when all units know who the guest is; nil when they do.
	settling chan struct{}
}

func newSystem(kind, version string) *system {
	s := &system{kind: kind, agentID: newAgentID(), version: version, tools: tools{dir: bootDir + "/tools"},
		waiting: map[string]string{}, changed: make(chan struct{}), degraded: []string{},
		personalised: exists(personalisedFile), released: exists(releasedFile),
		random: handle{path: "/dev/urandom"}, bootIDFile: handle{path: ownBootID}}
	s.setWaiting("root", "the root file system is growing to its disk")
	if kind == initSystemd {
		s.setWaiting("systemd", "systemd is starting")
	}
	return s
}

// settle does what remains of the boot, and returns when the guest is ready.
func (s *system) settle(ctx context.Context) {
	if _, err := s.grow(); err != nil {
		console("%v", err)
	}
	s.setWaiting("root", "")
	if s.kind == initSystemd {
		degraded, err := waitSystemd(ctx, func(clause string) { s.setWaiting("systemd", clause) })
		if err != nil {
			console("%v", err)
			return
		}
		s.mu.Lock()
		s.degraded = degraded
		s.mu.Unlock()
		s.setWaiting("systemd", "")
	}
}

// unitsChange begins a time in which services that the guest has may be down, until the returned is called.
func (s *system) unitsChange() (done func()) {
	settling := make(chan struct{})
	s.mu.Lock()
	s.settling = settling
	s.mu.Unlock()
	return func() { close(settling) }
}

// Settled returns when no service is down because it is only just told who the guest is.
func (s *system) Settled(ctx context.Context) {
	s.mu.Lock()
	settling := s.settling
	s.mu.Unlock()
	if settling == nil {
		return
	}
	select {
	case <-settling:
	case <-ctx.Done():
	}
}

// setWaiting sets or, with an empty clause, clears one thing that readiness waits for.
func (s *system) setWaiting(key, clause string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if clause == "" {
		delete(s.waiting, key)
	} else {
		s.waiting[key] = clause
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// Changed returns a channel that is closed when readiness changes next.
func (s *system) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Health is the agent's word on the guest.
func (s *system) Health() agentapi.Health {
	s.mu.Lock()
	h := agentapi.Health{Ready: len(s.waiting) == 0, Degraded: append([]string{}, s.degraded...),
		AgentID: s.agentID, Version: s.version, Init: s.kind, Personalised: s.personalised}
	for _, key := range []string{"root", "systemd"} {
		if h.Waiting == "" {
			h.Waiting = s.waiting[key]
		}
	}
	if s.bootID == "" {
		boot, _ := os.ReadFile(kernelBootID)
		s.bootID = strings.TrimSpace(string(boot))
	}
	h.BootID = s.bootID
	s.mu.Unlock()
	var up unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &up) == nil {
		h.UptimeMS = up.Nano() / int64(time.Millisecond)
	}
	return h
}

// Grow makes root and work file systems as large as their disks. The kernel may learn
// of a disk's new size a moment after the host has told us: when there is nothing to do, look again.
func (s *system) Grow(ctx context.Context) error {
	nothing := errors.New("nothing to grow")
	err := retry(ctx, 200*time.Millisecond, func() error {
		grown, err := s.grow()
		if err == nil && !grown {
			err = nothing
		}
		return err
	})
	if errors.Is(err, nothing) {
		return nil
	}
	return err
}

// disk returns the device with this serial. It is called with change held.
func (s *system) disk(serial string) (string, error) {
	if dev, ok := s.disks[serial]; ok {
		return dev, nil
	}
	s.disks = findDisks()
	if dev, ok := s.disks[serial]; ok {
		return dev, nil
	}
	return "", fmt.Errorf("no disk with serial %q: %w", serial, os.ErrNotExist)
}

func (s *system) grow() (grown bool, err error) {
	s.change.Lock()
	defer s.change.Unlock()
	var errs []error
	for _, d := range []struct{ serial, dir string }{{agentapi.SerialRoot, "/"}, {agentapi.SerialWork, workDir}} {
		dev, err := s.disk(d.serial)
		if errors.Is(err, os.ErrNotExist) || (d.dir != "/" && !mounted(d.dir)) {
			continue
		}
		did := false
		if err == nil {
			did, err = growExt4(dev, d.dir)
		}
		grown = grown || did
		errs = append(errs, err)
	}
	return grown, errors.Join(errs...)
}

// Shutdown syncs and returns; the end of the guest follows. Commands have until the time-out to
// end; after that the guest goes regardless.
func (s *system) Shutdown(_ context.Context, sd agentapi.Shutdown) error {
	unix.Sync()
	limit := time.Duration(sd.TimeoutMS) * time.Millisecond
	if sd.TimeoutMS <= 0 {
		limit = defaultEnd
	}
	if err := os.WriteFile(endFile, []byte(strconv.FormatInt(limit.Milliseconds(), 10)), 0o600); err != nil {
		return fmt.Errorf("cannot end the guest: %w", err)
	}
	// The answer goes first: the host must have read "synced" before the machine goes.
	time.AfterFunc(answerTime, func() { endGuest(s.kind, sd.Reboot, limit) })
	return nil
}

// answerTime is what an answer needs to leave the guest.
const answerTime = 50 * time.Millisecond

// endGuest tells PID 1 to end the machine, and ends it itself when PID 1 does not.
func endGuest(kind string, reboot bool, limit time.Duration) {
	sig, how := unix.SIGUSR2, unix.LINUX_REBOOT_CMD_POWER_OFF
	if reboot {
		sig, how = unix.SIGTERM, unix.LINUX_REBOOT_CMD_RESTART
	}
	if kind == initSystemd {
		sig = unix.Signal(34 + 4) // systemd(1): SIGRTMIN+4 starts poweroff.target, +5 reboot.target
		if reboot {
			sig = unix.Signal(34 + 5)
		}
		// systemd comes to our commands last, and gives those that do not want to end 90 s.
		askToEnd(commands())
		time.AfterFunc(limit/2, func() { kill(commands()) })
	} else {
		limit += 5 * time.Second // the reaper has the same limit, and works after it
	}
	_ = unix.Kill(1, sig)
	time.Sleep(limit) // this process ends with the machine, or is needed after it
	console("the guest's init did not end it in %v: ending it now", limit)
	unix.Sync()
	_ = unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
	_ = unix.Reboot(how)
}

package fake

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"time"

	"banger/api/agentapi"
	"banger/internal/hypervisor"
)

// system pretends where the real agent would change the whole guest.
type system struct {
	spec *machineSpec

	mu sync.Mutex // protects the following
	guestState
}

// guestState is all that a fake guest has in memory.
type guestState struct {
	Booted       time.Time
	BootID       string
	AgentID      string
	Personalised bool
}

// stateFile is where a guest keeps its state, for its VMM to freeze.
func stateFile(m *hypervisor.Machine) string { return filepath.Join(m.Dir, "guest.json") }

func newSystem(spec *machineSpec) (*system, error) {
	s := &system{spec: spec}
	if spec.Thawed != nil {
		s.guestState = *spec.Thawed
	} else {
		id := randomID()
		s.guestState = guestState{Booted: time.Now(), BootID: id, AgentID: id}
	}
	return s, s.keep()
}

// keep writes the state down. Called with mu held, or before anybody else knows of s.
func (s *system) keep() error {
	b, err := json.Marshal(s.guestState)
	if err != nil {
		return err
	}
	path := stateFile(&s.spec.Machine)
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func randomID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails on Linux
	return hex.EncodeToString(b)
}

// Health: one boot has one agent here.
func (s *system) Health() agentapi.Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := agentapi.Health{
		Ready: true, Degraded: []string{}, BootID: s.BootID, AgentID: s.AgentID, Version: "fake", Init: "none",
		Personalised: s.Personalised, UptimeMS: time.Since(s.Booted).Milliseconds(),
	}
	if s.spec.does(neverReady) {
		h.Ready, h.Waiting = false, "a unit that never starts"
	}
	return h
}

// Changed: who is not ready here never will be.
func (s *system) Changed() <-chan struct{} { return nil }

func (s *system) Release(context.Context, agentapi.Release) error { return nil }

func (s *system) Quiesce(context.Context) error { return nil }

func (s *system) Personalise(_ context.Context, p agentapi.Personalise) (agentapi.Health, error) {
	s.mu.Lock()
	s.Personalised = true
	if p.Thawed == agentapi.ThawedFork {
		s.BootID = randomID()
	}
	err := s.keep()
	s.mu.Unlock()
	return s.Health(), err
}

func (s *system) SetClock(agentapi.Clock) error { return nil }

func (s *system) Grow(context.Context) error { return nil }

func (s *system) Settled(context.Context) {}

// Shutdown ends the commands as a real guest would, and the guest when the answer has left.
func (g *guest) Shutdown(_ context.Context, s agentapi.Shutdown) error {
	if g.spec.does(ignoresStop) {
		return nil
	}
	endAll(time.Duration(s.TimeoutMS) * time.Millisecond)
	code := exitPowerOff
	if s.Reboot {
		code = exitReboot
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ending = &code
	return nil
}

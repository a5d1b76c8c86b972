package fake

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"sync"
	"time"

	"banger/api/agentapi"
)

// system pretends where the real agent would change the whole guest.
type system struct {
	spec   *machineSpec
	booted time.Time
	bootID string

	mu           sync.Mutex // protects the following
	personalised bool
}

func newSystem(spec *machineSpec) *system {
	return &system{spec: spec, booted: time.Now(), bootID: randomID()}
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
		Ready: true, Degraded: []string{}, BootID: s.bootID, AgentID: s.bootID, Version: "fake", Init: "none",
		Personalised: s.personalised, UptimeMS: time.Since(s.booted).Milliseconds(),
	}
	if s.spec.does(neverReady) {
		h.Ready, h.Waiting = false, "a unit that never starts"
	}
	return h
}

// Changed: who is not ready here never will be.
func (s *system) Changed() <-chan struct{} { return nil }

func (s *system) Release(context.Context) error { return nil }

func (s *system) Quiesce(context.Context) error { return nil }

func (s *system) Personalise(_ context.Context, p agentapi.Personalise) (agentapi.Health, error) {
	s.mu.Lock()
	s.personalised = true
	if p.Thawed == agentapi.ThawedFork {
		s.bootID = randomID()
	}
	s.mu.Unlock()
	return s.Health(), nil
}

func (s *system) SetClock(agentapi.Clock) error { return nil }

func (s *system) Grow(context.Context) error { return nil }

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

package cli

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// signals decides what becomes of SIGINT, SIGTERM, SIGHUP and SIGQUIT: they end the
// work of banger, or go to the guest's command while one runs.
type signals struct {
	// mu protects the following.
	mu       sync.Mutex
	handler  func(syscall.Signal)
	received int
	last     time.Time
	by       syscall.Signal
}

// watchSignals makes the two contexts: soft ends at the first signal that no handler
// takes, hard at the next one.
func watchSignals(ctx context.Context) (soft, hard context.Context, s *signals, stop func()) {
	s = &signals{}
	hard, cancelHard := context.WithCancel(ctx)
	soft, cancelSoft := context.WithCancel(hard)
	ch := make(chan os.Signal, 8)
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
		// What we were started to ignore (nohup, a shell's background job) stays ignored.
		if !signal.Ignored(sig) {
			signal.Notify(ch, sig)
		}
	}
	go func() {
		for sig := range ch {
			number, ok := sig.(syscall.Signal)
			if !ok || s.handled(number) {
				continue
			}
			switch s.count(number, time.Now()) {
			case 0: // the same one once more
			case 1:
				cancelSoft()
			default:
				cancelHard()
			}
		}
	}()
	return soft, hard, s, func() {
		signal.Stop(ch)
		close(ch)
		cancelSoft()
		cancelHard()
	}
}

func (s *signals) handled(sig syscall.Signal) bool {
	s.mu.Lock()
	handler := s.handler
	s.mu.Unlock()
	if handler == nil {
		return false
	}
	handler(sig)
	return true
}

// echo is how close behind another of its kind a signal counts as the same: timeout(1), make and
// shells send one to the process and once more to its group.
const echo = 200 * time.Millisecond

// count is which signal this is, from 1; 0 for an echo.
func (s *signals) count(sig syscall.Signal, at time.Time) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.received > 0 && at.Sub(s.last) < echo {
		return 0
	}
	s.received++
	s.last = at
	if s.by == 0 {
		s.by = sig
	}
	return s.received
}

// take gives all signals to handler until the returned function is called.
func (s *signals) take(handler func(syscall.Signal)) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handler = handler
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.handler = nil
	}
}

// interruptedBy is the first signal that ended banger's work, 0 if none did.
func (s *signals) interruptedBy() syscall.Signal {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.by
}

// signalName is the name without SIG that the API knows the signal by.
func signalName(sig syscall.Signal) string {
	switch sig {
	case syscall.SIGTERM:
		return "TERM"
	case syscall.SIGHUP:
		return "HUP"
	case syscall.SIGQUIT:
		return "QUIT"
	}
	return "INT"
}

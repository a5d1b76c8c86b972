package fake

import (
	"errors"
	"os"
	"slices"
	"strings"
	"time"

	"banger/internal/hypervisor"
)

// The roles of the program, as its first argument.
const (
	roleVMM   = "fake-vmm"
	roleGuest = "fake-guest"
	roleHold  = "hold"
)

// machineSpec is what a VMM is told on its command line.
type machineSpec struct {
	Machine   hypervisor.Machine
	Behaviour []string
	// Thawed is what the guest begins with; nil for a boot.
	Thawed *guestState
}

func (s *machineSpec) does(word string) bool { return slices.Contains(s.Behaviour, word) }

// The words of Options.Behaviour.
const (
	startFails  = "start-fails"
	silent      = "silent"
	neverReady  = "never-ready"
	ignoresStop = "ignores-stop"
	dies        = "dies"

	freezeFails  = "freeze-fails"
	thawFails    = "thaw-fails"
	otherVersion = "other-version"
	flattenFails = "flatten-fails"
)

func (h *Hypervisor) behaviour() []string {
	if h.o.Behaviour == "" {
		return nil
	}
	b, err := os.ReadFile(h.o.Behaviour)
	if err != nil {
		return nil
	}
	return strings.Fields(string(b))
}

// request and message are the lines on the control socket. A request gets one message
// that is no event.
type request struct {
	Do     string
	Serial string
	Bytes  int64
	Freeze *hypervisor.Freeze
	Stamp  hypervisor.Stamp
}

// What can be asked for.
const (
	doRun   = "run"
	doGrow  = "grow"
	doStats = "stats"

	doAdopt  = "adopt"
	doStatus = "tell"
	doPause  = "pause"
	doResume = "resume"
	doFreeze = "freeze"

	doFlatten = "flatten"
)

type message struct {
	Event hypervisor.EventKind
	At    time.Time
	Error string
	Stats map[string]hypervisor.DriveStats

	Standing   bool
	StoodStill time.Duration
	Files      map[string]string
}

var errLost = errors.New("the control connection was lost")

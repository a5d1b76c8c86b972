// Package vmm is what all hypervisors have in common whose VMM is a process of its own with
// unix sockets: handing those sockets over, the one session with the guest's agent, the
// queue of events; how a guest is frozen and thawed as far as it is the same for all of them, the files
// and stamp of what is frozen, and the words for a VMM's end. The hypervisors (qemu, firecracker,
// fake) import it, nobody else.
package vmm

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"time"
)

// Causes for which the life of an instance ends.
var (
	ErrDied     = errors.New("the VMM has ended")
	ErrDetached = errors.New("the daemon has let go of the VMM")
)

// RandomEpoch numbers a session with a guest.
func RandomEpoch() uint64 {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return uint64(time.Now().UnixNano())
	}
	return binary.LittleEndian.Uint64(b[:])
}

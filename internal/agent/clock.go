package agent

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"banger/api/agentapi"
)

// Differences between the host's clock and the guest's: below stepAfter the clock is slewed, so that time never
// goes backwards in a running guest; below slewAfter it is left alone.
const (
	stepAfter = 500 * time.Millisecond
	slewAfter = 5 * time.Millisecond
)

// SetClock sets the guest's clock, gently when it is nearly right and nobody wants it at once.
func (s *system) SetClock(c agentapi.Clock) error {
	off := time.Until(c.Time)
	switch {
	case off.Abs() < slewAfter:
		return nil
	case off.Abs() < stepAfter && !c.Step:
		tx := unix.Timex{Modes: unix.ADJ_OFFSET_SINGLESHOT, Offset: off.Microseconds()}
		if _, err := unix.Adjtimex(&tx); err != nil {
			return fmt.Errorf("cannot slew the clock by %v: %w", off, err)
		}
		return nil
	}
	return stepClock(c.Time)
}

// stepClock sets the clock, and ends a slewing that is under way: that was for another clock.
func stepClock(t time.Time) error {
	tx := unix.Timex{Modes: unix.ADJ_OFFSET_SINGLESHOT}
	_, err := unix.Adjtimex(&tx)
	if err != nil {
		return fmt.Errorf("cannot stop slewing the clock: %w", err)
	}
	ts, err := unix.TimeToTimespec(t)
	if err == nil {
		err = unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
	}
	if err != nil {
		return fmt.Errorf("cannot set the clock to %v: %w", t, err)
	}
	return nil
}

// addEntropy credits the host's random bytes and has the kernel use them at once: credit
// alone leaves clones of one memory with the same random numbers (random(4)).
func addEntropy(seed []byte) error {
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("cannot add entropy: %w", err)
	}
	defer f.Close()
	// struct rand_pool_info { int entropy_count (bits); int buf_size (bytes); __u32 buf[]; }
	info := make([]byte, 8, 8+len(seed))
	binary.NativeEndian.PutUint32(info[0:], uint32(len(seed)*8))
	binary.NativeEndian.PutUint32(info[4:], uint32(len(seed)))
	info = append(info, seed...)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&info[0]))); errno != 0 {
		return fmt.Errorf("cannot add entropy: %w", errno)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.RNDRESEEDCRNG, 0); errno != 0 {
		return fmt.Errorf("cannot reseed the kernel's random numbers: %w", errno)
	}
	return nil
}

// randomName is for temporary files that others must not guess.
func randomName() string { return ".banger-" + rand.Text() }

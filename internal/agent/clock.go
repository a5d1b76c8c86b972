package agent

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"banger/api/agentapi"
)

// slewAfter is the least difference that a Personalise puts right. stepAfter is where slewing ends: it keeps time from going
// backwards in a running guest, but half a second takes it a quarter of an hour.
const (
	stepAfter = 500 * time.Millisecond
	slewAfter = 5 * time.Millisecond
)

// SetClock moves the guest's clock, gently when it is nearly right and nobody wants it at once.
func (s *system) SetClock(c agentapi.Clock) error {
	off := time.Duration(c.AdjustUS) * time.Microsecond
	if off == 0 {
		return nil
	}
	if off.Abs() < stepAfter && !c.Step {
		return adjust(unix.Timex{Modes: unix.ADJ_OFFSET_SINGLESHOT, Offset: c.AdjustUS})
	}
	return moveClock(off)
}

func adjust(tx unix.Timex) error {
	if _, err := unix.Adjtimex(&tx); err != nil {
		return fmt.Errorf("cannot move the clock: %w", err)
	}
	return nil
}

// moveClock sets the clock by a difference, and ends a slewing that is under way: that was for another clock.
func moveClock(off time.Duration) error {
	if err := adjust(unix.Timex{Modes: unix.ADJ_OFFSET_SINGLESHOT}); err != nil {
		return err
	}
	sec, nsec := int64(off/time.Second), int64(off%time.Second)
	if nsec < 0 {
		sec, nsec = sec-1, nsec+int64(time.Second)
	}
	return adjust(unix.Timex{Modes: unix.ADJ_SETOFFSET | unix.ADJ_NANO, Time: unix.Timeval{Sec: sec, Usec: nsec}})
}

// addEntropy credits the host's random bytes and has the kernel use them at once: credit
// alone leaves clones of one memory with the same random numbers (random(4)).
func (s *system) addEntropy(seed []byte) error {
	fd, err := s.random.get()
	if err != nil {
		return fmt.Errorf("cannot add entropy: %w", err)
	}
	// struct rand_pool_info { int entropy_count (bits); int buf_size (bytes); __u32 buf[]; }
	info := make([]byte, 8, 8+len(seed))
	binary.NativeEndian.PutUint32(info[0:], uint32(len(seed)*8))
	binary.NativeEndian.PutUint32(info[4:], uint32(len(seed)))
	info = append(info, seed...)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&info[0]))); errno != 0 {
		return fmt.Errorf("cannot add entropy: %w", errno)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.RNDRESEEDCRNG, 0); errno != 0 {
		return fmt.Errorf("cannot reseed the kernel's random numbers: %w", errno)
	}
	return nil
}

// randomName is for temporary files that others must not guess.
func randomName() string { return ".banger-" + rand.Text() }

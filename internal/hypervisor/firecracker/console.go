package firecracker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/hypervisor"
)

// bootLine stands in the console's log where a boot or a thaw begins: what is before it was said by a guest that is no more.
const bootLine = "banger: the machine starts\r\n"

// beginConsole writes it.
func (i *instance) beginConsole() error {
	f, err := openLog(consoleLog(&i.m))
	if err != nil {
		return err
	}
	_, err = f.WriteString(bootLine)
	return errors.Join(err, f.Close())
}

// offWords are what Linux says last (kernel/reboot.c): Firecracker has no switch that a guest could turn itself off with, so that its CPUs
// stand for ever then. They are said at the highest level, which no setting but that of a guest's root keeps from the console.
var offWords = [...]string{"reboot: Power down", "reboot: System halted"}

// lookBack is how much of a console is read by who comes later.
const lookBack = 64 << 10

// watchConsole ends the VMM when its guest has said that it is off.
func (i *instance) watchConsole() {
	for {
		err := i.readConsole()
		if i.life.Err() != nil {
			return
		}
		i.h.o.Log.Warn("the console cannot be read", "vm", i.m.ID, "error", err)
		select {
		case <-time.After(time.Second):
		case <-i.life.Done():
			return
		}
	}
}

func (i *instance) readConsole() error {
	fd, err := unix.Open(consoleLog(&i.m), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), consoleLog(&i.m))
	defer f.Close()
	w, err := watchFile(f)
	if err != nil {
		return err
	}
	defer w.Close()
	defer context.AfterFunc(i.life, func() { _ = w.SetReadDeadline(time.Unix(1, 0)) })()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	at := max(0, end-lookBack)
	var seen []byte
	buf, events := make([]byte, lookBack), make([]byte, 4096)
	for {
		n, err := f.ReadAt(buf, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		at += int64(n)
		seen = append(seen, buf[:n]...)
		if j := bytes.LastIndex(seen, []byte(bootLine)); j >= 0 {
			seen = seen[j+len(bootLine):]
		}
		for _, words := range offWords {
			if bytes.Contains(seen, []byte(words)) {
				i.guestIsOff()
				return i.untilOver()
			}
		}
		seen = bytes.Clone(seen[max(0, len(seen)-64):])
		if n == len(buf) {
			continue
		}
		if _, err := w.Read(events); err != nil {
			return err
		}
	}
}

// untilOver waits for the end of the guest, or of its being watched.
func (i *instance) untilOver() error {
	<-i.life.Done()
	return context.Cause(i.life)
}

// guestIsOff does what the guest cannot.
func (i *instance) guestIsOff() {
	i.mu.Lock()
	before := i.off
	i.off = true
	ps := i.ps
	i.mu.Unlock()
	if before {
		return
	}
	i.emit(hypervisor.EventShutdown, "")
	if err := i.h.undo(ps.p); err != nil {
		i.h.o.Log.Error("cannot end the VMM of a guest that is off", "vm", i.m.ID, "error", err)
	}
}

// watchFile tells when a file grows, by becoming readable.
func watchFile(f *os.File) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	if _, err := unix.InotifyAddWatch(fd, f.Name(), unix.IN_MODIFY); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "inotify"), nil
}

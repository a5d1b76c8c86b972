package kvm

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/host"
)

// probeGuest is built from probe/probe.S, which says what it does.
//
//go:embed probe/probe.elf
var probeGuest []byte

// Words is what the probe guest prints on the serial port at its end.
const Words = "banger: an ordinary guest ran to its end"

// probeTimes are how long a probe guest has, and a second one where the first hangs. On a KVM that works it takes well under a
// second; one that does not may hang. The verdict holds until the host boots again, so neither a host with much to do (with
// eight busy guests on two cores 8 s were too few) nor one lost interrupt must be a refusal: under an emulated SVM about one
// guest in ten hangs before its first word, and the next one runs.
func probeTimes() []time.Duration { return []time.Duration{8 * time.Second, 22 * time.Second} }

// nobody runs the probe where the daemon is root: VMMs then have uids of their own too.
const nobody = 65534

// Probe has a VMM run the probe guest on KVM, under a uid such as VMs' VMMs have: the guest's file is descriptor 3 of c, its Files come
// after it. The console has to come out at Stdout. fatal is what a VMM says when KVM has failed, and only waits after it. The
// error says in a clause why the guest did not run to its end.
func (d *Device) Probe(ctx context.Context, h host.Processes, c host.Command, fatal string) error {
	if os.Geteuid() == 0 {
		c.UID, c.GID = nobody, nobody
		if group := d.Group(); group != 0 {
			c.GID = group
		}
	}
	return Run(ctx, h, c, fatal)
}

// Run is Probe under our own uid, for what needs no /dev/kvm.
func Run(ctx context.Context, h host.Processes, c host.Command, fatal string) error {
	guest, err := InMemory("probe", probeGuest)
	if err != nil {
		return err
	}
	defer guest.Close()
	c.Dir, c.Files = "/", append([]*os.File{guest}, c.Files...)
	var whole time.Duration
	for _, within := range probeTimes() {
		whole += within
		if err := runFor(ctx, h, c, fatal, within); !errors.Is(err, errHangs) || ctx.Err() != nil {
			return err
		}
	}
	return fmt.Errorf("it had not ended after %s", whole)
}

// errHangs: nothing has come of it in its time.
var errHangs = errors.New("it hangs")

func runFor(ctx context.Context, h host.Processes, c host.Command, fatal string, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	out := &watcher{end: cancel, words: []string{Words, fatal}}
	c.Stdout, c.Stderr = out, out
	// The VMM need not end by itself, nor with 0, so the words count and not the exit code.
	err := h.Run(ctx, c)
	said := out.String()
	switch {
	case strings.Contains(said, Words):
		return nil
	case strings.Contains(said, fatal):
		return errors.New(firstLine(said, fatal))
	case errors.Is(err, context.DeadlineExceeded):
		return errHangs
	case strings.TrimSpace(said) != "":
		return errors.New(firstLine(said, ""))
	case err != nil:
		return err
	}
	return errors.New("it ended without a word")
}

// firstLine is the first line of s that contains what, without the program's name.
func firstLine(s, what string) string {
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" && strings.Contains(line, what) {
			return strings.TrimPrefix(line, "qemu-system-x86_64: ")
		}
	}
	return ""
}

// watcher keeps what is written to it and ends the run at certain words.
type watcher struct {
	end   func()
	words []string

	mu  sync.Mutex // protects buf
	buf bytes.Buffer
}

func (w *watcher) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.buf.Len() < 64<<10 {
		w.buf.Write(p)
	}
	for _, words := range w.words {
		if strings.Contains(w.buf.String(), words) {
			w.end()
		}
	}
	return len(p), nil
}

func (w *watcher) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

// InMemory is a file without a name that any uid may read through /proc/self/fd.
func InMemory(name string, content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("cannot make a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err = f.Write(content); err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

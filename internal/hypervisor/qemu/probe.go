package qemu

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

// probeWords is what the probe guest prints at its end.
const probeWords = "banger: an ordinary guest ran to its end"

// probeTimeout: on a KVM that works it takes well under a second; one that does not may hang.
const probeTimeout = 8 * time.Second

// nobody runs the probe where the daemon is root: VMMs then have uids of their own too.
const nobody = 65534

// probe runs the probe guest on KVM as a VM's QEMU would be run.
func (o *oracle) probe(ctx context.Context, f *facts) error {
	c := host.Command{UID: 0, GID: 0}
	if os.Geteuid() == 0 {
		c.UID, c.GID = nobody, nobody
		if f.KVMGroup != 0 {
			c.GID = f.KVMGroup
		}
	}
	return o.runProbe(ctx, f, c, "-accel", "kvm", "-cpu", "host")
}

func (o *oracle) runProbe(ctx context.Context, f *facts, c host.Command, accel ...string) error {
	guest, err := memoryFile("probe", probeGuest)
	if err != nil {
		return err
	}
	defer guest.Close()
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	out := &watcher{end: cancel, fatal: "KVM internal error"}
	c.Path, c.Dir, c.Files, c.Stdout, c.Stderr = f.Binary, "/", []*os.File{guest}, out, out
	c.Args = append([]string{
		"-nodefaults", "-no-user-config", "-display", "none", "-sandbox", sandbox,
		"-machine", "microvm", "-m", "32M", "-kernel", "/proc/self/fd/3", "-serial", "stdio",
		"-device", "isa-debug-exit,iobase=0xf4,iosize=1",
	}, accel...)
	// isa-debug-exit cannot end with 0, so the words count and not the exit code.
	err = o.host.Run(ctx, c)
	said := out.String()
	switch {
	case strings.Contains(said, probeWords):
		return nil
	case strings.Contains(said, out.fatal):
		return errors.New(firstLine(said, out.fatal))
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("it had not ended after %s", probeTimeout)
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

// watcher keeps what is written to it and ends the run at a fatal word: after it QEMU only waits.
type watcher struct {
	end   func()
	fatal string

	mu  sync.Mutex // protects buf
	buf bytes.Buffer
}

func (w *watcher) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.buf.Len() < 64<<10 {
		w.buf.Write(p)
	}
	if strings.Contains(w.buf.String(), w.fatal) {
		w.end()
	}
	return len(p), nil
}

func (w *watcher) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

// memoryFile is a file without a name that any uid may read through /proc/self/fd.
func memoryFile(name string, content []byte) (*os.File, error) {
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

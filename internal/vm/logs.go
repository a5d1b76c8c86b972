package vm

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/config"
	"banger/internal/logbook"
)

// LogQuery says which part of which log to read.
type LogQuery struct {
	// Source is "main" (the main command's output; the default) or "console".
	Source string
	// Stream is "stdout", "stderr" or empty for both; for main only.
	Stream string
	// Offset is where to begin, in bytes from the first one ever written; -1 leaves it to Tail.
	Offset int64
	// Tail is how many lines before the end to begin; -1 is all.
	Tail int
	// Follow goes on until the command has ended or, for the console, the VM has.
	Follow bool
	// Timestamps puts the time before each line; for main only.
	Timestamps bool
}

// Logs reads what VMs have written: the main command's output, and the consoles, which it bounds.
type Logs struct {
	records *Records
	paths   config.Paths
	log     *slog.Logger
	// running are the ids of the VMs that run.
	running func() []string
}

// Read reads a log of a VM, running or not; offset is that of the first byte read.
func (g *Logs) Read(ctx context.Context, ref string, q LogQuery) (io.ReadCloser, int64, error) {
	vm, err := g.records.Get(ctx, ref)
	if err != nil {
		return nil, 0, err
	}
	p := g.paths.VM(vm.ID)
	query := logbook.Query{Offset: q.Offset, Tail: q.Tail, Timestamps: q.Timestamps}
	log, index := p.MainLog(), p.MainIndex()
	over := func(vm api.VM) bool { return vm.Main == nil || vm.Main.EndedAt != nil }
	switch q.Source {
	case "", "main":
		if vm.Main == nil {
			return nil, 0, api.Errorf(api.CodeNotFound, "VM %s has run no main command", vm.Name).WithHint("banger vm logs --console %s", vm.Name)
		}
	case "console":
		if q.Stream != "" || q.Timestamps {
			return nil, 0, api.Errorf(api.CodeInvalid, "the console has neither streams nor times")
		}
		log, index = p.Console(), ""
		over = func(vm api.VM) bool { return vm.State == api.StateStopped || vm.State == api.StateDeleting }
	default:
		return nil, 0, api.Errorf(api.CodeInvalid, "source is %q: give main or console", q.Source)
	}
	switch q.Stream {
	case "":
	case "stdout":
		query.Stream = logbook.Stdout
	case "stderr":
		query.Stream = logbook.Stderr
	default:
		return nil, 0, api.Errorf(api.CodeInvalid, "stream is %q: give stdout or stderr", q.Stream)
	}
	if q.Follow {
		query.More = g.records.closedWhen(ctx, vm.ID, over)
	}
	r, offset, err := logbook.Read(ctx, log, index, query)
	if errors.Is(err, fs.ErrNotExist) {
		return io.NopCloser(strings.NewReader("")), 0, nil
	}
	return r, offset, err
}

// The console file belongs to the VMM, which appends to it for ever; the daemon gives its
// beginning back to the file system, so that a guest that prints endlessly fills no disk.
const (
	consoleLimit = 8 << 20
	consoleEvery = 10 * time.Second
)

// boundConsoles punches the fronts of all consoles that have become too long.
func (g *Logs) boundConsoles() {
	for _, id := range g.running() {
		if err := boundFile(g.paths.VM(id).Console(), consoleLimit); err != nil && !errors.Is(err, fs.ErrNotExist) {
			g.log.Warn("cannot bound a console", "vm", id, "error", err)
		}
	}
}

func boundFile(path string, limit int64) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() <= limit {
		return err
	}
	return logbook.Punch(f, info.Size()-limit)
}

// consoleTailBytes is how much of the console goes into a failure's record.
const consoleTailBytes = 2 << 10

// consoleTail is the end of a VM's console, for people; empty when there is none.
func consoleTail(p config.VMPaths) string {
	f, err := os.OpenFile(p.Console(), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	buf := make([]byte, consoleTailBytes)
	n, _ := f.ReadAt(buf, max(0, info.Size()-consoleTailBytes))
	text := bytes.ReplaceAll(buf[:n], []byte("\r"), nil)
	if n == consoleTailBytes { // begin with a whole line
		if _, rest, ok := bytes.Cut(text, []byte("\n")); ok {
			text = rest
		}
	}
	return strings.ToValidUTF8(strings.TrimRight(string(bytes.Trim(text, "\x00")), "\n"), "?")
}

// keepConsoles bounds the consoles for as long as the daemon lives.
func (g *Logs) keepConsoles(ctx context.Context) {
	tick := time.NewTicker(consoleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			g.boundConsoles()
		}
	}
}

package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"banger/internal/host"
)

// stragglers is how long Run waits, after its command has ended, for a descendant
// that still holds its output.
const stragglers = 2 * time.Second

// Run waits for the command to end and kills its whole process group when ctx ends.
func (ps processes) Run(ctx context.Context, c host.Command) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	cmd, err := ps.command(c)
	if err != nil {
		return err
	}
	end := &tail{max: 4096}
	cmd.SysProcAttr.Setpgid = true
	cmd.ExtraFiles = c.Files
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Stdout, io.Writer(end)
	if c.Stderr != nil {
		cmd.Stderr = io.MultiWriter(c.Stderr, end)
	}
	cmd.WaitDelay = stragglers
	name := filepath.Base(c.Path)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start %s: %w", name, err)
	}
	// The killer is gone before Run returns, so a group id used again is never hit.
	ended := make(chan struct{})
	var killer sync.WaitGroup
	killer.Go(func() {
		select {
		case <-ctx.Done():
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		case <-ended:
		}
	})
	err = cmd.Wait()
	close(ended)
	killer.Wait()
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", name, context.Cause(ctx))
	}
	return runError(name, err, end.String())
}

// runError words a failure. It does not wrap *exec.ExitError: that has an
// ExitCode method which callers could mistake for a guest's (trap 24).
func runError(name string, err error, stderr string) error {
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	if stderr != "" {
		return fmt.Errorf("%s: %s: %s", name, err, stderr)
	}
	return fmt.Errorf("%s: %s", name, err)
}

// tail keeps the last max bytes written to it.
type tail struct {
	max int

	mu  sync.Mutex // protects buf
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if len(t.buf) > 2*t.max {
		t.buf = append(t.buf[:0], t.buf[len(t.buf)-t.max:]...)
	}
	return len(p), nil
}

// String is the last lines, at most eight, without the empty ones.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var lines []string
	for _, l := range bytes.Split(t.buf, []byte("\n")) {
		if s := strings.TrimSpace(strings.ToValidUTF8(string(l), "?")); s != "" {
			lines = append(lines, s)
		}
	}
	if len(lines) > 8 {
		lines = lines[len(lines)-8:]
	}
	return strings.Join(lines, "\n")
}

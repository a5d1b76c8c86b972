package guest_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"banger/internal/frame/link"
)

// TestThawKeepsCommands: a guest that was thawed goes on with what it did; who called for it is in another world.
func TestThawKeepsCommands(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	dir := t.TempDir()
	// It has more to say than any buffer holds, to nobody.
	busy := sh(fmt.Sprintf(`echo begun; until test -e %[1]s/go; do sleep 0.05; done; seq 200000; echo through > %[1]s/out`, dir))
	reads := sh(fmt.Sprintf(`echo $$; cat > %s/in`, dir))
	reads.Stdin = true
	shell := sh("echo $$; exec cat")
	shell.TTY, shell.Stdin = true, true
	running := open(t, a, busy)
	running.until("begun")
	var waiting []string
	for _, spec := range []*stream{open(t, a, reads), open(t, a, shell)} {
		waiting = append(waiting, strings.TrimSpace(spec.until("\n")))
	}
	_ = a.session.Close() // as the host that froze it
	a.greet(t, 2, func(ctx context.Context, conn io.ReadWriteCloser, epoch uint64) (*link.Session, error) {
		return link.DialThawed(ctx, conn, epoch, nil)
	})
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	await(t, "the command", func() bool {
		data, _ := os.ReadFile(filepath.Join(dir, "out"))
		return string(data) == "through\n"
	})
	for _, pid := range waiting {
		if gone(pid)() {
			t.Error("a command that waits for its stdin was ended, or told that there is no more")
		}
	}
	if res := run(t, a, sh("echo new")); res.Stdout != "new\n" {
		t.Errorf("%+v", res)
	}

	// A daemon that was killed is something else: what it was asked for since ends with it.
	next := open(t, a, sh("echo $$; exec sleep 60"))
	pid := next.until("\n")
	_ = a.session.Close()
	a.greet(t, 3, link.Dial)
	await(t, "the command's end", gone(pid))
	for _, pid := range waiting {
		if gone(pid)() {
			t.Error("the next daemon ended a command of nobody's")
		}
		n := 0
		_, _ = fmt.Sscan(pid, &n)
		_ = syscall.Kill(n, syscall.SIGKILL)
		await(t, "its end", gone(pid))
	}
}

package fake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"banger/api"
	"banger/internal/host"
)

func TestProcesses(t *testing.T) {
	t.Parallel()
	h := New()
	h.Act("qemu-img", func(_ context.Context, c host.Command) error {
		fmt.Fprint(c.Stdout, "made")
		return nil
	})
	h.Act("nft", func(context.Context, host.Command) error { return errors.New("no such table") })
	h.Remove("passt", "sudo apt-get install passt")
	var out bytes.Buffer
	if err := h.Run(t.Context(), host.Command{Path: "qemu-img", Args: []string{"create", "x"}, Stdout: &out}); err != nil || out.String() != "made" {
		t.Errorf("%q, %v", out.String(), err)
	}
	if err := h.Run(t.Context(), host.Command{Path: "nft"}); err == nil || err.Error() != "nft: no such table" {
		t.Errorf("error: %v", err)
	}
	if _, err := h.Spawn(host.Command{Path: "passt"}); api.CodeOf(err) != api.CodeMissing {
		t.Errorf("a program that is missing: %v", err)
	}
	p, err := h.Spawn(host.Command{Path: "/usr/bin/qemu", Args: []string{"-S"}, UID: 7, GID: 7})
	if err != nil || !h.Alive(p) {
		t.Fatalf("%v, %v", p, err)
	}
	if args, err := h.CommandLine(p.PID); err != nil || len(args) != 2 {
		t.Errorf("%q, %v", args, err)
	}
	if uid, err := h.Owner(p.PID); err != nil || uid != 7 {
		t.Errorf("owner %d, %v", uid, err)
	}
	if err := h.Signal(p, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := h.Wait(t.Context(), p); err != nil || h.Alive(p) {
		t.Errorf("alive after a signal, %v", err)
	}
	if ws, ok := h.ExitStatus(p); !ok || ws.Signal() != syscall.SIGTERM {
		t.Errorf("status %v, %v", ws, ok)
	}
	const want = "run qemu-img create x\nrun nft\nspawn qemu -S (uid 7)\nsignal 10000000 terminated\n"
	if got := h.Transcript(); got != want {
		t.Errorf("transcript:\n%swant:\n%s", got, want)
	}
}

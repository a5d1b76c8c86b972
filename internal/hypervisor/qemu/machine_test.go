package qemu

import (
	"context"
	"log/slog"
	"os"
	"testing"
	"time"

	"banger/internal/config"
	"banger/internal/host"
	"banger/internal/host/local"
	"banger/internal/hypervisor"
	"banger/internal/hypervisor/hypervisortest"
	"banger/internal/loud"
)

// theLab is what the guests of these tests boot from.
var theLab hypervisortest.Lab

func TestMain(m *testing.M) { os.Exit(theLab.Main(m)) }

func needQEMU(t testing.TB) *local.Host {
	t.Helper()
	h := local.New()
	if _, err := h.LookPath("qemu-system-x86_64"); err != nil {
		loud.Skip(t, "%v", err)
	}
	return h
}

func newHypervisor(t testing.TB) *Hypervisor {
	t.Helper()
	return New(Options{Host: needQEMU(t), Paths: config.Paths{State: hypervisortest.ShortDir(t)}, Log: slog.New(slog.DiscardHandler)})
}

func TestConformance(t *testing.T) {
	hypervisortest.Run(t, func(t *testing.T) (hypervisor.Hypervisor, hypervisor.Machine) {
		return newHypervisor(t), theLab.Machine(t)
	}, layer)
}

// layer puts an empty overlay over a disk that nobody writes any more.
func layer(t testing.TB, base hypervisor.Drive, path string, uid int) hypervisor.Drive {
	t.Helper()
	if err := os.Chmod(base.Path, 0o444); err != nil {
		t.Fatal(err)
	}
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base.Path, "-F", base.Format, path)
	if uid != 0 {
		if err := os.Chown(path, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	base.Path, base.Format = path, "qcow2"
	return base
}

func run(t testing.TB, program string, args ...string) {
	t.Helper()
	if err := local.New().Run(bounded(t, time.Minute), host.Command{Path: program, Args: args}); err != nil {
		t.Fatal(err)
	}
}

func bounded(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func startMachine(t testing.TB, h *Hypervisor, m hypervisor.Machine) hypervisor.Instance {
	t.Helper()
	i, err := h.Start(bounded(t, time.Minute), m, func(hypervisor.Handles) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.Kill(bounded(t, time.Minute)) })
	return i
}

package qemu

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"banger/internal/config"
	"banger/internal/host"
	"banger/internal/host/local"
	"banger/internal/hypervisor"
	"banger/internal/hypervisor/hypervisortest"
)

// need skips, loudly, except where the harness forbids it.
func need(t testing.TB, format string, args ...any) {
	t.Helper()
	why := fmt.Sprintf(format, args...)
	if os.Getenv("BANGER_TEST_NO_SKIP") == "1" {
		t.Fatal("must not be skipped: " + why)
	}
	t.Skip("SKIPPED, NOT TESTED: " + why)
}

func needQEMU(t testing.TB) *local.Host {
	t.Helper()
	h := local.New()
	if _, err := h.LookPath("qemu-system-x86_64"); err != nil {
		need(t, "%v", err)
	}
	return h
}

// shortDir is a directory whose name leaves room for a socket's.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bq")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func newHypervisor(t testing.TB) *Hypervisor {
	t.Helper()
	return New(Options{Host: needQEMU(t), Paths: config.Paths{State: shortDir(t)}, Log: slog.New(slog.DiscardHandler)})
}

// The uid and gid of test VMMs when the test is root.
const testUID, testGID = 31_234, 31_234

// testMachine is a real guest: kernel, banger's initramfs and a copy of a root disk.
func testMachine(t testing.TB) hypervisor.Machine {
	t.Helper()
	lab := needLab(t)
	top := shortDir(t)
	m := hypervisor.Machine{
		ID: "test", Dir: filepath.Join(top, "v"), CPUs: 1, MemoryBytes: 256 << 20,
		Kernel: lab.kernel, Initramfs: lab.initramfs, Cmdline: "quiet",
		Drives: []hypervisor.Drive{
			{Serial: "banger-root", Path: filepath.Join(top, "v", "root"), Format: "raw"},
			{Serial: "banger-work", Path: filepath.Join(top, "v", "work"), Format: "raw"},
		},
	}
	if err := os.Mkdir(m.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	copyFile(t, lab.rootfs, m.Drives[0].Path)
	if err := os.WriteFile(m.Drives[1].Path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(m.Drives[1].Path, 64<<20); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		m.UID, m.GID = testUID, testGID
		for _, p := range []string{m.Dir, m.Drives[0].Path, m.Drives[1].Path} {
			if err := os.Chown(p, testUID, testGID); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(top, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
}

func TestConformance(t *testing.T) {
	hypervisortest.Run(t, func(t *testing.T) (hypervisor.Hypervisor, hypervisor.Machine) {
		return newHypervisor(t), testMachine(t)
	})
}

func bounded(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func startMachine(t testing.TB, h *Hypervisor, m hypervisor.Machine) hypervisor.Instance {
	t.Helper()
	i, err := h.Start(bounded(t, time.Minute), m, func(host.Process) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.Kill(bounded(t, time.Minute)) })
	return i
}

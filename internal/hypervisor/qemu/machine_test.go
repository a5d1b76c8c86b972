package qemu

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"banger/internal/config"
	"banger/internal/host"
	"banger/internal/host/local"
	"banger/internal/hypervisor"
	"banger/internal/hypervisor/hypervisortest"
	"banger/internal/loud"
)

func needQEMU(t testing.TB) *local.Host {
	t.Helper()
	h := local.New()
	if _, err := h.LookPath("qemu-system-x86_64"); err != nil {
		loud.Skip(t, "%v", err)
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

// The uids and gids of test VMMs when the test is root begin after this.
const testUID = 31_234

var nextUID atomic.Int32

// testMachine is a real guest: kernel, banger's initramfs and a copy of a root disk.
func testMachine(t testing.TB) hypervisor.Machine {
	t.Helper()
	lab := needLab(t)
	top := shortDir(t)
	m := hypervisor.Machine{
		ID: "test", Dir: filepath.Join(top, "v"), CPUs: 1, MemoryBytes: 256 << 20,
		Kernel: lab.kernel, Initramfs: lab.initramfs, Cmdline: "quiet net.ifnames=0 reboot=acpi",
		Drives: []hypervisor.Drive{
			{Serial: "banger-root", Path: filepath.Join(top, "root"), Format: "raw"},
			{Serial: "banger-work", Path: filepath.Join(top, "work"), Format: "raw"},
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
		// Each VMM has a uid of its own, as under a real daemon.
		m.UID = testUID + int(nextUID.Add(1))
		m.GID = m.UID
		for _, p := range []string{m.Dir, m.Drives[0].Path, m.Drives[1].Path} {
			if err := os.Chown(p, m.UID, m.GID); err != nil {
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
	}, layer)
}

// layer puts an empty overlay over a disk that nobody writes any more.
func layer(t testing.TB, base hypervisor.Drive, path string, uid int) hypervisor.Drive {
	t.Helper()
	if err := os.Chmod(base.Path, 0o444); err != nil {
		t.Fatal(err)
	}
	err := local.New().Run(bounded(t, time.Minute), host.Command{
		Path: "qemu-img", Args: []string{"create", "-q", "-f", "qcow2", "-b", base.Path, "-F", base.Format, path},
	})
	if err != nil {
		t.Fatal(err)
	}
	if uid != 0 {
		if err := os.Chown(path, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	base.Path, base.Format = path, "qcow2"
	return base
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

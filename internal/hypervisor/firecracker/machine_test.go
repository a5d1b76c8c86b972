package firecracker

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"banger/internal/config"
	"banger/internal/host/local"
	"banger/internal/hypervisor"
	"banger/internal/hypervisor/hypervisortest"
	"banger/internal/hypervisor/kvm"
	"banger/internal/loud"
)

func needFirecracker(t testing.TB) *local.Host {
	t.Helper()
	h := local.New()
	for _, name := range []string{"firecracker", "jailer"} {
		if _, err := h.LookPath(name); err != nil {
			loud.SkipOutsideLab(t, "%v", err)
		}
	}
	if _, err := os.Stat("/dev/kvm"); err != nil || os.Geteuid() != 0 || os.Getenv("LAB") == "" {
		loud.SkipOutsideLab(t, "this is not the laboratory: it takes root and a KVM that works (make lab)")
	}
	return h
}

// shortDir is a directory that VMMs of all uids may look into.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bf")
	if err == nil {
		err = os.Chmod(dir, 0o711)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// bench is what the machines of one test have in common: a daemon's state directory.
type bench struct {
	t     testing.TB
	state string
}

func newBench(t testing.TB) *bench { return &bench{t, shortDir(t)} }

func (b *bench) hypervisor() *Hypervisor {
	b.t.Helper()
	h := needFirecracker(b.t)
	o := Options{Host: h, KVM: kvm.New(), Paths: config.Paths{State: b.state}, Log: slog.New(slog.NewTextHandler(testLog{b.t}, nil))}
	attachTo(&o, h)
	return New(o)
}

type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Logf("%s", p)
	return len(p), nil
}

// The uids and gids of test VMMs begin after this.
const testUID = 31_234

var next atomic.Int32

// machine is a real guest: kernel, banger's initramfs and a copy of a root disk.
func (b *bench) machine(t testing.TB) hypervisor.Machine {
	t.Helper()
	lab := needLab(t)
	top := shortDir(t)
	n := int(next.Add(1))
	m := hypervisor.Machine{
		ID: fmt.Sprintf("test%d", n), Dir: filepath.Join(top, "v"), CPUs: 1, MemoryBytes: 256 << 20,
		UID: testUID + n, GID: testUID + n,
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
	for _, p := range []string{m.Dir, m.Drives[0].Path, m.Drives[1].Path} {
		if err := os.Chown(p, m.UID, m.GID); err != nil {
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
	needFirecracker(t)
	b := newBench(t)
	hypervisortest.Run(t, func(t *testing.T) (hypervisor.Hypervisor, hypervisor.Machine) {
		return b.hypervisor(), layered(t, b.machine(t))
	}, layer)
}

func bounded(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

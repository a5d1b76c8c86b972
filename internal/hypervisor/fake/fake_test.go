package fake

import (
	"os"
	"path/filepath"
	"testing"

	"banger/internal/host/local"
	"banger/internal/hypervisor"
	"banger/internal/hypervisor/hypervisortest"
)

// TestMain is also the program that fake VMMs run.
func TestMain(m *testing.M) {
	if Wants(os.Args) {
		os.Exit(Main(os.Args))
	}
	os.Exit(m.Run())
}

func TestConformance(t *testing.T) {
	t.Parallel()
	hypervisortest.Run(t, func(t *testing.T) (hypervisor.Hypervisor, hypervisor.Machine) {
		return newFake(t), testMachine(t)
	}, func(t testing.TB, base hypervisor.Drive, path string, _ int) hypervisor.Drive {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		base.Path = path
		return base
	})
}

func newFake(t *testing.T) *Hypervisor {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return New(Options{Host: local.New(), Program: self, Behaviour: filepath.Join(t.TempDir(), "behaviour")})
}

func testMachine(t *testing.T) hypervisor.Machine {
	t.Helper()
	dir, err := os.MkdirTemp("", "bf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	disk := filepath.Join(dir, "root")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return hypervisor.Machine{
		ID: "test", Dir: dir, CPUs: 1, MemoryBytes: 64 << 20, Kernel: "/none", Initramfs: "/none",
		Drives: []hypervisor.Drive{{Serial: "banger-root", Path: disk, Format: "raw"}},
	}
}

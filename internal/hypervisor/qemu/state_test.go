package qemu

import (
	"strings"
	"testing"

	"banger/internal/hypervisor"
	"banger/internal/hypervisor/memory"
	"banger/internal/hypervisor/vmm"
)

func TestStamp(t *testing.T) {
	t.Parallel()
	m := hypervisor.Machine{CPUs: 1, MemoryBytes: 128 << 20, Drives: []hypervisor.Drive{{Serial: "a"}, {Serial: "b", ReadOnly: true}}}
	f := &facts{Accel: "tcg", Version: "7.2", TSCKHz: 2_596_096}
	base := stampFor(&m, f)
	// What differs from one clone to the next is not in it.
	same := m
	same.ID, same.Dir, same.UID, same.Kernel, same.Cmdline = "x", "/x", 5, "/k", "c"
	same.Drives = []hypervisor.Drive{{Serial: "a", Path: "/x/a", Format: "qcow2"}, {Serial: "b", Path: "/b", ReadOnly: true}}
	g := *f
	g.TSCKHz++
	if differ := vmm.Differing(base, stampFor(&same, &g)); differ != "" {
		t.Errorf("a clone differs by %s", differ)
	}
	for name, change := range map[string]func(m *hypervisor.Machine, f *facts){
		"cpus":        func(m *hypervisor.Machine, _ *facts) { m.CPUs = 2 },
		"memory":      func(m *hypervisor.Machine, _ *facts) { m.MemoryBytes *= 2 },
		"drives":      func(m *hypervisor.Machine, _ *facts) { m.Drives = m.Drives[:1] },
		"network":     func(m *hypervisor.Machine, _ *facts) { m.NIC = &hypervisor.NIC{Kind: hypervisor.NICTap} },
		"version":     func(_ *hypervisor.Machine, f *facts) { f.Version = "8.2" },
		"machine":     func(_ *hypervisor.Machine, f *facts) { f.Options = []string{"acpi"} },
		"tsc mhz":     func(_ *hypervisor.Machine, f *facts) { f.TSCKHz = 3_000_000 },
		"accelerator": func(_ *hypervisor.Machine, f *facts) { f.Accel = "kvm" },
	} {
		m, f := m, *f
		change(&m, &f)
		if differ := vmm.Differing(base, stampFor(&m, &f)); !strings.Contains(differ, name) {
			t.Errorf("%s changed: it differs by %q", name, differ)
		}
	}
}

func TestSteadyCounter(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		before         *facts
		measured, want int64
	}{
		{nil, 2_596_096, 2_596_096},
		{&facts{TSCKHz: 2_596_096}, 2_596_101, 2_596_096},
		{&facts{TSCKHz: 2_596_096}, 2_596_090, 2_596_096},
		{&facts{TSCKHz: 2_596_096}, 2_600_000, 2_600_000},
		{&facts{TSCKHz: 2_596_096}, 0, 0},
		{&facts{}, 2_596_096, 2_596_096},
	} {
		if got := steady(c.measured, c.before); got != c.want {
			t.Errorf("steady(%d, %+v) = %d, want %d", c.measured, c.before, got, c.want)
		}
	}
}

func TestMemoryIDs(t *testing.T) {
	t.Parallel()
	for backend, want := range map[string]memory.ImageID{
		"mem": {}, "mem-": {}, "mem-000102030405060708090a0b0c0d0e0f": {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
	} {
		got, err := imageOf(memoryOf([]string{"qemu", "-machine", "microvm,acpi=on,memory-backend=" + backend, "-S"}))
		if err != nil || got != want {
			t.Errorf("%s: %x, %v", backend, got, err)
		}
	}
	for _, backend := range []string{"mem-0001", "mem-zz0102030405060708090a0b0c0d0e0f", "other"} {
		if id, err := imageOf(backend); err == nil {
			t.Errorf("%s: %x", backend, id)
		}
	}
	if memoryOf(nil) != "" || memoryOf([]string{"-machine"}) != "" {
		t.Error("an id in nothing")
	}
}

func TestNextNode(t *testing.T) {
	t.Parallel()
	for top, want := range map[string]string{"d0": "d0.1", "d0.1": "d0.2", "d12.99": "d12.100"} {
		if got := nextNode(top); got != want {
			t.Errorf("nextNode(%s) = %s, want %s", top, got, want)
		}
	}
}

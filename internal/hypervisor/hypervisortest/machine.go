package hypervisortest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"banger/internal/hypervisor"
)

// The uids and gids of VMMs begin after this when the test is root.
const firstUID = 31_234

// Machine is a real guest: the lab's kernel, banger's initramfs, a copy of the root disk and an empty work disk.
func (l *Lab) Machine(t testing.TB) hypervisor.Machine {
	t.Helper()
	l.Dir(t)
	m := hypervisor.Machine{
		CPUs: 1, MemoryBytes: 256 << 20,
		Kernel: l.kernel, Initramfs: l.initramfs, Cmdline: "quiet net.ifnames=0",
	}
	top := l.Place(t, &m)
	root, work := filepath.Join(top, "root"), filepath.Join(top, "work")
	m.Drives = []hypervisor.Drive{
		{Serial: "banger-root", Path: root, Format: "raw"},
		{Serial: "banger-work", Path: work, Format: "raw"},
	}
	if err := copyFile(l.root, root, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(work, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(work, 64<<20); err != nil {
		t.Fatal(err)
	}
	give(t, m, root, work)
	return m
}

// Place gives a machine an id, a directory and, when the test is root, a uid, each its own. What it returns is
// the directory above: there the VMM reads only what it is given.
func (l *Lab) Place(t testing.TB, m *hypervisor.Machine) string {
	t.Helper()
	n := int(l.machines.Add(1))
	top := ShortDir(t)
	m.ID, m.Dir = fmt.Sprintf("test%d", n), filepath.Join(top, "v")
	if err := os.Mkdir(m.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		m.UID, m.GID = firstUID+n, firstUID+n
	}
	give(t, *m, m.Dir)
	return top
}

// give gives files to a machine's VMM, if it has a uid of its own.
func give(t testing.TB, m hypervisor.Machine, paths ...string) {
	t.Helper()
	if m.UID == 0 {
		return
	}
	for _, p := range paths {
		if err := os.Chown(p, m.UID, m.GID); err != nil {
			t.Fatal(err)
		}
	}
}

// ShortDir is a directory that VMMs of all uids may look into, whose name leaves room for a socket's.
func ShortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bv")
	if err == nil {
		err = os.Chmod(dir, 0o711)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

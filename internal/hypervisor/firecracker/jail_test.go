package firecracker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/internal/hypervisor"
)

// TestJail: what keeps a VMM that was broken out of from everything else, and that nothing of it stays.
func TestJail(t *testing.T) {
	b := newBench(t)
	h := b.hypervisor()
	m := layered(t, theLab.Machine(t))
	i, err := h.Start(bounded(t, time.Minute), m, func(hypervisor.Handles) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	pid := i.Process().PID
	j := h.jailOf(&m)
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(tasks) < 2 {
		t.Errorf("threads: %v, %v", tasks, err)
	}
	for _, path := range tasks {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		status := strings.ReplaceAll(string(text), "\t", " ")
		uid := fmt.Sprint(m.UID)
		for _, want := range []string{
			"Seccomp: 2\n", "NoNewPrivs: 1\n", "CapEff: 0000000000000000\n", "CapPrm: 0000000000000000\n", "Groups:  \n",
			"Uid: " + strings.Join([]string{uid, uid, uid, uid}, " ") + "\n", "Gid: " + strings.Join([]string{uid, uid, uid, uid}, " ") + "\n",
		} {
			if !strings.Contains(status, want) {
				t.Errorf("no %q in %s:\n%s", want, path, status)
			}
		}
	}
	if !h.o.Host.InJail(j, i.Process()) {
		t.Error("its root directory is not its jail")
	}
	if names, err := os.ReadDir(fmt.Sprintf("/proc/%d/root/", pid)); err != nil || len(names) > 20 {
		t.Errorf("it sees %v, %v", names, err)
	}
	limit, err := os.ReadFile(filepath.Join("/sys/fs/cgroup/banger", j.Name, "memory.max"))
	if err != nil || strings.TrimSpace(string(limit)) != fmt.Sprint(m.MemoryBytes+room) {
		t.Errorf("its limit of memory is %s, %v", limit, err)
	}
	for _, d := range m.Drives {
		var st syscall.Stat_t
		if err := syscall.Lstat(d.Path, &st); err != nil || st.Uid != 0 {
			t.Errorf("the file of drive %s belongs to uid %d, %v", d.Serial, st.Uid, err)
		}
	}
	if err := i.Kill(bounded(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(j.Base, j.Program, j.Name), filepath.Join("/sys/fs/cgroup/banger", j.Name)} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
	for _, d := range m.Drives {
		if top, err := h.o.Attacher.Top(bounded(t, time.Minute), deviceName(m.ID, d.Serial)); err == nil {
			t.Errorf("device of drive %s is left: %s", d.Serial, top)
		}
	}
}

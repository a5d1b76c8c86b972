package clone

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/disk"
	"banger/internal/disk/disktest"
	"banger/internal/host"
	"banger/internal/host/local"
	"banger/internal/loud"
)

// Whatever the machine's own file system is: ext4 as a rule.
func TestDriver(t *testing.T) { disktest.Run(t, Driver{}, t.TempDir()) }

// On ext4 for certain: no reflinks, a sparse copy.
func TestDriverOnExt4(t *testing.T) {
	disktest.Run(t, Driver{}, mountNew(t, "mkfs.ext4", "-q", "-F"))
}

// On btrfs: reflinks.
func TestDriverOnBtrfs(t *testing.T) {
	dir := mountNew(t, "mkfs.btrfs", "-q", "-f")
	disktest.Run(t, Driver{}, dir)

	// A clone of 64 MiB costs next to nothing, which a copy would not.
	base := filepath.Join(dir, "base")
	if err := os.WriteFile(base, bytes.Repeat([]byte("x"), 64<<20), 0o444); err != nil {
		t.Fatal(err)
	}
	unix.Sync()
	before := free(t, dir)
	for _, name := range []string{"a", "b", "c"} {
		if err := (Driver{}).Create(t.Context(), disk.Spec{Path: filepath.Join(dir, name), Base: base, SizeBytes: 1 << 30}); err != nil {
			t.Fatal(err)
		}
	}
	unix.Sync()
	if cost := before - free(t, dir); cost > 16<<20 {
		t.Errorf("three clones of 64 MiB cost %d MiB", cost>>20)
	}
}

func free(t *testing.T, dir string) int64 {
	t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Bavail) * st.Bsize
}

// mountNew mounts a new file system from a loop device.
func mountNew(t *testing.T, mkfs string, args ...string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		loud.Skip(t, "mounting a test's file system needs root")
	}
	h := local.New()
	file, dir := filepath.Join(t.TempDir(), "fs"), t.TempDir()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(1 << 30); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	run := func(program string, args ...string) error {
		var out bytes.Buffer
		return h.Run(t.Context(), host.Command{Path: program, Args: args, Stdout: &out})
	}
	if err := run(mkfs, append(args, file)...); err != nil {
		loud.Skip(t, "%v", err)
	}
	if err := run("mount", "-o", "loop", file, dir); err != nil {
		if strings.Contains(err.Error(), "unknown filesystem") {
			loud.Skip(t, "%v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

package dmsnapshot

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/internal/host"
)

// scarce is so little room on a file system that it was the reason, when a write failed there.
const scarce = 4 << 20

// why says in a clause why a disk is broken; empty when it is not.
func (*Driver) why(m host.Mapped, cow host.LoopFile) string {
	if m.Broken == "" {
		return ""
	}
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(cow.Path), &st); err == nil && int64(st.Bavail)*st.Bsize < scarce {
		return "no space left on the host"
	}
	return fmt.Sprintf("%s (see the host's kernel log)", m.Broken)
}

func blocksOf(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks
	}
	return 0
}

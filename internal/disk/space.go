package disk

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
)

// Used is how many bytes a file or a tree takes on the host's disk, holes left out.
func Used(path string) (int64, error) {
	var n int64
	err := filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			n += st.Blocks * 512 // st_blocks counts 512-byte units whatever the file system (stat(2))
		}
		return nil
	})
	return n, err
}

// Free is how many bytes an ordinary user may still write where path is.
func Free(path string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil {
		return 0, fmt.Errorf("cannot ask for the free space at %s: %w", path, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

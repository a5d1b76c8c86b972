package doctor

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// ThisMachine is the one that the program runs on.
func ThisMachine() Machine {
	m := Machine{
		Files: os.DirFS("/"), OS: runtime.GOOS, Arch: runtime.GOARCH,
		UID: os.Getuid(), User: os.Getenv("USER"), Now: time.Now,
		FreeDisk: freeDisk, Owner: owner,
	}
	if m.UID == 0 {
		m.User = "root"
	}
	return m
}

func freeDisk(path string) (int64, error) {
	for {
		var s syscall.Statfs_t
		err := syscall.Statfs(path, &s)
		if err == nil {
			return int64(s.Bavail) * s.Bsize, nil
		}
		if parent := filepath.Dir(path); err == syscall.ENOENT && parent != path { //nolint:errorlint // a system call's own number, never wrapped
			path = parent
			continue
		}
		return 0, err
	}
}

func owner(path string) (int, fs.FileMode, error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return 0, 0, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, fs.ErrInvalid
	}
	return int(st.Uid), fi.Mode(), nil
}

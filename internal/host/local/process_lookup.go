package local

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"banger/api"
)

// sbinDirs are searched after PATH: a user's PATH on Debian leaves them out.
func sbinDirs() []string { return []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} }

// debianPackage is the Debian 12 package that holds a program, empty where we do not know it.
func debianPackage(program string) string {
	switch program {
	case "qemu-system-x86_64":
		return "qemu-system-x86"
	case "qemu-img":
		return "qemu-utils"
	case "nft":
		return "nftables"
	case "passt", "mmdebstrap", "fakeroot", "git":
		return program
	case "newuidmap", "newgidmap":
		return "uidmap"
	case "mke2fs", "debugfs", "e2fsck", "resize2fs", "dumpe2fs":
		return "e2fsprogs"
	case "busybox":
		return "busybox-static"
	case "ssh", "ssh-keygen":
		return "openssh-client"
	case "dpkg-deb":
		return "dpkg"
	case "xz":
		return "xz-utils"
	case "zstd":
		return "zstd"
	}
	return ""
}

// LookPath finds a program in PATH and the sbin directories. A name with a
// slash in it is taken as it is.
func (processes) LookPath(name string) (string, error) {
	if strings.Contains(name, "/") {
		if executable(name) {
			return name, nil
		}
		return "", missing(name)
	}
	for _, dir := range searchPath() {
		if p := filepath.Join(dir, name); executable(p) {
			return p, nil
		}
	}
	return "", missing(name)
}

func missing(name string) error {
	e := api.Errorf(api.CodeMissing, "cannot find the program %s", name)
	if pkg := debianPackage(filepath.Base(name)); pkg != "" {
		return e.WithHint("sudo apt-get install %s", pkg)
	}
	return e
}

// searchPath is PATH without relative entries, then the sbin directories.
func searchPath() []string {
	var dirs []string
	seen := map[string]bool{}
	for _, d := range append(filepath.SplitList(os.Getenv("PATH")), sbinDirs()...) {
		if filepath.IsAbs(d) && !seen[d] {
			seen[d] = true
			dirs = append(dirs, d)
		}
	}
	return dirs
}

func executable(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular() && unix.Access(path, unix.X_OK) == nil
}

// plainEnv is the environment of a command that names none: enough to run, nothing that leaks.
func plainEnv() []string {
	env := []string{"PATH=" + strings.Join(searchPath(), ":"), "LANG=C.UTF-8"}
	if home := os.Getenv("HOME"); home != "" {
		env = append(env, "HOME="+home)
	}
	return env
}

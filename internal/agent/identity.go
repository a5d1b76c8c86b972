package agent

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// putFile replaces a file of the guest's configuration, a symbolic link included, so
// that nobody ever reads half of it. It reports whether anything changed.
func putFile(path string, data []byte, mode os.FileMode) (bool, error) {
	if st, err := os.Lstat(path); err == nil && st.Mode().IsRegular() && st.Mode().Perm() == mode {
		if old, err := os.ReadFile(path); err == nil && string(old) == string(data) {
			return false, nil
		}
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return false, fmt.Errorf("cannot write %s: %w", path, err)
	}
	tmp := filepath.Join(dir, randomName())
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return false, fmt.Errorf("cannot write %s: %w", path, err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if errors.Is(err, unix.EBUSY) { // somebody has mounted over it, as systemd does with machine-id
		err = os.WriteFile(path, data, mode)
	}
	if err != nil {
		_ = os.Remove(tmp)
		return false, fmt.Errorf("cannot write %s: %w", path, err)
	}
	return true, nil
}

// overwriteFile is putFile for a guest in which nobody reads the file yet, a clone that is being born: the file itself
// changes, where it is one already. Making a new one and renaming it takes three times as long
// where all this happens for the first time.
func overwriteFile(path string, data []byte, mode os.FileMode) (bool, error) {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return putFile(path, data, mode)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode != unix.S_IFREG|uint32(mode) {
		return putFile(path, data, mode)
	}
	return writeOver(fd, path, data, len(data), st.Size)
}

// writeOver writes text over the start of an open file, and cuts what that had beyond its new size.
func writeOver(fd int, path string, text []byte, size int, was int64) (bool, error) {
	n, err := unix.Pwrite(fd, text, 0)
	if err == nil && n < len(text) {
		err = unix.ENOSPC
	}
	if err == nil && was > int64(size) {
		err = unix.Ftruncate(fd, int64(size))
	}
	if err != nil {
		return false, fmt.Errorf("cannot write %s: %w", path, err)
	}
	return true, nil
}

// refreshLimit is the size of a file that is one block on every disk, and one page in memory.
const refreshLimit = 4096

// refreshFile is putFile for a fork, in which programs run that may read the file: the file itself changes, where one write of one block
// can do it. A shorter text ends in newlines until the rest is cut off. Making a new file and renaming it, which has the disk written at once,
// is a fifth of all that a fork does before it answers.
func refreshFile(path string, data []byte, mode os.FileMode) (bool, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return putFile(path, data, mode)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode != unix.S_IFREG|uint32(mode) || st.Nlink != 1 || st.Size > refreshLimit || len(data) > refreshLimit {
		return putFile(path, data, mode)
	}
	old := make([]byte, refreshLimit)
	n, err := unix.Pread(fd, old, 0)
	if err != nil || int64(n) != st.Size {
		return putFile(path, data, mode)
	}
	if bytes.Equal(old[:n], data) {
		return false, nil
	}
	whole := data
	if n > len(data) {
		whole = append(bytes.Clone(data), bytes.Repeat([]byte{'\n'}, n-len(data))...)
	}
	return writeOver(fd, path, whole, len(data), st.Size)
}

// put is one of the three.
type put func(path string, data []byte, mode os.FileMode) (changed bool, err error)

// setHostname makes the guest's name known to the kernel and to its files.
// hosts is as commonHosts returns it.
func setHostname(name, hosts string, put put) (changed bool, err error) {
	if now, _ := os.Hostname(); now != name {
		if err := unix.Sethostname([]byte(name)); err != nil {
			return false, fmt.Errorf("cannot set the host name: %w", err)
		}
		changed = true
	}
	wrote, err := put("/etc/hostname", []byte(name+"\n"), 0o644)
	if err != nil {
		return false, err
	}
	if _, err := put("/etc/hosts", []byte(hosts+ownHost(name)), 0o644); err != nil {
		return false, err
	}
	return changed || wrote, nil
}

// commonHosts is what /etc/hosts says but of the guest's own name.
func commonHosts() string {
	old, _ := os.ReadFile("/etc/hosts")
	return hostsFile(string(old))
}

// ownHost gives 127.0.1.1 to the name, as Debian does (hosts(5)).
func ownHost(name string) string { return "127.0.1.1\t" + name + "\n" }

// hostsFile leaves out 127.0.1.1, leaves other lines alone, and adds localhost where it is missing.
func hostsFile(old string) string {
	var b strings.Builder
	localhost := false
	for line := range strings.Lines(old) {
		f := strings.Fields(line)
		if len(f) > 0 && f[0] == "127.0.1.1" {
			continue
		}
		if len(f) > 1 && f[0] == "127.0.0.1" {
			localhost = true
		}
		b.WriteString(strings.TrimRight(line, "\n") + "\n")
	}
	head := ""
	if !localhost {
		head = "127.0.0.1\tlocalhost\n"
	}
	return head + b.String()
}

// setMachineID writes machine-id(5), for D-Bus too where it has a file of its own. A passing id ends.
func setMachineID(id string, put put) (changed bool, err error) {
	const path = "/etc/machine-id"
	if exists(transientID) {
		if mounted(path) {
			err = unix.Unmount(path, unix.MNT_DETACH)
		}
		if err = errors.Join(err, os.Remove(transientID)); err != nil {
			return false, fmt.Errorf("cannot take the passing machine id away: %w", err)
		}
		changed = true
	}
	wrote, err := put(path, []byte(id+"\n"), 0o444)
	if err != nil {
		return false, err
	}
	changed = changed || wrote
	const dbus = "/var/lib/dbus/machine-id"
	if st, err := os.Lstat(dbus); err == nil && st.Mode().IsRegular() {
		if _, err := put(dbus, []byte(id+"\n"), 0o444); err != nil {
			return false, err
		}
	}
	return changed, nil
}

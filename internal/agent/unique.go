package agent

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// uniqueFiles are patterns of files that boots and programs make for themselves and that no two machines may share.
// All are made anew when they are missed. A template has none of them, a fork gives up its source's.
func uniqueFiles() []string {
	return []string{
		// What random numbers begin with: systemd-random-seed(8), and the same of other inits.
		"/var/lib/systemd/random-seed", "/var/lib/urandom/random-seed", "/var/lib/misc/random-seed",
		// What secrets are kept with, and stable addresses derived from: systemd-creds(1), NetworkManager.conf(5).
		"/var/lib/systemd/credential.secret", "/var/lib/NetworkManager/secret_key",
		// Addresses that were lent to another.
		"/var/lib/NetworkManager/*.lease", "/var/lib/dhcp/*.leases", "/run/systemd/netif/leases/*",
	}
}

// forgetUnique removes them.
func forgetUnique() error {
	var errs []error
	for _, pattern := range uniqueFiles() {
		if !strings.Contains(pattern, "*") {
			// Most are not there, and nothing takes a fork less time to find that out.
			if err := unix.Unlink(pattern); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
				errs = append(errs, os.RemoveAll(pattern))
			}
			continue
		}
		names, _ := filepath.Glob(pattern)
		for _, n := range names {
			errs = append(errs, os.RemoveAll(n))
		}
	}
	return errors.Join(errs...)
}

// forgetHostKeys removes the ssh host keys that are not banger's: only that one is known to be this machine's own.
func forgetHostKeys() error {
	names, _ := filepath.Glob("/etc/ssh/ssh_host_*_key*")
	var errs []error
	for _, n := range names {
		if !strings.HasPrefix(n, hostKeyFile) {
			errs = append(errs, os.Remove(n))
		}
	}
	return errors.Join(errs...)
}

// The kernel's boot id is the same in all clones and cannot be set: another file lies over it.
const (
	kernelBootID = "/proc/sys/kernel/random/boot_id"
	ownBootID    = runDir + "/boot_id"
	// plainProc is a proc file system without anything over it. The kernel lets a container of an ordinary user have
	// a proc of its own only where it can see one that hides nothing (mount_too_revealing in fs/namespace.c).
	plainProc = runDir + "/proc"
)

// coverBootID lays a file of ours over the kernel's boot id, with the same in it. In a template that is done once, and not
// in each clone.
func (s *system) coverBootID() error {
	if s.covered || mounted(kernelBootID) {
		return nil
	}
	id, err := os.ReadFile(kernelBootID)
	if err == nil {
		err = os.WriteFile(ownBootID, id, 0o444)
	}
	if err != nil {
		return fmt.Errorf("cannot cover the boot id: %w", err)
	}
	proc := mount{"proc", plainProc, "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""}
	if err := proc.mount(); err != nil {
		return fmt.Errorf("cannot cover the boot id: %w", err)
	}
	const flags = unix.MS_BIND | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err = unix.Mount(ownBootID, kernelBootID, "", flags, ""); err == nil {
		err = unix.Mount("", kernelBootID, "", flags|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}
	if err == nil {
		_, err = s.bootIDFile.get()
	}
	if err != nil {
		return fmt.Errorf("cannot cover the boot id: %w", err)
	}
	s.covered = true
	return nil
}

// renewBootID makes this another boot, for all processes: the file itself changes, wherever it is mounted.
func (s *system) renewBootID() (id string, err error) {
	if err := s.coverBootID(); err != nil {
		return "", err
	}
	id = uuid()
	fd, err := s.bootIDFile.get()
	if err == nil {
		_, err = unix.Pwrite(fd, []byte(id+"\n"), 0) // as long as the old one
	}
	if err != nil {
		return "", fmt.Errorf("cannot renew the boot id: %w", err)
	}
	return id, nil
}

// uuid is a random one (RFC 9562, version 4), as the kernel's boot id is.
func uuid() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// hexID is a machine id.
func hexID() string { return strings.ReplaceAll(uuid(), "-", "") }

// newAgentID tells one start of an agent from another.
func newAgentID() string {
	id := make([]byte, 8)
	_, _ = rand.Read(id) // never fails
	return hex.EncodeToString(id)
}

package ssh

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/durable"
)

// KnownHosts is banger's own file of host keys: 0600 in a 0700 directory, rewritten as a whole
// by rename under a lock (PATH.lock), so that OpenSSH may read it at any time and any
// number of processes may change it. The user's own known_hosts is never touched.
type KnownHosts struct {
	// Path of the file. An empty one makes every call fail: a host is never
	// trusted for want of a place to look it up.
	Path string
}

func (k KnownHosts) check() error {
	if k.Path == "" {
		return api.Errorf(api.CodeHostIdentity, "there is no known_hosts file to check guests against")
	}
	return nil
}

// Pin makes key (a public line; its comment is dropped) the one key of all names, which
// are a guest's DNS names and addresses. Whatever was pinned for them goes: the daemon has made
// the key itself and knows better.
func (k KnownHosts) Pin(names []string, key string) error {
	if err := k.check(); err != nil {
		return err
	}
	clean, ok := cleanKey(key)
	if !ok {
		return api.Errorf(api.CodeInvalid, "cannot pin a host key: it is not a public key line")
	}
	if len(names) == 0 {
		return api.Errorf(api.CodeInvalid, "cannot pin a host key for no name")
	}
	for _, n := range names {
		if !cleanName(n) {
			return api.Errorf(api.CodeInvalid, "cannot pin a host key for %q: it is not a host's name", n)
		}
	}
	return k.change(func(h *hosts) (bool, error) {
		h.drop(names)
		h.add(names, clean)
		return true, nil
	})
}

// Remove forgets names. A name, or a file, that is not there is no error.
func (k KnownHosts) Remove(names ...string) error {
	if err := k.check(); err != nil {
		return err
	}
	if _, err := os.Stat(k.Path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return k.change(func(h *hosts) (bool, error) { return h.drop(names), nil })
}

// change rewrites the file under the lock.
func (k KnownHosts) change(f func(*hosts) (changed bool, err error)) error {
	dir := filepath.Dir(k.Path)
	if err := private(dir); err != nil {
		return err
	}
	lock, err := os.OpenFile(k.Path+".lock", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("cannot lock known_hosts: %w", err)
	}
	defer lock.Close()
	if err := flock(lock); err != nil {
		return fmt.Errorf("cannot lock known_hosts: %w", err)
	}
	data, err := os.ReadFile(k.Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot read known_hosts: %w", err)
	}
	h := parseHosts(data)
	changed, err := f(&h)
	if err != nil || !changed {
		return err
	}
	if err := durable.WriteFile(k.Path, h.bytes(), 0o600); err != nil {
		return fmt.Errorf("cannot write known_hosts: %w", err)
	}
	return nil
}

// flock waits for the lock; it is held for as long as a rewrite takes.
func flock(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

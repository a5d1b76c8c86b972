package agent

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const hostKeyFile = "/etc/ssh/ssh_host_ed25519_key"

// setHostKey installs the daemon's host key, by which the host knows this guest.
func setHostKey(key []byte, pub string, put put) (changed bool, err error) {
	changed, err = put(hostKeyFile, key, 0o600)
	if err == nil && pub != "" {
		_, err = put(hostKeyFile+".pub", []byte(strings.TrimSpace(pub)+"\n"), 0o644)
	}
	if err != nil {
		return false, fmt.Errorf("cannot install the ssh host key: %w", err)
	}
	return changed, nil
}

// login is a user that people log in as.
type login struct {
	name, home string
	uid, gid   int
}

// setLogins gives root and the image's user dev the keys, and mends the modes without
// which sshd (StrictModes) turns every key down.
func setLogins(keys []string) error {
	users := []login{{"root", "/root", 0, 0}}
	if dev, ok := findLogin("/etc/passwd", "dev"); ok {
		users = append(users, dev)
	}
	var errs []error
	for _, u := range users {
		if err := u.mend(keys); err != nil {
			errs = append(errs, fmt.Errorf("cannot prepare the login of %s: %w", u.name, err))
		}
	}
	return errors.Join(errs...)
}

// findLogin reads passwd(5).
func findLogin(passwd, name string) (login, bool) {
	f, err := os.Open(passwd)
	if err != nil {
		return login{}, false
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		x := strings.Split(sc.Text(), ":")
		if len(x) < 7 || x[0] != name || !strings.HasPrefix(x[5], "/") {
			continue
		}
		uid, err1 := strconv.Atoi(x[2])
		gid, err2 := strconv.Atoi(x[3])
		if err1 == nil && err2 == nil {
			return login{name, x[5], uid, gid}, true
		}
	}
	return login{}, false
}

// mend sets modes and keys. The user owns the directories that this works in as root, so everything happens by
// descriptors: no name is looked up through a symbolic link.
func (u login) mend(keys []string) error {
	home, err := unix.Open(u.home, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		if err = os.MkdirAll(u.home, 0o755); err == nil {
			home, err = unix.Open(u.home, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", u.home, err)
	}
	defer unix.Close(home)
	var st unix.Stat_t
	if err := unix.Fstat(home, &st); err != nil {
		return err
	}
	mode := st.Mode & 0o755 // a home may be more private, but not open to others' writing
	if u.uid == 0 {
		mode = 0o755
	}
	if err := u.dress(home, &st, mode); err != nil {
		return err
	}
	const dir = ".ssh"
	ssh, err := openIn(home, dir)
	if errors.Is(err, unix.ENOENT) && len(keys) == 0 {
		return nil
	}
	if errors.Is(err, unix.ENOENT) {
		if err = unix.Mkdirat(home, dir, 0o700); err == nil {
			ssh, err = openIn(home, dir)
		}
	}
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return errors.New(".ssh is no directory")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	defer unix.Close(ssh)
	if err := unix.Fstat(ssh, &st); err != nil {
		return err
	}
	if err := u.dress(ssh, &st, 0o700); err != nil {
		return err
	}
	return u.mendKeys(ssh, keys)
}

func openIn(dir int, name string) (int, error) {
	return unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// dress gives an open file its owner and mode.
func (u login) dress(fd int, st *unix.Stat_t, mode uint32) error {
	if int(st.Uid) != u.uid || int(st.Gid) != u.gid {
		if err := unix.Fchown(fd, u.uid, u.gid); err != nil {
			return err
		}
	}
	if st.Mode&0o7777 == mode {
		return nil
	}
	return unix.Fchmod(fd, mode)
}

// maxKeys bounds what is read of a file that its user may have made of anything.
const maxKeys = 1 << 20

// mendKeys sees to authorized_keys in the directory ssh. A file that has the keys is only dressed: a full disk must
// not keep a guest from starting. Else a new one is renamed into place, whatever the old one was.
func (u login) mendKeys(ssh int, keys []string) error {
	const file = "authorized_keys"
	old, present := "", false
	fd, err := unix.Openat(ssh, file, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == nil {
		f := os.NewFile(uintptr(fd), file)
		defer f.Close()
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			data, err := io.ReadAll(io.LimitReader(f, maxKeys))
			if err != nil {
				return err
			}
			old, present = string(data), true
			if len(keys) == 0 || mergeKeys(old, keys) == old {
				return u.dress(fd, &st, 0o600)
			}
		}
	}
	if len(keys) == 0 && !present {
		return nil
	}
	tmp := randomName()
	if fd, err = unix.Openat(ssh, tmp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600); err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), tmp)
	_, err = f.WriteString(mergeKeys(old, keys))
	err = errors.Join(err, f.Chown(u.uid, u.gid), f.Chmod(0o600), f.Close())
	if err == nil {
		err = unix.Renameat(ssh, tmp, ssh, file)
	}
	if err != nil {
		_ = unix.Unlinkat(ssh, tmp, 0)
	}
	return err
}

// Between these lines are banger's keys; what a person adds elsewhere stays.
const (
	keysBegin = "# banger: keys of the host; changes between these lines are lost"
	keysEnd   = "# banger: end"
)

// mergeKeys puts keys, and no older ones of the host, before the other lines of old.
func mergeKeys(old string, keys []string) string {
	var b strings.Builder
	b.WriteString(keysBegin + "\n")
	for _, k := range keys {
		b.WriteString(strings.TrimSpace(k) + "\n")
	}
	b.WriteString(keysEnd + "\n")
	ours := false
	for line := range strings.Lines(old) {
		line = strings.TrimRight(line, "\n")
		switch {
		case line == keysBegin:
			ours = true
		case line == keysEnd:
			ours = false
		case !ours:
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

package agent

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
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

// mend sets modes and keys. The user owns the directory that this works in as
// root: os.Root keeps it from being led elsewhere by a symbolic link.
func (u login) mend(keys []string) error {
	if err := os.MkdirAll(u.home, 0o755); err != nil {
		return err
	}
	home, err := os.OpenRoot(u.home)
	if err != nil {
		return err
	}
	defer home.Close()
	st, err := home.Stat(".")
	if err != nil {
		return err
	}
	mode := st.Mode().Perm() &^ 0o022 // a home may be more private, but not open to others' writing
	if u.uid == 0 {
		mode = 0o755
	}
	if err := errors.Join(home.Chown(".", u.uid, u.gid), home.Chmod(".", mode)); err != nil {
		return err
	}
	const dir, file = ".ssh", ".ssh/authorized_keys"
	if st, err := home.Lstat(dir); err == nil && !st.IsDir() {
		return errors.New(".ssh is no directory")
	} else if errors.Is(err, fs.ErrNotExist) {
		if len(keys) == 0 {
			return nil
		}
		if err := home.Mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	if err := errors.Join(home.Lchown(dir, u.uid, u.gid), home.Chmod(dir, 0o700)); err != nil {
		return err
	}
	old, present := "", false
	if st, err := home.Lstat(file); err == nil && st.Mode().IsRegular() {
		data, err := home.ReadFile(file)
		if err != nil {
			return err
		}
		old, present = string(data), true
	}
	want := old
	if len(keys) > 0 {
		want = mergeKeys(old, keys)
	}
	if want == old && !present {
		return nil
	}
	if want == old { // nothing to write: a full disk must not keep a guest from starting
		return errors.Join(home.Lchown(file, u.uid, u.gid), home.Chmod(file, 0o600))
	}
	// A new file, renamed into place: whatever the old one was, its mode and owner are right.
	tmp := dir + "/" + randomName()
	f, err := home.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(want)
	err = errors.Join(err, f.Chown(u.uid, u.gid), f.Chmod(0o600), f.Close())
	if err == nil {
		err = home.Rename(tmp, file)
	}
	if err != nil {
		_ = home.Remove(tmp)
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

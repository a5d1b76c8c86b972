package serve

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/api"
)

// user is who a command runs as.
type user struct {
	name     string
	uid, gid int
	groups   []uint32
	home     string
	shell    string
}

// lookupUser finds "name", "uid", "name:group" or "uid:gid" in the guest's own files; no
// C library is asked. Empty means root, which there is even without a passwd file; a
// number need not be known.
func (p place) lookupUser(spec string) (user, error) {
	if spec == "" {
		spec = "0"
	}
	name, group, hasGroup := strings.Cut(spec, ":")
	who, known, err := p.passwd(name)
	if err != nil {
		return user{}, err
	}
	if !known {
		uid, err := strconv.ParseUint(name, 10, 32)
		if err != nil || uid == 1<<32-1 { // -1 is "leave as it is" to the kernel
			return user{}, api.Errorf(api.CodeInvalid, "no user %q in the guest", name)
		}
		who = user{name: name, uid: int(uid), home: "/", shell: "/bin/sh"}
		if uid == 0 {
			who.name, who.home = "root", "/root"
		}
	}
	if hasGroup {
		gid, err := p.group(group)
		if err != nil {
			return user{}, err
		}
		who.gid = gid
	} else {
		who.groups = p.memberships(who.name)
	}
	return who, nil
}

func (p place) lines(file string, each func(fields []string) (stop bool)) error {
	f, err := os.Open(filepath.Join(p.Root, file))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read the guest's users: %w", err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		if each(strings.Split(sc.Text(), ":")) {
			return nil
		}
	}
	return sc.Err()
}

// passwd looks a name or else a uid up (passwd(5)).
func (p place) passwd(name string) (who user, known bool, err error) {
	byName := false
	err = p.lines("etc/passwd", func(f []string) bool {
		if len(f) < 7 || (f[0] != name && (known || f[2] != name)) {
			return false
		}
		uid, err1 := strconv.ParseUint(f[2], 10, 32)
		gid, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 != nil || err2 != nil {
			return false
		}
		who = user{name: f[0], uid: int(uid), gid: int(gid), home: f[5], shell: f[6]}
		if who.home == "" {
			who.home = "/"
		}
		if who.shell == "" {
			who.shell = "/bin/sh"
		}
		known, byName = true, f[0] == name
		return byName
	})
	return who, known, err
}

func (p place) group(name string) (int, error) {
	found := -1
	err := p.lines("etc/group", func(f []string) bool {
		if len(f) >= 3 && f[0] == name {
			if gid, err := strconv.ParseUint(f[2], 10, 32); err == nil {
				found = int(gid)
				return true
			}
		}
		return false
	})
	if err != nil || found >= 0 {
		return found, err
	}
	gid, err := strconv.ParseUint(name, 10, 32)
	if err != nil || gid == 1<<32-1 {
		return 0, api.Errorf(api.CodeInvalid, "no group %q in the guest", name)
	}
	return int(gid), nil
}

// memberships are the further groups that a user is in.
func (p place) memberships(name string) []uint32 {
	var out []uint32
	_ = p.lines("etc/group", func(f []string) bool {
		if len(f) >= 4 && slices.Contains(strings.Split(f[3], ","), name) {
			if gid, err := strconv.ParseUint(f[2], 10, 32); err == nil {
				out = append(out, uint32(gid))
			}
		}
		return false
	})
	return out
}

// become sets the user in attr. Only root can switch.
func (u user) become(attr *syscall.SysProcAttr) error {
	if os.Geteuid() != 0 {
		if u.uid != os.Geteuid() {
			return api.Errorf(api.CodeDenied, "cannot run a command as %s: the agent is not root", u.name)
		}
		return nil
	}
	if u.uid == 0 && u.gid == 0 && len(u.groups) == 0 && noGroups() {
		return nil // we are that
	}
	attr.Credential = &syscall.Credential{Uid: uint32(u.uid), Gid: uint32(u.gid), Groups: u.groups}
	return nil
}

// noGroups reports that this process has no supplementary groups, as an agent has none.
func noGroups() bool {
	g, err := unix.Getgroups()
	return err == nil && len(g) == 0
}

// owner parses the user parameter of the file routes: numeric ids of a user of the guest.
func (p place) owner(spec string) (uid, gid int, err error) {
	u, err := p.lookupUser(spec)
	return u.uid, u.gid, err
}

package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/host"
)

// jails implements host.Jails.
type jails struct {
	processes processes
	// group is the parent of the cgroups of all jails.
	group string
}

// CanJail asks for root: a jail is made of mknod, chown and a mount namespace.
func (jails) CanJail(string, string) error { return mayJail() }

func mayJail() error {
	if os.Geteuid() != 0 {
		return api.Errorf(api.CodeDenied, "a jail for a VMM needs root").WithHint("sudo banger system install   (or: banger run --hypervisor qemu)")
	}
	return nil
}

// jailName is what Firecracker's jailer takes for an id (src/utils/src/validators.rs); a program's name may have dots too.
func jailName() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`) }

func jailProgram() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`) }

func checkJail(j host.Jail) error {
	if !jailName().MatchString(j.Name) || !jailProgram().MatchString(j.Program) || !filepath.IsAbs(j.Base) {
		return api.Errorf(api.CodeInvalid, "%q is no name for a jail of %q in %q", j.Name, j.Program, j.Base)
	}
	return nil
}

func checkName(name string) error {
	if !jailProgram().MatchString(name) {
		return api.Errorf(api.CodeInvalid, "%q is no name for a file in a jail", name)
	}
	return nil
}

func jailDir(j host.Jail) string { return filepath.Join(j.Base, j.Program, j.Name) }

// PrepareJail makes the directories that the jailer would make, so that there is something to link into.
func (js jails) PrepareJail(ctx context.Context, j host.Jail) error {
	if err := errors.Join(mayJail(), checkJail(j)); err != nil {
		return err
	}
	if j.UID <= 0 || j.GID <= 0 {
		return api.Errorf(api.CodeInternal, "a jail for uid %d and gid %d: both must be positive", j.UID, j.GID)
	}
	if err := js.RemoveJail(ctx, j); err != nil {
		return err
	}
	for _, dir := range []string{j.Base, filepath.Join(j.Base, j.Program), jailDir(j), filepath.Join(jailDir(j), "root"), filepath.Join(jailDir(j), jailNodes)} {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("cannot make a jail: %w", err)
		}
		if err := rootsOwn(dir); err != nil {
			return fmt.Errorf("cannot make a jail: %w", err)
		}
	}
	return nil
}

// rootsOwn refuses a directory in which somebody else could put something in our way.
func rootsOwn(dir string) error {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return api.Errorf(api.CodeConflict, "%s is not a directory that only root can write", dir)
	}
	return nil
}

// within is how names in a jail are resolved: not through any link, nor out of it.
const within = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// openJail opens the jail's root directory.
func openJail(j host.Jail) (*os.File, error) {
	if err := checkJail(j); err != nil {
		return nil, err
	}
	base, err := unix.Open(j.Base, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: j.Base, Err: err}
	}
	defer unix.Close(base)
	name := filepath.Join(j.Program, j.Name, "root")
	fd, err := unix.Openat2(base, name, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: within})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: filepath.Join(j.Base, name), Err: err}
	}
	return os.NewFile(uintptr(fd), filepath.Join(j.Base, name)), nil
}

// byFD is a path to what a descriptor names, however long or changeable that thing's own is.
func byFD(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

// LinkIntoJail gives a file one more name.
func (js jails) LinkIntoJail(j host.Jail, name string, file *os.File, own bool) error {
	if err := checkName(name); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return api.Errorf(api.CodeInvalid, "%s is no plain file", file.Name())
	case own && st.Nlink != 1:
		return api.Errorf(api.CodeInvalid, "%s has more than one name", file.Name())
	case !own && st.Mode&unix.S_IROTH == 0 && int(st.Uid) != j.UID && (st.Mode&unix.S_IRGRP == 0 || int(st.Gid) != j.GID):
		return api.Errorf(api.CodeInvalid, "uid %d may not read %s", j.UID, file.Name())
	}
	dir, err := openJail(j)
	if err != nil {
		return err
	}
	defer dir.Close()
	if own {
		if err := file.Chown(j.UID, j.GID); err != nil {
			return err
		}
	}
	err = unix.Linkat(unix.AT_FDCWD, byFD(file), int(dir.Fd()), name, unix.AT_SYMLINK_FOLLOW)
	if errors.Is(err, unix.EXDEV) {
		return api.Errorf(api.CodeUnsupported, "cannot put %s into a jail: it is on another file system than %s", file.Name(), j.Base)
	}
	if err != nil {
		return fmt.Errorf("cannot put %s into a jail: %w", file.Name(), err)
	}
	return nil
}

// InJail compares the root directories.
func (js jails) InJail(j host.Jail, p host.Process) bool {
	dir, err := openJail(j)
	if err != nil {
		return false
	}
	defer dir.Close()
	var want, is unix.Stat_t
	if unix.Fstat(int(dir.Fd()), &want) != nil || unix.Stat(fmt.Sprintf("/proc/%d/root/", p.PID), &is) != nil {
		return false
	}
	return want.Dev == is.Dev && want.Ino == is.Ino && js.processes.Alive(p)
}

// OpenJailed opens a file for reading, by itself and not through anything that the VMM could have put in its place.
func (js jails) OpenJailed(j host.Jail, name string) (*os.File, error) {
	dir, err := openJail(j)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: within})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: filepath.Join(dir.Name(), name), Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 || int(st.Uid) != j.UID {
		return nil, errors.Join(fmt.Errorf("%s in a jail is not a plain file of its VMM's", name), err, f.Close())
	}
	return f, nil
}

// RemoveJailed unlinks a name; it follows nothing.
func (js jails) RemoveJailed(j host.Jail, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	dir, err := openJail(j)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Unlinkat(int(dir.Fd()), name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot remove %s from a jail: %w", name, err)
	}
	return nil
}

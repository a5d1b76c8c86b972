// Package system puts banger on a host that runs systemd: programs in a place that only root can write, units that start the
// daemons and let VMs live through a restart of them, and takes all of it away again. It owns those files and talks to systemd
// by systemctl. Only cli imports it: where it is needed there is no daemon yet.
package system

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"banger/api"
	"banger/internal/config"
)

// Kind is whose banger is installed.
type Kind string

// The kinds.
const (
	Helped Kind = "helped" // the daemon is a user's, bangerd-root does what only root may
	Root   Kind = "root"   // the daemon is root
	User   Kind = "user"   // units of the user's own systemd, no root anywhere
)

// Where root's installation lies.
const (
	programDir = "/usr/local/lib/banger"
	linkDir    = "/usr/local/bin"
	unitDir    = "/etc/systemd/system"
)

// Options say what to install, and where.
type Options struct {
	Kind Kind
	// User is whose daemon it is; empty for root.
	User *user.User
	// Programs is the directory that the programs are now in.
	Programs string
	// Config is the daemon's configuration, as root sees it: bridge, subnet and uids are taken from it.
	Config *config.Config
	// UserUnits is where the user's own units are, for User.
	UserUnits string
	// Dir is put before every path, and systemd is not told: for packages and tests. Empty for this host.
	Dir string
	// Say is told each step. May be nil.
	Say func(text string)
}

// programs are what is copied; links those that people call.
func programs() []string {
	return []string{"banger", "bangerd", "bangerd-root", "banger-agent", "git-remote-banger"}
}

func links() []string { return []string{"banger", "git-remote-banger"} }

func (o Options) path(p string) string { return filepath.Join(o.Dir, p) }

func (o Options) say(format string, args ...any) {
	if o.Say != nil {
		o.Say(fmt.Sprintf(format, args...))
	}
}

// units is where the units go.
func (o Options) units() string {
	if o.Kind == User {
		return o.path(o.UserUnits)
	}
	return o.path(unitDir)
}

// Install writes everything and starts the units. It may be called again, to change or to repair: VMs run on.
func Install(o Options) error {
	if err := o.check(); err != nil {
		return err
	}
	if o.Kind != User {
		if err := o.copyPrograms(); err != nil {
			return err
		}
	}
	texts, err := o.texts()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.units(), 0o755); err != nil {
		return err
	}
	for _, name := range unitNames() {
		text, wanted := texts[name]
		path := filepath.Join(o.units(), name)
		if !wanted { // left by an installation of another kind
			if err := o.dropUnits(name); err != nil {
				return err
			}
			continue
		}
		if err := write(path, []byte(text), 0o644); err != nil {
			return err
		}
		o.say("wrote %s", path)
	}
	if o.Dir != "" {
		return nil
	}
	names := o.wanted(texts)
	for _, args := range [][]string{
		{"daemon-reload"}, append([]string{"enable"}, names...), append([]string{"restart"}, names[:len(names)-1]...), {"start", names[len(names)-1]},
	} {
		if err := o.systemctl(args...); err != nil {
			return err
		}
	}
	o.say("%s run", strings.Join(names, ", "))
	return nil
}

// check refuses before anything is written.
func (o Options) check() error {
	if o.Dir != "" {
		return nil
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return api.Errorf(api.CodeUnsupported, "this host is not run by systemd").WithHint("banger starts its daemon by itself: banger run")
	}
	if o.Kind == User {
		if o.Config.Paths.State == config.SystemState && there(config.SystemUnit) {
			return api.Errorf(api.CodeConflict, "your daemon is run by units of this host already").WithHint("banger system status   (or first: sudo banger system uninstall)")
		}
		return nil
	}
	if os.Geteuid() != 0 {
		return api.Errorf(api.CodeDenied, "units of the system are root's").WithHint("sudo banger system install   (or, without root: banger system install --user-units)")
	}
	var want int
	if o.User != nil {
		want, _ = strconv.Atoi(o.User.Uid)
	}
	// systemd would give all that is in it to the unit's user.
	if uid, err := ownerOf(config.SystemState); err == nil && uid != want {
		return api.Errorf(api.CodeConflict, "%s has the machines of uid %d", config.SystemState, uid).
			WithHint("sudo banger system install %s   (or delete those machines first: banger system uninstall --purge)", flagFor(uid))
	}
	return nil
}

func flagFor(uid int) string {
	if uid == 0 {
		return "--root"
	}
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return "--user " + u.Username
	}
	return "--user " + strconv.Itoa(uid)
}

// copyPrograms puts the programs where a user cannot change what root runs.
func (o Options) copyPrograms() error {
	dir := o.path(programDir)
	for _, d := range []string{dir, o.path(linkDir)} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	for _, name := range programs() {
		from := filepath.Join(o.Programs, name)
		if from == filepath.Join(dir, name) {
			continue // installed from itself
		}
		text, err := os.ReadFile(from)
		if err != nil {
			return api.Errorf(api.CodeMissing, "cannot install %s: %w", name, err).WithHint("make build   (all programs lie in one directory)")
		}
		if err := write(filepath.Join(dir, name), text, 0o755); err != nil {
			return err
		}
	}
	o.say("programs are in %s", dir)
	for _, name := range links() {
		link := filepath.Join(o.path(linkDir), name)
		switch to, err := os.Readlink(link); {
		case err == nil && to == filepath.Join(programDir, name):
			continue
		case err == nil || !errors.Is(err, fs.ErrNotExist):
			o.say("%s is there already and stays as it is", link)
			continue
		}
		if err := os.Symlink(filepath.Join(programDir, name), link); err != nil {
			return err
		}
	}
	return nil
}

// write replaces a file as a whole: what runs from the old one runs on.
func write(path string, text []byte, mode fs.FileMode) error {
	temp := path + ".new"
	_ = os.Remove(temp)
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	// The umask may have taken bits away.
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cannot write %s: %w", path, err), remove(temp))
	}
	return nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// settleTime is how long a host's devices may take: more than VMs should wait for them.
const settleTime = 60 * time.Second

// Settle waits until the devices that were found as the host booted are in place: a VM that was suspended under KVM cannot go on
// before /dev/kvm is there. A host without udev has what it has.
func Settle() error {
	if !there("/run/udev/control") {
		return nil
	}
	out, err := exec.Command("udevadm", "settle", fmt.Sprintf("--timeout=%d", int(settleTime.Seconds()))).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("udevadm settle: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

func (o Options) systemctl(args ...string) error {
	if o.Kind == User {
		args = append([]string{"--user"}, args...)
	}
	cmd := exec.Command("systemctl", args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return api.Errorf(api.CodeConflict, "systemctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(out.String())).
			WithHint("journalctl %s-u 'bangerd*' -n 50", map[bool]string{true: "--user "}[o.Kind == User])
	}
	return nil
}

package system

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"banger/api"
	"banger/internal/config"
)

// Status is what is there.
type Status struct {
	// Kind is empty where nothing is installed.
	Kind Kind `json:"kind"`
	// User is whose daemon it is; empty for root.
	User  string       `json:"user"`
	Units []UnitStatus `json:"units"`
	// Files are all that an uninstall would remove, state left out.
	Files []string `json:"files"`
	// State is the directory with the machines; empty where there is none.
	State string `json:"state"`
}

// UnitStatus is a unit as systemd sees it: "active", "inactive", "failed", …; "unknown" where systemd is not asked.
type UnitStatus struct {
	Name    string `json:"name"`
	Active  string `json:"active"`
	Enabled string `json:"enabled"`
}

// Runs reports whether the daemon of this configuration is the one that the system's units run.
func Runs(cfg *config.Config) bool {
	return cfg.Paths.State == config.SystemState && cfg.Paths.Runtime == config.SystemRuntime && there(config.SystemUnit)
}

// RunsFor reports whether it is the one that units of the user's own run, which lie in this directory. They run it as it is configured
// without flags and variables.
func RunsFor(cfg *config.Config, userUnits string) bool {
	return !cfg.Explicit("state_dir") && !cfg.Explicit("runtime_dir") && there(filepath.Join(userUnits, DaemonUnit))
}

// Look tells what is installed; o.Kind says whose units are looked for: User, or any other for the system's.
func Look(o Options) (Status, error) {
	s := Status{Units: []UnitStatus{}, Files: []string{}}
	for _, name := range unitNames() {
		path := filepath.Join(o.units(), name)
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return s, err
		}
		s.Files = append(s.Files, path)
		if name == daemonUnit {
			s.Kind = Root
			for line := range strings.Lines(string(text)) {
				if u, ok := strings.CutPrefix(strings.TrimSpace(line), "User="); ok {
					s.Kind, s.User = Helped, u
				}
			}
			if o.Kind == User {
				s.Kind = User
			}
		}
		s.Units = append(s.Units, UnitStatus{Name: name, Active: o.property("ActiveState", name), Enabled: o.property("UnitFileState", name)})
	}
	if state := o.state(); state != "" && there(state) {
		s.State = state
	}
	if o.Kind == User {
		return s, nil
	}
	for _, name := range programs() {
		if p := filepath.Join(o.path(programDir), name); there(p) {
			s.Files = append(s.Files, p)
		}
	}
	for _, name := range links() {
		link := filepath.Join(o.path(linkDir), name)
		if to, err := os.Readlink(link); err == nil && to == filepath.Join(programDir, name) {
			s.Files = append(s.Files, link)
		}
	}
	return s, nil
}

// state is where the machines of these units are; empty for a user's own units beside those of the host, whose machines they are.
func (o Options) state() string {
	switch {
	case o.Kind != User:
		return o.path(config.SystemState)
	case o.Config.Paths.State == config.SystemState:
		return ""
	default:
		return o.path(o.Config.Paths.State)
	}
}

func there(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func (o Options) property(property, unit string) string {
	if o.Dir != "" {
		return "unknown"
	}
	args := []string{"show", "--property", property, "--value", unit}
	if o.Kind == User {
		args = append([]string{"--user"}, args...)
	}
	out, err := exec.Command("systemctl", args...).Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// Rouse starts the daemon's unit if it does not run, so that it can be asked to end its VMs before an uninstall.
func Rouse(o Options) error {
	if o.Dir != "" || !there(filepath.Join(o.units(), daemonUnit)) {
		return nil
	}
	return o.systemctl("start", daemonUnit)
}

// Uninstall ends the units and removes every file. VMs that run are stopped by ending the VMs' unit, as when the host goes down. The state stays,
// unless purge.
func Uninstall(o Options, purge bool) error {
	s, err := Look(o)
	if err != nil {
		return err
	}
	if o.Dir == "" && o.Kind != User && os.Geteuid() != 0 {
		return api.Errorf(api.CodeDenied, "units of the system are root's").WithHint("sudo banger system uninstall")
	}
	var errs []error
	var names []string
	for _, u := range slices.Backward(s.Units) { // systemctl asks for one after the other: who needs another ends first
		names = append(names, u.Name)
	}
	errs = append(errs, o.dropUnits(names...))
	for _, f := range s.Files {
		errs = append(errs, remove(f))
	}
	if o.Kind != User {
		errs = append(errs, removeEmpty(o.path(programDir)))
		for _, d := range []string{config.SystemRuntime, filepath.Dir(config.SystemRootSocket), config.SystemRootState} {
			errs = append(errs, os.RemoveAll(o.path(d)))
		}
	}
	if o.Kind == User { // made by us where the user had no units
		errs = append(errs, removeEmpty(o.units()), removeEmpty(filepath.Dir(o.units())))
	}
	if purge && s.State != "" {
		errs = append(errs, o.purge(s.State))
	}
	if o.Dir == "" && len(s.Units) > 0 {
		errs = append(errs, o.systemctl("daemon-reload"))
	}
	return errors.Join(errs...)
}

// dropUnits ends and removes units, in this order; missing ones are no error.
func (o Options) dropUnits(names ...string) error {
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !there(filepath.Join(o.units(), name)) })
	if len(names) == 0 {
		return nil
	}
	var errs []error
	if o.Dir == "" {
		errs = append(errs, o.systemctl(append([]string{"disable", "--now"}, names...)...))
	}
	for _, name := range names {
		path := filepath.Join(o.units(), name)
		errs = append(errs, remove(path))
		o.say("removed %s", path)
	}
	return errors.Join(errs...)
}

// purge removes all machines and images, but never the user's key for guests, which may lie among them.
func (o Options) purge(state string) error {
	entries, err := os.ReadDir(state)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if p := filepath.Join(state, e.Name()); p != o.path(o.Config.Paths.SSH) {
			errs = append(errs, os.RemoveAll(p))
		}
	}
	return errors.Join(append(errs, removeEmpty(state))...)
}

func removeEmpty(dir string) error {
	err := os.Remove(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTEMPTY) {
		return nil
	}
	return err
}

func ownerOf(path string) (int, error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return 0, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, fs.ErrInvalid
	}
	return int(st.Uid), nil
}

// kvmGroup reports whether this host has the group that Debian gives /dev/kvm to.
func (o Options) kvmGroup() bool {
	_, err := user.LookupGroup("kvm")
	return err == nil && o.Dir == ""
}

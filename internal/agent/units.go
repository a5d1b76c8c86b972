package agent

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// unit is one of systemd's that has something to do with who the guest is.
type unit struct {
	name string
	// anonymous: it does not run in a guest without an identity.
	anonymous bool
	// identity, hostKey: it remembers the host name or the machine id, or the ssh host key.
	identity, hostKey bool
	// ifWanted: it is started, once the guest has an identity, where the image wants it at boot.
	ifWanted bool
}

// units is the one table of them, in the order in which they hear of a change: who logs in waits for sshd.
func units() []unit {
	return []unit{
		{name: "ssh.service", anonymous: true, hostKey: true},
		{name: "sshd.service", anonymous: true, hostKey: true},
		{name: "ssh.socket", anonymous: true, hostKey: true},
		{name: "sshd.socket", anonymous: true, hostKey: true},
		{name: "systemd-journald.service", identity: true},
		{name: "systemd-hostnamed.service", identity: true},
		{name: "rsyslog.service", identity: true},
		{name: "syslog-ng.service", identity: true},
		{name: "avahi-daemon.service", identity: true},
		// Until then the journal stays in memory, under an id that goes.
		{name: "systemd-journal-flush.service", anonymous: true, ifWanted: true},
		// It would write the passing machine id to the disk.
		{name: "systemd-machine-id-commit.service", anonymous: true},
		{name: "systemd-random-seed.service", anonymous: true},
	}
}

// anonymousFiles, by path, keep systemd from giving a guest without an identity one, and udev from looking at
// the work disk, which is another one in each clone. They are gone with the next boot.
func anonymousFiles() map[string]string {
	files := map[string]string{
		"/run/udev/rules.d/01-banger.rules": `SUBSYSTEM=="block", ATTR{serial}=="banger-work", ` +
			`ENV{UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG}="1", OPTIONS:="nowatch"` + "\n",
	}
	for _, u := range units() {
		if u.anonymous { // a condition, not a mask: it can be started later with nothing reloaded
			files["/run/systemd/system/"+u.name+".d/50-banger.conf"] = "[Unit]\nConditionPathExists=" + personalisedFile + "\n"
		}
	}
	return files
}

// tellUnits has systemd restart the units that have read what has changed, and start those that were
// waiting for the guest to have an identity. It is for a guest whose systemd has begun already.
func tellUnits(ctx context.Context, c changes) {
	if !exists(systemdSocket) {
		return
	}
	var start, restart []string
	for _, u := range units() {
		switch {
		case u.hostKey && c.hostKey && wanted(u.name):
			// At once, so that nobody is shown the old key; it is started where it was not. Callers wait for it: see Settled.
			systemctl(ctx, "restart", u.name)
		case u.ifWanted && c.born && wanted(u.name):
			start = append(start, u.name)
		case u.identity && c.identity:
			restart = append(restart, u.name)
		}
	}
	if len(restart) > 0 {
		systemctl(ctx, append([]string{"--no-block", "try-restart"}, restart...)...)
	}
	if c.born {
		forgetJournal(ctx)
	}
	if len(start) > 0 {
		systemctl(ctx, append([]string{"--no-block", "start"}, start...)...)
	}
}

// forgetJournal removes what the template has logged under its passing machine id, once the journal is kept
// under the guest's own.
func forgetJournal(ctx context.Context) {
	const dir = "/run/log/journal"
	own, err := os.ReadFile("/etc/machine-id")
	id := strings.TrimSpace(string(own))
	if err != nil || id == "" || waitFile(ctx, filepath.Join(dir, id)) != nil {
		return
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.Name() != id {
			_ = os.RemoveAll(filepath.Join(dir, e.Name()))
		}
	}
}

// systemctl asks systemd for something. A unit that is not there, or not running, is no failure: the exit
// code says nothing more.
func systemctl(ctx context.Context, args ...string) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if _, _, err := runCommand(ctx, nil, append([]string{"systemctl", "--quiet"}, args...)...); err != nil {
		console("%v", err)
	}
}

// wanted tells whether the image starts a unit at boot (systemd.unit(5), .wants/), without asking systemd: a
// question costs a tenth of a second under emulation.
func wanted(name string) bool {
	for _, dir := range []string{"/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"} {
		for _, kind := range []string{"wants", "requires"} {
			found, _ := filepath.Glob(dir + "/*." + kind + "/" + name)
			if len(found) > 0 && !masked(name) {
				return true
			}
		}
	}
	return false
}

func masked(name string) bool {
	target, err := os.Readlink("/etc/systemd/system/" + name)
	return err == nil && strings.HasPrefix(target, "/dev/null")
}

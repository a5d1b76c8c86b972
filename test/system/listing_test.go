package system

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// listing is what there is on a host: files with what tells whether they were changed, and everything else by name.
type listing struct {
	Files  map[string]string
	Others []string
}

// look lists this host.
func look(t *testing.T) listing {
	t.Helper()
	begin := time.Now()
	defer func() { t.Logf("looked in %.1f s", time.Since(begin).Seconds()) }()
	l := listing{Files: files(t, "/etc", "/usr", "/opt", "/root", "/run", "/srv", "/var")}
	add := func(what string, lines ...string) {
		for _, line := range lines {
			if line = strings.TrimSpace(line); line != "" {
				l.Others = append(l.Others, what+" "+line)
			}
		}
	}
	lines := func(args ...string) []string { return strings.Split(root.must(t, args...), "\n") }
	add("user", lines("getent", "passwd")...)
	add("group", lines("getent", "group")...)
	add("link", lines("ip", "-brief", "link")...)
	add("address", lines("ip", "-brief", "address")...)
	add("route", lines("ip", "route")...)
	add("rule", lines("nft", "list", "ruleset")...)
	add("ip_forward", read(t, "/proc/sys/net/ipv4/ip_forward"))
	add("mount", bangers(read(t, "/proc/self/mountinfo"))...)
	for _, kind := range []string{"/sys/block/loop*/loop/backing_file", "/sys/block/dm-*/dm/name"} {
		devices, _ := filepath.Glob(kind) // the pattern is a good one
		add("device", devices...)
	}
	add("unit", bangers(root.must(t, "systemctl", "list-units", "--all", "--plain", "--no-legend", "--no-pager"))...)
	add("unit file", bangers(root.must(t, "systemctl", "list-unit-files", "--plain", "--no-legend", "--no-pager"))...)
	add("process", processes(t)...)
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			add("cgroup", bangers(path)...)
		}
		return nil // a group that has just gone
	})
	slices.Sort(l.Others)
	return l
}

// bangers are the lines that have a word of ours in them.
func bangers(text string) []string {
	return slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool { return !strings.Contains(line, "banger") && !strings.Contains(line, "bgr-") })
}

// processes of ours, wherever they belong, but not this test.
func processes(t *testing.T) []string {
	t.Helper()
	return slices.DeleteFunc(strings.Split(root.must(t, "ps", "axo", "user:20,comm:20"), "\n"), func(line string) bool {
		return !strings.Contains(line, "banger") && !strings.Contains(line, "qemu") && !strings.Contains(line, "passt") && !strings.HasPrefix(line, "19000")
	})
}

func processesOf(t *testing.T, a account) []string {
	t.Helper()
	return slices.DeleteFunc(processes(t), func(line string) bool { return !strings.HasPrefix(line, a.name) })
}

// others are what systemd and this laboratory keep for themselves, whatever is installed.
func others(path string) bool {
	for _, dir := range []string{
		"/run/systemd/units", "/run/systemd/journal", "/run/systemd/sessions", "/run/systemd/users", "/run/systemd/transient", "/run/systemd/propagate",
		"/run/systemd/inaccessible", "/run/systemd/seats", "/run/systemd/ask-password", "/run/log", "/run/udev", "/run/user", "/run/sudo", "/run/dbus", "/run/netns", "/run/lock",
		"/var/lib/lab", "/var/lib/systemd", "/var/lib/sudo", "/var/log", "/var/tmp", "/var/cache/ldconfig",
	} {
		if path == dir || strings.HasPrefix(path, dir+"/") {
			return true
		}
	}
	return false
}

// files lists directories: modes, owners, and in a file its size and the time of its last change.
func files(t *testing.T, dirs ...string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if others(path) {
				if d != nil && d.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
			if err != nil {
				return err
			}
			fi, err := d.Info()
			if err != nil {
				return err
			}
			st, ok := fi.Sys().(*syscall.Stat_t)
			if !ok {
				return fs.ErrInvalid
			}
			what := fmt.Sprintf("%v %d:%d", fi.Mode(), st.Uid, st.Gid)
			switch {
			case fi.Mode().IsRegular() && !strings.HasPrefix(path, "/run/"):
				what += fmt.Sprintf(" %d bytes of %s", fi.Size(), fi.ModTime())
			case fi.Mode().Type() == fs.ModeSymlink:
				to, err := os.Readlink(path)
				if err != nil {
					return err
				}
				what += " to " + to
			}
			all[path] = what
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// Names is the listing without what changes when something is restarted or written again: which files there are, not what is in them.
func (l listing) Names() listing {
	names := listing{Files: map[string]string{}}
	for path := range l.Files {
		names.Files[path] = "is there"
	}
	for _, line := range l.Others {
		names.Others = append(names.Others, strings.Join(strings.Fields(line), " "))
	}
	return names
}

// without leaves out what is below these.
func (l listing) without(dirs ...string) listing {
	l.Files = maps.Clone(l.Files)
	maps.DeleteFunc(l.Files, func(path, _ string) bool {
		return slices.ContainsFunc(dirs, func(dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") })
	})
	return l
}

// differences is one line for each thing that is there in one listing only, or is another in each.
func differences(before, after listing) []string {
	var out []string
	for path, what := range after.Files {
		switch was, there := before.Files[path]; {
		case !there:
			out = append(out, "left: "+path+" "+what)
		case was != what:
			out = append(out, "changed: "+path+" "+was+" is now "+what)
		}
	}
	for path := range before.Files {
		if _, there := after.Files[path]; !there {
			out = append(out, "gone: "+path)
		}
	}
	for _, line := range after.Others {
		if !slices.Contains(before.Others, line) {
			out = append(out, "left: "+line)
		}
	}
	for _, line := range before.Others {
		if !slices.Contains(after.Others, line) {
			out = append(out, "gone: "+line)
		}
	}
	slices.Sort(out)
	return out
}

func checkNothing(t *testing.T, after string, differences []string) {
	t.Helper()
	for _, d := range differences {
		t.Errorf("after %s: %s", after, d)
	}
}

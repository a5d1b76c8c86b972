package rootd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/host"
	"banger/internal/host/verb"
)

// jailer is what this test binary is as the jailer, and then as the VMM: it goes into the jail, gives up root and listens.
func jailer(args []string) int {
	value := func(flag string) string { return args[slices.Index(args, flag)+1] }
	root := filepath.Join(value("--chroot-base-dir"), filepath.Base(value("--exec-file")), value("--id"), "root")
	var uid int
	_, err := fmt.Sscan(value("--uid"), &uid)
	err = errors.Join(err, os.Chown(root, uid, uid), syscall.Chroot(root), os.Chdir("/"))
	if err == nil {
		err = errors.Join(syscall.Setgroups(nil), syscall.Setgid(uid), syscall.Setuid(uid))
	}
	if err == nil {
		err = errors.Join(os.WriteFile("state", []byte("state"), 0o600), os.Symlink("/q", "link"))
	}
	var l net.Listener
	if err == nil {
		l, err = net.Listen("unix", value("--api-sock"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return 1
		}
		defer c.Close()
	}
}

// programs puts the jailer and Firecracker where the room looks for them.
func (r *room) programs() (binary, jailer string) {
	r.t.Helper()
	text, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		r.t.Fatal(err)
	}
	binary = r.server.o.Firecracker
	jailer = filepath.Join(filepath.Dir(binary), "jailer")
	if err := errors.Join(os.MkdirAll(filepath.Dir(binary), 0o755), os.WriteFile(binary, text, 0o755), os.WriteFile(jailer, text, 0o755)); err != nil {
		r.t.Fatal(err)
	}
	return binary, jailer
}

func jailNo(n int) verb.Jail {
	return verb.Jail{Program: "firecracker", Name: fmt.Sprint("a-", n), UID: base + n, GID: base + n}
}

func (r *room) jail(j verb.Jail) string { return filepath.Join(r.server.o.Jails, j.Program, j.Name) }

func (r *room) prepared(n int) verb.Jail {
	r.t.Helper()
	r.done(r.ask(verb.PrepareJail, verb.JailArgs{Jail: jailNo(n)}), "a jail")
	return jailNo(n)
}

func TestJailNames(t *testing.T) {
	r := newRoom(t)
	for what, change := range map[string]func(*verb.Jail){
		"root":               func(j *verb.Jail) { j.UID, j.GID = 0, 0 },
		"the caller":         func(j *verb.Jail) { j.UID, j.GID = served, served },
		"above the range":    func(j *verb.Jail) { j.UID, j.GID = base+count+1, base+count+1 },
		"another group":      func(j *verb.Jail) { j.GID = 0 },
		"..":                 func(j *verb.Jail) { j.Name = ".." },
		"a path":             func(j *verb.Jail) { j.Name = "a/../../x" },
		"no name":            func(j *verb.Jail) { j.Name = "" },
		"a path for program": func(j *verb.Jail) { j.Program = "../x" },
		".. for program":     func(j *verb.Jail) { j.Program = ".." },
	} {
		j := jailNo(1)
		change(&j)
		r.refused(r.ask(verb.PrepareJail, verb.JailArgs{Jail: j}), api.CodeDenied, "prepare: "+what)
		r.refused(r.ask(verb.RemoveJail, verb.JailArgs{Jail: j}), api.CodeDenied, "remove: "+what)
		r.refused(r.ask(verb.OpenJailed, verb.JailFileArgs{Jail: j, File: "state"}), api.CodeDenied, "open: "+what)
		r.refused(r.ask(verb.DeviceIntoJail, verb.JailDeviceArgs{Jail: j, File: "d0"}), api.CodeDenied, "device: "+what)
		r.refused(r.ask(verb.SpawnJailed, verb.JailedArgs{Jail: j}), api.CodeDenied, "spawn: "+what)
	}
	r.refused(r.ask(verb.PrepareJail, map[string]any{"Jail": map[string]any{"Base": r.state}}), api.CodeInvalid, "a place of the caller's")
	if _, err := os.Lstat(r.server.o.Jails); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was made: %v", err)
	}
	// A place that others can change is not used.
	r.server.o.Jails = r.path("jails")
	r.refused(r.ask(verb.PrepareJail, verb.JailArgs{Jail: jailNo(1)}), api.CodeDenied, "jails below the state directory")
}

func TestJailFiles(t *testing.T) {
	r := newRoom(t)
	j := r.prepared(1)
	open := func(path string, flag int) *os.File {
		f, err := os.OpenFile(path, flag, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	link := func(name, path string, flag int, own bool) answer {
		return r.ask(verb.LinkIntoJail, verb.JailFileArgs{Jail: j, File: name, Own: own}, open(path, flag))
	}
	mine := r.path(r.file("vms/a/v/log"))
	for _, name := range []string{"", ".", "..", "a/b", "../nodes/x", "/x", "dev", "old_root", "firecracker"} {
		r.refused(link(name, mine, os.O_RDWR, true), api.CodeDenied, fmt.Sprintf("the name %q", name))
		r.refused(r.ask(verb.RemoveJailed, verb.JailFileArgs{Jail: j, File: name}), api.CodeDenied, fmt.Sprintf("removal of %q", name))
	}
	roots, others, setuid, two, secret := r.path(r.file("vms/roots")), r.path(r.file("vms/others")), r.path(r.file("vms/setuid")), r.path(r.file("vms/two")), r.path(r.file("vms/secret"))
	r.own(roots, 0)
	r.own(secret, 0)
	r.own(others, other)
	err := errors.Join(os.Chmod(roots, 0o644), os.Chmod(others, 0o666), os.Chmod(setuid, 0o755|os.ModeSetuid), os.Link(two, two+"2"))
	if err != nil {
		t.Fatal(err)
	}
	r.refused(link("x", secret, os.O_RDONLY, false), api.CodeDenied, "a file of root's that is not for all")
	r.refused(link("x", roots, os.O_RDWR, true), api.CodeDenied, "a file of root's to write")
	r.refused(link("x", others, os.O_RDONLY, false), api.CodeDenied, "another user's file")
	r.refused(link("x", setuid, os.O_RDONLY, false), api.CodeDenied, "a set-id program")
	r.refused(link("x", two, os.O_RDWR, true), api.CodeDenied, "a file with two names to write")
	r.refused(link("x", mine, os.O_RDONLY, true), api.CodeDenied, "a file to write that is open for reading")
	r.refused(link("x", mine, os.O_RDONLY, false), api.CodeDenied, "a file that the VMM cannot read")
	r.refused(link("x", mine, unix.O_PATH, true), api.CodeDenied, "a mere name")
	r.refused(link("x", r.path("vms"), os.O_RDONLY, false), api.CodeDenied, "a directory")
	r.refused(link("x", "/dev/null", os.O_RDWR, true), api.CodeDenied, "a device")
	r.refused(r.ask(verb.LinkIntoJail, verb.JailFileArgs{Jail: j, File: "x"}), api.CodeDenied, "no file")
	if a := link("x", "/proc/self/maps", os.O_RDONLY, false); a.Error == nil {
		t.Error("a file of another file system")
	}
	r.done(link("kernel", roots, os.O_RDONLY, false), "a file for all")
	r.done(link("log", mine, os.O_RDWR, true), "a file to write")
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(r.jail(j), "root", "log"), &st); err != nil || st.Uid != served || int(st.Gid) != j.GID || st.Mode&0o777 != 0o660 {
		t.Errorf("the log: %+v, %v", st, err)
	}
	r.done(r.ask(verb.RemoveJailed, verb.JailFileArgs{Jail: j, File: "log"}), "removal")
	// What is not the VMM's is not read out of the jail, and not through a link.
	if err := errors.Join(os.WriteFile(filepath.Join(r.jail(j), "root", "mine"), nil, 0o600), os.Symlink("/etc/shadow", filepath.Join(r.jail(j), "root", "link"))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kernel", "mine", "link", "..", "../used"} {
		r.refused(r.ask(verb.OpenJailed, verb.JailFileArgs{Jail: j, File: name}), api.CodeDenied, "reading "+name)
	}
	r.refused(r.ask(verb.OpenJailed, verb.JailFileArgs{Jail: j, File: "none"}), api.CodeNotFound, "reading nothing")
	r.done(r.ask(verb.RemoveJail, verb.JailArgs{Jail: j}), "the jail's removal")
	r.done(r.ask(verb.RemoveJail, verb.JailArgs{Jail: j}), "again")
	if _, err := os.Lstat(r.jail(j)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the jail is left: %v", err)
	}
}

func TestJailDevices(t *testing.T) {
	r := newRoom(t)
	j := r.prepared(1)
	for _, d := range []host.Device{{}, {Major: 8}, {Major: 7}, {Major: 253, Minor: 250}, {Major: 1, Minor: 1}} {
		r.refused(r.ask(verb.DeviceIntoJail, verb.JailDeviceArgs{Jail: j, File: "d0", Device: d}), api.CodeDenied, fmt.Sprint("device ", d))
	}
	// One whose device has gone, its number passed to another since: nobody can open it any more, by any name.
	hj := host.Jail{Base: r.server.o.Jails, Program: j.Program, Name: j.Name, UID: j.UID, GID: j.GID}
	if err := r.server.host.DeviceIntoJail(hj, "d0", 7, 250, false); err != nil {
		t.Fatal(err)
	}
	node := filepath.Join(r.jail(j), "root", "d0")
	var st unix.Stat_t
	if err := unix.Lstat(node, &st); err != nil || st.Uid != 0 || int(st.Gid) != j.GID || st.Mode != unix.S_IFBLK|0o660 {
		t.Errorf("the node: %+v, %v", st, err)
	}
	moved := filepath.Join(r.jail(j), "root", "elsewhere")
	if err := errors.Join(os.Rename(node, moved), r.server.revokeNodes()); err != nil {
		t.Fatal(err)
	}
	if err := unix.Lstat(moved, &st); err != nil || st.Uid != 0 || st.Gid != 0 || st.Mode&0o777 != 0 {
		t.Errorf("the node, revoked: %+v, %v", st, err)
	}
	r.done(r.ask(verb.RemoveJail, verb.JailArgs{Jail: j}), "the jail's removal")
}

func TestJailSpawn(t *testing.T) {
	r := newRoom(t)
	binary, jail := r.programs()
	j := r.prepared(2)
	spawn := func(change func(*verb.JailedArgs)) answer {
		a := verb.JailedArgs{
			Jail: j, Jailer: jail, Binary: binary, Args: []string{"--api-sock", "/q", "--log-path", "/log", "--level", "Info"},
			MemoryBytes: 64 << 20, OOMScoreAdj: 500,
		}
		change(&a)
		return r.ask(verb.SpawnJailed, a)
	}
	for what, change := range map[string]func(*verb.JailedArgs){
		"another program":       func(a *verb.JailedArgs) { a.Binary = "/bin/sh" },
		"another jailer":        func(a *verb.JailedArgs) { a.Jailer = "/bin/sh" },
		"no limit of memory":    func(a *verb.JailedArgs) { a.MemoryBytes = 0 },
		"oom score":             func(a *verb.JailedArgs) { a.OOMScoreAdj = -1000 },
		"no seccomp":            func(a *verb.JailedArgs) { a.Args = append(a.Args, "--no-seccomp") },
		"another filter":        func(a *verb.JailedArgs) { a.Args = append(a.Args, "--seccomp-filter", "/x") },
		"a path":                func(a *verb.JailedArgs) { a.Args[1] = "/../q" },
		"a flag for a value":    func(a *verb.JailedArgs) { a.Args[1] = "--no-seccomp" },
		"a jail for another":    func(a *verb.JailedArgs) { a.Jail.Program = "sh" },
		"a missing descriptor":  func(a *verb.JailedArgs) { a.Stderr = true },
		"an argument without 2": func(a *verb.JailedArgs) { a.Args = []string{"--api-sock"} },
	} {
		r.refused(spawn(change), api.CodeDenied, what)
	}
	// Programs that others could change are not run.
	r.own(jail, served)
	r.refused(spawn(func(*verb.JailedArgs) {}), api.CodeDenied, "a jailer of the caller's")
	r.own(jail, 0)
	if err := os.Chmod(filepath.Dir(binary), 0o777); err != nil {
		t.Fatal(err)
	}
	r.refused(spawn(func(*verb.JailedArgs) {}), api.CodeDenied, "programs where all can write")
	if err := os.Chmod(filepath.Dir(binary), 0o755); err != nil {
		t.Fatal(err)
	}

	a := spawn(func(*verb.JailedArgs) {})
	r.done(a, "a VMM")
	var p host.Process
	if err := json.Unmarshal(a.Result, &p); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.server.host.Signal(p, syscall.SIGKILL) })
	if uid, err := r.server.host.Owner(p.PID); err != nil || uid != j.UID {
		t.Errorf("it runs under uid %d, %v", uid, err)
	}
	r.refused(spawn(func(*verb.JailedArgs) {}), api.CodeConflict, "a second one in its jail")
	r.refused(r.ask(verb.RemoveJail, verb.JailArgs{Jail: j}), api.CodeBusy, "removal of a jail with a VMM")
	r.refused(r.ask(verb.PrepareJail, verb.JailArgs{Jail: j}), api.CodeBusy, "a new jail over a VMM")
	in := func(j verb.Jail, p host.Process) (in bool) {
		_ = json.Unmarshal(r.ask(verb.InJail, verb.JailProcessArgs{Jail: j, Process: p}).Result, &in)
		return in
	}
	if !in(j, p) || in(jailNo(3), p) {
		t.Error("it is in another jail")
	}
	r.refused(r.ask(verb.InJail, verb.JailProcessArgs{Jail: j, Process: sleep(t, served)}), api.CodeDenied, "whether another's process is in a jail")
	dial := func(name string, p host.Process) answer {
		return r.ask(verb.DialJailed, verb.JailProcessArgs{Jail: j, File: name, Process: p})
	}
	if a := dial("q", p); a.Files != 1 {
		t.Errorf("its socket: %+v, %v", a, a.Error)
	}
	r.refused(dial("none", p), api.CodeNotReady, "a socket that is not there")
	for what, a := range map[string]answer{"a link": dial("link", p), "a file": dial("state", p), "another VMM's": dial("q", sleep(t, base+5))} {
		if a.Error == nil || a.Files != 0 {
			t.Errorf("%s: %+v", what, a)
		}
	}
	r.refused(dial("q", sleep(t, served)), api.CodeDenied, "the caller as a VMM")
	r.refused(dial("../q", p), api.CodeDenied, "a path to a socket")
	if a := r.ask(verb.OpenJailed, verb.JailFileArgs{Jail: j, File: "state"}); a.Files != 1 {
		t.Errorf("what it has written: %+v, %v", a, a.Error)
	}
	r.done(r.ask(verb.Signal, verb.SignalArgs{Process: p, Signal: int(syscall.SIGKILL)}), "its end")
	if err := r.server.host.Wait(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	r.done(r.ask(verb.RemoveJail, verb.JailArgs{Jail: j}), "the jail's removal")
}

func TestSetTapUp(t *testing.T) {
	r := newRoom(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "bgr-foreign"
	if err := netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(&netlink.Tuntap{LinkAttrs: attrs}) })
	for _, name := range []string{attrs.Name, "lo", "", "../lo"} {
		r.refused(r.ask(verb.SetTapUp, verb.LinkStateArgs{Name: name, Up: true}), api.CodeDenied, name)
	}
	r.refused(r.ask(verb.SetTapUp, verb.LinkStateArgs{Name: "bgr-none"}), api.CodeNotFound, "a tap that is not there")
	if a := r.ask(verb.OpenTap, host.Tap{Name: "bgr-bbbb", Bridge: "banger0", MTU: 1500, Owner: base + 1}); a.Files != 1 {
		t.Fatalf("a tap: %+v", a)
	}
	for _, up := range []bool{false, true} {
		r.done(r.ask(verb.SetTapUp, verb.LinkStateArgs{Name: "bgr-bbbb", Up: up}), "a tap")
		if i, err := net.InterfaceByName("bgr-bbbb"); err != nil || i.Flags&net.FlagUp != 0 != up {
			t.Errorf("%+v, %v, want up %t", i, err, up)
		}
	}
	r.done(r.ask(verb.DeleteLink, verb.LinkArgs{Name: "bgr-bbbb"}), "delete")
}

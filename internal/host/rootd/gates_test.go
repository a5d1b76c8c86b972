package rootd

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/host"
	"banger/internal/host/verb"
)

func threads(t *testing.T, pid int) []string {
	t.Helper()
	dirs, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no threads of %d: %v", pid, err)
	}
	return dirs
}

// field is a line of a status file of /proc.
func field(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	t.Fatalf("no %s in %s", name, dir)
	return ""
}

func TestGive(t *testing.T) {
	r := newRoom(t)
	give := func(path string) answer { return r.ask(verb.Give, verb.GiveArgs{Path: path, UID: base + 1}) }
	group := func(rel string) (gid uint32, mode os.FileMode) {
		fi, err := os.Lstat(r.path(rel))
		if err != nil {
			t.Fatal(err)
		}
		return fi.Sys().(*syscall.Stat_t).Gid, fi.Mode()
	}
	f := r.file("vms/a/v/root")
	if err := os.Chmod(r.path(f), 0o600|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		r.done(give(f), "a file")
		if gid, mode := group(f); gid != base+1 || mode != 0o660 {
			t.Errorf("gid %d, mode %s", gid, mode)
		}
	}
	r.done(give("vms/a/v"), "a directory")

	// What must not be, each with a file that could be given otherwise.
	outside := filepath.Join(filepath.Dir(r.state), "secret")
	if err := os.WriteFile(outside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r.own(outside, served)
	for link, to := range map[string]string{"vms/a/v/link": "root", "vms/a/out": "/tmp", "vms/l": "a", "vms/a/abs": outside} {
		if err := os.Symlink(to, r.path(link)); err != nil {
			t.Fatal(err)
		}
	}
	two := r.file("vms/a/v/two")
	if err := os.Link(r.path(two), r.path(two+"2")); err != nil {
		t.Fatal(err)
	}
	foreign := r.file("vms/a/v/foreign")
	r.own(r.path(foreign), 0)
	group0 := r.file("vms/a/v/group")
	if err := os.Lchown(r.path(group0), served, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(r.path("vms/a/v/fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.own(r.path("vms/a/v/fifo"), served)
	r.file("vms/top")
	r.file("banger.db")
	for what, path := range map[string]string{
		"..": "vms/../vms/a/v/root", ".. out": "vms/../../secret", "a link": "vms/a/v/link", "a link in between": "vms/l/v/root",
		"a link out": "vms/a/abs", "absolute": r.path(f), "a file of no VM": "banger.db", "a file with two names": two, "a file of root's": foreign,
		"a file of another group": group0, "a FIFO": "vms/a/v/fifo", "empty": "", "a dot": "vms/./top", "nothing": "vms/a/v/none",
		"magic": "vms/a/v/root/../../../../../proc/self/root",
	} {
		r.refused(give(path), api.CodeDenied, what)
	}
	if fi, err := os.Stat(outside); err != nil || fi.Sys().(*syscall.Stat_t).Gid != served {
		t.Errorf("a file outside was given: %v, %v", fi, err)
	}
	for _, uid := range []int{0, served, base - 1, base + count + 1} {
		r.refused(r.ask(verb.Give, verb.GiveArgs{Path: f, UID: uid}), api.CodeDenied, fmt.Sprint("to uid ", uid))
	}
}

// sleep is a process under a uid that ends with the test.
func sleep(t *testing.T, uid int) host.Process {
	t.Helper()
	cmd := exec.Command("sleep", "100")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid), Groups: []uint32{}}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	p, ok := New(Options{}).host.Identify(cmd.Process.Pid)
	if !ok {
		t.Fatal("it has ended")
	}
	return p
}

func TestProcesses(t *testing.T) {
	r := newRoom(t)
	for what, p := range map[string]host.Process{
		"root's": sleep(t, 0), "the caller's": sleep(t, served), "another user's": sleep(t, other), "init": {PID: 1, StartTime: 1},
		"below the range": sleep(t, base-1), "above it": sleep(t, base+count+1),
	} {
		r.refused(r.ask(verb.Signal, verb.SignalArgs{Process: p, Signal: int(syscall.SIGKILL)}), api.CodeDenied, "signal to "+what)
		r.refused(r.ask(verb.OpenMemory, verb.ProcessArgs{Process: p}), api.CodeDenied, "memory of "+what)
		r.refused(r.ask(verb.SetOOMScore, verb.OOMArgs{Process: p, Adj: 1000}), api.CodeDenied, "oom score of "+what)
		r.refused(r.ask(verb.OpenedAs, verb.OpenedArgs{Process: p}), api.CodeDenied, "files of "+what)
		if p.PID != 1 && !r.server.host.Alive(p) {
			t.Errorf("%s process is dead", what)
		}
	}
	p := sleep(t, base+2)
	if a := r.ask(verb.OpenMemory, verb.ProcessArgs{Process: p}); a.Files != 3 {
		t.Errorf("memory of a VMM: %+v", a)
	}
	r.done(r.ask(verb.SetOOMScore, verb.OOMArgs{Process: p, Adj: 500}), "oom score of a VMM")
	r.refused(r.ask(verb.SetOOMScore, verb.OOMArgs{Process: p, Adj: -1}), api.CodeDenied, "a VMM that is never killed")
	r.refused(r.ask(verb.Signal, verb.SignalArgs{Process: p, Signal: int(syscall.SIGUSR1)}), api.CodeDenied, "another signal")
	r.done(r.ask(verb.Signal, verb.SignalArgs{Process: host.Process{PID: p.PID, StartTime: p.StartTime + 1}, Signal: int(syscall.SIGKILL)}), "a pid that was used again")
	if !r.server.host.Alive(p) {
		t.Error("a pid that was used again was killed")
	}
	r.done(r.ask(verb.Signal, verb.SignalArgs{Process: p, Signal: int(syscall.SIGKILL)}), "signal to a VMM")
	if r.server.host.Alive(p) { // its signal is there before the call returns
		_ = r.server.host.Wait(t.Context(), p)
	}
}

func TestSpawn(t *testing.T) {
	r := newRoom(t)
	spawn := func(change func(*verb.SpawnArgs)) answer {
		a := verb.SpawnArgs{Path: "/bin/sleep", Args: []string{"100"}, UID: base + 3, GID: base + 3}
		change(&a)
		return r.ask(verb.Spawn, a)
	}
	for what, change := range map[string]func(*verb.SpawnArgs){
		"root":                   func(a *verb.SpawnArgs) { a.UID, a.GID = 0, 0 },
		"the caller":             func(a *verb.SpawnArgs) { a.UID, a.GID = served, served },
		"another group":          func(a *verb.SpawnArgs) { a.GID = base + 4 },
		"group root":             func(a *verb.SpawnArgs) { a.GID = 0 },
		"beyond the range":       func(a *verb.SpawnArgs) { a.UID, a.GID = base+count+1, base+count+1 },
		"negative":               func(a *verb.SpawnArgs) { a.UID, a.GID = -1, -1 },
		"groups":                 func(a *verb.SpawnArgs) { a.Groups = []int{6} },
		"group 0":                func(a *verb.SpawnArgs) { a.Groups = []int{0} },
		"a name to be looked up": func(a *verb.SpawnArgs) { a.Path = "sleep" },
		"oom score":              func(a *verb.SpawnArgs) { a.OOMScoreAdj = -1000 },
		"no log":                 func(a *verb.SpawnArgs) { a.Log = true },
	} {
		r.refused(spawn(change), api.CodeDenied, what)
	}
	a := spawn(func(*verb.SpawnArgs) {})
	r.done(a, "a VMM")
	var p host.Process
	if err := json.Unmarshal(a.Result, &p); err != nil {
		t.Fatal(err)
	}
	dir := fmt.Sprintf("/proc/%d", p.PID)
	if ids := strings.Fields(field(t, dir, "Uid") + " " + field(t, dir, "Gid")); len(ids) != 8 {
		t.Error(ids)
	} else {
		for _, id := range ids {
			if id != fmt.Sprint(base+3) {
				t.Errorf("it runs under %v", ids)
			}
		}
	}
	if g := field(t, dir, "Groups"); g != "" {
		t.Errorf("it is in groups %s", g)
	}
	r.done(r.ask(verb.Signal, verb.SignalArgs{Process: p, Signal: int(syscall.SIGTERM)}), "its end")
	if err := r.server.host.Wait(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	var end verb.ExitReply
	if err := json.Unmarshal(r.ask(verb.ExitStatus, verb.ProcessArgs{Process: p}).Result, &end); err != nil || !end.Ended || syscall.WaitStatus(end.Status).Signal() != syscall.SIGTERM {
		t.Errorf("%+v, %v", end, err)
	}
}

func TestTaps(t *testing.T) {
	r := newRoom(t)
	tap := func(change func(*host.Tap)) answer {
		a := host.Tap{Name: "bgr-aaaa", Bridge: "banger0", MTU: 1500, Owner: base + 1}
		change(&a)
		return r.ask(verb.OpenTap, a)
	}
	// A device with a name like ours that is not.
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "bgr-foreign"
	if err := netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(&netlink.Tuntap{LinkAttrs: attrs}) })
	for what, change := range map[string]func(*host.Tap){
		"another name":         func(a *host.Tap) { a.Name = "eth0" },
		"a name for nft":       func(a *host.Tap) { a.Name = `bgr-" }` },
		"a device of others":   func(a *host.Tap) { a.Name = attrs.Name },
		"another bridge":       func(a *host.Tap) { a.Bridge = "docker0" },
		"an owner":             func(a *host.Tap) { a.Owner = other },
		"a strange MTU":        func(a *host.Tap) { a.MTU = 1 },
		"a name that is empty": func(a *host.Tap) { a.Name = "" },
	} {
		r.refused(tap(change), api.CodeDenied, what)
	}
	if a := tap(func(*host.Tap) {}); a.Files != 1 {
		t.Errorf("a tap: %+v", a)
	}
	mac, _ := net.ParseMAC("02:00:00:00:00:01")
	group, _ := net.ParseMAC("03:00:00:00:00:01")
	r.refused(r.ask(verb.JoinBridge, host.Port{Link: attrs.Name, Bridge: "banger0", MAC: mac}), api.CodeDenied, "another's tap into the bridge")
	r.refused(r.ask(verb.JoinBridge, host.Port{Link: "lo", Bridge: "banger0", MAC: mac}), api.CodeDenied, "lo into the bridge")
	r.refused(r.ask(verb.JoinBridge, host.Port{Link: "bgr-aaaa", Bridge: "docker0", MAC: mac}), api.CodeDenied, "a tap into another bridge")
	r.refused(r.ask(verb.JoinBridge, host.Port{Link: "bgr-aaaa", Bridge: "banger0", MAC: group}), api.CodeDenied, "a group's MAC")
	for _, name := range []string{attrs.Name, "lo", "docker0", "../lo", ""} {
		r.refused(r.ask(verb.DeleteLink, verb.LinkArgs{Name: name}), api.CodeDenied, "delete of "+name)
	}
	if _, err := net.InterfaceByName(attrs.Name); err != nil {
		t.Error(err)
	}
	r.done(r.ask(verb.EnsureBridge, host.Bridge{Name: "banger0", Address: netip.MustParsePrefix("10.213.0.1/16"), MTU: 1500}), "the bridge")
	r.done(r.ask(verb.JoinBridge, host.Port{Link: "bgr-aaaa", Bridge: "banger0", MAC: mac}), "a tap into the bridge")
	for range 2 {
		r.done(r.ask(verb.DeleteLink, verb.LinkArgs{Name: "bgr-aaaa"}), "delete of a tap")
	}
	if _, err := net.InterfaceByName("bgr-aaaa"); err == nil {
		t.Error("the tap is still there")
	}
	r.done(r.ask(verb.DeleteLink, verb.LinkArgs{Name: "banger0"}), "delete of the bridge")
}

func TestNetwork(t *testing.T) {
	r := newRoom(t)
	// A network that the host is in already.
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "up0"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "down0"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(&netlink.Veth{LinkAttrs: attrs}) })
	link, err := netlink.LinkByName("up0")
	if err != nil {
		t.Fatal(err)
	}
	address, _ := netlink.ParseAddr("10.1.2.3/24")
	if err := netlink.AddrAdd(link, address); err != nil {
		t.Fatal(err)
	}
	peer, err := netlink.LinkByName("down0")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(netlink.LinkSetUp(link), netlink.LinkSetUp(peer)); err != nil {
		t.Fatal(err)
	}
	for _, b := range []host.Bridge{
		{Name: "br0", Address: netip.MustParsePrefix("10.213.0.1/16"), MTU: 1500},
		{Name: "banger0", Address: netip.MustParsePrefix("10.213.0.2/16"), MTU: 1500},
		{Name: "banger0", Address: netip.MustParsePrefix("8.8.8.1/24"), MTU: 1500},
		{Name: "banger0", Address: netip.MustParsePrefix("0.0.0.1/0"), MTU: 1500},
		{Name: "banger0", Address: netip.MustParsePrefix("10.1.0.1/16"), MTU: 1500},
		{Name: "banger0", Address: netip.MustParsePrefix("10.213.0.1/16"), MTU: 1},
		{Name: "banger0", Address: netip.MustParsePrefix("fd00::1/64"), MTU: 1500},
		{Name: "banger0"},
	} {
		r.refused(r.ask(verb.EnsureBridge, b), api.CodeDenied, fmt.Sprint("bridge ", b))
	}
	r.done(r.ask(verb.EnsureBridge, host.Bridge{Name: "banger0", Address: netip.MustParsePrefix("10.213.0.1/16"), MTU: 1500}), "the bridge")

	subnet := netip.MustParsePrefix("10.213.0.0/16")
	mac, _ := net.ParseMAC("02:00:00:00:00:01")
	rules := func(change func(*host.Rules)) answer {
		a := host.Rules{
			Bridge: "banger0", Subnet: subnet, DNS: netip.MustParseAddrPort("10.213.0.1:53"),
			Guests: []host.Pin{{Tap: "bgr-aaaa", MAC: mac, IP: netip.MustParseAddr("10.213.0.2")}},
		}
		change(&a)
		return r.ask(verb.ApplyRules, a)
	}
	for what, change := range map[string]func(*host.Rules){
		"of another bridge":   func(a *host.Rules) { a.Bridge = "br0" },
		"removed, of another": func(a *host.Rules) { *a = host.Rules{Bridge: `x" ; flush ruleset`, Remove: true} },
		"a tap for nft":       func(a *host.Rules) { a.Guests[0].Tap = "x\" accept #" },
		"no MAC":              func(a *host.Rules) { a.Guests[0].MAC = nil },
		"another's address":   func(a *host.Rules) { a.Guests[0].IP = netip.MustParseAddr("10.1.2.3") },
		"the bridge's":        func(a *host.Rules) { a.Guests[0].IP = netip.MustParseAddr("10.213.0.1") },
		"another subnet":      func(a *host.Rules) { a.Subnet = netip.MustParsePrefix("1.0.0.0/8") },
		"no subnet":           func(a *host.Rules) { a.Subnet = netip.Prefix{} },
		"names elsewhere":     func(a *host.Rules) { a.DNS = netip.MustParseAddrPort("10.1.2.3:22") },
	} {
		r.refused(rules(change), api.CodeDenied, "rules: "+what)
	}
	r.refused(r.ask(verb.ApplyRules, map[string]any{"Bridge": "banger0", "Text": "flush ruleset"}), api.CodeInvalid, "rules as text")
	r.done(rules(func(*host.Rules) {}), "rules")
	if a := r.ask(verb.ListRules, nil); a.Files != 1 {
		t.Errorf("the list of rules: %+v", a)
	}
	r.done(r.ask(verb.ApplyRules, host.Rules{Bridge: "banger0", Remove: true}), "no rules")

	for _, a := range []verb.SysctlArgs{
		{Name: "kernel/core_pattern", Value: "|/tmp/x"}, {Name: "net/ipv4/../../kernel/core_pattern", Value: "1"},
		{Name: "net/ipv4/ip_forward", Value: "2"}, {Name: "net/ipv4/conf/all/route_localnet", Value: "1"},
	} {
		r.refused(r.ask(verb.SetSysctl, a), api.CodeDenied, a.Name)
	}
	r.done(r.ask(verb.SetSysctl, verb.SysctlArgs{Name: "net/ipv4/ip_forward", Value: "1"}), "ip_forward")

	for _, address := range []string{"10.213.0.1:22", "0.0.0.0:53", "10.1.2.3:53", "127.0.0.1:53"} {
		r.refused(r.ask(verb.Listen, verb.ListenArgs{Network: "tcp4", Address: netip.MustParseAddrPort(address)}), api.CodeDenied, "listen at "+address)
	}
	for _, network := range []string{"udp4", "tcp4"} {
		if a := r.ask(verb.Listen, verb.ListenArgs{Network: network, Address: netip.MustParseAddrPort("10.213.0.1:53")}); a.Files != 1 {
			t.Errorf("listen %s: %+v, %v", network, a, a.Error)
		}
	}
	r.refused(r.ask(verb.Listen, verb.ListenArgs{Network: "unix", Address: netip.MustParseAddrPort("10.213.0.1:53")}), api.CodeDenied, "another network")
	r.refused(r.ask(verb.RouteNames, verb.NamesArgs{Link: "banger0", Server: "10.213.0.1", Domain: "."}), api.CodeDenied, "all names")
	r.refused(r.ask(verb.RouteNames, verb.NamesArgs{Link: "eth0", Server: "10.213.0.1", Domain: "vm"}), api.CodeDenied, "names of another link")
	r.refused(r.ask(verb.RouteNames, verb.NamesArgs{Link: "banger0", Server: "1.1.1.1", Domain: "vm"}), api.CodeDenied, "names of another server")
	r.done(r.ask(verb.DeleteLink, verb.LinkArgs{Name: "banger0"}), "delete of the bridge")
}

// Without device-mapper, too: what is refused never comes to it.
func TestBlocks(t *testing.T) {
	r := newRoom(t)
	for _, name := range []string{"", "x", "dm-0", "banger-A", "banger-a/../b", "banger-a b", "banger-" + strings.Repeat("a", 200)} {
		for _, v := range []verb.Verb{verb.CreateMapped, verb.ClearMapped, verb.SuspendMapped, verb.ResumeMapped, verb.RemoveMapped, verb.Mapped} {
			r.refused(r.ask(v, verb.MapArgs{Name: name}), api.CodeInvalid, fmt.Sprintf("%s %q", v, name))
		}
	}
	r.refused(r.ask(verb.MappedNames, verb.MapArgs{Name: "crypt"}), api.CodeInvalid, "a list of others")
	r.refused(r.ask(verb.LoadMapped, verb.MapTableArgs{Name: "banger-a"}), api.CodeDenied, "a table of nothing")
	r.refused(r.ask(verb.LoadMapped, verb.MapTableArgs{Name: "banger-a", Table: make([]host.MapTarget, 17)}), api.CodeDenied, "a long table")
	disk := host.MapTarget{Kind: host.MapLinear, Sectors: 8, Origin: host.Device{Major: 8}}
	if a := r.ask(verb.LoadMapped, verb.MapTableArgs{Name: "banger-a", Table: []host.MapTarget{disk}}); a.Error == nil {
		t.Error("a table over the host's disk")
	}
	r.refused(r.ask(verb.OpenLoop, verb.LoopArgs{}), api.CodeDenied, "a loop device of nothing")
	r.refused(r.ask(verb.ResizeLoop, verb.LoopSizeArgs{Device: host.Device{Major: 8}}), api.CodeInvalid, "the host's disk as a loop device")
	r.refused(r.ask(verb.LoopFile, verb.DeviceArgs{Device: host.Device{Major: 8}}), api.CodeInvalid, "the host's disk as a loop device")
}

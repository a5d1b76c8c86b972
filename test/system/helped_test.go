package system

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"banger/api"
)

// units are those of a daemon beside bangerd-root.
func units() []string {
	return []string{"bangerd-root.service", "bangerd.service", "bangerd-vms.service"}
}

// installHelped is what people do: sudo banger system install.
func installHelped(t *testing.T) {
	dev.configure(t, "")
	root.configure(t, fmt.Sprintf("on_host_shutdown = \"stop\"\nhost_shutdown_timeout = %q\n", shutdownTime.String())) // of the daemon that is root, which comes later
	keep(t, "before helped", look(t))
	r := dev.run(t, "sudo", "/lab/bin/banger", "system", "install")
	if r.code != 0 {
		t.Fatalf("system install: %v", r)
	}
	// Nobody has waited for anything: the unit is active, so the socket answers.
	answers(t, dev)
	checkStatus(t, "helped", "dev", "for dev, with bangerd-root", units())
	r = dev.run(t, dev.banger, "daemon", "status")
	if r.code != 0 || !strings.Contains(r.stdout, "bangerd.service") || !strings.Contains(r.stdout, "bangerd-root") {
		t.Errorf("daemon status does not tell what the daemon runs under: %v", r)
	}
	// The same again repairs, and changes nothing.
	if r := dev.run(t, "sudo", "/lab/bin/banger", "system", "install"); r.code != 0 {
		t.Fatalf("system install again: %v", r)
	}
	answers(t, dev)
	checkStatus(t, "helped", "dev", "for dev, with bangerd-root", units())
}

// answers: the socket does, at the first try and without banger's own client, which would wait.
func answers(t *testing.T, a account) {
	t.Helper()
	socket := "/run/banger/bangerd.sock"
	if a.name == "own" {
		socket = runtimeDir(a) + "/banger/bangerd.sock"
	}
	if r := a.run(t, "curl", "--silent", "--show-error", "--fail", "--unix-socket", socket, "http://banger/v1/vms"); r.code != 0 || !strings.HasPrefix(r.stdout, "[") {
		t.Errorf("the unit is active, and its socket does not answer: %v", r)
	}
}

// checkStatus is `system status`, in both of its forms.
func checkStatus(t *testing.T, kind, user, words string, units []string, flags ...string) {
	t.Helper()
	a := dev
	if kind == "user" {
		a = own(t)
	}
	r := a.run(t, append([]string{a.banger, "system", "status"}, flags...)...)
	if r.code != 0 || !strings.Contains(r.stdout, words) {
		t.Errorf("system status: %v", r)
	}
	r = a.run(t, append([]string{a.banger, "system", "status", "--json"}, flags...)...)
	var s struct {
		Kind, User string
		Units      []struct{ Name, Active, Enabled string }
	}
	if err := json.Unmarshal([]byte(r.stdout), &s); err != nil || r.code != 0 {
		t.Fatalf("system status --json: %v: %v", err, r)
	}
	same(t, "kind", s.Kind, kind)
	same(t, "user", s.User, user)
	var names []string
	for _, u := range s.Units {
		names = append(names, u.Name)
		same(t, u.Name, u.Active+", "+u.Enabled, "active, enabled")
	}
	same(t, "units", strings.Join(names, " "), strings.Join(units, " "))
}

// startHelped starts one VM for each that is to be seen after the reboot.
func startHelped(t *testing.T) {
	root.must(t, "systemctl", "stop", "bangerd.service")
	dev.giveImages(t, systemState)
	root.must(t, "systemctl", "start", "bangerd.service")
	answers(t, dev)
	traces := map[string]trace{}
	for _, vm := range []struct{ name, flag string }{{"starts", "--autostart"}, {"runs", "--autostart=false"}, {"sleeps", "--autostart=false"}} {
		dev.bangerMust(t, "run", "-d", "--name", vm.name, vm.flag)
		v := dev.show(t, vm.name)
		same(t, vm.name+": network", v.Spec.Net, api.NetBridge)
		same(t, vm.name+": acceleration", v.Runtime.Accel, accel())
		traces[vm.name] = dev.mark(t, vm.name)
	}
	dev.bangerMust(t, "suspend", "sleeps")
	keep(t, "traces", traces)
}

// restartHelped: VMs notice nothing of the units' restarts.
func restartHelped(t *testing.T) {
	want := dev.trace(t, "runs")
	for _, which := range [][]string{units()[1:2], units()[:1], units()[:2]} {
		t.Run(strings.Join(which, " and "), func(t *testing.T) {
			before := mainPID(t, which[0])
			root.must(t, append([]string{"systemctl", "restart"}, which...)...)
			answers(t, dev)
			if after := mainPID(t, which[0]); after == before || after == "0" {
				t.Errorf("%s was process %s and is %s: it was not restarted", which[0], before, after)
			}
			same(t, "the VM", dev.trace(t, "runs"), want)
			same(t, "autostart", dev.show(t, "sleeps").State, api.StateSuspended)
		})
	}
}

func mainPID(t *testing.T, unit string) string {
	t.Helper()
	return root.must(t, "systemctl", "show", "--property", "MainPID", "--value", unit)
}

// killRoot: without its helper the daemon and its VMs go on, and systemd brings the helper back.
func killRoot(t *testing.T) {
	want := dev.trace(t, "runs")
	before := mainPID(t, "bangerd-root.service")
	root.must(t, "kill", "-9", before)
	same(t, "the VM", dev.trace(t, "runs"), want)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if pid := mainPID(t, "bangerd-root.service"); pid != before && pid != "0" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("systemd does not start bangerd-root again")
		}
	}
	// What takes root: a new tap, a uid, a process.
	same(t, "a new VM", dev.bangerMust(t, "run", "--rm", "--", "echo", "here"), "here")
	same(t, "the VM", dev.trace(t, "runs"), want)
}

// afterShutdown looks at what the host's going down has done, by the daemon's log and the witness.
func afterShutdown(t *testing.T) {
	checkShutdown(t, "vm.suspend", 2)
	for _, vm := range []string{"runs", "sleeps"} {
		v := dev.show(t, vm)
		same(t, vm, v.State, api.StateSuspended)
	}
}

// afterBoot: who is to start has done so without being asked, the others wait; all go on from where they were.
func afterBoot(t *testing.T) {
	root.must(t, "systemctl", "start", "bangerd-vms.service") // returns when it is active: the units of this boot may still be starting
	answers(t, dev)
	dev.started(t, "starts")
	checkStatus(t, "helped", "dev", "for dev, with bangerd-root", units())
	traces := kept[map[string]trace](t, "traces")
	same(t, "starts", dev.show(t, "starts").State, api.StateRunning)
	sameGuest(t, "starts", dev.trace(t, "starts"), traces["starts"])
	for _, vm := range []string{"runs", "sleeps"} {
		t.Run(vm, func(t *testing.T) {
			same(t, vm, dev.show(t, vm).State, api.StateSuspended)
			begin := time.Now()
			dev.bangerMust(t, "start", vm)
			t.Logf("started in %.1f s", time.Since(begin).Seconds())
			sameGuest(t, vm, dev.trace(t, vm), traces[vm])
			same(t, "its disk", dev.guest(t, vm, "cat /root/kept"), "kept")
		})
	}
}

// uninstallHelped leaves the machines, and says so; then those go too. VMs run meanwhile.
func uninstallHelped(t *testing.T) {
	before := kept[listing](t, "before helped")
	r := dev.run(t, "sudo", dev.banger, "system", "uninstall")
	if r.code != 0 {
		t.Fatalf("system uninstall: %v", r)
	}
	if !strings.Contains(r.stderr, systemState) || !strings.Contains(r.stderr, "--purge") {
		t.Errorf("system uninstall does not say that it keeps the machines: %v", r)
	}
	if !strings.Contains(r.stderr, "/home/dev/.local/state/banger/ssh") {
		t.Errorf("system uninstall does not say that it keeps the key: %v", r)
	}
	checkNothing(t, "uninstall", differences(before.Names(), look(t).without(systemState).Names()))
	if !exists(systemState + "/banger.db") {
		t.Error("the machines are not kept")
	}
	r = dev.run(t, "sudo", "/lab/bin/banger", "system", "uninstall", "--purge")
	if r.code != 0 {
		t.Fatalf("system uninstall --purge: %v", r)
	}
	after := look(t)
	checkNothing(t, "uninstall --purge", differences(before, after))
	keep(t, "before root", after)
	if r := dev.run(t, "/lab/bin/banger", "system", "status"); r.code != 1 || !strings.Contains(r.stdout, "no; sudo banger system install") {
		t.Errorf("system status of nothing: %v", r)
	}
	if _, err := os.Stat("/usr/local/bin/banger"); err == nil {
		t.Error("the program is still there")
	}
}

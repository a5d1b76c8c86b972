package system

import (
	"fmt"
	"strings"
	"testing"

	"banger/api"
)

func runtimeDir(a account) string { return fmt.Sprintf("/run/user/%d", a.uid) }

// userUnits are those of a user's own systemd.
func userUnits() []string { return []string{"bangerd.service", "bangerd-vms.service"} }

// installUser needs no root, but for what every user of such a host is given: a place in the group of /dev/kvm, and lingering.
func installUser(t *testing.T) {
	u := own(t)
	u.configure(t, "")
	keep(t, "before user", files(t, userHome))
	root.must(t, "loginctl", "enable-linger", "own")
	root.must(t, "systemctl", "start", fmt.Sprintf("user@%d.service", u.uid)) // is about to be started; this waits for it
	r := u.run(t, u.banger, "system", "install", "--user-units")
	if r.code != 0 {
		t.Fatalf("system install --user-units: %v", r)
	}
	if strings.Contains(r.stderr, "enable-linger") {
		t.Errorf("it asks for the lingering that is there: %v", r)
	}
	answers(t, u)
	checkStatus(t, "user", "", "your own systemd", userUnits(), "--user-units")
	u.must(t, "systemctl", "--user", "stop", "bangerd.service")
	u.giveImages(t, userHome+"/.local/state/banger")
	u.must(t, "systemctl", "--user", "start", "bangerd.service")
	answers(t, u)
	traces := map[string]trace{}
	for _, vm := range []struct{ name, flag string }{{"mine", "--autostart"}, {"rests", "--autostart=false"}} {
		u.bangerMust(t, "run", "-d", "--name", vm.name, vm.flag)
		same(t, vm.name+": acceleration", u.show(t, vm.name).Runtime.Accel, accel())
		traces[vm.name] = u.mark(t, vm.name)
	}
	u.must(t, "systemctl", "--user", "restart", "bangerd.service")
	answers(t, u)
	same(t, "the VM", u.trace(t, "mine"), traces["mine"])
	keep(t, "user traces", traces)
}

// afterUserBoot: nobody has logged in.
func afterUserBoot(t *testing.T) {
	u := own(t)
	root.must(t, "systemctl", "start", fmt.Sprintf("user@%d.service", u.uid))
	u.must(t, "systemctl", "--user", "start", "bangerd-vms.service")
	answers(t, u)
	u.started(t, "mine")
	checkStatus(t, "user", "", "your own systemd", userUnits(), "--user-units")
	traces := kept[map[string]trace](t, "user traces")
	same(t, "mine", u.show(t, "mine").State, api.StateRunning)
	sameGuest(t, "mine", u.trace(t, "mine"), traces["mine"])
	same(t, "rests", u.show(t, "rests").State, api.StateSuspended)
	u.bangerMust(t, "start", "rests")
	sameGuest(t, "rests", u.trace(t, "rests"), traces["rests"])
}

// uninstallUser keeps the machines of a user, whose directory is their own, and says so.
func uninstallUser(t *testing.T) {
	u := own(t)
	r := u.run(t, u.banger, "system", "uninstall", "--user-units")
	if r.code != 0 {
		t.Fatalf("system uninstall --user-units: %v", r)
	}
	const state = userHome + "/.local/state/banger"
	if !strings.Contains(r.stderr, state) {
		t.Errorf("system uninstall does not say that it keeps the machines: %v", r)
	}
	before := listing{Files: kept[map[string]string](t, "before user")}
	now := listing{Files: files(t, userHome)}.without(state, userHome+"/.local")
	checkNothing(t, "uninstall of user units", differences(before.Names(), now.Names()))
	checkNothing(t, "uninstall of user units", processesOf(t, u))
	if r := u.run(t, u.banger, "system", "status", "--user-units"); r.code != 1 {
		t.Errorf("system status of nothing: %v", r)
	}
	if r := u.run(t, u.banger, "system", "uninstall", "--user-units", "--purge"); r.code != 0 {
		t.Fatalf("system uninstall --user-units --purge: %v", r)
	}
	now = listing{Files: files(t, userHome)}.without(state+"/ssh", userHome+"/.local")
	checkNothing(t, "uninstall --purge of user units", differences(before.Names(), now.Names()))
	if left := root.must(t, "ls", "-A", state); left != "ssh" {
		t.Errorf("in %s is still %s", state, left)
	}
}

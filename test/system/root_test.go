package system

import (
	"strings"
	"testing"

	"banger/api"
)

func rootUnits() []string { return []string{"bangerd.service", "bangerd-vms.service"} }

// installRoot: the daemon is root; VMs stop with the host.
func installRoot(t *testing.T) {
	root.must(t, "/lab/bin/banger", "system", "install", "--root")
	answers(t, root)
	checkStatus(t, "root", "", "for root", rootUnits())
	root.must(t, "systemctl", "stop", "bangerd.service")
	root.giveImages(t, systemState)
	root.must(t, "systemctl", "start", "bangerd.service")
	answers(t, root)
	traces := map[string]trace{}
	for _, vm := range []struct{ name, flag string }{{"starts", "--autostart"}, {"runs", "--autostart=false"}} {
		root.bangerMust(t, "run", "-d", "--name", vm.name, vm.flag)
		traces[vm.name] = root.mark(t, vm.name)
	}
	keep(t, "root traces", traces)
	root.must(t, "systemctl", "restart", "bangerd.service")
	answers(t, root)
	same(t, "the VM", root.trace(t, "runs"), traces["runs"])
	// One that does nothing any more, and so cannot be asked to stop: the host does not wait for it for ever, nor do the others.
	root.bangerMust(t, "run", "-d", "--name", "hangs")
	pid, _, _ := strings.Cut(root.vmm(t, "hangs"), "/")
	root.must(t, "kill", "-STOP", pid)
}

// afterRootShutdown: they were stopped by asking, so what they had written is there, and begin anew.
func afterRootShutdown(t *testing.T) {
	root.must(t, "systemctl", "start", "bangerd-vms.service")
	root.started(t, "starts")
	checkShutdown(t, "vm.stop", 3)
	checkStatus(t, "root", "", "for root", rootUnits())
	traces := kept[map[string]trace](t, "root traces")
	same(t, "starts", root.show(t, "starts").State, api.StateRunning)
	same(t, "runs", root.show(t, "runs").State, api.StateStopped)
	same(t, "hangs", root.show(t, "hangs").State, api.StateStopped)
	now := root.trace(t, "starts")
	if now.Boot == traces["starts"].Boot || now.Memory != "" {
		t.Errorf("it was to be stopped with the host and has gone on: %v", now)
	}
	same(t, "its disk", root.guest(t, "starts", "cat /root/kept"), "kept")
}

// uninstallRoot takes everything at once, with a VM that runs.
func uninstallRoot(t *testing.T) {
	before := kept[listing](t, "before root")
	r := root.run(t, root.banger, "system", "uninstall", "--purge")
	if r.code != 0 {
		t.Fatalf("system uninstall --purge: %v", r)
	}
	if strings.Contains(r.stderr, "are kept") {
		t.Errorf("it says that something is kept: %v", r)
	}
	const keys = "/root/.local/state/banger/ssh"
	if !strings.Contains(r.stderr, keys) {
		t.Errorf("it does not say that the key is kept: %v", r)
	}
	after := look(t).without("/root/.local")
	checkNothing(t, "uninstall --purge", differences(before, after))
}

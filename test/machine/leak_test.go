package machine

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"banger/api"
)

// checkNothingOfVMs looks for what a deleted VM may have left: files, taps, rules, loops, VMMs.
func (b *box) checkNothingOfVMs() {
	b.t.Helper()
	if left, _ := filepath.Glob(filepath.Join(b.state(), "vms", "*")); len(left) > 0 {
		b.t.Errorf("VM directories are left: %v", left)
	}
	for _, name := range b.net.links() {
		if name != "lo" && name != "up0" && name != "banger0" {
			b.t.Errorf("network device %s is left", name)
		}
	}
	for _, pid := range b.net.processes() {
		if line := commandLine(pid); isVMM(line) || strings.Contains(line, "passt") {
			b.t.Errorf("process %d is left: %s", pid, line)
		}
	}
	if out, err := exec.Command("losetup", "-a").Output(); err == nil && strings.Contains(string(out), b.state()+"/") {
		b.t.Errorf("loop devices are left: %s", out)
	}
}

// checkGone looks for all that one VM had, by its names.
func (b *box) checkGone(vm api.VM) {
	b.t.Helper()
	if _, err := os.Stat(b.vmDir(vm)); err == nil {
		b.t.Errorf("the directory of VM %s is left", vm.Name)
	}
	if b.uid == 0 {
		rules := b.net.output("nft", "list", "ruleset")
		for _, name := range []string{vm.Runtime.GuestIP, vm.Runtime.MAC, vm.ID} {
			if name != "" && strings.Contains(rules, name) {
				b.t.Errorf("the rules still name %s:\n%s", name, rules)
			}
		}
	}
	known, err := os.ReadFile(filepath.Join(b.state(), "ssh", "known_hosts"))
	if err == nil && strings.Contains(string(known), vm.Runtime.DNSName) {
		b.t.Errorf("known_hosts still has %s", vm.Runtime.DNSName)
	}
	if r := b.banger("show", vm.ID); r.code == 0 {
		b.t.Errorf("VM %s can still be shown", vm.Name)
	}
}

// checkNoProcesses: with VMs and daemon gone, nothing of ours runs. Ending may take a moment.
func (b *box) checkNoProcesses() {
	b.t.Helper()
	deadline := time.Now().Add(patience(30 * time.Second))
	for {
		pids := b.net.processes()
		if len(pids) == 0 {
			return
		}
		if time.Now().After(deadline) {
			for _, pid := range pids {
				b.t.Errorf("process %d is left: %s", pid, commandLine(pid))
				if p, err := os.FindProcess(pid); err == nil {
					_ = p.Kill() // in our own namespace, so ours
				}
			}
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// checkVMMsGone looks for a VMM of a VM that counts as stopped.
func (b *box) checkVMMsGone(vm api.VM) {
	b.t.Helper()
	for _, pid := range b.net.processes() {
		if line := commandLine(pid); strings.Contains(line, vm.ID) && isVMM(line) {
			b.t.Errorf("VM %s is %s, but its VMM runs: %d %s", vm.Name, vm.State, pid, line)
		}
	}
}

package main

import (
	"strconv"
	"strings"
)

// suite is what runs in one lab host, from its start to its end.
type suite struct {
	name string
	// tests are the packages whose tests are carried, command is what runs them.
	tests, command []string
	env            []string
	// asked: it runs only when it is named, since it proves nothing.
	asked bool
	// debian suites need the systemd image, systemd ones a host with systemd, firecracker ones firecracker and jailer.
	debian, systemd, firecracker bool
}

// suites are all, the longest ones first, so that two at a time end together.
func suites() []suite {
	return []suite{
		asUser(machineSuite("machine-firecracker", "firecracker", machineTests())),
		asUser(machineSuite("machine-qemu", "qemu", machineTests())),
		asUser(machineSuite("leaks-firecracker", "firecracker", []string{whole("TestLongCycles")})),
		systemdImage(machineSuite("debian-firecracker", "firecracker", debianTests())),
		systemdImage(machineSuite("debian-qemu", "qemu", debianTests())),
		figureSuite("figures-firecracker", "firecracker"),
		figureSuite("figures-qemu", "qemu"),
		{
			name: "hypervisor-firecracker", tests: []string{"./internal/hypervisor/firecracker", "./internal/hypervisor/firecracker/oracle"}, firecracker: true,
			env: []string{"BANGER_TEST_AGENT=/lab/bin/banger-agent", noSkip},
			command: append(inFolder("internal/hypervisor/firecracker/oracle", "-test.run="+whole("TestThisHost")),
				inFolder("internal/hypervisor/firecracker", oneByOne)...),
		},
		{
			name: "system", tests: []string{"./test/system"}, env: []string{noSkip}, systemd: true,
			command: inFolder("test/system"),
		},
		{
			name: "disk-dmsnapshot", tests: []string{"./internal/disk/dmsnapshot"}, env: []string{noSkip},
			command: inFolder("internal/disk/dmsnapshot"),
		},
		{
			name: "hypervisor-qemu", tests: []string{"./internal/hypervisor/qemu"}, env: []string{"BANGER_TEST_ACCEL=kvm", "BANGER_TEST_AGENT=/lab/bin/banger-agent", noSkip},
			command: inFolder("internal/hypervisor/qemu", oneByOne, "-test.run=^(TestConformance|TestAcceleration)$"),
		},
	}
}

// machineSuite is a part of test/machine on one hypervisor. Its disks follow from it. A default of banger's is no suite: what
// is chosen by itself is doctor's matter.
func machineSuite(name, hypervisor string, tests []string) suite {
	return suite{
		name: name, tests: []string{"./test/machine"}, firecracker: hypervisor == "firecracker",
		env:     []string{"BANGER_TEST_HYPERVISOR=" + hypervisor, "BANGER_TEST_ACCEL=kvm", "BANGER_TEST_PATIENCE=5", noSkip},
		command: inFolder("test/machine", oneByOne, "-test.run="+strings.Join(tests, "|")),
	}
}

// oneByOne: with two tests at once on QEMU 7.2's emulated SVM, guests have reset by themselves or hung, and the lab host's own
// kernel has died in a loop of page faults; one after the other on one CPU, nothing of that was seen. Two hosts run side by side instead.
const oneByOne = "-test.parallel=1"

// noSkip turns what a test would skip into a failure.
const noSkip = "BANGER_TEST_NO_SKIP=1"

// asUser: the daemon is an ordinary user's, beside bangerd-root; else it is root's.
func asUser(s suite) suite {
	s.env = append(s.env, "BANGER_TEST_DAEMON=user")
	return s
}

// figureSuite prints what docs/benchmarks-lab.md holds, on an otherwise quiet machine.
func figureSuite(name, hypervisor string) suite {
	s := asUser(machineSuite(name, hypervisor, []string{whole("TestLongFigures")}))
	s.asked = true
	return s
}

func systemdImage(s suite) suite {
	s.debian = true
	return s
}

// inFolder runs the carried tests of a package as go test would, in its folder, and then the command behind its own arguments, if there is one.
func inFolder(dir string, args ...string) []string {
	name := dir[strings.LastIndex(dir, "/")+1:]
	script := `(cd "$0" && "./$1.test" -test.v -test.timeout=1h "${@:3:$2}") && shift $(($2 + 2)) && { [ $# = 0 ] || exec "$@"; }`
	return append([]string{"bash", "-c", script, dir, name, strconv.Itoa(len(args))}, args...)
}

// whole is a regular expression for one test.
func whole(name string) string { return "^" + name + "$" }

// debianTests is one run, ssh and delete of a guest with systemd.
func debianTests() []string { return []string{whole("TestSystemd") + "/^(is-system-running|ssh)$"} }

// machineTests are those of test/machine that run in the laboratory.
func machineTests() []string {
	var patterns []string
	for _, name := range inLab() {
		patterns = append(patterns, whole(name))
	}
	return patterns
}

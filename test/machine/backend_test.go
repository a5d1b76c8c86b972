package machine

import (
	"os"
	"strconv"
	"strings"
	"time"
)

// What the suite runs on is told by the environment, so that it is one suite for all: BANGER_TEST_HYPERVISOR is "qemu" or
// "firecracker" (else banger chooses), BANGER_TEST_ACCEL the accelerator that banger must find by itself. Disks follow from the
// hypervisor.
const (
	hypervisorVariable = "BANGER_TEST_HYPERVISOR"
	accelVariable      = "BANGER_TEST_ACCEL"
	daemonVariable     = "BANGER_TEST_DAEMON"
	patienceVariable   = "BANGER_TEST_PATIENCE"
)

// patience makes a bound longer by the factor that the environment gives, where guests are emulated twice. What is bounded
// is a hang, never a speed.
func patience(d time.Duration) time.Duration {
	factor, err := strconv.Atoi(os.Getenv(patienceVariable))
	if err != nil {
		return d
	}
	return d * time.Duration(max(1, factor))
}

// backend is what the environment wants; empty is no wish.
func backend() (hypervisor, accel string) {
	return os.Getenv(hypervisorVariable), os.Getenv(accelVariable)
}

// checkBackend: a suite that ran on something else has proved nothing.
func (b *box) checkBackend() {
	b.t.Helper()
	hypervisor, accel := backend()
	if hypervisor == "" && accel == "" || b.outside {
		return
	}
	info := b.info()
	if hypervisor != "" {
		same(b.t, "hypervisor", info.Hypervisor, hypervisor)
	}
	if accel != "" && info.Accel != accel {
		b.t.Errorf("accelerator: got %s, want %s: %s", info.Accel, accel, info.AccelReason)
	}
}

// isVMM tells by a command line whether a process is a hypervisor's.
func isVMM(line string) bool {
	if strings.Contains(line, "bangerd-root") { // which is told what to run
		return false
	}
	return strings.Contains(line, "qemu-system") || strings.Contains(line, "firecracker") || strings.Contains(line, "jailer")
}

// asUser tells whether the daemon is to be an ordinary user's, beside bangerd-root (BANGER_TEST_DAEMON is "user"), and not root's.
func asUser() bool { return os.Getenv(daemonVariable) == "user" }

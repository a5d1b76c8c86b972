package network

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"banger/internal/loud"
	"banger/internal/network/sieve"
)

// inNamespace marks the process that runs the tests in a network namespace of its own.
const inNamespace = "BANGER_TEST_IN_NETNS"

// TestMain runs all tests again in a fresh network namespace: whatever they do, neither the real host's
// devices, rules and settings nor its uplink are in reach.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == sieve.Name {
		os.Exit(sieve.Main(os.Args[2:], os.Stderr))
	}
	if os.Getenv(inNamespace) != "" || os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "tests in a network namespace:", err)
		os.Exit(1)
	}
}

// needsRoot skips a test that changes a network namespace where we are not in one of our own.
func needsRoot(t *testing.T) {
	t.Helper()
	if os.Getenv(inNamespace) != "" {
		return
	}
	loud.Skip(t, "this test needs root, for a network namespace of its own")
}

package machine

import (
	"os"
	"os/exec"
	"testing"
)

// missing skips the test, or fails it where nothing may be skipped: a test that did not run proved nothing.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("BANGER_TEST_NO_SKIP") != "" {
		t.Fatalf("MUST NOT BE SKIPPED: "+format, args...)
	}
	t.Skipf("SKIPPED: "+format, args...)
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		missing(t, "this test makes network namespaces and users: run it as root")
	}
}

func needProgram(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			missing(t, "program %s is not installed: scripts/packages test", name)
		}
	}
}

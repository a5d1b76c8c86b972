package machine

import (
	"os"
	"os/exec"
	"testing"

	"banger/internal/loud"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		loud.Skip(t, "this test makes network namespaces and users: run it as root")
	}
}

func needProgram(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			loud.Skip(t, "program %s is not installed: scripts/packages test", name)
		}
	}
}

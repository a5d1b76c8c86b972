package machine

import (
	"os/exec"
	"strings"
	"testing"
)

// TestDemo is the README's first command: everything is set up and the last line is the guest's name. It builds the programs that all
// other tests run, so it goes before those that run side by side.
func TestDemo(t *testing.T) {
	b := newBox(t, setting("image", "debian"), setting("memory", "512M"))
	for _, key := range []string{"GOCACHE", "GOMODCACHE", "GOPATH"} {
		out, err := exec.Command("go", "env", key).Output()
		if err != nil {
			t.Fatal(err)
		}
		b.env = append(b.env, key+"="+strings.TrimSpace(string(out)))
	}
	repo, err := exec.Command("git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		t.Fatal(err)
	}
	r := b.run(nil, "sh", "-c", `cd "$0" && exec make demo`, strings.TrimSpace(string(repo)))
	lines := strings.Split(strings.TrimSuffix(r.stdout, "\n"), "\n")
	if r.code != 0 || lines[len(lines)-1] != "demo" {
		t.Fatal(r)
	}
	same(t, "VMs afterwards", b.must("ps", "-aq"), "")
	b.checkNothingOfVMs()
}

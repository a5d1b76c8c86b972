package archtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestPackagesForUsers: whoever is not root gets the one line that installs what is missing, and exit code 1.
func TestPackagesForUsers(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "b") // readable by anybody, unlike t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile("../../scripts/packages")
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write("packages", string(script))
	write("id", "#!/bin/sh\necho 1000\n")
	write("apt-get", "#!/bin/sh\necho apt-get was called; exit 9\n")
	run := func(what string) (string, int) {
		cmd := exec.Command("bash", filepath.Join(dir, "packages"), what)
		cmd.Env = []string{"PATH=" + dir + ":/usr/bin:/bin"}
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	write("dpkg-query", "#!/bin/sh\ncase \"$*\" in *qemu-system-x86|*passt) exit 1;; esac\nprintf installed\n")
	out, code := run("demo")
	if want := "sudo apt-get install --no-install-recommends -y qemu-system-x86 passt\n"; out != want || code != 1 {
		t.Errorf("exit %d, %q; want 1, %q", code, out, want)
	}
	write("dpkg-query", "#!/bin/sh\nprintf installed\n")
	if out, code := run("test"); out != "" || code != 0 {
		t.Errorf("nothing is missing: exit %d, %q", code, out)
	}
	if _, code := run("everything"); code != 2 {
		t.Errorf("bad word: exit %d", code)
	}
}

// TestHelpListsTargets: what has a ## comment is in `make help`, and what people type has one.
func TestHelpListsTargets(t *testing.T) {
	out, err := exec.Command("make", "-s", "-C", "../..", "help").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"demo", "build", "test", "test-long", "lint", "bench", "fuzz", "generate"} {
		if !strings.Contains(string(out), "  make "+target+" ") {
			t.Errorf("make help lacks %s:\n%s", target, out)
		}
	}
}

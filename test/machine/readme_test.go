package machine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestREADME runs the README's commands as they stand, one block after the other in one shell.
func TestREADME(t *testing.T) {
	t.Parallel()
	needProgram(t, "curl")
	b := newBox(t, setting("image", "debian"), setting("memory", "512M"))
	blocks := shellBlocks(t, "../../README.md")
	if len(blocks) < 4 {
		t.Fatalf("only %d blocks of sh found", len(blocks))
	}
	dir := filepath.Join(b.dir, "clone")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(b.bin, filepath.Join(dir, "bin")); err != nil {
		t.Fatal(err)
	}
	script := "set -euo pipefail\ncd " + dir + "\n"
	for _, block := range blocks {
		script += block + "echo ---- >&2\n"
	}
	r := b.run(nil, "bash", "-c", script)
	if r.code != 0 {
		t.Fatalf("the README does not work:\n%s\nstdout: %s\nstderr: %s", script, r.stdout, r.stderr)
	}
	for _, want := range []string{"PRETTY_NAME=\"Debian GNU/Linux 12", "\n42\nexit code 3\n", "HELLO\n", "22", "it works"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("the output lacks %q:\n%s", want, r.stdout)
		}
	}
	if !strings.HasSuffix(strings.TrimSpace(r.stdout), "[]") {
		t.Errorf("the last line should be the empty list of VMs:\n%s", tail(r.stdout, 5))
	}
}

// shellBlocks are the contents of the ```sh fences of a document.
func shellBlocks(t *testing.T, path string) []string {
	t.Helper()
	var blocks []string
	inside := false
	for line := range strings.Lines(fileText(t, path)) {
		switch fence := strings.TrimSpace(line); {
		case fence == "```sh":
			inside, blocks = true, append(blocks, "")
		case fence == "```":
			inside = false
		case inside:
			blocks[len(blocks)-1] += line
		}
	}
	return blocks
}

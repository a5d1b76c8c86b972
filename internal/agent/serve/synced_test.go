package serve

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"banger/api"
	"banger/api/agentapi"
)

func TestPutFiles(t *testing.T) {
	root := t.TempDir()
	for _, d := range []string{"root", "home/dev/.config", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"home/dev/out": "../../etc", "home/dev/abs": root + "/etc", "root/in": "sub", "root/link": "../etc/x"} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	files := []agentapi.File{
		{Path: "/root/.netrc", Mode: 0o600, Data: []byte("one")},
		{Path: "/root/sub/deep/x", Mode: 0o644, Data: []byte("two")},
		{Path: "/root/in/y", Mode: 0o600, Data: []byte("three")},
		{Path: "/root/link", Mode: 0o600, Data: []byte("four")}, // it takes the link's place
		{Path: "/home/dev/.config", Dir: true, Mode: 0o700},
		{Path: "/home/dev/.config/t", Mode: 0o4755, Data: []byte("five")},
		{Path: "/home/dev/new", Dir: true, Mode: 0o750},
		{Path: "/home/dev/out/x", Mode: 0o600, Data: []byte("!")},
		{Path: "/home/dev/abs/x", Mode: 0o600, Data: []byte("!")},
		{Path: "/home/dev/.config", Mode: 0o600, Data: []byte("!")},
		{Path: "/home/nobody/x", Mode: 0o600, Data: []byte("!")},
		{Path: "/home/x", Mode: 0o600}, {Path: "/root", Mode: 0o600}, {Path: "/etc/x", Mode: 0o600},
		{Path: "/root/../etc/x", Mode: 0o600}, {Path: "root/x", Mode: 0o600}, {Path: "/rootless/x", Mode: 0o600},
	}
	want := map[string]string{
		"root/.netrc": "-rw------- one", "root/sub/deep/x": "-rw-r--r-- two", "root/sub/y": "-rw------- three", "root/link": "-rw------- four",
		"home/dev/.config/t": "-rwxr-xr-x five", "home/dev/.config": "drwxr-xr-x", "home/dev/new": "drwxr-x---", "root/sub": "drwx------",
	}
	for range 2 { // the second time all is there
		unwritten := PutFiles(root, files)
		if len(unwritten) != 10 || !strings.Contains(unwritten[0], "/home/dev/out/x: a symbolic link leads out") {
			t.Errorf("%d unwritten: %q", len(unwritten), unwritten)
		}
		for name, w := range want {
			st, err := os.Lstat(filepath.Join(root, name))
			if err != nil {
				t.Error(err)
				continue
			}
			got := st.Mode().String()
			if !st.IsDir() {
				text, _ := os.ReadFile(filepath.Join(root, name))
				got += " " + string(text)
			}
			if got != w {
				t.Errorf("%s: %q, want %q", name, got, w)
			}
		}
		if left, _ := os.ReadDir(filepath.Join(root, "etc")); len(left) > 0 {
			t.Errorf("written outside of the homes: %v", left)
		}
	}
	before, err := os.Stat(filepath.Join(root, "root/.netrc"))
	if err != nil {
		t.Fatal(err)
	}
	PutFiles(root, files[:1])
	if after, err := os.Stat(filepath.Join(root, "root/.netrc")); err != nil || !os.SameFile(before, after) {
		t.Errorf("what was there already was written anew: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(root, "*", ".banger-*")); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

// TestGitConfig: git reads what was given, an image's own settings go over it, and taking it out leaves those.
func TestGitConfig(t *testing.T) {
	id := &api.GitIdentity{Name: `Ann "the \ editor" O'Neil; #1`, Email: "ann@example.org"}
	for _, old := range []string{"", "[core]\n\teditor = vi\n"} {
		text := GitConfig(old, id)
		if again := GitConfig(text, id); again != text {
			t.Errorf("a second time: %q, want %q", again, text)
		}
		if out := GitConfig(text, nil); out != old {
			t.Errorf("taken out: %q, want %q", out, old)
		}
		if got := gitSays(t, text, "user.name"); got != id.Name {
			t.Errorf("user.name is %q, want %q", got, id.Name)
		}
		if got := gitSays(t, text+"[user]\n\tname = image\n", "user.name") + gitSays(t, text, "user.email"); got != "imageann@example.org" {
			t.Errorf("got %q", got)
		}
	}
	if got := GitConfig("x\n", &api.GitIdentity{}); got != "x\n" {
		t.Errorf("nobody: %q", got)
	}
}

func gitSays(t *testing.T, config, key string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("git", "config", "--file", file, "--get", key).Output()
	if err != nil {
		t.Fatalf("git does not read it: %v\n%s", err, config)
	}
	return strings.TrimSuffix(string(out), "\n")
}

package agent

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/api/agentapi"
	"banger/internal/loud"
)

func TestHostsFile(t *testing.T) {
	for _, c := range []struct{ name, old, want string }{
		{"empty", "", "127.0.0.1\tlocalhost\n127.0.1.1\tx\n"},
		{"other lines stay", "127.0.0.1 localhost me\n10.0.0.1 a", "127.0.0.1 localhost me\n10.0.0.1 a\n127.0.1.1\tx\n"},
		{"old name goes", "127.0.0.1 localhost\n127.0.1.1 old old.vm\n::1 localhost\n", "127.0.0.1 localhost\n::1 localhost\n127.0.1.1\tx\n"},
	} {
		if got := hostsFile(c.old) + ownHost("x"); got != c.want {
			t.Errorf("%s: %q", c.name, got)
		}
		if got := hostsFile(c.want) + ownHost("x"); got != c.want {
			t.Errorf("%s, again: %q", c.name, got)
		}
	}
}

func TestMergeKeys(t *testing.T) {
	first := mergeKeys("ssh-rsa person\n", []string{"ssh-ed25519 one\n"})
	second := mergeKeys(first, []string{"ssh-ed25519 two"})
	if strings.Contains(second, "one") || !strings.Contains(second, "\nssh-ed25519 two\n") || strings.Count(second, "person") != 1 {
		t.Errorf("got %q", second)
	}
	if again := mergeKeys(second, []string{"ssh-ed25519 two"}); again != second {
		t.Errorf("not idempotent: %q", again)
	}
}

func TestFindLogin(t *testing.T) {
	passwd := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(passwd, []byte("root:x:0:0::/root:/bin/sh\ndev:x:1000:1001:,,,:/home/dev:/bin/bash\nbad:x:a:b::/:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if u, ok := findLogin(passwd, "dev"); !ok || u != (login{"dev", "/home/dev", 1000, 1001}) {
		t.Errorf("got %+v", u)
	}
	for _, name := range []string{"bad", "de", "devel"} {
		if u, ok := findLogin(passwd, name); ok {
			t.Errorf("%s: got %+v", name, u)
		}
	}
}

func TestMendIsNotLedAstray(t *testing.T) {
	base := t.TempDir()
	victim := filepath.Join(base, "victim")
	home := filepath.Join(base, "home")
	if err := os.MkdirAll(victim, 0o751); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(home, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(home, ".ssh")); err != nil {
		t.Fatal(err)
	}
	u := login{"me", home, os.Getuid(), os.Getgid()}
	if err := u.mend([]string{"key"}); err == nil {
		t.Error("a symbolic link was taken for .ssh")
	}
	if st, _ := os.Stat(victim); st.Mode().Perm() != 0o751 {
		t.Errorf("the link's target got mode %v", st.Mode())
	}
	if names, _ := os.ReadDir(victim); len(names) != 0 {
		t.Errorf("something was written through the link: %v", names)
	}
}

func TestMendModes(t *testing.T) {
	home := filepath.Join(t.TempDir(), "home")
	if err := os.MkdirAll(filepath.Join(home, ".ssh"), 0o777); err != nil {
		t.Fatal(err)
	}
	keys := filepath.Join(home, ".ssh/authorized_keys")
	if err := os.WriteFile(keys, []byte("mine\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{home, filepath.Join(home, ".ssh"), keys} {
		if err := os.Chmod(p, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := (login{"me", home, os.Getuid(), os.Getgid()}).mend(nil); err != nil {
		t.Fatal(err)
	}
	homeMode := os.FileMode(0o755) // as 0777 without others' writing, and as root's
	for p, want := range map[string]os.FileMode{home: homeMode, filepath.Join(home, ".ssh"): 0o700, keys: 0o600} {
		if st, _ := os.Stat(p); st.Mode().Perm() != want {
			t.Errorf("%s has mode %v", p, st.Mode())
		}
	}
	if data, _ := os.ReadFile(keys); string(data) != "mine\n" {
		t.Errorf("keys are %q", data)
	}
}

func TestInspect(t *testing.T) {
	dir := t.TempDir()
	disk := func(name string, at int64, data string) string {
		p := filepath.Join(dir, name)
		f, err := os.Create(p)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(8 << 20); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte(data), at); err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, c := range []struct {
		path string
		want content
	}{
		{disk("blank", 0, "\x00"), contentBlank},
		{disk("gpt at the end", 8<<20-512, "EFI PART"), contentForeign},
		{disk("btrfs", 0x10040, "_BHRfS_M"), contentForeign},
		{disk("mbr", 510, "\x55\xaa"), contentForeign},
		{disk("ext4", superOffset+superMagic, "\x53\xef\x01\x00"), contentExt4},
		{disk("errors", superOffset+superMagic, "\x53\xef\x03\x00"), contentDamaged},
		{disk("not clean", superOffset+superMagic, "\x53\xef\x00\x00"), contentDamaged},
	} {
		if got, err := inspect(c.path); err != nil || got != c.want {
			t.Errorf("%s: %v, %v", filepath.Base(c.path), got, err)
		}
	}
}

func TestExt4Blocks(t *testing.T) {
	mke2fs, err := exec.LookPath("mke2fs")
	if err != nil {
		loud.Skip(t, "%v", err)
	}
	p := filepath.Join(t.TempDir(), "disk")
	if out, err := exec.Command(mke2fs, "-q", "-t", "ext4", "-b", "4096", p, "40M").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if size, count, err := ext4Blocks(p); err != nil || size != 4096 || count != 10240 {
		t.Errorf("got %d × %d, %v", count, size, err)
	}
}

func TestCopyTree(t *testing.T) {
	src, dst := t.TempDir(), filepath.Join(t.TempDir(), "new")
	when := time.Unix(1e9, 5000)
	steps := []error{
		os.Mkdir(filepath.Join(src, "d"), 0o750),
		os.WriteFile(filepath.Join(src, "d/f"), []byte("data"), 0o600),
		os.Chmod(filepath.Join(src, "d/f"), 0o4711|os.ModeSetuid),
		os.Symlink("/nowhere", filepath.Join(src, "d/l")),
		syscall.Mkfifo(filepath.Join(src, "pipe"), 0o600),
		os.Chtimes(filepath.Join(src, "d/f"), when, when),
		os.Chtimes(filepath.Join(src, "d"), when, when),
	}
	for _, err := range steps {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := copyTree(src, dst); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(filepath.Join(dst, "d/f"))
	if err != nil || st.Mode() != 0o711|os.ModeSetuid || !st.ModTime().Equal(when) {
		t.Errorf("file: %v %v", st, err)
	}
	if st, err := os.Stat(filepath.Join(dst, "d")); err != nil || st.Mode().Perm() != 0o750 || !st.ModTime().Equal(when) {
		t.Errorf("directory: %v %v", st, err)
	}
	if l, err := os.Readlink(filepath.Join(dst, "d/l")); err != nil || l != "/nowhere" {
		t.Errorf("link: %q %v", l, err)
	}
	if _, err := os.Lstat(filepath.Join(dst, "pipe")); err == nil {
		t.Error("a pipe was copied")
	}
}

func TestPutFile(t *testing.T) {
	for name, put := range map[string]put{"put": putFile, "overwrite": overwriteFile, "refresh": refreshFile} {
		t.Run(name, func(t *testing.T) { putsOverLink(t, put) })
	}
}

// putsOverLink: a symbolic link is replaced, what it leads to is left alone.
func putsOverLink(t *testing.T, put put) {
	dir := t.TempDir()
	target, path := filepath.Join(dir, "target"), filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(target, []byte("theirs"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	if changed, err := put(path, []byte("ours"), 0o644); err != nil || !changed {
		t.Errorf("%v, %v", changed, err)
	}
	if changed, err := putFile(path, []byte("ours"), 0o644); err != nil || changed {
		t.Errorf("again: %v, %v", changed, err)
	}
	if data, _ := os.ReadFile(target); string(data) != "theirs" {
		t.Errorf("the link's target is now %q", data)
	}
	if names, _ := os.ReadDir(dir); len(names) != 2 {
		t.Errorf("left behind: %v", names)
	}
}

// TestRefreshFile: whatever was there, the file is what was wanted; it stays the same file where nobody else has it.
func TestRefreshFile(t *testing.T) {
	large := strings.Repeat("x", refreshLimit+1)
	for _, c := range []struct {
		was, text string
		mode      os.FileMode
		linked    bool
		stays     bool
	}{
		{"old\n", "new\n", 0o644, false, true},
		{"old\n", "longer\n", 0o644, false, true},
		{"longer\n", "new\n", 0o644, false, true},
		{"", "new\n", 0o644, false, true},
		{"old\n", "", 0o644, false, true},
		{"same\n", "same\n", 0o644, false, true},
		{"old\n", "new\n", 0o600, false, false},
		{"old\n", "new\n", 0o644, true, false},
		{large, "new\n", 0o644, false, false},
		{"old\n", large, 0o644, false, false},
	} {
		dir := t.TempDir()
		path, other := filepath.Join(dir, "f"), filepath.Join(dir, "other")
		if err := os.WriteFile(path, []byte(c.was), 0o644); err != nil {
			t.Fatal(err)
		}
		if c.linked {
			if err := os.Link(path, other); err != nil {
				t.Fatal(err)
			}
		}
		before, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		changed, err := refreshFile(path, []byte(c.text), c.mode)
		if err != nil || changed != (c.was != c.text || c.mode != 0o644) {
			t.Errorf("%+.20v: %v, %v", c, changed, err)
		}
		after, err := os.Stat(path)
		if err != nil || after.Mode() != c.mode || os.SameFile(before, after) != c.stays {
			t.Errorf("%+.20v: %v, %v", c, after, err)
		}
		if data, _ := os.ReadFile(path); string(data) != c.text {
			t.Errorf("%+.20v: %.20q", c, data)
		}
		if data, err := os.ReadFile(other); c.linked && (err != nil || string(data) != c.was) {
			t.Errorf("%+.20v: the other name has %q, %v", c, data, err)
		}
	}
}

func TestParseStat(t *testing.T) {
	for line, want := range map[string]process{
		"7 (a) b) S 1 7 7 34816 7 0": {pid: 7, tty: 34816},
		"7 (sh) R 1 7 7 0 7 0":       {pid: 7},
	} {
		if p, ok := parseStat(7, line); !ok || p != want {
			t.Errorf("%q: %+v, %v", line, p, ok)
		}
	}
	for _, line := range []string{"7 (kthread) S 2 0 0 0 -1", "7 (dead) Z 1 7 7 0 -1", "7 (cut", "7 (cut) S 1"} {
		if p, ok := parseStat(7, line); ok {
			t.Errorf("%q: %+v", line, p)
		}
	}
}

func TestUnescapeMount(t *testing.T) {
	for in, want := range map[string]string{`/a\040b`: "/a b", `/a\134`: `/a\`, `/a\0`: `/a\0`, `/a\999x`: `/a\999x`} {
		if got := unescapeMount(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func TestWaitFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a/b/socket")
	done := make(chan error, 1)
	go func() { done <- waitFile(context.Background(), path) }()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("not seen")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := waitFile(ctx, path+"x"); err == nil {
		t.Error("a cancelled wait succeeded")
	}
}

func TestResolvConf(t *testing.T) {
	n := agentapi.Network{Resolvers: []string{"10.0.0.1", "10.0.0.2"}, SearchList: []string{"vm", "lan"}}
	if got := resolvConf(n); got != "nameserver 10.0.0.1\nnameserver 10.0.0.2\nsearch vm lan\n" {
		t.Errorf("got %q", got)
	}
}

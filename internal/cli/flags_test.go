package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestEnvironment(t *testing.T) {
	file := filepath.Join(t.TempDir(), "env")
	text := "# a comment\n\n  A=1\nB=two words\nHERE\nABSENT\nQ=\"as it is\"\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	a := &app{env: map[string]string{"HERE": "mine", "K": "v=w"}}
	got, err := a.environment([]string{"A=2", "K", "NONE", "E="}, []string{file})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"A=1", "B=two words", "HERE=mine", `Q="as it is"`, "A=2", "K=v=w", "E="}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	for _, bad := range []string{"=x", "a b=c", ""} {
		if got, err := a.environment([]string{bad}, nil); err == nil {
			t.Errorf("-e %q gave %q", bad, got)
		} else if strings.Contains(err.Error(), "=c") {
			t.Errorf("the error shows a value: %v", err)
		}
	}
	if _, err := a.environment(nil, []string{filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Error("a missing --env-file is no error")
	}
}

func TestSizeFlag(t *testing.T) {
	var s sizeFlag
	if err := s.Set("512"); err == nil || !strings.Contains(err.Error(), "512M") {
		t.Errorf("512 without a unit: %v", err)
	}
	if err := s.Set("1.5G"); err != nil || s.bytes != 3<<29 {
		t.Errorf("1.5G: %d, %v", s.bytes, err)
	}
}

func TestGuestPath(t *testing.T) {
	for arg, want := range map[string][2]string{
		"x:/etc/hosts": {"x", "/etc/hosts"}, "x.vm:/a": {"x", "/a"}, "x:": {"x", "/root/"}, "x:src/a": {"x", "/root/src/a"},
		"./a:b": {}, "/a:b": {}, "a/b:c": {}, "plain": {}, ":x": {}, ".": {}, "x:a:b": {"x", "/root/a:b"},
	} {
		vm, path, ok := guestPath(arg)
		if vm != want[0] || path != want[1] || ok != (want[0] != "") {
			t.Errorf("guestPath(%q) = %q, %q, %v; want %q", arg, vm, path, ok, want)
		}
	}
}

func TestParseForward(t *testing.T) {
	for text, want := range map[string]forward{"80": {80, 80}, "8080:80": {8080, 80}, "0:80": {0, 80}, ":80": {0, 80}} {
		if got, err := parseForward(text); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "65536", "a", "1:2:3", "-1", "80:", "99999:1", "80/udp"} {
		if got, err := parseForward(text); err == nil {
			t.Errorf("%q gave %v", text, got)
		}
	}
}

func TestObjectName(t *testing.T) {
	for path, want := range map[string]string{"/x/Root FS.tar.gz": "root-fs", "a.ext4": "a", "/b/dir": "dir", ".hidden.tar": "hidden", "vmlinuz-6.1": "vmlinuz-6.1"} {
		if got := objectName(path); got != want {
			t.Errorf("objectName(%q) = %q, want %q", path, got, want)
		}
	}
}

func TestRemoteCommand(t *testing.T) {
	if got := remoteCommand([]string{"ls | wc"}); !slices.Equal(got, []string{"ls | wc"}) {
		t.Errorf("one word was changed: %q", got)
	}
	if got := strings.Join(remoteCommand([]string{"sh", "-c", "exit '4'2", ""}), " "); got != `'sh' '-c' 'exit '\''4'\''2' ''` {
		t.Errorf("got %s", got)
	}
}

func TestShellQuote(t *testing.T) {
	for in, want := range map[string]string{"/usr/bin/banger": "/usr/bin/banger", "/a b": "'/a b'", "/it's": `'/it'\''s'`, "/50%": "/50%%"} {
		if got := shellQuote(in); got != want {
			t.Errorf("shellQuote(%q) = %s, want %s", in, got, want)
		}
	}
}

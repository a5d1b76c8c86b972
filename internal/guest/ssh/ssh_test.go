package ssh

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"banger/api"
)

func key(t testing.TB) string {
	t.Helper()
	_, pub, err := NewHostKey()
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

func modeOf(t *testing.T, path string) fs.FileMode {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Mode().Perm()
}

func TestEnsureKey(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ssh", "id_ed25519")
	var all sync.WaitGroup
	var got [8]string
	for i := range got {
		all.Go(func() {
			pub, err := EnsureKey(path)
			if err != nil {
				t.Error(err)
			}
			got[i] = pub
		})
	}
	all.Wait()
	for _, pub := range got {
		if pub != got[0] {
			t.Fatalf("two keys: %s, %s", pub, got[0])
		}
	}
	if !strings.HasPrefix(got[0], "ssh-ed25519 AAAA") || !strings.HasSuffix(got[0], " banger") {
		t.Error(got[0])
	}
	if m := modeOf(t, path); m != 0o600 {
		t.Error(m)
	}
	if m := modeOf(t, filepath.Dir(path)); m != 0o700 {
		t.Error(m)
	}
	if b, _ := os.ReadFile(path + ".pub"); string(b) != got[0]+"\n" {
		t.Errorf("%q", b)
	}
	if names, _ := os.ReadDir(filepath.Dir(path)); len(names) != 2 {
		t.Errorf("left behind: %v", names)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if pub, err := EnsureKey(path); err != nil || pub != got[0] || modeOf(t, path) != 0o600 {
		t.Error(pub, err)
	}
	if err := os.WriteFile(path, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := EnsureKey(path); api.CodeOf(err) != api.CodeConflict {
		t.Error(err)
	}
	if b, _ := os.ReadFile(path); string(b) != "no key" {
		t.Error("a key that cannot be read was replaced")
	}
}

func TestNewHostKey(t *testing.T) {
	t.Parallel()
	priv, pub, err := NewHostKey()
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.ParsePrivateKey(priv)
	if err != nil || publicLine(s.PublicKey()) != pub || len(strings.Fields(pub)) != 2 {
		t.Errorf("%q, %v", pub, err)
	}
	if !strings.HasPrefix(string(priv), "-----BEGIN OPENSSH PRIVATE KEY-----\n") {
		t.Errorf("%s", priv)
	}
}

func TestKnownHosts(t *testing.T) {
	t.Parallel()
	k := KnownHosts{Path: filepath.Join(t.TempDir(), "ssh", "known_hosts")}
	one, two := key(t), key(t)
	if err := k.Remove("x.vm"); err != nil {
		t.Error(err)
	}
	if err := k.Pin([]string{"x.vm", "10.0.0.5"}, one+" comment"); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(k.Path); string(b) != "x.vm,10.0.0.5 "+one+"\n" {
		t.Errorf("%q", b)
	}
	if m := modeOf(t, k.Path); m != 0o600 {
		t.Error(m)
	}
	if m := modeOf(t, filepath.Dir(k.Path)); m != 0o700 {
		t.Error(m)
	}
	// A new VM gets the address of an old one.
	if err := k.Pin([]string{"z.vm", "10.0.0.5"}, two); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(k.Path); string(b) != "x.vm "+one+"\nz.vm,10.0.0.5 "+two+"\n" {
		t.Errorf("%q", b)
	}
	if err := k.Remove("x.vm", "z.vm", "10.0.0.5", "unknown"); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(k.Path); len(b) != 0 {
		t.Errorf("%q", b)
	}
}

func TestKnownHostsFailsClosed(t *testing.T) {
	t.Parallel()
	pub := key(t)
	empty := KnownHosts{}
	for _, err := range []error{empty.Pin([]string{"x"}, pub), empty.Remove("x")} {
		if api.CodeOf(err) != api.CodeHostIdentity {
			t.Error(err)
		}
	}
	k := KnownHosts{Path: filepath.Join(t.TempDir(), "ssh", "known_hosts")}
	for name, names := range map[string][]string{"none": {}, "empty": {""}, "space": {"a b"}, "comma": {"a,b"}, "newline": {"a\nb"}, "pattern": {"*"}, "negation": {"!a"}, "hashed": {"|1|x"}, "comment": {"#a"}} {
		if err := k.Pin(names, pub); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, bad := range []string{"", "ssh-ed25519", "ssh-ed25519 !!", pub + "\n* " + pub, "@cert-authority " + pub} {
		if err := k.Pin([]string{"x"}, bad); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestForeignLinesAreKept(t *testing.T) {
	t.Parallel()
	k := KnownHosts{Path: filepath.Join(t.TempDir(), "known_hosts")}
	one, two := key(t), key(t)
	text := "# comment\n\n|1|hash|hash= ssh-ed25519 AAAA\n@revoked x.vm " + two + "\nnonsense\nx.vm,other " + one + " comment"
	if err := os.WriteFile(k.Path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := k.Remove("x.vm"); err != nil {
		t.Fatal(err)
	}
	want := "# comment\n\n|1|hash|hash= ssh-ed25519 AAAA\n@revoked x.vm " + two + "\nnonsense\nother " + one + "\n"
	if b, _ := os.ReadFile(k.Path); string(b) != want {
		t.Errorf("%q", b)
	}
	if m := modeOf(t, k.Path); m != 0o600 {
		t.Error(m)
	}
}

func TestConcurrentPins(t *testing.T) {
	t.Parallel()
	k := KnownHosts{Path: filepath.Join(t.TempDir(), "known_hosts")}
	pub := key(t)
	var all sync.WaitGroup
	for i := range 30 {
		all.Go(func() {
			if err := k.Pin([]string{fmt.Sprintf("vm%d.vm", i)}, pub); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	b, err := os.ReadFile(k.Path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		if keys := pinned(parseHosts(b), fmt.Sprintf("vm%d.vm", i)); len(keys) != 1 {
			t.Errorf("vm%d: %v", i, keys)
		}
	}
}

// pinned are the keys of a name.
func pinned(h hosts, name string) (keys []string) {
	for _, l := range h.lines {
		if slices.Contains(l.names, name) {
			keys = append(keys, l.key)
		}
	}
	return keys
}

func FuzzKnownHosts(f *testing.F) {
	pub := key(f)
	f.Add([]byte("x.vm,10.0.0.1 "+pub+" comment\n# c\n@revoked y "+pub+"\n"), "x.vm")
	f.Add([]byte("|1|a|b ssh-ed25519 AAAA\r\n\x00"), "x.vm")
	f.Add([]byte("* "+pub+"\n"), "y")
	f.Fuzz(func(t *testing.T, data []byte, name string) {
		h := parseHosts(data)
		if !cleanName(name) {
			return
		}
		h.drop([]string{name})
		if len(pinned(h, name)) > 0 {
			t.Fatalf("%q is still pinned", name)
		}
		h.add([]string{name}, pub)
		if keys := pinned(parseHosts(h.bytes()), name); len(keys) != 1 || keys[0] != pub {
			t.Fatalf("after a rewrite %q has %q", name, keys)
		}
	})
}

package workspace

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/api"
)

// TestHostileConfig: nothing that a repository configures is run, on any way through this package.
func TestHostileConfig(t *testing.T) {
	t.Parallel()
	s := base(t)
	ran := t.TempDir() + "/ran"
	program := t.TempDir() + "/evil"
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho \"$0 $*\" >>"+ran+"\ncat\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, hook := range []string{"post-index-change", "pre-commit", "post-checkout", "reference-transaction", "fsmonitor-watchman", "applypatch-msg", "pre-applypatch", "post-applypatch"} {
		os.Symlink(program, s.repo+"/.git/hooks/"+hook)
	}
	s.put(".gitattributes", "*.txt filter=evil diff=evil merge=evil\n*.bin filter=proc\n")
	s.put("x.bin", "x")
	s.commit("attributes")
	for key, value := range map[string]string{
		"core.fsmonitor": program, "core.hooksPath": s.repo + "/.git/hooks", "core.sshCommand": program, "core.pager": program, "core.editor": program,
		"core.gitProxy": program, "core.askPass": program, "core.alternateRefsCommand": program, "core.untrackedCache": "true", "core.splitIndex": "true",
		"filter.evil.clean": program, "filter.evil.smudge": program, "filter.evil.required": "true",
		"filter.proc.process": program, "filter.proc.required": "true", "diff.evil.textconv": program, "diff.evil.command": program, "diff.external": program, "merge.evil.driver": program,
		"gpg.program": program, "commit.gpgSign": "true", "credential.helper": "!" + program, "uploadpack.packObjectsHook": program,
		"protocol.ext.allow": "always", "remote.origin.url": "ext::" + program, "remote.origin.promisor": "true", "extensions.partialClone": "origin",
		"alias.ls-files": "!" + program, "alias.add": "!" + program, "pack.packSizeLimit": "1", "safe.directory": "",
		"trace2.eventTarget": "/dev/null", "receive.denyCurrentBranch": "ignore", "maintenance.auto": "true", "gc.auto": "1", "filter.odd = name\n.clean": program,
	} {
		if strings.Contains(key, "odd") {
			continue
		}
		s.in(s.repo, "", "-c", "core.fsmonitor=", "-c", "core.hooksPath=/dev/null", "config", key, value)
	}
	f, _ := os.OpenFile(s.repo+"/.git/config", os.O_APPEND|os.O_WRONLY, 0)
	f.WriteString("[filter \"odd = name\"]\n\tclean = " + program + "\n")
	f.Close()
	s.put(".gitattributes", "*.txt filter=evil diff=evil merge=evil\n*.bin filter=proc\nodd \"filter=odd = name\"\n")
	s.put("a.txt", "changed here\n")
	s.put("x.bin", "changed")
	s.put("untracked.txt", "untracked\n")
	os.Remove(ran)
	quiet := func(what string) {
		t.Helper()
		if text, err := os.ReadFile(ran); err == nil {
			t.Fatalf("%s has run: %s", what, text)
		}
	}
	for _, o := range []Options{{}, {IncludeUntracked: true}, {Mode: FullCopy, IncludeUntracked: true}, {Branch: "b", From: "HEAD~1"}, {Mode: MetadataOnly}} {
		o.Force = true
		if _, err := s.try(o); err != nil {
			t.Fatal(err)
		}
		quiet("a prepare")
	}
	s.guestWrite("a.txt", "patched\n")
	s.guestWrite("x.bin", "patched")
	patch, _ := s.export(ExportOptions{IncludeUntracked: true})
	file := t.TempDir() + "/patch"
	os.WriteFile(file, []byte(patch), 0o600)
	r, err := s.find()
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Apply(t.Context(), file) // the tree may have changed; that nothing runs is what matters
	if _, err := r.Head(t.Context()); err != nil {
		t.Error(err)
	}
	quiet("an export")
}

func TestHostileTree(t *testing.T) {
	t.Parallel()
	secret := t.TempDir()
	if err := os.WriteFile(secret+"/key", []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, make := range map[string]struct {
		do    func(s *scene)
		words string
	}{
		"core.worktree elsewhere": {func(s *scene) { s.git("config", "core.worktree", secret) }, ""},
		".git file to another repository": {func(s *scene) {
			other := newScene(s.t)
			other.put("private", "private\n")
			other.commit("private")
			os.RemoveAll(s.repo + "/.git")
			s.put(".git", "gitdir: "+other.repo+"/.git\n")
		}, "knows nothing of it"},
		".git link to another repository": {func(s *scene) {
			os.Rename(s.repo+"/.git", s.repo+"/../elsewhere")
			os.Symlink("../elsewhere", s.repo+"/.git")
		}, "symbolic link"},
		"commondir of another repository": {func(s *scene) { s.put(".git/commondir", "../../x\n") }, ""},
		"bare": {func(s *scene) {
			os.RemoveAll(s.repo)
			os.MkdirAll(s.repo, 0o755)
			s.git("init", "-q", "--bare")
		}, "bare"},
		"no repository": {func(s *scene) { os.RemoveAll(s.repo + "/.git") }, "in no git repository"},
		"no such path":  {func(s *scene) { os.RemoveAll(s.repo) }, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := base(t)
			make.do(s)
			_, err := s.try(Options{})
			if name == "core.worktree elsewhere" {
				if err != nil || strings.Contains(listing(t, s.guestDir()), "key") {
					t.Error(err)
				}
				return
			}
			if err == nil || api.CodeOf(err) == api.CodeInternal || !strings.Contains(err.Error(), make.words) {
				t.Errorf("%v, want %q", err, make.words)
			}
			if list, _ := os.ReadDir(s.guest.home); len(list) > 0 {
				t.Errorf("refused, and yet the guest has %v", list)
			}
		})
	}
}

// TestHostileIndex: names that git never writes itself.
func TestHostileIndex(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"../outside", "a/../../b", ".git/config", "dir/.GIT/hooks/x", "/etc/x", "a//b", "./a"} {
		if _, err := parseIndex([]byte("H 100644 " + strings.Repeat("0", 40) + " 0\t" + name + "\x00")); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := base(t)
	list, err := parseIndex([]byte(s.git("ls-files", "-s", "-t", "-z")))
	if err != nil {
		t.Fatal(err)
	}
	list[0].path = "../key"
	text, err := writeIndex(list, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(s.repo), "key"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.repo+"/.git/index", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.try(Options{}); err == nil {
		t.Error("a file outside was brought")
	}
}

func TestLinkedWorkTree(t *testing.T) {
	t.Parallel()
	s := base(t)
	main := s.repo
	s.repo = filepath.Dir(main) + "/linked"
	s.in(main, "", "worktree", "add", "-q", "-b", "side", s.repo)
	s.put("a.txt", "in the linked one\n")
	s.put("dir/deep/er", "x\n")
	s.git("add", ".")
	r, err := Find(t.Context(), s.host, s.repo+"/dir/deep")
	if err != nil || r.Top != s.repo {
		t.Fatal(r, err)
	}
	s.prepare(Options{})
	s.same(listing(t, s.repo), "")
	s.applies()
}

// TestOdd: a hostile guest's answers are refused or printed harmlessly.
func TestExportOfAHostileGuest(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{"x\n", "-1 5\n", "999999999999 1\n", "5 5\nabc", "4 0\nX\x00a\x00", "2 0\nA\x00"} {
		if _, err := readExport(strings.NewReader(answer), &strings.Builder{}); err == nil {
			t.Errorf("%q was taken for a patch", answer)
		}
	}
	s := base(t)
	r, err := s.find()
	if err != nil {
		t.Fatal(err)
	}
	os.Symlink(t.TempDir(), s.repo+"/link")
	for _, name := range []string{"../outside", ".git/hooks/pre-commit", "link/x", "/tmp/x"} {
		patch := "diff --git a/x b/x\nnew file mode 100755\n--- /dev/null\n+++ b/" + name + "\n@@ -0,0 +1 @@\n+evil\n"
		file := t.TempDir() + "/patch"
		os.WriteFile(file, []byte(patch), 0o600)
		before := listing(t, filepath.Dir(s.repo))
		if err := r.Apply(t.Context(), file); api.CodeOf(err) != api.CodeConflict || listing(t, filepath.Dir(s.repo)) != before {
			t.Errorf("%s: %v", name, err)
		}
	}
}

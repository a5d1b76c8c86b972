package workspace

import (
	"os"
	"strings"
	"testing"
	"time"

	"banger/api"
)

// done are things that were done in the guest, each with words that the refusal must have.
var done = map[string]struct {
	do   func(s *scene)
	told string
}{
	"a file changed":   {func(s *scene) { s.guestWrite("a.txt", "theirs\n") }, "M a.txt"},
	"a file removed":   {func(s *scene) { os.Remove(s.guestDir() + "/a.txt") }, "D a.txt"},
	"an untracked one": {func(s *scene) { s.guestWrite("theirs", "theirs\n") }, "A theirs"},
	"staged": {func(s *scene) {
		s.guestWrite("a.txt", "theirs\n")
		s.there("add", "a.txt")
		s.guestWrite("a.txt", "one\ntwo\n")
	}, "what is staged"},
	"a commit": {func(s *scene) {
		s.guestWrite("a.txt", "theirs\n")
		s.there("commit", "-q", "-a", "-m", "their work")
	}, "their work"},
	"a reset": {func(s *scene) { s.there("reset", "-q", "--soft", "HEAD~1") }, "HEAD is at"},
	"a merge under way": {func(s *scene) {
		s.there("checkout", "-q", "-b", "side")
		s.guestWrite("a.txt", "side\n")
		s.there("commit", "-q", "-a", "-m", "side")
		s.there("checkout", "-q", "main")
		s.guestWrite("a.txt", "main\n")
		s.there("commit", "-q", "-a", "-m", "main")
		cmd := s.command("merge", "side")
		cmd.Dir = s.guestDir()
		_ = cmd.Run()
	}, "under way: merge"},
	"an ignored file in the way": {func(s *scene) { s.guestWrite("built.out", "theirs\n") }, "built.out (ignored there"},
	"a branch of the wanted name": {func(s *scene) {
		s.there("checkout", "-q", "-b", "wanted")
		s.guestWrite("a.txt", "theirs\n")
		s.there("commit", "-q", "-a", "-m", "their work")
		s.there("checkout", "-q", "main")
	}, "branch wanted is at"},
}

// TestChangedGuest: whatever was done is refused with a list, and with --force it is all under one reference.
func TestChangedGuest(t *testing.T) {
	t.Parallel()
	for name, change := range done {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := base(t)
			s.put(".gitignore", "*.out\n")
			s.commit("second")
			s.prepare(Options{})
			change.do(s)
			s.put("a.txt", "new here\n")
			s.put("built.out", "tracked here\n")
			s.git("add", "-f", "built.out")
			s.commit("third")
			o := Options{}
			if strings.Contains(name, "wanted") {
				o.Branch = "wanted"
			}
			refused(t, s, o, api.CodeConflict, change.told)
			index, _ := os.ReadFile(s.guestDir() + "/.git/index")
			head := s.there("rev-parse", "HEAD")
			have := listing(t, s.guestDir())
			o.Force = true
			p := s.prepare(o)
			if listing(t, s.guestDir()) != listing(t, s.repo) {
				t.Errorf("after --force the guest has\n%s", listing(t, s.guestDir()))
			}
			if got := s.there("status", "--porcelain"); got != "" {
				t.Error(got)
			}
			if p.Kept == "" {
				t.Fatal("nothing is kept")
			}
			// All that was there comes back out of the reference.
			out := t.TempDir()
			s.in(s.guestDir(), "", "--work-tree="+out, "checkout", "-q", p.Kept, "--", ".")
			if got := listing(t, out); got != have {
				t.Errorf("kept\n%s\nwas\n%s", got, have)
			}
			if got := s.there("rev-parse", p.Kept+"^1"); got != head {
				t.Errorf("HEAD was %s, kept is %s", head, got)
			}
			if name == "a merge under way" {
				if got := s.there("cat-file", "blob", p.Kept+"^2:index"); got+"\n" == "" || !strings.Contains(got, "DIRC") || len(index) == 0 {
					t.Errorf("the index is kept as %q", got)
				}
				if s.there("rev-parse", p.Kept+"^3") != s.there("rev-parse", "side") {
					t.Error("the other side of the merge is not kept")
				}
			}
			if name == "staged" {
				if got := s.there("show", p.Kept+"^2:a.txt"); got != "theirs" {
					t.Errorf("what was staged is kept as %q", got)
				}
			}
			if o.Branch != "" {
				if got := s.there("log", "--format=%s", "-n", "1", p.Kept+"^3"); got != "their work" {
					t.Errorf("the branch is kept as %q", got)
				}
			}
		})
	}
}

func TestGuestCommitsAreExported(t *testing.T) {
	t.Parallel()
	s := base(t)
	s.prepare(Options{})
	first := s.git("rev-parse", "HEAD")
	s.guestWrite("a.txt", "committed\n")
	s.guestWrite("new", "new\n")
	s.there("add", "-A")
	s.there("commit", "-q", "-m", "one")
	s.guestWrite("dir/b.txt", "\x00binary\xff")
	s.guestWrite("secret", "untracked\n")
	patch, list := s.export(ExportOptions{})
	want := []Change{{Kind: "changed", Path: "a.txt"}, {Kind: "changed", Path: "dir/b.txt"}, {Kind: "added", Path: "new"}}
	if len(list) != 3 || list[0] != want[0] || list[1] != want[1] || list[2] != want[2] || strings.Contains(patch, "secret") {
		t.Errorf("%v\n%s", list, patch)
	}
	if again, _ := s.export(ExportOptions{Base: first}); again != patch {
		t.Errorf("%s", again)
	}
	if _, err := Export(t.Context(), s.guest, ExportOptions{Base: strings.Repeat("0", 39) + "1"}, &strings.Builder{}); api.CodeOf(err) != api.CodeNotFound {
		t.Error(err)
	}
	if _, err := Export(t.Context(), s.guest, ExportOptions{GuestPath: "nothing"}, &strings.Builder{}); api.CodeOf(err) != api.CodeNotFound {
		t.Error(err)
	}
	s.in(s.guest.home, "", "init", "-q", "plain")
	if _, err := Export(t.Context(), s.guest, ExportOptions{GuestPath: "plain"}, &strings.Builder{}); api.CodeOf(err) != api.CodeConflict {
		t.Error(err)
	}
	r, err := s.find()
	if err != nil {
		t.Fatal(err)
	}
	file := t.TempDir() + "/patch"
	os.WriteFile(file, []byte(patch), 0o600)
	// A tree that has changed otherwise refuses all of it.
	s.put("a.txt", "other\n")
	before := listing(t, s.repo)
	if err := r.Apply(t.Context(), file); api.CodeOf(err) != api.CodeConflict || listing(t, s.repo) != before {
		t.Errorf("%v\n%s", err, listing(t, s.repo))
	}
	s.git("checkout", "-q", "a.txt")
	if err := r.Apply(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(s.repo + "/dir/b.txt"); string(text) != "\x00binary\xff" {
		t.Errorf("%q", text)
	}
}

func TestBranches(t *testing.T) {
	t.Parallel()
	s := base(t)
	s.put("a.txt", "second\n")
	s.commit("second")
	s.put("a.txt", "not committed\n")
	p := s.prepare(Options{Branch: "work"})
	if got := s.there("status", "--porcelain", "--branch"); got != "## work\n M a.txt" || p.Branch != "work" {
		t.Error(got)
	}
	s.prepare(Options{GuestPath: "repo", Branch: "old", From: "HEAD~1"})
	if got := s.there("show", "HEAD:a.txt") + s.there("status", "--porcelain", "--branch"); got != "one\ntwo## old" {
		t.Error(got)
	}
	s.prepare(Options{Mode: MetadataOnly})
	if got := s.there("show", "HEAD:a.txt") + s.there("status", "--porcelain", "--branch"); got != "second## main" {
		t.Error(got)
	}
	for _, o := range []Options{{From: "HEAD"}, {Branch: "x", From: "nothing"}, {Branch: "a..b"}, {Mode: "odd"}, {GuestPath: "../x"}, {GuestPath: "/"}} {
		if _, err := s.try(o); err == nil || api.CodeOf(err) == api.CodeInternal {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestDryRun(t *testing.T) {
	t.Parallel()
	s := base(t)
	p, err := s.try(Options{DryRun: true, GuestPath: "deep/down/repo"})
	if err != nil || !p.Fresh || p.Files != 3 {
		t.Fatal(p, err)
	}
	if list, _ := os.ReadDir(s.guest.home); len(list) > 0 {
		t.Error(list)
	}
	s.prepare(Options{})
	s.put("a.txt", "changed here\n")
	before := listing(t, s.guestDir())
	if p, err = s.try(Options{DryRun: true}); err != nil || p.Fresh || p.Changed != 1 || listing(t, s.guestDir()) != before {
		t.Error(p, err)
	}
}

func TestReadOnlyAndModes(t *testing.T) {
	t.Parallel()
	s := base(t)
	s.prepare(Options{ReadOnly: true})
	for _, name := range []string{"/a.txt", "/dir", "/dir/b.txt"} {
		if st, _ := os.Stat(s.guestDir() + name); st.Mode()&0o222 != 0 {
			t.Errorf("%s has mode %s", name, st.Mode())
		}
	}
	s.put("a.txt", "changed here\n")
	s.put("dir/new", "new\n")
	s.commit("more")
	s.prepare(Options{ReadOnly: true})
	if st, err := os.Stat(s.guestDir() + "/dir/new"); err != nil || st.Mode()&0o222 != 0 {
		t.Errorf("%v, %v", st, err)
	}
	if got := s.there("status", "--porcelain"); got != "" {
		t.Error(got)
	}
	_ = os.Chmod(s.guestDir()+"/dir", 0o755)
}

func TestConfigOfTheGuest(t *testing.T) {
	t.Parallel()
	s := base(t)
	s.git("config", "user.name", `Odd "name" \ ünï`)
	s.git("remote", "add", "origin", "https://user:token@example.org/x.git")
	s.prepare(Options{})
	if got := s.there("config", "--local", "user.name") + s.there("config", "--local", "--get", "--default", "none", "user.email") + s.there("config", "remote.origin.url"); got != `Odd "name" \ ünï`+"nonehttps://example.org/x.git" {
		t.Error(got) // the caller's own mail comes with the VM
	}
	for address, want := range map[string]string{
		"git@example.org:a/b.git": "git@example.org:a/b.git", "ssh://git:secret@example.org/a": "ssh://git@example.org/a",
		"/home/me/repo": "", "./x:y": "", "file:///x": "", "ext::sh -c x": "", "": "",
	} {
		if got := publicURL(address); got != want {
			t.Errorf("%s: %q, want %q", address, got, want)
		}
	}
}

func TestFullCopy(t *testing.T) {
	t.Parallel()
	s := base(t)
	for range 12 {
		s.git("commit", "-q", "--allow-empty", "-m", "empty")
	}
	s.git("branch", "other", "HEAD~3")
	s.git("tag", "-a", "-m", "a tag", "v1", "HEAD~11")
	sub := t.TempDir() + "/sub"
	s.in(s.repo, "", "clone", "-q", ".", sub)
	s.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", sub, "sub")
	s.git("commit", "-q", "-m", "submodule")
	refused(t, s, Options{}, api.CodeUnsupported, "submodule")
	p := s.prepare(Options{Mode: FullCopy})
	if len(p.Notes) != 1 {
		t.Error(p.Notes)
	}
	if got, want := s.there("rev-list", "--all", "--count", "--exclude=refs/banger/*"), s.git("rev-list", "--all", "--count"); got != want {
		t.Errorf("%s commits, %s here", got, want)
	}
	if s.there("rev-parse", "v1", "other") != s.git("rev-parse", "v1", "other") {
		t.Error("branches and tags differ")
	}
	if text, _ := os.ReadFile(s.guestDir() + "/sub/a.txt"); string(text) != "one\ntwo\n" {
		t.Errorf("%q", text)
	}
	if got := s.there("status", "--porcelain"); got != "" {
		t.Error(got)
	}
}

func TestShallowThenFull(t *testing.T) {
	t.Parallel()
	s := base(t)
	for range 14 {
		s.git("commit", "-q", "--allow-empty", "-m", "empty")
	}
	s.prepare(Options{})
	if got := s.there("rev-list", "--count", "HEAD"); got != "10" {
		t.Errorf("%s commits", got)
	}
	s.put("a.txt", "x\n")
	s.commit("more")
	s.prepare(Options{})
	if got := s.there("rev-list", "--count", "HEAD"); got != "10" && got != "11" {
		t.Errorf("%s commits", got)
	}
	s.git("reset", "-q", "--hard", "HEAD~12")
	s.prepare(Options{})
	s.prepare(Options{Mode: FullCopy})
	if got := s.there("rev-list", "--count", "HEAD"); got != "4" {
		t.Errorf("%s commits", got)
	}
}

func TestSHA256(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	os.RemoveAll(s.repo + "/.git")
	s.git("init", "-q", "--object-format=sha256")
	for range 12 {
		s.put("a.txt", strings.Repeat("line\n", len(s.git("status", "--short"))+3))
		s.put("dir/b", "bee\n")
		s.git("add", ".")
		s.git("commit", "-q", "--allow-empty", "-m", "x")
	}
	s.put("dir/b", "changed here\n")
	s.prepare(Options{})
	s.same(listing(t, s.repo), "")
	s.put(".gitattributes", "*.txt eol=crlf\n")
	s.put("c.txt", "crlf\r\n")
	s.git("add", ".")
	s.git("commit", "-q", "-m", "more")
	s.prepare(Options{})
	s.same(listing(t, s.repo), "")
	s.applies()
}

// TestCutOff: a prepare that ended after the files were changed goes on, since nothing was done there but by it.
func TestCutOff(t *testing.T) {
	t.Parallel()
	s := base(t)
	s.prepare(Options{})
	s.put("a.txt", "further here\n")
	s.put("new", "new\n")
	s.commit("further")
	s.guestWrite("a.txt", "further here\n")
	s.guestWrite("new", "new\n")
	if p := s.prepare(Options{}); p.Kept != "" {
		t.Error(p)
	}
	s.same(listing(t, s.repo), "")
	// One that was killed with git's lock in hand says how to go on.
	if err := os.WriteFile(s.guestDir()+"/.git/index.lock", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.put("a.txt", "even further here\n")
	refused(t, s, Options{}, api.CodeBusy, "git is at work")
	os.Remove(s.guestDir() + "/.git/index.lock")
	s.prepare(Options{})
}

// TestEditRightAfterACommit: same size, same second. Git looks into files that are as young as its index, and so must who copies that.
func TestEditRightAfterACommit(t *testing.T) {
	t.Parallel()
	s := base(t)
	s.write("", "a.txt", "one\n")
	s.commit("one")
	time.Sleep(10 * time.Millisecond) // the copy of the index is younger than the file in any case
	s.write("", "a.txt", "two\n")
	time.Sleep(10 * time.Millisecond)
	s.prepare(Options{})
	s.same(listing(t, s.repo), "")
}

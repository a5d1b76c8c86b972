package workspace

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/api"
)

// states are what a tree may be in. Each begins with a commit of some files.
var states = map[string]func(s *scene){
	"clean":    func(*scene) {},
	"unstaged": func(s *scene) { s.put("a.txt", "other\n") },
	"staged":   func(s *scene) { s.put("a.txt", "other\n"); s.git("add", "a.txt") },
	"staged and then changed": func(s *scene) {
		s.put("a.txt", "staged\n")
		s.git("add", "a.txt")
		s.put("a.txt", "on the disk\n")
	},
	"staged new file": func(s *scene) { s.put("new/file", "new\n"); s.git("add", "new/file") },
	"staged new file that is gone": func(s *scene) {
		s.put("new", "new\n")
		s.git("add", "new")
		os.Remove(s.repo + "/new")
	},
	"announced file":   func(s *scene) { s.put("new", "new\n"); s.git("add", "-N", "new") },
	"deleted":          func(s *scene) { os.Remove(s.repo + "/dir/b.txt") },
	"deletion staged":  func(s *scene) { s.git("rm", "-q", "dir/b.txt") },
	"out of the index": func(s *scene) { s.git("rm", "-q", "--cached", "a.txt") },
	"renamed":          func(s *scene) { s.git("mv", "dir/b.txt", "dir/c.txt") },
	"mode changed":     func(s *scene) { os.Chmod(s.repo+"/a.txt", 0o755) },
	"binary":           func(s *scene) { s.put("dir/b.txt", "\x00\x01\xff\xfe binary \r\n\x00") },
	"CRLF":             func(s *scene) { s.put("a.txt", "one\r\ntwo\r\n") },
	"CRLF by attribute": func(s *scene) {
		s.put(".gitattributes", "*.txt text eol=crlf\n")
		s.put("c.txt", "one\r\ntwo\r\n")
		s.git("add", ".")
		s.git("commit", "-qm", "crlf")
	},
	"a filter's files": func(s *scene) {
		s.put(".gitattributes", "*.big filter=lfs diff=lfs -text\n")
		s.git("config", "filter.lfs.clean", "sed s/.*/pointer/")
		s.git("config", "filter.lfs.smudge", "sed s/.*/large/")
		s.put("x.big", "large\n")
		s.put("y.big", "other\n")
		s.git("add", ".")
		s.git("commit", "-qm", "large files")
	},
	"not UTF-8": func(s *scene) {
		s.put("caf\xe9 \xff", "latin\n")
		s.git("add", ".")
		s.git("commit", "-qm", "x")
		s.put("caf\xe9 \xff", "changed\n")
	},
	"odd names": func(s *scene) {
		s.put("new\nline\t\"quote\" \\ é", "odd\n")
		s.put("-dash", "x")
		s.put(" ", "blank")
		s.git("add", ".")
	},
	"long name": func(s *scene) { s.put(strings.Repeat("long/", 60)+strings.Repeat("n", 200), "x"); s.git("add", ".") },
	"symlinks": func(s *scene) {
		for name, to := range map[string]string{"in": "a.txt", "out": "../../../etc/passwd", "abs": "/etc/passwd", "dangling": "nowhere"} {
			os.Symlink(to, filepath.Join(s.repo, name))
		}
		s.git("add", ".")
	},
	"file became a symlink":   func(s *scene) { os.Remove(s.repo + "/a.txt"); os.Symlink("dir/b.txt", s.repo+"/a.txt") },
	"file became a directory": func(s *scene) { os.Remove(s.repo + "/a.txt"); s.put("a.txt/x", "x"); s.git("add", ".") },
	"directory became a symlink": func(s *scene) {
		os.RemoveAll(s.repo + "/dir")
		os.Mkdir(s.repo+"/other", 0o755)
		s.put("other/b.txt", "secret\n")
		os.Symlink("other", s.repo+"/dir")
	},
	"empty file": func(s *scene) { s.put("a.txt", "") },
	"detached":   func(s *scene) { s.git("checkout", "-q", "--detach") },
	"conflict": func(s *scene) {
		s.git("checkout", "-q", "-b", "side")
		s.put("a.txt", "side\n")
		s.commit("side")
		s.git("checkout", "-q", "main")
		s.put("a.txt", "main\n")
		s.commit("main")
		s.mayFail("merge", "side")
	},
	"sparse": func(s *scene) { s.git("sparse-checkout", "set", "--no-cone", "/a.txt") },
	"split index": func(s *scene) {
		s.git("update-index", "--split-index")
		s.put("a.txt", "other\n")
		s.git("add", "a.txt")
	},
	"just written": func(s *scene) { s.write("", "dir/b.txt", "now\n") },
	"deep history": func(s *scene) {
		for n := range 15 {
			s.put("a.txt", strings.Repeat("line\n", n+1))
			s.commit("more")
		}
	},
	"merges": func(s *scene) {
		for n := range 4 {
			s.git("checkout", "-q", "-b", "side"+string(rune('0'+n)))
			s.put("side"+string(rune('0'+n)), "side\n")
			s.commit("side")
			s.git("checkout", "-q", "main")
			s.put("main", strings.Repeat("m", n+1))
			s.commit("main")
			s.git("merge", "-q", "-m", "merge", "side"+string(rune('0'+n)))
		}
	},
}

func (s *scene) mayFail(args ...string) { _ = s.command(args...).Run() }

func base(t *testing.T) *scene {
	s := newScene(t)
	s.put("a.txt", "one\ntwo\n")
	s.put("dir/b.txt", "bee\n")
	s.put("run.sh", "#!/bin/sh\n")
	os.Chmod(s.repo+"/run.sh", 0o755)
	s.commit("first")
	return s
}

// TestTreeStates: in each state the guest has the same files and the same status, and its patch
// gives a clean clone the same tree.
func TestTreeStates(t *testing.T) {
	t.Parallel()
	for name, change := range states {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := base(t)
			change(s)
			before := listing(t, s.repo)
			index, _ := os.ReadFile(s.repo + "/.git/index")
			p := s.prepare(Options{})
			if again, _ := os.ReadFile(s.repo + "/.git/index"); string(again) != string(index) {
				t.Error("the host's index was written")
			}
			if listing(t, s.repo) != before {
				t.Error("the host's tree was changed")
			}
			if !p.Fresh || p.Head != s.git("rev-parse", "HEAD") {
				t.Errorf("%+v", p)
			}
			s.same(before, name)
			s.applies()
			if name == "sparse" {
				return
			}
			// Again, after more was done on this side.
			s.put("run.sh", "#!/bin/sh\nmore\n")
			s.put("c.txt", "three\r\nfour\r\n")
			s.put("z.big", "large, too\n")
			s.put("added", "added\n")
			s.git("add", "--sparse", "added", "z.big", "c.txt")
			if name != "conflict" {
				s.git("commit", "-q", "-m", "more")
			}
			if p := s.prepare(Options{}); p.Fresh || p.Kept != "" {
				t.Errorf("%+v", p)
			}
			s.same(listing(t, s.repo), name)
			s.applies()
			if p := s.prepare(Options{}); !p.Same {
				t.Errorf("nothing has changed, and yet: %+v", p)
			}
		})
	}
}

// same compares the guest with this side: files that are tracked, status, history.
func (s *scene) same(want, name string) {
	s.t.Helper()
	got := listing(s.t, s.guestDir())
	if name == "out of the index" || name == "announced file" || name == "directory became a symlink" {
		want = got // what is not tracked stays here; TestUntracked looks at that
	}
	if got != want {
		s.t.Errorf("in the guest\n%s\nhere\n%s", got, want)
	}
	args := []string{"status", "--porcelain", "-z", "-uno", "--no-renames"}
	if name != "conflict" && name != "announced file" {
		if got, want := s.there(args...), s.git(args...); got != want {
			s.t.Errorf("status in the guest %q, here %q", got, want)
		}
	}
	if got, want := s.there("log", "--format=%H", "-n", "8"), s.git("log", "--format=%H", "-n", "8"); got != want {
		s.t.Errorf("history in the guest\n%s\nhere\n%s", got, want)
	}
	if got, want := s.there("rev-parse", "--abbrev-ref", "HEAD"), s.git("rev-parse", "--abbrev-ref", "HEAD"); got != want {
		s.t.Errorf("on %s in the guest, on %s here", got, want)
	}
}

// applies exports, and applies the patch to a clean clone.
func (s *scene) applies() {
	s.t.Helper()
	index, _ := os.ReadFile(s.guestDir() + "/.git/index")
	before := listing(s.t, s.guestDir())
	patch, _ := s.export(ExportOptions{IncludeUntracked: true})
	if again, _ := os.ReadFile(s.guestDir() + "/.git/index"); string(again) != string(index) {
		s.t.Error("export has written the guest's index")
	}
	if listing(s.t, s.guestDir()) != before {
		s.t.Error("export has changed the guest's tree")
	}
	clone := s.t.TempDir() + "/clone"
	s.in(s.repo, "", "clone", "-q", ".", clone)
	file := s.t.TempDir() + "/patch"
	if err := os.WriteFile(file, []byte(patch), 0o600); err != nil {
		s.t.Fatal(err)
	}
	r, err := Find(s.t.Context(), s.host, clone)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := r.Apply(s.t.Context(), file); err != nil {
		s.t.Fatal(err)
	}
	s.in(clone, "", "add", "-A")
	index2 := s.t.TempDir() + "/index"
	if err := os.WriteFile(index2, index, 0o600); err != nil {
		s.t.Fatal(err)
	}
	want := s.treeOf(s.guestDir(), index2)
	if got := s.in(clone, "", "write-tree"); got != want {
		s.t.Errorf("the patch gives %s, the guest has %s:\n%s", got, want, s.in(clone, "", "status", "--short"))
	}
}

func TestEmptyRepository(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.prepare(Options{})
	if got := s.there("status", "--porcelain", "--branch"); got != "## No commits yet on main" {
		t.Error(got)
	}
	s.guestWrite("first", "first\n")
	patch, list := s.export(ExportOptions{IncludeUntracked: true})
	if len(list) != 1 || list[0] != (Change{Kind: "added", Path: "first"}) || !strings.Contains(patch, "+first") {
		t.Errorf("%v\n%s", list, patch)
	}
	os.Remove(s.guestDir() + "/first")
	s.put("a", "a\n")
	s.commit("one")
	s.prepare(Options{})
	s.same(listing(t, s.repo), "")
}

func TestUntracked(t *testing.T) {
	t.Parallel()
	s := base(t)
	s.put(".gitignore", "ignored\n")
	s.commit("ignore")
	s.put("secret", "secret\n")
	s.put("ignored", "ignored\n")
	s.prepare(Options{})
	if text := listing(t, s.guestDir()); strings.Contains(text, "secret") || strings.Contains(text, "ignored |") {
		t.Error(text)
	}
	s.prepare(Options{IncludeUntracked: true})
	if text := listing(t, s.guestDir()); !strings.Contains(text, "secret") || strings.Contains(text, "ignored |") {
		t.Error(text)
	}
	// A patch for the tree that it came from has only what was done there.
	if patch, list := s.export(ExportOptions{SincePrepared: true}); patch != "" || len(list) > 0 {
		t.Errorf("%v\n%s", list, patch)
	}
	s.guestWrite("secret", "changed\n")
	s.guestWrite("theirs", "untracked\n")
	patch, list := s.export(ExportOptions{SincePrepared: true})
	if len(list) != 1 || list[0] != (Change{Kind: "changed", Path: "secret"}) {
		t.Errorf("%v\n%s", list, patch)
	}
	if _, list = s.export(ExportOptions{SincePrepared: true, IncludeUntracked: true}); len(list) != 2 {
		t.Errorf("%v", list)
	}
	if patch, list = s.export(ExportOptions{}); patch != "" || len(list) > 0 {
		t.Errorf("untracked files travel only when asked for: %v\n%s", list, patch)
	}
}

func TestSecondRepositoryAndStrangers(t *testing.T) {
	t.Parallel()
	s := base(t)
	if _, err := s.try(Options{GuestPath: "work/here"}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.guest.home + "/work/here/a.txt"); err != nil {
		t.Fatal(err)
	}
	s.in(s.guest.home, "", "init", "-q", "repo")
	refused(t, s, Options{}, api.CodeConflict, "was not brought by banger")
	os.RemoveAll(s.guestDir())
	os.MkdirAll(s.guestDir()+"/x", 0o755)
	refused(t, s, Options{}, api.CodeExists, "is no repository")
	os.RemoveAll(s.guestDir())
	os.MkdirAll(s.guestDir(), 0o755)
	s.prepare(Options{})
	s.repo = filepath.Dir(s.repo) + "/second"
	os.MkdirAll(s.repo, 0o755)
	s.git("init", "-q")
	s.put("second", "second\n")
	s.commit("second")
	refused(t, s, Options{}, api.CodeConflict, "what was brought from")
}

func refused(t *testing.T, s *scene, o Options, code api.Code, words string) {
	t.Helper()
	before := ""
	if _, err := os.Stat(s.guestDir()); err == nil {
		before = listing(t, s.guestDir())
	}
	_, err := s.try(o)
	if api.CodeOf(err) != code || !strings.Contains(err.Error(), words) {
		t.Fatalf("%v, want %s with %q", err, code, words)
	}
	if before != "" && listing(t, s.guestDir()) != before {
		t.Error("a refusal has changed the guest")
	}
}

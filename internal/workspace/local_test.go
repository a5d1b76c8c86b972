package workspace

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/internal/frame/tree"
)

// local is this host as a guest, with a home of its own.
type local struct{ home string }

func (l local) Run(ctx context.Context, c Command) (int, error) {
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = l.home, c.Stdin, c.Stdout, c.Stderr
	cmd.Env = append([]string{"HOME=" + l.home, "PATH=" + os.Getenv("PATH")}, c.Env...)
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}

func (l local) Put(ctx context.Context, dir, _ string, tar io.Reader) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return tree.Unpack(ctx, tar, f, tree.UnpackOptions{})
}

// scene is a host's repository and a guest.
type scene struct {
	t     *testing.T
	host  Host
	repo  string
	guest local
}

// old is well before any test: a file of that time is not looked at again by git.
var old = time.Date(2020, 1, 2, 3, 4, 5, 678_000_000, time.UTC)

func newScene(t *testing.T) *scene {
	t.Helper()
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{t: t, repo: base + "/host/project", guest: local{home: base + "/guest"}}
	home := base + "/home"
	for _, d := range []string{s.repo, s.guest.home, home} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.host = Host{Environ: []string{"HOME=" + home, "PATH=" + os.Getenv("PATH")}, Temp: t.TempDir()}
	s.write("home", "../../home/.gitconfig", "[user]\n\tname = Hana Host\n\temail = hana@example.org\n[init]\n\tdefaultBranch = main\n")
	s.git("init", "-q")
	return s
}

func (s *scene) write(_, name, text string) {
	s.t.Helper()
	path := filepath.Join(s.repo, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	_ = os.Remove(path)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// put writes a file of the repository that is older than anything.
func (s *scene) put(name, text string) {
	s.t.Helper()
	s.write("", name, text)
	if err := os.Chtimes(filepath.Join(s.repo, name), old, old); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) in(dir string, stdin string, args ...string) string {
	s.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Env, cmd.Stdin = dir, s.host.Environ, strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("git %v in %s: %v\n%s", args, dir, err, out)
	}
	return strings.TrimRight(string(out), "\n")
}

func (s *scene) git(args ...string) string   { s.t.Helper(); return s.in(s.repo, "", args...) }
func (s *scene) guestDir() string            { return s.guest.home + "/repo" }
func (s *scene) there(args ...string) string { s.t.Helper(); return s.in(s.guestDir(), "", args...) }
func (s *scene) commit(message string) {
	s.t.Helper()
	s.git("add", "-A")
	s.git("commit", "-q", "-m", message)
}
func (s *scene) find() (*Repo, error) { return Find(context.Background(), s.host, s.repo) }
func (s *scene) guestWrite(name, text string) {
	s.t.Helper()
	s.write("", "../../guest/repo/"+name, text)
}

func (s *scene) try(o Options) (Prepared, error) {
	r, err := s.find()
	if err != nil {
		return Prepared{}, err
	}
	return r.Prepare(context.Background(), s.guest, o, time.Now())
}

func (s *scene) prepare(o Options) Prepared {
	s.t.Helper()
	p, err := s.try(o)
	if err != nil {
		s.t.Fatal(err)
	}
	s.there("fsck", "--no-dangling", "--no-progress")
	return p
}

func (s *scene) export(o ExportOptions) (string, []Change) {
	s.t.Helper()
	var b bytes.Buffer
	list, err := Export(context.Background(), s.guest, o, &b)
	if err != nil {
		s.t.Fatal(err)
	}
	return b.String(), list
}

// listing is all below a directory but its repository: name, mode, contents.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		if name == ".git" {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		st, err := d.Info()
		if err != nil || d.IsDir() {
			return err
		}
		text := ""
		if st.Mode()&os.ModeSymlink != 0 {
			text, err = os.Readlink(path)
		} else {
			var c []byte
			c, err = os.ReadFile(path)
			text = string(c)
		}
		b.WriteString(strings.Join([]string{name, st.Mode().String(), text}, " | ") + "\n")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func (s *scene) command(args ...string) *exec.Cmd {
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Env = s.repo, s.host.Environ
	return cmd
}

// treeOf is the tree of all that is in a work tree, made with a copy of its index.
func (s *scene) treeOf(dir, index string) string {
	s.t.Helper()
	cmd := exec.Command("sh", "-c", "git add -A && git write-tree")
	cmd.Dir, cmd.Env = dir, append([]string{"GIT_INDEX_FILE=" + index}, s.host.Environ...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("%v\n%s", err, out)
	}
	return strings.TrimSpace(string(out))
}

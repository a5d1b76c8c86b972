package workspace

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"banger/api"
)

// Repo is a repository of this host with a work tree.
type Repo struct {
	// Top is the work tree's directory: absolute, no symbolic link in it.
	Top    string
	host   Host
	config [][2]string
	// gitDir is the repository's, or the linked work tree's; common is that of all its work trees.
	gitDir, common string
}

// Find returns the repository that path is in. A bare one, and one whose .git leads to a
// repository that knows nothing of it, is refused.
func Find(ctx context.Context, h Host, path string) (*Repo, error) {
	abs, err := filepath.Abs(path)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return nil, api.Errorf(api.CodeNotFound, "cannot read the repository: %w", err)
	}
	if st, err := os.Stat(abs); err == nil && !st.IsDir() {
		abs = filepath.Dir(abs)
	}
	top, err := enclosing(abs)
	if err != nil {
		return nil, err
	}
	if err := h.checkVersion(ctx); err != nil {
		return nil, err
	}
	r := &Repo{Top: top, host: h, config: off}
	out, err := r.git(ctx, "rev-parse", "--absolute-git-dir")
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "cannot read the repository %s: %w", top, err)
	}
	r.gitDir = line(out)
	if err := r.knowsItsTree(ctx); err != nil {
		return nil, err
	}
	if out, err = r.git(ctx, "rev-parse", "--git-common-dir"); err != nil {
		return nil, err
	}
	if r.common = line(out); !filepath.IsAbs(r.common) {
		r.common = filepath.Join(top, r.common)
	}
	return r, r.filtersOff(ctx)
}

// enclosing walks up to the directory that has a .git.
func enclosing(dir string) (string, error) {
	for at := dir; ; at = filepath.Dir(at) {
		st, err := os.Lstat(filepath.Join(at, ".git"))
		switch {
		case err == nil && st.Mode()&fs.ModeSymlink != 0:
			return "", api.Errorf(api.CodeInvalid, "%s/.git is a symbolic link: what it leads to may be somebody else's repository", at)
		case err == nil:
			return at, nil
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission):
			return "", api.Errorf(api.CodeInvalid, "cannot read the repository: %w", err)
		}
		if filepath.Base(at) != ".git" && looksBare(at) {
			return "", api.Errorf(api.CodeInvalid, "%s is a bare repository: it has no files to bring", at).
				WithHint("git clone %s DIR, and bring DIR", at)
		}
		if at == "/" {
			return "", api.Errorf(api.CodeInvalid, "%s is in no git repository", dir).
				WithHint("git init %s, or for a plain folder: banger cp %s NAME:", dir, dir)
		}
	}
}

func looksBare(dir string) bool {
	for _, name := range []string{"HEAD", "objects", "refs"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

// knowsItsTree refuses a work tree that names a repository which does not name it in return: whoever made the
// directory could otherwise have another repository of the caller's shipped.
func (r *Repo) knowsItsTree(ctx context.Context) error {
	dotGit := filepath.Join(r.Top, ".git")
	st, err := os.Lstat(dotGit)
	if err != nil {
		return err
	}
	stranger := api.Errorf(api.CodeInvalid, "%s says that its repository is %s, which knows nothing of it", dotGit, r.gitDir).
		WithHint("git -C %s worktree repair", r.Top)
	if st.IsDir() {
		if _, err := os.Lstat(filepath.Join(dotGit, "commondir")); err == nil {
			return stranger
		}
		return nil
	}
	if back, err := os.ReadFile(filepath.Join(r.gitDir, "gitdir")); err == nil { // a linked work tree
		return sameOr(stranger, strings.TrimSpace(string(back)), r.gitDir, dotGit)
	}
	out, err := r.git(ctx, "config", "--file", filepath.Join(r.gitDir, "config"), "core.worktree") // a submodule
	if err != nil {
		return stranger
	}
	return sameOr(stranger, line(out), r.gitDir, r.Top)
}

func sameOr(stranger error, path, base, want string) error {
	if !filepath.IsAbs(path) {
		path = filepath.Join(base, path)
	}
	a, err := os.Stat(path)
	if err != nil {
		return stranger
	}
	if b, err := os.Stat(want); err != nil || !os.SameFile(a, b) {
		return stranger
	}
	return nil
}

// filtersOff adds the configuration that makes every configured filter do nothing.
func (r *Repo) filtersOff(ctx context.Context) error {
	out, err := r.git(ctx, "config", "-z", "--name-only", "--get-regexp", `^filter\.`)
	if err != nil {
		if exited(err) { // none
			return nil
		}
		return err
	}
	seen := map[string]bool{}
	config := append([][2]string(nil), r.config...)
	for _, key := range fields(out) {
		end := strings.LastIndexByte(key, '.')
		if end < len("filter.") || seen[key[:end]] {
			continue
		}
		name := key[:end]
		seen[name] = true
		config = append(config, [2]string{name + ".clean", ""}, [2]string{name + ".smudge", ""}, [2]string{name + ".process", ""}, [2]string{name + ".required", "false"})
	}
	r.config = config
	return nil
}

// git runs git in the repository and returns its output.
func (r *Repo) git(ctx context.Context, args ...string) ([]byte, error) {
	return r.call(nil, args...).run(ctx)
}

// call prepares a run of git. The work tree is the one that was found, whatever core.worktree says.
func (r *Repo) call(env []string, args ...string) call {
	env = append([]string{"GIT_DIR=" + filepath.Join(r.Top, ".git"), "GIT_WORK_TREE=" + r.Top}, env...)
	return call{dir: r.Top, env: r.host.environment(r.config, env...), args: args}
}

// setting is a configured value, empty where there is none.
func (r *Repo) setting(ctx context.Context, key string) string {
	out, err := r.git(ctx, "config", "--get", key)
	if err != nil {
		return ""
	}
	return line(out)
}

// Head is the commit that is checked out, empty before the first one.
func (r *Repo) Head(ctx context.Context) (string, error) {
	return r.commit(ctx, "HEAD")
}

// commit resolves a revision, empty where there is none.
func (r *Repo) commit(ctx context.Context, rev string) (string, error) {
	out, err := r.git(ctx, "rev-parse", "-q", "--verify", "--end-of-options", rev+"^{commit}")
	if err != nil && exited(err) {
		return "", nil
	}
	return line(out), err
}

func line(out []byte) string { return strings.TrimRight(string(out), "\n") }

// fields splits what git ends with NUL each.
func fields(out []byte) []string {
	text := strings.TrimSuffix(string(out), "\x00")
	if text == "" {
		return nil
	}
	return strings.Split(text, "\x00")
}

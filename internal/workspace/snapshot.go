package workspace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"banger/api"
)

// snapshot is what is to be in the guest. It lies in a temporary directory, with the objects that the repository
// does not have itself.
type snapshot struct {
	repo *Repo
	dir  string
	// root is where the files are: the work tree, or files that were written out of a commit.
	root string
	// head is the commit to be checked out, empty before the first one. branch is empty where none is checked out.
	head, branch string
	// index is what is staged, files what is on the disk; tree and staged are their trees.
	index, files []entry
	tree, staged string
	// format is "sha1" or "sha256".
	format string
	// taken is when reading began: a file that was changed since is looked at again by git in the guest.
	taken time.Time
	// nested are untracked repositories within, which are not brought.
	nested []string
}

func (s *snapshot) close() { _ = os.RemoveAll(s.dir) } // a leftover in the system's temporary place

// take reads the repository.
func (r *Repo) take(ctx context.Context, o Options) (_ *snapshot, err error) {
	dir, err := os.MkdirTemp(r.host.Temp, "banger-workspace-*")
	if err != nil {
		return nil, fmt.Errorf("cannot read the repository: %w", err)
	}
	s := &snapshot{repo: r, dir: dir, root: r.Top, taken: time.Now()}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if err := os.MkdirAll(s.objects(), 0o700); err != nil {
		return nil, err
	}
	out, err := r.git(ctx, "rev-parse", "--show-object-format")
	if err != nil {
		return nil, err
	}
	s.format = line(out)
	if err := s.chooseHead(ctx, o); err != nil {
		return nil, err
	}
	own, err := r.Head(ctx)
	if err != nil {
		return nil, err
	}
	if o.Mode == MetadataOnly || s.head != own {
		return s, s.fromCommit(ctx)
	}
	return s, s.fromDisk(ctx, o)
}

func (s *snapshot) objects() string { return filepath.Join(s.dir, "objects") }

// chooseHead finds the commit and branch that the guest is to have.
func (s *snapshot) chooseHead(ctx context.Context, o Options) error {
	r := s.repo
	from := "HEAD"
	if o.From != "" {
		from = o.From
	}
	var err error
	if s.head, err = r.commit(ctx, from); err != nil {
		return err
	}
	if s.head == "" && o.From != "" {
		return api.Errorf(api.CodeNotFound, "the repository has no commit %q", o.From).WithHint("git -C %s log --oneline", r.Top)
	}
	if o.Branch != "" {
		if _, err := r.git(ctx, "check-ref-format", "--branch", o.Branch); err != nil {
			return api.Errorf(api.CodeInvalid, "%q is no name for a branch", o.Branch)
		}
		s.branch = o.Branch
		return nil
	}
	out, err := r.git(ctx, "symbolic-ref", "-q", "HEAD")
	if err != nil && !exited(err) {
		return err
	}
	s.branch, _ = strings.CutPrefix(line(out), "refs/heads/")
	return nil
}

// fromCommit takes the files as the commit has them.
func (s *snapshot) fromCommit(ctx context.Context) error {
	s.root = filepath.Join(s.dir, "files")
	if err := os.Mkdir(s.root, 0o700); err != nil {
		return err
	}
	env := s.env("commit.index")
	if s.head != "" {
		if _, err := s.repo.call(env, "read-tree", s.head).run(ctx); err != nil {
			return err
		}
	}
	var err error
	if s.index, err = s.entries(ctx, "commit.index"); err != nil {
		return err
	}
	if err := noSubmodules(s.index); err != nil {
		return err
	}
	if _, err := s.repo.call(env, "checkout-index", "-a", "-q", "--prefix="+s.root+"/").run(ctx); err != nil {
		return err
	}
	s.files = s.index
	s.tree, err = s.writeTree(ctx, "commit.index")
	s.staged = s.tree
	return err
}

// fromDisk takes the index as it is, and the files as they are on the disk.
func (s *snapshot) fromDisk(ctx context.Context, o Options) error {
	r := s.repo
	own, err := r.git(ctx, "rev-parse", "--git-path", "index")
	if err != nil {
		return err
	}
	path := line(own)
	if !filepath.IsAbs(path) {
		path = filepath.Join(r.Top, path)
	}
	for _, name := range []string{"staged.index", "disk.index"} {
		if err := copyFile(path, filepath.Join(s.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot read the repository's index: %w", err)
		}
	}
	if s.index, err = s.entries(ctx, "staged.index"); err != nil {
		return err
	}
	if err := noSubmodules(s.index); err != nil && o.Mode != FullCopy {
		return err
	}
	add := []string{"add", "-u"}
	if o.IncludeUntracked {
		add = []string{"add", "-A"}
	}
	if _, err := r.call(s.env("disk.index"), add...).run(ctx); err != nil {
		return api.Errorf(api.CodeInvalid, "cannot read the files of %s: %w", r.Top, err)
	}
	if s.files, err = s.entries(ctx, "disk.index"); err != nil {
		return err
	}
	if err := s.leaveOutNested(ctx); err != nil {
		return err
	}
	if s.tree, err = s.writeTree(ctx, "disk.index"); err != nil {
		return err
	}
	if s.staged, err = s.writeTree(ctx, "staged.index"); err != nil && !exited(err) {
		return err
	}
	if err == nil {
		return s.dropIntents(ctx)
	}
	// In the middle of a merge: what is staged is not one tree. In the guest all changes are unstaged.
	if s.head != "" {
		if _, err := r.call(s.env("commit.index"), "read-tree", s.head).run(ctx); err != nil {
			return err
		}
	}
	if s.index, err = s.entries(ctx, "commit.index"); err != nil {
		return err
	}
	s.staged, err = s.writeTree(ctx, "commit.index")
	return err
}

// dropIntents leaves out what `add -N` has announced: it is in no tree.
func (s *snapshot) dropIntents(ctx context.Context) error {
	out, err := s.repo.call(s.env("staged.index"), "ls-tree", "-r", "-z", "--name-only", s.staged).run(ctx)
	if err != nil {
		return err
	}
	names := fields(out)
	if len(names) == len(s.index) {
		return nil
	}
	in := make(map[string]bool, len(names))
	for _, n := range names {
		in[n] = true
	}
	var kept []entry
	for _, e := range s.index {
		if in[e.path] {
			kept = append(kept, e)
		}
	}
	s.index = kept
	return nil
}

// leaveOutNested takes repositories that `add -A` has met out again.
func (s *snapshot) leaveOutNested(ctx context.Context) error {
	staged := make(map[string]bool, len(s.index))
	for _, e := range s.index {
		staged[e.path] = true
	}
	var kept []entry
	var gone bytes.Buffer
	for _, e := range s.files {
		if e.mode == modeSubmodule && !staged[e.path] {
			s.nested = append(s.nested, e.path)
			gone.WriteString(e.path + "\x00")
			continue
		}
		kept = append(kept, e)
	}
	if len(s.nested) == 0 {
		return nil
	}
	s.files = kept
	c := s.repo.call(s.env("disk.index"), "update-index", "--force-remove", "-z", "--stdin")
	c.stdin = &gone
	_, err := c.run(ctx)
	return err
}

// env makes git work on an index in the temporary directory, and write objects there only.
func (s *snapshot) env(index string) []string {
	return []string{
		"GIT_INDEX_FILE=" + filepath.Join(s.dir, index),
		"GIT_OBJECT_DIRECTORY=" + s.objects(),
		"GIT_ALTERNATE_OBJECT_DIRECTORIES=" + quoteAlternate(filepath.Join(s.repo.common, "objects")),
	}
}

// quoteAlternate lets a path with a colon or a quote stand in a list of them.
func quoteAlternate(path string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(path) + `"`
}

func (s *snapshot) entries(ctx context.Context, index string) ([]entry, error) {
	out, err := s.repo.call(s.env(index), "ls-files", "-s", "-t", "-z").run(ctx)
	if err != nil {
		return nil, err
	}
	return parseIndex(out)
}

func (s *snapshot) writeTree(ctx context.Context, index string) (string, error) {
	out, err := s.repo.call(s.env(index), "write-tree").run(ctx)
	return line(out), err
}

func noSubmodules(list []entry) error {
	for _, e := range list {
		if e.mode == modeSubmodule {
			return api.Errorf(api.CodeUnsupported, "the repository has a submodule, %s, which only a full copy brings", e.path).
				WithHint("--mode full_copy")
		}
	}
	return nil
}

func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	if err := errors.Join(err, dst.Close()); err != nil {
		return err
	}
	st, err := src.Stat()
	if err != nil {
		return err
	}
	return os.Chtimes(to, st.ModTime(), st.ModTime())
}

// trees is what the index of the guest remembers of the staged tree.
func (s *snapshot) trees(ctx context.Context) ([]byte, error) {
	out, err := s.repo.call(s.env("none.index"), "ls-tree", "-r", "-t", "-z", s.staged).run(ctx)
	if err != nil {
		return nil, err
	}
	return indexTrees(s.staged, fields(out))
}

package workspace

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"banger/api"
)

// Prepared tells what was brought, or would be.
type Prepared struct {
	api.Workspace
	// Files is how many files were brought, Changed how many of them are not as they are committed.
	Files, Changed int
	// Fresh is false where a repository was there already; Same is true where nothing was to be done.
	Fresh, Same bool
	// Kept is the reference in the guest that holds what was there before, empty for none.
	Kept string
	// Notes are things to know: branches that stayed, repositories that were left out.
	Notes []string
}

// Prepare brings a repository into a guest. Where one is there already it goes on from what was brought before;
// if anything was done there since, it is refused with a list, or with o.Force kept first. now is the caller's clock.
func (r *Repo) Prepare(ctx context.Context, g Guest, o Options, now time.Time) (Prepared, error) {
	var p Prepared
	if err := o.Validate(); err != nil {
		return p, err
	}
	s, err := r.take(ctx, o)
	if err != nil {
		return p, err
	}
	defer s.close()
	was, err := probe(ctx, g, o, s.branch)
	if err != nil {
		return p, err
	}
	p.Workspace = api.Workspace{
		HostPath: r.Top, GuestPath: was.path, User: o.User, Mode: o.Mode, Branch: s.branch, Head: s.head,
		IncludeUntracked: o.IncludeUntracked, ReadOnly: o.ReadOnly, PreparedAt: now,
	}
	p.Files = len(s.files)
	p.Changed = s.changed(ctx)
	for _, n := range s.nested {
		p.Notes = append(p.Notes, fmt.Sprintf("left out: %s, a repository of its own", printable(n)))
	}
	switch was.state {
	case "absent", "empty":
		p.Fresh = true
		if o.DryRun {
			return p, nil
		}
		return p, s.place(ctx, g, o, &p, was)
	case "repo":
	default:
		return p, api.Errorf(api.CodeExists, "%s in the guest is there and is no repository", was.path).WithHint("--guest-path OTHER")
	}
	return p, s.update(ctx, g, o, &p, was, now)
}

// changed counts the files that are not as they are in head.
func (s *snapshot) changed(ctx context.Context) int {
	if s.head == "" {
		return len(s.files)
	}
	out, err := s.repo.call(s.env("none.index"), "diff-tree", "-r", "-z", "--name-only", "--no-renames", s.head, s.tree).run(ctx)
	if err != nil {
		return 0
	}
	return len(fields(out))
}

func (s *snapshot) history(ctx context.Context, o Options) (history, error) {
	if o.Mode == FullCopy {
		return s.wholeHistory(ctx)
	}
	return s.shortHistory(ctx)
}

// place brings all of it to where nothing is: beside it first, then into place by one rename.
func (s *snapshot) place(ctx context.Context, g Guest, o Options, p *Prepared, was probed) error {
	h, err := s.history(ctx, o)
	if err != nil {
		return err
	}
	pack, err := s.pack(ctx, h)
	if err != nil {
		return err
	}
	config, err := s.guestConfig(ctx)
	if err != nil {
		return err
	}
	trees, err := s.trees(ctx)
	if err != nil {
		return err
	}
	dir, base := path.Split(was.path)
	beside := "." + base + ".banger-" + filepath.Base(s.dir)[len("banger-workspace-"):]
	err = stream(func(out io.Writer) error {
		root, err := os.Open(s.root)
		if err != nil {
			return err
		}
		defer root.Close()
		w := &shipper{ctx: ctx, tw: tar.NewWriter(out), prefix: beside, now: s.taken, made: map[string]bool{}, root: root, readOnly: o.ReadOnly}
		defer w.forget()
		if err := s.writeRepository(w, h, pack, config, *p); err != nil {
			return err
		}
		stats, err := s.writeFiles(w)
		if err != nil {
			return err
		}
		if o.Mode == FullCopy {
			if err := s.writeSubmodules(ctx, w, p); err != nil {
				return err
			}
		}
		index, err := writeIndex(s.index, stats, trees)
		if err != nil {
			return err
		}
		if err := w.bytes(".git/index", string(index), s.taken); err != nil {
			return err
		}
		return w.tw.Close()
	}, func(in io.Reader) error { return g.Put(ctx, dir, o.User, in) })
	if err == nil {
		var code int
		if code, err = script(ctx, g, o.User, scriptPlace, nil, nil, dir+beside, was.path); code == exitDiffers {
			return api.Errorf(api.CodeConflict, "%s in the guest has come to be meanwhile", was.path)
		}
		return err
	}
	// What was brought so far is of no use to anybody. Where even that cannot be removed, the first error is the one to tell.
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	_, _ = g.Run(clean, Command{Argv: []string{"rm", "-rf", dir + beside}})
	return err
}

// writeRepository adds the repository itself, but for its index.
func (s *snapshot) writeRepository(w *shipper, h history, pack, config string, p Prepared) error {
	w.made["."] = true
	if err := w.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: w.prefix + "/", Mode: 0o755, ModTime: s.taken}); err != nil {
		return err
	}
	for _, d := range []string{".git/objects/pack", ".git/objects/info", ".git/refs/heads", ".git/refs/tags", ".git/info", ".git/banger"} {
		if err := w.directory(d, 0o755); err != nil {
			return err
		}
	}
	if pack != "" {
		if err := s.writePack(w, pack, ".git/"); err != nil {
			return err
		}
	}
	head := "ref: refs/heads/" + s.branch + "\n"
	refs := append([]string{}, h.refs...)
	if s.branch == "" {
		head = s.head + "\n"
	} else if s.head != "" {
		refs = append(refs, s.head+" refs/heads/"+s.branch)
	}
	refs = append(refs, s.tree+" refs/banger/prepared", s.staged+" refs/banger/prepared-index")
	if s.head != "" {
		refs = append(refs, s.head+" refs/banger/prepared-head")
	}
	files := map[string]string{
		".git/HEAD": head, ".git/config": config, ".git/packed-refs": lines(refs), ".git/banger/prepared": record(p, s),
	}
	if len(h.shallow) > 0 {
		files[".git/shallow"] = lines(h.shallow)
	}
	for _, name := range []string{"exclude", "attributes"} {
		if text, err := readSmall(filepath.Join(s.repo.common, "info", name)); err == nil {
			files[".git/info/"+name] = text
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := w.bytes(name, files[name], s.taken); err != nil {
			return err
		}
	}
	return nil
}

func (s *snapshot) writePack(w *shipper, pack, below string) error {
	for _, end := range []string{".pack", ".idx"} {
		if err := w.copied(pack+end, below+"objects/pack/"+filepath.Base(pack)+end); err != nil {
			return err
		}
	}
	return nil
}

// readSmall reads a file of the repository if it is a plain and small one.
func readSmall(name string) (string, error) {
	st, err := os.Lstat(name)
	if err != nil || !st.Mode().IsRegular() || st.Size() > 1<<20 {
		return "", os.ErrNotExist
	}
	text, err := os.ReadFile(name)
	return string(text), err
}

func lines(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return strings.Join(list, "\n") + "\n"
}

// record is what the guest's repository remembers: a word and its value in each line.
func record(p Prepared, s *snapshot) string {
	text := "source " + recordable(p.HostPath) + "\nmode " + p.Mode + "\nbranch " + s.branch +
		"\nhead " + s.head + "\ntree " + s.tree + "\nindex " + s.staged + "\nat " + p.PreparedAt.UTC().Format(time.RFC3339) + "\n"
	if p.ReadOnly {
		text += "readonly yes\n"
	}
	return text
}

// recordable is a path in one line.
func recordable(path string) string { return strings.ReplaceAll(path, "\n", "?") }

// writeSubmodules adds what submodules track, as files without a history.
func (s *snapshot) writeSubmodules(ctx context.Context, w *shipper, p *Prepared) error {
	subs := 0
	for _, e := range s.files {
		if e.mode == modeSubmodule {
			subs++
		}
	}
	if subs == 0 || s.root != s.repo.Top {
		return nil
	}
	out, err := s.repo.git(ctx, "ls-files", "--recurse-submodules", "-z")
	if err != nil {
		return err
	}
	own := make(map[string]bool, len(s.files))
	for _, e := range s.files {
		own[e.path] = true
	}
	for _, name := range fields(out) {
		if own[name] {
			continue
		}
		if err := checkPath(name); err != nil {
			return err
		}
		if _, err := w.file(name); err != nil && err != errNotThere { //nolint:errorlint // never wrapped
			return err
		}
	}
	p.Notes = append(p.Notes, fmt.Sprintf("%d submodules are brought as files: what is changed in them stays out of an export", subs))
	return nil
}

// Check refuses, before anything is started for it, what Prepare would refuse for reasons that lie on this side.
func (r *Repo) Check(ctx context.Context, o Options) error {
	if err := o.Validate(); err != nil {
		return err
	}
	s := &snapshot{repo: r}
	if err := s.chooseHead(ctx, o); err != nil || o.Mode == FullCopy {
		return err
	}
	out, err := r.git(ctx, "ls-files", "-s", "-t", "-z")
	if err != nil {
		return err
	}
	list, err := parseIndex(out)
	if err != nil {
		return err
	}
	return noSubmodules(list)
}

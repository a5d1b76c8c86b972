package workspace

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"path"
	"strings"
	"time"

	"banger/api"
)

// probed is what a guest has where the repository is to go.
type probed struct {
	path, state string
	// head, index and work are what its repository has now; at is where the wanted branch is.
	head, index, work, at string
	shallow               []string
	// was is what its record says; empty where it was not prepared.
	was map[string]string
	// commits and files are what was done in it since, underWay the merges and the like that have not ended.
	commits, files, underWay []string
}

func probe(ctx context.Context, g Guest, o Options, branch string) (probed, error) {
	p := probed{was: map[string]string{}}
	var out bytes.Buffer
	makeParent := "yes"
	if o.DryRun {
		makeParent = "no"
	}
	code, err := script(ctx, g, o.User, scriptProbe, nil, &out, o.GuestPath, makeParent, branch)
	switch {
	case err != nil:
		return p, err
	case code == exitNoGit:
		return p, errNoGit
	case code != 0:
		return p, api.Errorf(api.CodeConflict, "cannot look at the repository in the guest: exit code %d", code)
	}
	for _, l := range strings.Split(out.String(), "\n") {
		word, value, _ := strings.Cut(l, " ")
		switch word {
		case "path":
			p.path = path.Clean(value)
		case "state":
			p.state = value
		case "head":
			p.head = value
		case "index":
			p.index = value
		case "work":
			p.work = value
		case "branch":
			p.at = value
		case "shallow":
			p.shallow = append(p.shallow, value)
		case "state-file":
			p.underWay = append(p.underWay, strings.ToLower(strings.TrimSuffix(value, "_HEAD")))
		case "commit":
			p.commits = append(p.commits, "commit "+printable(value))
		case "file":
			kind, name, _ := strings.Cut(value, "\t")
			p.files = append(p.files, kind+" "+printable(name))
		default:
			if key, ok := strings.CutPrefix(word, "was-"); ok {
				p.was[key] = value
			}
		}
	}
	if !path.IsAbs(p.path) {
		return p, api.Errorf(api.CodeInternal, "the guest says nothing of use about %s", o.GuestPath)
	}
	return p, nil
}

// maxTold is how many differences a refusal lists.
const maxTold = 20

// refusal says what stands in the way of replacing what the guest has, nil where nothing does. What a prepare that was cut
// off has done already counts as not changed.
func (p probed) refusal(s *snapshot) error {
	force := "--force, which keeps what is there under refs/banger/before-TIME"
	if p.was["tree"] == "" {
		return api.Errorf(api.CodeConflict, "the repository %s in the guest was not brought by banger", p.path).
			WithHint("--guest-path OTHER, or %s", force)
	}
	if p.was["source"] != recordable(s.repo.Top) {
		return api.Errorf(api.CodeConflict, "%s in the guest is what was brought from %s", p.path, printable(p.was["source"])).
			WithHint("--guest-path OTHER, or %s", force)
	}
	var list []string
	for _, name := range p.underWay {
		list = append(list, "under way: "+name)
	}
	if p.head != p.was["head"] && p.head != s.head {
		list = append(list, p.commits...)
		if len(p.commits) == 0 {
			list = append(list, "HEAD is at "+short(p.head)+", not at "+short(p.was["head"]))
		}
	}
	if p.at != "" && p.at != p.head && p.at != p.was["head"] && p.at != s.head {
		list = append(list, "branch "+s.branch+" is at "+short(p.at))
	}
	if p.work != p.was["tree"] && p.work != s.tree {
		list = append(list, p.files...)
		if len(list) == 0 {
			list = append(list, "its files")
		}
	}
	if p.index != p.was["index"] && p.index != s.staged && len(list) == 0 {
		list = append(list, "what is staged")
	}
	if len(list) == 0 {
		return nil
	}
	return differs(p.path, list, force)
}

func differs(where string, list []string, force string) error {
	more := ""
	if len(list) > maxTold {
		list, more = list[:maxTold], "\n  …"
	}
	return api.Errorf(api.CodeConflict, "%s in the guest has changed since it was brought there:\n  %s%s", where, strings.Join(list, "\n  "), more).
		WithHint("banger vm workspace export brings it back; or %s", force)
}

func short(oid string) string {
	if oid == "" {
		return "no commit"
	}
	return oid[:min(len(oid), 12)]
}

// update brings the repository to where one is.
func (s *snapshot) update(ctx context.Context, g Guest, o Options, p *Prepared, was probed, now time.Time) error {
	must, keep := "no", ""
	if o.Force {
		keep = now.UTC().Format("20060102T150405Z")
	}
	if err := was.refusal(s); err != nil {
		if !o.Force {
			return err
		}
		must = "yes"
	}
	if o.DryRun {
		return nil
	}
	if was.head == s.head && was.work == s.tree && was.index == s.staged && was.was["branch"] == s.branch && must == "no" && (s.branch == "" || was.at == s.head) {
		p.Same = true
		return nil
	}
	h, err := s.history(ctx, o)
	if err != nil {
		return err
	}
	replace := "replace"
	if o.Mode != FullCopy {
		replace = "add"
		s.leaveOutKnown(ctx, &h, was)
	}
	pack, err := s.pack(ctx, h)
	if err != nil {
		return err
	}
	err = stream(func(out io.Writer) error {
		w := &shipper{ctx: ctx, tw: tar.NewWriter(out), now: s.taken, made: map[string]bool{".": true, "objects": true, "objects/pack": true, "banger": true}}
		if pack != "" {
			if err := s.writePack(w, pack, ""); err != nil {
				return err
			}
		}
		for _, f := range [][2]string{{"shallow", lines(h.shallow)}, {"refs", lines(h.refs)}, {"prepared", record(*p, s)}} {
			if err := w.directory("banger/incoming", 0o755); err != nil {
				return err
			}
			if err := w.bytes("banger/incoming/"+f[0], f[1], s.taken); err != nil {
				return err
			}
		}
		return w.tw.Close()
	}, func(in io.Reader) error { return g.Put(ctx, was.path+"/.git", o.User, in) })
	if err != nil {
		return err
	}
	if err := s.sendConverted(ctx, g, o, was); err != nil {
		return err
	}
	readOnly := "no"
	if o.ReadOnly || was.was["readonly"] == "yes" {
		readOnly = "yes"
	}
	var said bytes.Buffer
	code, err := script(ctx, g, o.User, scriptUpdate, nil, &said, was.path, was.work, was.index, was.head, was.at,
		s.tree, s.staged, s.head, s.branch, keep, must, replace, readOnly)
	if err != nil {
		return err
	}
	switch code {
	case exitBusy:
		return api.Errorf(api.CodeBusy, "git is at work in %s in the guest, or was when it was ended", was.path).
			WithHint("if no git runs there: banger exec VM -- rm %s/.git/index.lock", was.path)
	case exitDiffers:
		var list []string
		for _, l := range strings.Split(strings.TrimSpace(said.String()), "\n") {
			if value, ok := strings.CutPrefix(l, "file "); ok {
				_, name, _ := strings.Cut(value, "\t")
				list = append(list, printable(name)+" (ignored there, and in the way)")
			}
		}
		if list == nil {
			list = []string{"just now"}
		}
		return differs(was.path, list, "--force, which keeps what is there under refs/banger/before-TIME")
	}
	if o.Mode == FullCopy && noSubmodules(s.files) != nil {
		p.Notes = append(p.Notes, "the files of submodules stay as they were brought first")
	}
	for _, l := range strings.Split(said.String(), "\n") {
		if l == "kept" {
			p.Kept = "refs/banger/before-" + keep
		}
		if name, ok := strings.CutPrefix(l, "left "); ok {
			p.Notes = append(p.Notes, printable(name)+" in the guest has commits of its own and was left as it is")
		}
	}
	return nil
}

// leaveOutKnown keeps out of the pack what the guest has. That takes that both sides mean the same by it: the
// commit that was brought last, down to the commits that the guest has without their parents.
func (s *snapshot) leaveOutKnown(ctx context.Context, h *history, was probed) {
	head := was.was["head"]
	if head == "" || s.head == "" {
		return
	}
	for _, oid := range append([]string{head}, was.shallow...) {
		if have, err := s.repo.commit(ctx, oid); err != nil || have != oid {
			return
		}
	}
	h.known = []string{head}
	h.shallow = append(h.shallow, was.shallow...)
}

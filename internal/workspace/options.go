package workspace

import (
	"path"
	"strings"

	"banger/api"
)

// The modes of a prepare.
const (
	// ShallowOverlay brings a short history, and the tracked files as they are on the disk.
	ShallowOverlay = "shallow_overlay"
	// FullCopy brings the whole history, all branches and tags, and submodules' files.
	FullCopy = "full_copy"
	// MetadataOnly brings a short history, and the files as they are committed.
	MetadataOnly = "metadata_only"
)

// DefaultPath is where a repository is put below the user's home.
const DefaultPath = "repo"

// Options say what is brought, and where to.
type Options struct {
	Mode string
	// Branch is made in the guest and checked out, at From (a revision of this side; empty: HEAD).
	Branch, From string
	// GuestPath is absolute, or below the user's home.
	GuestPath string
	// User in the guest, optionally ":group"; empty: root.
	User                                      string
	IncludeUntracked, ReadOnly, DryRun, Force bool
}

// Validate fills in what is not said.
func (o *Options) Validate() error {
	if o.Mode == "" {
		o.Mode = ShallowOverlay
	}
	switch o.Mode {
	case ShallowOverlay, FullCopy, MetadataOnly:
	default:
		return api.Errorf(api.CodeInvalid, "there is no mode %q", o.Mode).WithHint("--mode %s, %s or %s", ShallowOverlay, FullCopy, MetadataOnly)
	}
	if o.From != "" && o.Branch == "" {
		return api.Errorf(api.CodeInvalid, "--from says where a new branch begins").WithHint("--branch NAME --from %s", o.From)
	}
	if o.Mode == MetadataOnly && o.IncludeUntracked {
		return api.Errorf(api.CodeInvalid, "%s brings the files as they are committed, so no untracked ones", MetadataOnly).WithHint("leave out --mode")
	}
	var err error
	o.GuestPath, err = GuestPath(o.GuestPath)
	return err
}

// GuestPath cleans a path of a repository in a guest; empty: the default one.
func GuestPath(p string) (string, error) {
	if p == "" {
		p = DefaultPath
	}
	p = path.Clean(strings.TrimPrefix(p, "~/"))
	if p == "/" || p == "." || p == ".." || strings.HasPrefix(p, "../") || strings.ContainsAny(p, "\x00\n") {
		return "", api.Errorf(api.CodeInvalid, "%q is no place for a repository in a guest", p).WithHint("--guest-path /root/repo")
	}
	return p, nil
}

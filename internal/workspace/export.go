package workspace

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"banger/api"
)

// ExportOptions say which patch is wanted.
type ExportOptions struct {
	// GuestPath is absolute, or below the user's home.
	GuestPath, User string
	// Base is a commit; empty: the one that was brought. SincePrepared takes what was brought instead, with what was
	// uncommitted in it: only what was done in the guest is then in the patch.
	Base             string
	SincePrepared    bool
	IncludeUntracked bool
}

// Change is a file that a patch changes.
type Change struct {
	// Kind is "added", "changed", "deleted", "renamed", "copied" or "type changed".
	Kind string `json:"kind"`
	Path string `json:"path"`
	// From is what it was called, empty where that has not changed.
	From string `json:"from,omitempty"`
}

// Export writes the patch of what is in a guest's repository, and lists what it changes. The guest's repository
// stays as it is.
func Export(ctx context.Context, g Guest, o ExportOptions, patch io.Writer) ([]Change, error) {
	where, err := GuestPath(o.GuestPath)
	if err != nil {
		return nil, err
	}
	base, untracked := o.Base, "no"
	if o.SincePrepared {
		base = "prepared"
	}
	if o.IncludeUntracked {
		untracked = "yes"
	}
	var list []Change
	var code int
	err = stream(func(out io.Writer) (err error) {
		code, err = script(ctx, g, o.User, scriptExport, nil, out, where, base, untracked)
		return err
	}, func(in io.Reader) (err error) {
		list, err = readExport(in, patch)
		return err
	})
	switch {
	case code == exitNoGit:
		return nil, errNoGit
	case code == exitNotRepo:
		return nil, api.Errorf(api.CodeNotFound, "there is no repository %s in the guest", where).WithHint("banger vm workspace prepare VM, or --guest-path OTHER")
	case code == exitNoBase && o.Base == "":
		return nil, api.Errorf(api.CodeConflict, "the repository %s in the guest was not brought by banger, so where its changes begin is unknown", where).
			WithHint("--base-commit SHA")
	case code == exitNoBase:
		return nil, api.Errorf(api.CodeNotFound, "the repository %s in the guest has no commit %q", where, o.Base)
	}
	return list, err
}

// maxList bounds the list of changes, which is held in memory.
const maxList = 64 << 20

// readExport takes apart what the script sends.
func readExport(in io.Reader, patch io.Writer) ([]Change, error) {
	r := bufio.NewReader(in)
	var listed, size int64
	head, err := r.ReadString('\n')
	if errors.Is(err, io.EOF) && head == "" {
		return nil, nil // the script says why by its exit code
	}
	if _, serr := fmt.Sscan(head, &listed, &size); err != nil || serr != nil || listed < 0 || size < 0 || listed > maxList {
		return nil, api.Errorf(api.CodeInternal, "the guest sends no patch but %q", printable(head))
	}
	text := make([]byte, listed)
	if _, err := io.ReadFull(r, text); err != nil {
		return nil, fmt.Errorf("cannot read the list of changes: %w", err)
	}
	if _, err := io.CopyN(patch, r, size); err != nil {
		return nil, fmt.Errorf("cannot read the patch: %w", err)
	}
	return changes(fields(text))
}

var kinds = map[byte]string{'A': "added", 'M': "changed", 'D': "deleted", 'R': "renamed", 'C': "copied", 'T': "type changed"}

// changes reads `--name-status -z`.
func changes(words []string) ([]Change, error) {
	list := []Change{}
	for i := 0; i < len(words); {
		status := words[i]
		c := Change{}
		if status != "" {
			c.Kind = kinds[status[0]]
		}
		n := 2
		if c.Kind == "renamed" || c.Kind == "copied" {
			n = 3
		}
		if c.Kind == "" || i+n > len(words) {
			return nil, api.Errorf(api.CodeInternal, "the guest lists no change but %q", printable(status))
		}
		if n == 3 {
			c.From = words[i+1]
		}
		c.Path = words[i+n-1]
		list = append(list, c)
		i += n
	}
	return list, nil
}

// Apply applies a patch to the work tree, all of it or nothing. Git refuses paths that lead out of the tree or into
// its repository.
func (r *Repo) Apply(ctx context.Context, patch string) error {
	if st, err := os.Stat(patch); err != nil || st.Size() == 0 {
		return err
	}
	abs, err := filepath.Abs(patch)
	if err != nil {
		return err
	}
	for _, check := range [][]string{{"--check"}, {}} {
		args := append(append([]string{"apply"}, check...), "--whitespace=nowarn", "--", abs)
		if _, err := r.git(ctx, args...); err != nil {
			if !exited(err) {
				return err
			}
			said := strings.TrimPrefix(err.Error(), "git apply: ")
			return api.Errorf(api.CodeConflict, "the patch does not apply to %s, where nothing was changed:\n%s", r.Top, printable(strings.TrimSpace(said))).
				WithHint("--output FILE, and look at it")
		}
	}
	return nil
}

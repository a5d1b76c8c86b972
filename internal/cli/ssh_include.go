package cli

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"banger/api"
)

// The block in the user's own ssh configuration: marks on both sides of one Include. It
// stands at the very top, since an Include within a Host block belongs to that block.
const (
	includeBegin = "# banger: begin"
	includeEnd   = "# banger: end"
)

func userSSHConfig(a *app) (string, error) {
	home := a.env["HOME"]
	if !filepath.IsAbs(home) {
		return "", api.Errorf(api.CodeInvalid, "HOME is not set, so there is no ~/.ssh/config")
	}
	return filepath.Join(home, ".ssh", "config"), nil
}

func includeLine(ours string) string { return "Include " + `"` + ours + `"` }

// editInclude makes include the block's line, or takes the block away when it is empty.
// It reports whether the file had to be changed. Everything else in it stays byte for
// byte, and so do its mode and, where it is a link, what it links to.
func editInclude(path, include string) (changed bool, err error) {
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		path = resolved
	}
	old, err := os.ReadFile(path)
	mode := fs.FileMode(0o600)
	switch info, serr := os.Stat(path); {
	case err == nil && serr == nil:
		mode = info.Mode().Perm()
	case !errors.Is(err, fs.ErrNotExist):
		return false, api.Errorf(api.CodeInvalid, "cannot read the ssh configuration: %w", err)
	case include == "":
		return false, nil
	}
	rest, err := withoutBlock(string(old))
	if err != nil {
		return false, api.Errorf(api.CodeConflict, "%s: %w", path, err).WithHint("mend the lines between %q and %q by hand", includeBegin, includeEnd)
	}
	text := rest
	if include != "" {
		text = includeBegin + "\n" + include + "\n" + includeEnd + "\n" + rest
	}
	if bytes.Equal([]byte(text), old) {
		return false, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return false, api.Errorf(api.CodeInvalid, "cannot make the ssh directory: %w", err)
	}
	return true, replaceFile(path, text, mode)
}

var errHalfBlock = errors.New("banger's block is not whole")

// withoutBlock takes banger's block out. A block that has no end is refused: what follows
// its begin may be the user's.
func withoutBlock(text string) (string, error) {
	var b strings.Builder
	inside := false
	for line := range strings.Lines(text) {
		switch word := strings.TrimSpace(line); {
		case word == includeBegin && !inside:
			inside = true
		case word == includeEnd && inside:
			inside = false
		case inside && !strings.HasPrefix(word, "Include "):
			return "", errHalfBlock
		case !inside:
			b.WriteString(line)
		}
	}
	if inside {
		return "", errHalfBlock
	}
	return b.String(), nil
}

// writeOurs writes the file that is included, in banger's own directory.
func writeOurs(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return api.Errorf(api.CodeInvalid, "cannot make banger's ssh directory: %w", err)
	}
	return replaceFile(path, text, 0o600)
}

// removeOurs removes that one file and nothing else: keys lie beside it.
func removeOurs(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return api.Errorf(api.CodeInvalid, "cannot remove banger's ssh configuration: %w", err)
	}
	return nil
}

// replaceFile writes beside and renames, so that no reader ever sees half a file.
func replaceFile(path, text string, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".banger-*")
	if err != nil {
		return api.Errorf(api.CodeInvalid, "cannot write %s: %w", path, err)
	}
	defer os.Remove(f.Name()) // fails once it has been renamed
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return api.Errorf(api.CodeInvalid, "cannot write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return api.Errorf(api.CodeInvalid, "cannot write %s: %w", path, err)
	}
	return nil
}

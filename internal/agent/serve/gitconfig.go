package serve

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"banger/api"
)

// GitConfigFile is git's configuration for everybody in the guest, and what any other goes over (git-config(1)). It is not in
// root's home, where `git config --global` would write into a file of ours.
const GitConfigFile = "/etc/gitconfig"

// Between these lines is the host's identity; they come first, so that what an image says goes over them.
const (
	gitBegin = "# banger: the host's identity; changes between these lines are lost"
	gitEnd   = "# banger: end"
)

// GitConfig is the file with an identity, where it was old; nil takes the identity out.
func GitConfig(old string, g *api.GitIdentity) string {
	rest := withoutGit(old)
	if g == nil || g.Name == "" && g.Email == "" {
		return rest
	}
	var b strings.Builder
	b.WriteString(gitBegin + "\n[user]\n")
	for _, set := range [][2]string{{"name", g.Name}, {"email", g.Email}} {
		if set[1] != "" {
			b.WriteString("\t" + set[0] + " = \"" + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(set[1]) + "\"\n")
		}
	}
	b.WriteString(gitEnd + "\n")
	return b.String() + rest
}

// withoutGit leaves out what GitConfig put in. Lines of ours without an end are let be.
func withoutGit(text string) string {
	before, rest, ok := strings.Cut(text, gitBegin+"\n")
	_, after, ended := strings.Cut(rest, gitEnd+"\n")
	if !ok || !ended {
		return text
	}
	return before + after
}

// ReadGitConfig is the file as it is; a missing one is empty. usable is false where there is something else, such as a link of the
// image's to elsewhere, which is to stay as it is.
func ReadGitConfig(root string) (text string, usable bool) {
	name := filepath.Join(root, GitConfigFile)
	st, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", true
	}
	if err != nil || !st.Mode().IsRegular() || st.Size() > maxText {
		return "", false
	}
	b, err := os.ReadFile(name)
	return string(b), err == nil
}

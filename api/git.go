package api

import (
	"strings"
	"unicode"
)

// GitIdentity is git's user.name and user.email. Either may be empty, and is then not set.
type GitIdentity struct {
	// Name and Email are of up to 256 bytes, in one line.
	Name  string `json:"name"`
	Email string `json:"email"`
}

const maxGitIdentity = 256

// Validate refuses what could not be written into a configuration of git.
func (g *GitIdentity) Validate() error {
	if g == nil {
		return nil
	}
	for what, s := range map[string]string{"name": g.Name, "email": g.Email} {
		if len(s) > maxGitIdentity || strings.ContainsFunc(s, unicode.IsControl) {
			return Errorf(CodeInvalid, "git's user.%s is not one line of up to %d bytes", what, maxGitIdentity)
		}
	}
	return nil
}

package workspace

import (
	"context"
	"errors"
	"os/exec"
	"strings"

	"banger/api"
)

// Identity is the caller's own user.name and user.email, as git has them outside of any repository; nil where there is neither, or
// no git.
func (h Host) Identity(ctx context.Context) (*api.GitIdentity, error) {
	out, err := call{dir: "/", env: h.environment(off), args: []string{"config", "-z", "--get-regexp", `^user\.(name|email)$`}}.run(ctx)
	var exit *exec.ExitError
	switch {
	case api.CodeOf(err) == api.CodeMissing, errors.As(err, &exit) && exit.ExitCode() == 1: // git-config(1): none is set
		return nil, nil
	case err != nil:
		return nil, err
	}
	g := &api.GitIdentity{}
	for entry := range strings.SplitSeq(string(out), "\x00") { // the last of each counts
		key, value, _ := strings.Cut(entry, "\n")
		switch key {
		case "user.name":
			g.Name = value
		case "user.email":
			g.Email = value
		}
	}
	return g, g.Validate()
}

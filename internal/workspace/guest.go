package workspace

import (
	"bytes"
	"context"
	_ "embed" // the scripts
	"fmt"
	"io"
	"strings"

	"banger/api"
)

// Guest is where a repository is brought to: a VM for cli, this host in the tests.
type Guest interface {
	// Run runs a program to its end and returns its exit code, 127 where there is none of that name.
	Run(ctx context.Context, c Command) (int, error)
	// Put unpacks a tar stream below a directory; all of it becomes the user's.
	Put(ctx context.Context, dir, user string, tar io.Reader) error
}

// Command is a program with its streams, of which each may be nil.
type Command struct {
	Argv, Env      []string
	User           string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// What runs in a guest is the same every time; what differs comes as arguments. scriptLib is put before each.
var (
	//go:embed scripts/lib.sh
	scriptLib string
	//go:embed scripts/probe.sh
	scriptProbe string
	//go:embed scripts/place.sh
	scriptPlace string
	//go:embed scripts/changed.sh
	scriptChanged string
	//go:embed scripts/update.sh
	scriptUpdate string
	//go:embed scripts/export.sh
	scriptExport string
)

// Exit codes of the scripts.
const (
	exitNoGit   = 70
	exitDiffers = 71
	exitBusy    = 72
	exitNoBase  = 73
	exitNotRepo = 74
)

// script runs one of the scripts. Its stderr becomes the error where it fails with none of the codes above.
func script(ctx context.Context, g Guest, user, text string, stdin io.Reader, stdout io.Writer, args ...string) (int, error) {
	var stderr bytes.Buffer
	code, err := g.Run(ctx, Command{
		Argv: append([]string{"sh", "-c", scriptLib + text, "banger"}, args...),
		User: user, Stdin: stdin, Stdout: stdout, Stderr: &limited{b: &stderr},
	})
	if err != nil {
		return code, err
	}
	switch code {
	case 0, exitNoGit, exitDiffers, exitBusy, exitNoBase, exitNotRepo:
		return code, nil
	}
	said := strings.TrimSpace(stderr.String())
	if said == "" {
		said = fmt.Sprintf("exit code %d", code)
	}
	return code, api.Errorf(api.CodeConflict, "cannot work on the repository in the guest: %s", printable(said))
}

// printable keeps a guest's words from steering a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r >= ' ' && r != 0x7f && (r < 0x80 || r > 0x9f) {
			return r
		}
		return '?'
	}, strings.ToValidUTF8(text, "?"))
}

var errNoGit = api.Errorf(api.CodeUnsupported, "the guest's image has no git").WithHint("banger run --image debian …, which has it")

// Package doctor looks at the host, changes nothing, and says of each thing that banger
// needs whether it is there, and which command mends it. It may be imported by server.
package doctor

import (
	"context"
	"fmt"
	"io/fs"
	"time"

	"banger/api"
	"banger/internal/backend"
	"banger/internal/config"
	"banger/internal/host"
)

// Options is all that the checks ask.
type Options struct {
	Config *config.Config
	Host   host.Processes
	// Backends are asked for their versions and their acceleration, and which one a new VM gets.
	Backends backend.Set
	Machine  Machine
	Rights   api.Rights
	// Refused says why the bangerd-root that is there does not serve this daemon; empty where it does, or there is none.
	Refused string
	// Network finds docker, firewalld, ufw and clashing subnets; nil where there is no
	// network of ours.
	Network func(context.Context) []api.Check
	// Catalogue lists what has been built or imported.
	Catalogue func(context.Context) ([]api.Image, []api.Kernel, error)
	// Guests gives by how much each running guest's clock differs from ours; nil to leave it out.
	Guests func(context.Context) map[string]time.Duration
}

// Machine is what is read from the operating system itself.
type Machine struct {
	// Files is rooted at "/".
	Files    fs.FS
	OS, Arch string // as in runtime.GOOS and GOARCH
	UID      int
	User     string
	Now      func() time.Time
	// FreeDisk is what an ordinary user may still write, for the deepest existing parent of path.
	FreeDisk func(path string) (int64, error)
	// Owner tells whose path is and its mode; the error is fs.ErrNotExist where there is none.
	Owner func(path string) (uid int, mode fs.FileMode, err error)
}

// Run does every check, in the order in which a person would mend things.
func Run(ctx context.Context, o Options) []api.Check {
	checks := []api.Check{}
	add := func(cs ...api.Check) { checks = append(checks, cs...) }
	add(o.system())
	add(o.hypervisors(ctx)...)
	add(o.programs()...)
	add(o.rights()...)
	add(o.directories()...)
	add(o.memory(), o.disk(), o.cgroup(), o.clock())
	if o.Network != nil {
		add(o.Network(ctx)...)
	}
	if o.Catalogue != nil {
		add(o.catalogue(ctx)...)
	}
	if o.Guests != nil {
		add(o.guests(ctx)...)
	}
	return checks
}

// Usable reports whether VMs can run here: no check failed. Warnings do not count.
func Usable(checks []api.Check) bool {
	for _, c := range checks {
		if c.Verdict == api.VerdictFail {
			return false
		}
	}
	return true
}

func ok(name, format string, args ...any) api.Check {
	return api.Check{Name: name, Verdict: api.VerdictOK, Detail: fmt.Sprintf(format, args...)}
}

func warn(name, hint, format string, args ...any) api.Check {
	return api.Check{Name: name, Verdict: api.VerdictWarn, Detail: fmt.Sprintf(format, args...), Hint: hint}
}

func fail(name, hint, format string, args ...any) api.Check {
	return api.Check{Name: name, Verdict: api.VerdictFail, Detail: fmt.Sprintf(format, args...), Hint: hint}
}

// text reads a file of the machine; empty where it cannot be read.
func (o Options) text(path string) string {
	b, err := fs.ReadFile(o.Machine.Files, path[1:])
	if err != nil {
		return ""
	}
	return string(b)
}

// root says whether the daemon may do everything.
func (o Options) root() bool { return o.Machine.UID == 0 }

// sudo makes a command one that this user can give.
func (o Options) sudo(command string) string {
	if o.root() {
		return command
	}
	return "sudo " + command
}

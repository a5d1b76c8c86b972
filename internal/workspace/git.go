package workspace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"banger/api"
)

// Host is where git runs.
type Host struct {
	// Environ is the caller's, as os.Environ gives it; git gets only what it needs of it.
	Environ []string
	// Temp is where temporary directories are made; empty: the system's place.
	Temp string
}

// passed are the caller's variables that git sees. Of its own, only those that say where the
// caller's configuration is: GIT_DIR and the like may be left over from a hook.
var passed = []string{
	"PATH", "HOME", "USER", "LOGNAME", "XDG_CONFIG_HOME", "TMPDIR", "TZ",
	"GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM", "GIT_CEILING_DIRECTORIES",
}

// off is the configuration that keeps git from running anything, and from talking to anybody. Given through the
// environment it wins over every file, and git hands it on to the processes it starts in submodules.
var off = [][2]string{
	{"core.hooksPath", "/dev/null"},
	{"core.fsmonitor", ""}, // a git before 2.36 would run a program called "false"
	{"core.untrackedCache", "false"},
	{"core.splitIndex", "false"},
	{"core.sshCommand", "false"},
	{"core.gitProxy", "false"},
	{"core.askPass", "false"},
	{"core.alternateRefsCommand", "false"},
	{"core.pager", "cat"},
	{"core.bare", "false"},
	{"core.safecrlf", "false"},
	{"credential.helper", ""},
	{"diff.external", ""},
	{"gc.auto", "0"},
	{"maintenance.auto", "false"},
	{"submodule.recurse", "false"},
	{"pack.packSizeLimit", "0"},
	{"pack.indexVersion", "2"},
	{"commit.gpgSign", "false"},
	{"protocol.allow", "never"}, {"protocol.ext.allow", "never"}, {"protocol.file.allow", "never"}, {"protocol.git.allow", "never"},
	{"protocol.ssh.allow", "never"}, {"protocol.http.allow", "never"}, {"protocol.https.allow", "never"},
	// Whoever owns the repository, nothing of it is run: the reason for git's own refusal does not hold.
	{"safe.directory", "*"},
}

// environment is git's. config wins over all files.
func (h Host) environment(config [][2]string, extra ...string) []string {
	var env []string
	for _, kv := range h.Environ {
		name, _, _ := strings.Cut(kv, "=")
		for _, p := range passed {
			if name == p {
				env = append(env, kv)
			}
		}
	}
	env = append(env, "LC_ALL=C", "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=false", "GIT_OPTIONAL_LOCKS=0", "GIT_ALLOW_PROTOCOL=none",
		"GIT_NO_LAZY_FETCH=1", "GIT_NO_REPLACE_OBJECTS=1", "GIT_LITERAL_PATHSPECS=1", "GIT_ATTR_NOSYSTEM=1")
	env = append(env, "GIT_CONFIG_COUNT="+strconv.Itoa(len(config)))
	for n, kv := range config {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", n, kv[0]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", n, kv[1]))
	}
	return append(env, extra...)
}

// gitError is git's refusal.
type gitError struct {
	verb   string
	stderr string
	err    error
}

func (e *gitError) Error() string {
	said := strings.TrimSpace(e.stderr)
	if said == "" {
		return fmt.Sprintf("git %s: %v", e.verb, e.err)
	}
	return fmt.Sprintf("git %s: %s", e.verb, said)
}

func (e *gitError) Unwrap() error { return e.err }

// call is one run of git.
type call struct {
	dir    string
	env    []string
	stdin  io.Reader
	stdout io.Writer // nil: the output is returned
	args   []string
}

// run runs git to its end. Its group is ended with ctx.
func (c call) run(ctx context.Context) ([]byte, error) {
	path, err := exec.LookPath("git")
	if err != nil {
		return nil, api.Errorf(api.CodeMissing, "git is not installed on this host").WithHint("apt-get install git")
	}
	var out, stderr bytes.Buffer
	cmd := &exec.Cmd{Path: path, Args: append([]string{"git"}, c.args...), Dir: c.dir, Env: c.env, Stdin: c.stdin, Stdout: c.stdout, Stderr: &limited{b: &stderr}}
	if c.stdout == nil {
		cmd.Stdout = &out
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start git: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	err = cmd.Wait()
	stop()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return out.Bytes(), &gitError{verb: c.args[0], stderr: stderr.String(), err: err}
	}
	return out.Bytes(), nil
}

// limited keeps the first few KiB of what git complains about.
type limited struct{ b *bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if room := 8<<10 - l.b.Len(); room > 0 {
		l.b.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// exited reports whether git ended with a code rather than by a signal or not at all.
func exited(err error) bool {
	var e *exec.ExitError
	return errors.As(err, &e) && e.Exited()
}

// oldest is the first git that takes configuration from the environment, on which all of off rests.
var oldest = [2]int{2, 31}

func (h Host) checkVersion(ctx context.Context) error {
	out, err := call{env: h.environment(nil), args: []string{"version"}}.run(ctx)
	if err != nil {
		return err
	}
	var major, minor int
	if _, err := fmt.Sscanf(string(out), "git version %d.%d", &major, &minor); err != nil {
		return fmt.Errorf("cannot read git's version from %q: %w", out, err)
	}
	if major < oldest[0] || major == oldest[0] && minor < oldest[1] {
		return api.Errorf(api.CodeUnsupported, "git %d.%d is too old: %d.%d or later is needed", major, minor, oldest[0], oldest[1]).
			WithHint("sudo apt-get install git")
	}
	return nil
}

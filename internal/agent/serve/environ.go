package serve

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"banger/api"
)

// loginPath is what a command finds its programs in, whoever runs it.
const loginPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment is what a login would give, and then the spec's own. Later ones win.
func (p place) environment(spec api.ExecSpec, who user) []string {
	env := []string{
		"HOME=" + p.path(who.home),
		"USER=" + who.name,
		"LOGNAME=" + who.name,
		"SHELL=" + who.shell,
		"PATH=" + loginPath,
		"LANG=C.UTF-8",
	}
	if spec.TTY {
		env = append(env, "TERM=xterm-256color")
	}
	at := make(map[string]int, len(env)+len(spec.Env))
	out := env[:0:0]
	for _, kv := range append(env, spec.Env...) {
		k, _, ok := strings.Cut(kv, "=")
		if !ok || k == "" || strings.ContainsRune(kv, 0) {
			continue
		}
		if i, ok := at[k]; ok {
			out[i] = kv
			continue
		}
		at[k] = len(out)
		out = append(out, kv)
	}
	return out
}

// path is where a path of the guest is for this process.
func (p place) path(name string) string {
	if p.own() {
		return name
	}
	return filepath.Join(p.Root, name)
}

// workdir is the directory to start in. A home that is not there, or closed to this process
// (a test's guest that is not root), is no reason to fail.
func (p place) workdir(cwd string, who user) (string, error) {
	if cwd == "" {
		if dir := p.path(who.home); isDir(dir) && unix.Access(dir, unix.X_OK) == nil {
			return dir, nil
		}
		return p.path("/"), nil
	}
	if !filepath.IsAbs(cwd) {
		return "", api.Errorf(api.CodeInvalid, "the working directory %q is not absolute", cwd)
	}
	dir := p.path(cwd)
	if !isDir(dir) {
		return "", api.Errorf(api.CodeInvalid, "no directory %q in the guest", cwd)
	}
	return dir, nil
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

// findProgram looks a command up as execvp does, in the command's own PATH and from its own
// directory. The error is a *startError.
func findProgram(name, dir string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		path := name
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		return path, executable(name, path)
	}
	search := loginPath
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			search = v
		}
	}
	var denied error
	for _, d := range filepath.SplitList(search) {
		if d == "" {
			d = "."
		}
		if !filepath.IsAbs(d) {
			d = filepath.Join(dir, d)
		}
		path := filepath.Join(d, name)
		err := executable(name, path)
		var se *startError
		switch {
		case err == nil:
			return path, nil
		case errors.As(err, &se) && se.exitCode == exitNotExecutable:
			denied = err
		}
	}
	if denied != nil {
		return "", denied
	}
	return "", &startError{exitNotFound, fmt.Sprintf("cannot run %s: not found in PATH", name)}
}

// executable checks what can be known before execve, which has the last word.
func executable(name, path string) error {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return &startError{exitNotFound, fmt.Sprintf("cannot run %s: no such file", name)}
	case err != nil:
		return &startError{exitNotExecutable, fmt.Sprintf("cannot run %s: %v", name, errnoOf(err))}
	case st.IsDir():
		return &startError{exitNotExecutable, fmt.Sprintf("cannot run %s: it is a directory", name)}
	case st.Mode()&0o111 == 0:
		return &startError{exitNotExecutable, fmt.Sprintf("cannot run %s: it is not executable", name)}
	}
	return nil
}

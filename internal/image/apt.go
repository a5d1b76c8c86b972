package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"banger/api"
	"banger/internal/host"
)

// packageName is Debian policy 5.6.1, with apt's ":arch", "=version" and "/suite".
var packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+(:[a-z0-9-]+)?([=/][A-Za-z0-9.+:~-]+)?$`)

// apt uses the host's apt as its administrator has set it up: sources, keys, proxies. The host
// itself is not changed: packages are fetched into our own directories and unpacked there, and
// none of it needs root.
type apt struct {
	s       *Service
	options []string
}

func (s *Service) apt() apt {
	a := apt{s: s}
	if s.UID == 0 {
		// apt's sandbox user cannot write to our directories.
		a.options = []string{"-o", "APT::Sandbox::User=root"}
	}
	return a
}

func (a apt) run(ctx context.Context, program, dir string, args ...string) (string, error) {
	path, err := a.s.Host.LookPath(program)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	err = a.s.Host.Run(ctx, host.Command{Path: path, Args: slices.Concat(a.options, args), Dir: dir, Stdout: &out, Env: a.s.env(a.s.Env...)})
	return out.String(), err
}

// withFreshLists is an apt with package lists of its own in dir, for a host whose lists
// are missing, or older than the mirror's last point release.
func (a apt) withFreshLists(ctx context.Context, dir string) (apt, error) {
	lists, cache := filepath.Join(dir, "lists"), filepath.Join(dir, "cache")
	for _, d := range []string{lists, cache} {
		if err := os.MkdirAll(filepath.Join(d, "partial"), 0o700); err != nil {
			return a, diskError(err)
		}
	}
	a.options = slices.Concat(a.options, []string{
		"-o", "Dir::State::lists=" + lists, "-o", "Dir::Cache=" + cache,
		"-o", "Acquire::Languages=none", "-o", "APT::Update::Post-Invoke=", "-o", "APT::Update::Post-Invoke-Success=",
	})
	_, err := a.run(ctx, "apt-get", dir, "update")
	return a, err
}

// fetch downloads packages and unpacks them, without installing anything, into dir/root.
func (s *Service) fetch(ctx context.Context, dir string, packages ...string) error {
	return s.fetchResolved(ctx, dir, func(apt) ([]string, error) { return packages, nil })
}

// fetchResolved is fetch for packages whose names the package lists tell.
func (s *Service) fetchResolved(ctx context.Context, dir string, resolve func(apt) ([]string, error)) error {
	if err := os.MkdirAll(filepath.Join(dir, "root"), 0o700); err != nil {
		return diskError(err)
	}
	a := s.apt()
	try := func() error {
		packages, err := resolve(a)
		if err != nil {
			return err
		}
		_, err = a.run(ctx, "apt-get", dir, append([]string{"download", "--"}, packages...)...)
		return err
	}
	if first := try(); first != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var err error
		if a, err = a.withFreshLists(ctx, dir); err == nil {
			err = try()
		}
		if err != nil {
			return api.Errorf(api.CodeUnreachable, "cannot fetch Debian packages: %w", errors.Join(first, err)).WithHint("sudo apt-get update")
		}
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) == 0 {
		return errors.Join(errors.New("apt-get download left no package behind"), err)
	}
	dpkg, err := s.Host.LookPath("dpkg-deb")
	if err != nil {
		return err
	}
	for _, deb := range debs {
		err := s.Host.Run(ctx, host.Command{Path: dpkg, Args: []string{"-x", deb, filepath.Join(dir, "root")}})
		if err := errors.Join(err, os.Remove(deb)); err != nil {
			return s.runError(fmt.Errorf("cannot unpack %s: %w", filepath.Base(deb), err))
		}
	}
	return nil
}

// debianSources are lines of sources.list for a suite and its updates, as far as the host's
// own apt has them: whatever mirror the host uses is used. None when the host has no such suite.
func (s *Service) debianSources(ctx context.Context, suite string) ([]string, error) {
	out, err := s.apt().run(ctx, "apt-get", "", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages")
	if err != nil {
		return nil, fmt.Errorf("cannot ask apt for its sources: %w", err)
	}
	return sourceLines(out, suite), nil
}

func sourceLines(targets, suite string) []string {
	var lines []string
	for line := range strings.SplitSeq(targets, "\n") {
		f := strings.Fields(line)
		if len(f) != 3 || f[2] != "main" {
			continue
		}
		if f[1] != suite && f[1] != suite+"-updates" && f[1] != suite+"-security" {
			continue
		}
		l := fmt.Sprintf("deb %s %s %s", strings.TrimSuffix(f[0], "/"), f[1], f[2])
		if !slices.Contains(lines, l) {
			lines = append(lines, l)
		}
	}
	// Updates alone make no system.
	if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasSuffix(l, " "+suite+" main") }) {
		return nil
	}
	return lines
}

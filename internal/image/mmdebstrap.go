package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"banger/api"
	"banger/internal/host"
	"banger/internal/operation"
)

func (s *Service) mmdebstrap(ctx context.Context, op *operation.Operation, mode, work, root string, b api.ImageBuild) error {
	program, err := s.Host.LookPath("mmdebstrap")
	if err != nil {
		return err
	}
	mirrors, err := s.mirrors(ctx, b.Mirror)
	if err != nil {
		return err
	}
	overlay := filepath.Join(work, "overlay.tar")
	if err := s.writeOverlay(overlay, b.Run); err != nil {
		return err
	}
	scratch, err := makeScratch(work)
	if err != nil {
		return err
	}
	defer func() {
		if err := s.removeScratch(work); err != nil {
			s.Log.Warn("cannot remove a build's directory", "path", scratch, "error", err)
		}
	}()
	packages := b.Packages
	if len(packages) == 0 {
		packages = s.Packages
	}
	if len(packages) == 0 {
		packages = debianPackages()
	}
	args := []string{
		"--mode=" + mode, "--variant=minbase", "--format=tar",
		"--skip=cleanup/apt/lists", "--include=" + strings.Join(packages, ","),
		"--dpkgopt=force-unsafe-io", // a build that a power cut ends is started again from nothing
		// Half of a small system's files are translations and manuals that no guest reads. Licences stay.
		"--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
		"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-include=/usr/share/doc/*/copyright",
		"--customize-hook=tar-in overlay.tar /",
		`--customize-hook=chroot "$1" /` + own + "/setup",
	}
	if b.Run != "" {
		args = append(args, `--customize-hook=chroot "$1" /`+own+"/run")
	}
	args = append(args, debianSuite, root)
	args = append(args, mirrors...)
	if mode == "root" {
		// As root it mounts on the host: in namespaces of its own all mounts and processes end with it, even killed.
		args = append([]string{"--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--", program}, args...)
		if program, err = s.Host.LookPath("unshare"); err != nil {
			return err
		}
	}
	err = s.Host.Run(ctx, host.Command{
		Path: program, Args: args, Dir: work, Env: s.env(append(slices.Clone(s.Env), "TMPDIR="+scratch)...),
		Stderr: &phases{op: op},
	})
	if err != nil {
		if strings.Contains(err.Error(), "command failed: chroot \"$1\" /"+own+"/run") {
			return api.Errorf(api.CodeInvalid, "the script failed, so there is no image: %w", err)
		}
		return s.runError(fmt.Errorf("cannot make a Debian root: %w", err))
	}
	return nil
}

// mirrors are what mmdebstrap takes as its last arguments; none lets it use its own default.
func (s *Service) mirrors(ctx context.Context, asked string) ([]string, error) {
	if asked == "" {
		asked = s.Mirror
	}
	if asked != "" {
		return []string{"deb " + asked + " " + debianSuite + " main"}, nil
	}
	return s.debianSources(ctx, debianSuite)
}

// mmdebstrapMode says how: as root in a chroot, else in a user namespace with subordinate uids.
func (s *Service) mmdebstrapMode() (string, error) {
	if s.UID == 0 {
		return "root", nil
	}
	if _, err := s.Host.LookPath("newuidmap"); err != nil {
		return "", err
	}
	name := strconv.Itoa(s.UID)
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
		text, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("cannot build as %s: %w", name, err)
		}
		if !hasSubordinates(string(text), name) {
			return "", api.Errorf(api.CodeMissing, "user %s has no subordinate ids in %s, which a Debian root without root needs", name, file).
				WithHint("sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s", name)
		}
	}
	return "unshare", nil
}

// hasSubordinates looks for a line of subuid(5) by name, which is all that mmdebstrap 1.3 knows.
func hasSubordinates(text, name string) bool {
	for line := range strings.SplitSeq(text, "\n") {
		if f := strings.Split(line, ":"); len(f) == 3 && f[0] == name {
			return true
		}
	}
	return false
}

// phases turns mmdebstrap's "I: doing something..." into the step's detail.
type phases struct {
	op   *operation.Operation
	line []byte
}

func (p *phases) Write(b []byte) (int, error) {
	for _, c := range b {
		if c != '\n' && c != '\r' {
			if len(p.line) < 200 {
				p.line = append(p.line, c)
			}
			continue
		}
		if text, ok := strings.CutPrefix(string(p.line), "I: "); ok {
			p.op.Detail("%s", strings.ToValidUTF8(strings.TrimSuffix(text, "..."), "?"))
		}
		p.line = p.line[:0]
	}
	return len(b), nil
}

package image

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"banger/api"
	"banger/internal/host"
	"banger/internal/operation"
)

// minimal fills in busybox and the least that programs expect around it.
func (s *Service) minimal(ctx context.Context, op *operation.Operation, u *unpacker, work string) error {
	return op.Step(ctx, "unpack busybox", func(ctx context.Context) error {
		program, err := s.busybox(ctx, op, work)
		if err != nil {
			return err
		}
		return s.fillMinimal(ctx, u, program)
	})
}

func (s *Service) fillMinimal(ctx context.Context, u *unpacker, program string) error {
	text, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	applets, err := s.applets(ctx, program)
	if err != nil {
		return err
	}
	now := s.Now()
	for _, d := range []string{"bin", "dev", "etc", "home", "lib", "lib/modules", "mnt", "opt", "proc", "run", "sbin", "srv", "sys",
		"usr", "usr/bin", "usr/lib", "usr/local", "usr/local/bin", "usr/sbin", "usr/share", "var", "var/log"} {
		if err := u.putDir(d, 0o755, now); err != nil {
			return err
		}
	}
	for name, mode := range map[string]int64{"root": 0o755, "tmp": 0o1777, "var/tmp": 0o1777} {
		if err := u.putDir(name, mode, now); err != nil {
			return err
		}
	}
	if err := u.putFile("bin/busybox", 0o755, text, now); err != nil {
		return err
	}
	for _, a := range applets {
		if !u.exists(a) {
			if err := u.putSymlink(a, "/bin/busybox", now); err != nil {
				return err
			}
		}
	}
	for name, text := range minimalFiles() {
		if err := u.putFile(name, 0o644, []byte(text), now); err != nil {
			return err
		}
	}
	return u.putSymlink("var/run", "/run", now)
}

// minimalFiles are the texts of /etc. Passwords are locked: a guest is entered by its agent.
func minimalFiles() map[string]string {
	return map[string]string{
		"etc/passwd":      "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
		"etc/group":       "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
		"etc/shadow":      "root:*:19000:0:99999:7:::\nnobody:*:19000:0:99999:7:::\n",
		"etc/hosts":       "127.0.0.1 localhost\n",
		"etc/resolv.conf": "",
		"etc/profile":     "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nPS1='\\u@\\h:\\w\\$ '\n",
		"etc/os-release":  "ID=banger-minimal\nNAME=\"banger minimal\"\nPRETTY_NAME=\"banger minimal (busybox)\"\n",
		"etc/shells":      "/bin/sh\n/bin/ash\n",
		"etc/fstab":       "",
	}
}

// applets asks busybox for the names that it answers to, as "bin/ls".
func (s *Service) applets(ctx context.Context, program string) ([]string, error) {
	var out bytes.Buffer
	if err := s.Host.Run(ctx, host.Command{Path: program, Args: []string{"--list-full"}, Stdout: &out}); err != nil {
		return nil, err
	}
	var names []string
	for name := range strings.SplitSeq(out.String(), "\n") {
		if name = strings.TrimSpace(name); path.Base(name) == "busybox" || name == "linuxrc" || !strings.Contains(name, "/") {
			continue
		}
		names = append(names, name)
	}
	if len(names) < 50 {
		return nil, api.Errorf(api.CodeMissing, "%s is no full busybox: it has %d programs only", program, len(names)).
			WithHint("sudo apt-get install busybox-static")
	}
	return names, nil
}

// busybox is a static busybox: the host's, or else one out of Debian's package.
func (s *Service) busybox(ctx context.Context, op *operation.Operation, work string) (string, error) {
	for _, p := range []string{"/bin/busybox", "/usr/bin/busybox"} {
		if static(p) {
			return p, nil
		}
	}
	op.Detail("fetching the package busybox-static")
	dir := filepath.Join(work, "busybox")
	if err := s.fetch(ctx, dir, "busybox-static"); err != nil {
		return "", err
	}
	for _, p := range []string{"bin/busybox", "usr/bin/busybox"} {
		if p = filepath.Join(dir, "root", p); static(p) {
			return p, nil
		}
	}
	return "", errors.New("the package busybox-static has no static busybox in it")
}

// static reports whether path is a program that needs no dynamic linker: the guest has none.
func static(path string) bool {
	f, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return false
		}
	}
	info, err := os.Stat(path)
	return err == nil && info.Mode()&fs.ModeType == 0
}

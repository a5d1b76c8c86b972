package image

import (
	"archive/tar"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"banger/api"
	"banger/internal/operation"
)

// debianSuite is the release that `image build debian` makes.
const debianSuite = "bookworm"

// debianPackages is what people expect of a machine (the first lines), and what systemd needs
// to come up whole. Essential packages, apt among them, come by themselves.
func debianPackages() []string {
	return []string{
		"openssh-server", "openssh-client", "sudo", "git", "curl", "ca-certificates", "iproute2", "iputils-ping", "procps",
		"less", "file", "vim-tiny", "tmux", "rsync", "xz-utils", "zstd", "bash-completion", "python3-minimal",
		"systemd", "systemd-sysv", "udev", "dbus", "libpam-systemd", "kmod",
	}
}

// debianSetup runs in the new root, after the packages and before the user's script.
//
//go:embed debian/setup
var debianSetup []byte

// own is where our files lie in the root while it is being made.
const own = ".banger"

// debian fills in what mmdebstrap makes.
func (s *Service) debian(ctx context.Context, op *operation.Operation, u *unpacker, work string, b api.ImageBuild) error {
	mode, err := s.mmdebstrapMode()
	if err != nil {
		return err
	}
	root := filepath.Join(work, "root.tar")
	err = op.Step(ctx, "install packages", func(ctx context.Context) error {
		return s.mmdebstrap(ctx, op, mode, work, root, b)
	})
	if err != nil {
		return err
	}
	return op.Step(ctx, "unpack", func(ctx context.Context) error {
		f, err := os.Open(root)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if err := s.unpackTar(ctx, u, f, func(n int64) { op.Progress(n, info.Size()) }); err != nil {
			return err
		}
		return errors.Join(os.Remove(root), s.depersonalise(u))
	})
}

// depersonalise takes out what would be the same in every guest, and what is the build's own.
func (s *Service) depersonalise(u *unpacker) error {
	now := s.Now()
	gone := []string{own, "etc/hostname", "var/lib/dbus/machine-id", "etc/apt/apt.conf.d/99mmdebstrap", "etc/dpkg/dpkg.cfg.d/99mmdebstrap"}
	for name := range u.nodes {
		if strings.HasPrefix(name, "etc/ssh/ssh_host_") {
			gone = append(gone, name)
		}
	}
	for _, name := range gone {
		if err := u.remove(name); err != nil {
			return err
		}
	}
	// An empty machine-id is made up at each boot, and is no "first boot" to systemd (machine-id(5)).
	// The other two, newer than /usr, tell systemd that there is nothing to update (systemd-update-done(8)).
	for _, name := range []string{"etc/machine-id", "etc/resolv.conf", "etc/.updated", "var/.updated"} {
		if err := u.putFile(name, 0o644, nil, now); err != nil {
			return err
		}
	}
	return nil
}

// writeOverlay writes the files that every Debian image has more than its packages.
func (s *Service) writeOverlay(path, run string) error {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(h tar.Header, text []byte) error {
		h.Size, h.ModTime, h.Format = int64(len(text)), s.Now(), tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		_, err := w.Write(text)
		return err
	}
	files := debianFiles()
	files[own+"/setup"] = overlayFile{mode: 0o755, text: string(debianSetup)}
	if run != "" {
		files[own+"/run"] = overlayFile{mode: 0o755, text: run}
	}
	var errs []error
	for name, f := range files {
		h := tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: f.mode}
		if f.link != "" {
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.link
		}
		errs = append(errs, put(h, []byte(f.text)))
	}
	if err := errors.Join(errors.Join(errs...), w.Close()); err != nil {
		return err
	}
	return diskError(os.WriteFile(path, b.Bytes(), 0o600))
}

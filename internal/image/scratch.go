package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/host"
)

const (
	scratchPrefix = "banger-image-"
	// scratchNote is a file in a build's directory which names its scratch directory, for Reconcile.
	scratchNote = "scratch"
)

// makeScratch makes a directory for the root that mmdebstrap works on, and notes it in work. Without
// root its files belong to subordinate uids: neither can those pass through our own
// directories, nor can we remove what a killed build has left there. So it is one that everybody
// can pass, and removeScratch empties it through mmdebstrap.
func makeScratch(work string) (string, error) {
	parent := "/var/tmp"
	for _, p := range []string{os.TempDir(), "/tmp"} {
		if passable(p) {
			parent = p
			break
		}
	}
	dir, err := os.MkdirTemp(parent, scratchPrefix+"*")
	if err != nil {
		return "", diskError(err)
	}
	if err := os.WriteFile(filepath.Join(work, scratchNote), []byte(dir), 0o600); err != nil {
		return "", errors.Join(diskError(err), os.Remove(dir))
	}
	return dir, os.Chmod(dir, 0o711)
}

// passable reports whether any user may go through a directory and all above it.
func passable(dir string) bool {
	for {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
		if dir == "/" || dir == "." {
			return dir == "/"
		}
		dir = filepath.Dir(dir)
	}
}

// scratchTime bounds the removal: a killed build's last processes may still write for a moment.
const scratchTime = 10 * time.Second

// removeScratch removes what makeScratch has noted in work; no note is no error.
func (s *Service) removeScratch(work string) error {
	text, err := os.ReadFile(filepath.Join(work, scratchNote))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	dir := string(text)
	if err != nil || !filepath.IsAbs(dir) || !strings.HasPrefix(filepath.Base(dir), scratchPrefix) {
		return errors.Join(fmt.Errorf("a build's note of its directory is damaged: %q", dir), err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), scratchTime)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if err = s.emptyScratch(ctx, dir); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

func (s *Service) emptyScratch(ctx context.Context, dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		root := filepath.Join(dir, e.Name())
		if err := staysHere(root, dir); err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); s.UID == 0 || ok && int(st.Uid) == s.UID {
			continue
		}
		program, err := s.Host.LookPath("mmdebstrap")
		if err != nil {
			return err
		}
		// The directory itself is left for us: in the namespace its parent belongs to nobody.
		err = s.Host.Run(ctx, host.Command{
			Path: program, Args: []string{"--unshare-helper", "find", root, "-xdev", "-mindepth", "1", "-delete"}, Dir: "/", Env: s.env()})
		if err != nil {
			return err
		}
	}
	return os.RemoveAll(dir)
}

// staysHere refuses to remove a tree that something is mounted in: RemoveAll would go on into it.
func staysHere(root, dir string) error {
	var above unix.Stat_t
	if err := unix.Lstat(dir, &above); err != nil {
		return err
	}
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.IsDir() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err == nil && st.Dev != above.Dev {
			return fmt.Errorf("something is mounted at %s", path)
		}
		return nil
	})
}

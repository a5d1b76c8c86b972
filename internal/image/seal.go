package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"banger/internal/durable"
)

// digestFile is the sha256 of what is on disk under that name (trap 44), in hex.
func digestFile(ctx context.Context, path string, progress func(done int64)) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.CopyBuffer(h, &counter{ctx: ctx, r: f, report: progress}, make([]byte, 1<<20)); err != nil {
		return "", fmt.Errorf("cannot read %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// seal makes everything below dir read-only and durable, writes record, and renames dir to
// final, in that order: a directory under its final name is always whole. When final is there
// already it holds the same bytes, and dir is left for its owner to remove.
func seal(dir, final, recordName string, record any) error {
	text, err := json.MarshalIndent(record, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, filepath.Base(recordName)), append(text, '\n'), 0o600); err != nil {
		return diskError(err)
	}
	if err := readOnly(dir); err != nil {
		return diskError(fmt.Errorf("cannot seal %s: %w", filepath.Base(final), err))
	}
	if err := makeSealedDir(filepath.Dir(final)); err != nil {
		return err
	}
	err = os.Rename(dir, final)
	if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot seal %s: %w", filepath.Base(final), err)
	}
	return durable.SyncDir(filepath.Dir(final))
}

// makeSealedDir makes a directory of sealed objects, passable for VMMs under uids of their own
// whatever the umask.
func makeSealedDir(dir string) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return diskError(fmt.Errorf("cannot make %s: %w", dir, err))
	}
	return os.Chmod(dir, 0o711)
}

func readOnly(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			dirs = append(dirs, path)
			return nil
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(f.Chmod(0o444), f.Sync(), f.Close())
	})
	if err != nil {
		return err
	}
	for _, d := range dirs {
		if err := errors.Join(os.Chmod(d, 0o711), durable.SyncDir(d)); err != nil {
			return err
		}
	}
	return nil
}

// Package durable writes files that are either the old or the new one after a crash,
// never half of either. It imports nothing of banger and anyone may import it.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// WriteFile replaces path by text: written beside it, fsynced, renamed, and the
// directory fsynced.
func WriteFile(path string, text []byte, mode fs.FileMode) error {
	if err := replace(path, text, mode, (*os.File).Sync); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// ReplaceFile is WriteFile for what is worth nothing once the host has lost its power: whoever reads it finds the old or
// the new one, but after a power cut it may be damaged or gone.
func ReplaceFile(path string, text []byte, mode fs.FileMode) error {
	return replace(path, text, mode, func(*os.File) error { return nil })
}

func replace(path string, text []byte, mode fs.FileMode, sync func(*os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already once it is renamed
	_, err = f.Write(text)
	if err = errors.Join(err, f.Chmod(mode), sync(f), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// SyncDir makes the names in a directory survive a power cut.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

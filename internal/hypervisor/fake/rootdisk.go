package fake

import (
	"context"
	"errors"
	"os"
	"path/filepath"
)

// RootDisk is a small root of its own: a fake guest's is the host's. It is gone with done.
func (s *system) RootDisk(context.Context) (*os.File, func() error, error) {
	dir, err := os.MkdirTemp(s.spec.Machine.Dir, "image")
	if err != nil {
		return nil, nil, err
	}
	err = errors.Join(os.MkdirAll(filepath.Join(dir, "bin"), 0o755), os.MkdirAll(filepath.Join(dir, "etc"), 0o755),
		os.WriteFile(filepath.Join(dir, "bin", "sh"), []byte("#!/bin/false\n"), 0o755),
		os.WriteFile(filepath.Join(dir, "etc", "machine-id"), []byte("its own\n"), 0o444))
	f, oerr := os.Open(dir)
	if err = errors.Join(err, oerr); err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return f, func() error { return errors.Join(f.Close(), os.RemoveAll(dir)) }, nil
}

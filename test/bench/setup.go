package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// newBench makes a first home.
func newBench(ctx context.Context, rounds int) (*bench, error) {
	bin, err := filepath.Abs("bin")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("/tmp", "b")
	if err != nil {
		return nil, err
	}
	b := &bench{ctx: ctx, dir: dir, bin: bin, rounds: rounds}
	if err = os.Chmod(dir, 0o711); err == nil { // VMMs under uids of their own walk through it
		b.home, err = b.newHome("s")
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return b, nil
}

// close leaves nothing behind.
func (b *bench) close() {
	if err := errors.Join(b.home.close(), os.RemoveAll(b.dir)); err != nil {
		fmt.Fprintln(os.Stderr, "bench: cannot clean up:", err)
	}
}

package cli

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"banger/api"
	"banger/client"
	"banger/internal/frame/tree"
)

// copyOut copies from a guest to this host. Nothing of what a guest says about names,
// kinds or sizes makes it write anywhere but at the target.
type copyOut struct {
	a  *app
	c  *client.Client
	vm string
}

func (k copyOut) run(ctx context.Context, from, to string) error {
	st, err := k.c.StatFile(ctx, k.vm, from)
	if err != nil {
		return err
	}
	if st.Kind == "symlink" { // what it points to is meant; the dot makes the guest follow it
		if dir, err := k.c.StatFile(ctx, k.vm, from+"/."); err == nil && dir.Kind == "dir" {
			st, from = dir, from+"/."
		}
	}
	if st.Kind == "other" {
		return api.Errorf(api.CodeInvalid, "%s in %s is neither a file nor a directory", from, k.vm)
	}
	target, err := os.Stat(to)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return api.Errorf(api.CodeInvalid, "cannot write the target: %w", err)
	}
	exists := err == nil
	isDir := exists && target.IsDir()
	base := path.Base(path.Clean(from))
	if st.Kind != "dir" {
		if !isDir && asDirectory(to) {
			return api.Errorf(api.CodeNotFound, "there is no directory %s", to).WithHint("mkdir -p %s", to)
		}
		if isDir {
			to = filepath.Join(to, base)
		}
		return k.file(ctx, from, to)
	}
	switch {
	case exists && !isDir:
		return api.Errorf(api.CodeInvalid, "%s in %s is a directory, and %s is none", from, k.vm, to)
	case isDir && contentsOnly(from):
		return k.tree(ctx, from, to, ".")
	case isDir:
		return k.tree(ctx, from, to, base)
	}
	to = filepath.Clean(to)
	return k.tree(ctx, from, filepath.Dir(to), filepath.Base(to))
}

// file writes one file beside its place and renames it there; a device or pipe is written to.
func (k copyOut) file(ctx context.Context, from, to string) error {
	if resolved, err := filepath.EvalSymlinks(to); err == nil {
		to = resolved
	}
	body, mode, err := k.c.GetFile(ctx, k.vm, from)
	if err != nil {
		return err
	}
	defer body.Close()
	if info, err := os.Stat(to); err == nil && !info.Mode().IsRegular() {
		f, err := os.OpenFile(to, os.O_WRONLY, 0)
		if err != nil {
			return api.Errorf(api.CodeInvalid, "cannot write the target: %w", err)
		}
		_, err = io.Copy(f, body)
		return errors.Join(err, f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(to), ".banger-cp-*")
	if err != nil {
		return api.Errorf(api.CodeInvalid, "cannot write the target: %w", err)
	}
	defer os.Remove(f.Name()) // fails once it has been renamed
	if _, err := io.Copy(f, body); err != nil {
		return errors.Join(api.Errorf(api.CodeUnreachable, "%s was not copied to its end: %w", from, err), f.Close())
	}
	if err := errors.Join(f.Chmod(mode.Perm()), f.Close()); err != nil {
		return api.Errorf(api.CodeInvalid, "cannot write the target: %w", err)
	}
	if err := os.Rename(f.Name(), to); err != nil {
		return api.Errorf(api.CodeInvalid, "cannot write the target: %w", err)
	}
	return nil
}

// tree unpacks a directory of the guest as dir/name, or for the name "." into dir itself.
func (k copyOut) tree(ctx context.Context, from, dir, name string) error {
	dst, err := os.Open(dir)
	if err != nil {
		return api.Errorf(api.CodeNotFound, "cannot write the target: %w", err)
	}
	defer dst.Close()
	body, err := k.c.GetTree(ctx, k.vm, path.Clean(from))
	if err != nil {
		return err
	}
	defer body.Close()
	return tree.Unpack(ctx, body, dst, tree.UnpackOptions{As: name})
}

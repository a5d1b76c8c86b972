package cli

import (
	"context"
	"io"
	"os"
	"path"
	"path/filepath"

	"banger/api"
	"banger/client"
	"banger/internal/frame/tree"
)

// copyIn copies from this host into a guest.
type copyIn struct {
	a        *app
	c        *client.Client
	vm, user string
}

func (k copyIn) run(ctx context.Context, from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return api.Errorf(api.CodeNotFound, "cannot read the source: %w", err)
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return api.Errorf(api.CodeInvalid, "cannot read the source: %w", err)
	}
	target, exists, err := k.stat(ctx, to)
	if err != nil {
		return err
	}
	isDir := exists && target.Kind == "dir"
	// "." and "dir/.." have no name of their own: it is that of the directory they stand for.
	base := filepath.Base(from)
	if abs, err := filepath.Abs(from); err == nil && (base == "." || base == ".." || contentsOnly(from)) {
		base = filepath.Base(abs)
	}
	if !info.IsDir() {
		if !isDir && asDirectory(to) {
			return api.Errorf(api.CodeNotFound, "there is no directory %s in %s", to, k.vm).WithHint("banger exec %s -- mkdir -p %s", k.vm, to)
		}
		if isDir {
			to = path.Join(to, base)
		}
		return k.file(ctx, src, info, to)
	}
	switch {
	case exists && !isDir:
		return api.Errorf(api.CodeInvalid, "%s is a directory, and %s in %s is none", from, to, k.vm)
	case isDir && contentsOnly(from):
		return k.tree(ctx, src, to, ".")
	case isDir:
		return k.tree(ctx, src, to, base)
	}
	to = path.Clean(to)
	return k.tree(ctx, src, path.Dir(to), path.Base(to))
}

// stat describes the target; one that is not there is no error, a guest that is not there is.
func (k copyIn) stat(ctx context.Context, p string) (api.FileStat, bool, error) {
	st, err := k.c.StatFile(ctx, k.vm, p)
	switch {
	case err == nil && st.Kind == "symlink":
		// A link to a directory is a target like that directory: the dot makes the guest follow it.
		if dir, err := k.c.StatFile(ctx, k.vm, p+"/."); err == nil && dir.Kind == "dir" {
			return dir, true, nil
		}
		return st, true, nil
	case api.CodeOf(err) == api.CodeNotFound:
		if _, vmErr := k.c.VM(ctx, k.vm); vmErr != nil {
			return st, false, vmErr
		}
		return st, false, nil
	}
	return st, err == nil, err
}

func (k copyIn) file(ctx context.Context, src *os.File, info os.FileInfo, to string) error {
	mode := info.Mode().Perm()
	if !info.Mode().IsRegular() { // a pipe, such as <(command)
		mode = 0o644
	}
	return k.c.PutFile(ctx, k.vm, to, k.user, mode, src)
}

// tree sends a directory, which becomes dir/name in the guest.
func (k copyIn) tree(ctx context.Context, src *os.File, dir, name string) error {
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := tree.Pack(ctx, w, src, tree.PackOptions{Name: name, Skipped: func(name, kind string) {
			k.a.note("left out: %s (%s)", printable(name), kind)
		}})
		w.CloseWithError(err)
		packed <- err
	}()
	err := k.c.PutTree(ctx, k.vm, dir, k.user, r)
	r.CloseWithError(errTransferEnded)
	if perr := <-packed; perr != nil && perr != errTransferEnded && err == nil { //nolint:errorlint // identity: only our own end of the pipe is no news
		return perr
	}
	return err
}

var errTransferEnded = api.Errorf(api.CodeCancelled, "the transfer has ended")

package tree

import (
	"archive/tar"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"banger/api"
)

// sparse members say in a few bytes that they have exabytes of zeros, which would have to
// be counted one by one.
func sparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// clean turns a member's name into a path below the target.
func (u *unpacker) clean(name string) (string, error) {
	if name == "" || strings.ContainsRune(name, 0) {
		return "", refuse(name, "has no name")
	}
	if strings.HasPrefix(name, "/") {
		return "", refuse(name, "is an absolute name")
	}
	for _, part := range strings.Split(name, "/") {
		if part == ".." {
			return "", refuse(name, `contains ".."`)
		}
	}
	name = path.Clean(name)
	if u.o.As != "" {
		_, rest, _ := strings.Cut(name, "/")
		name = path.Join(u.o.As, rest)
	}
	return name, nil
}

func refuse(name, why string) *api.Error {
	return api.Errorf(api.CodeInvalid, "refused to unpack %q: it %s", name, why)
}

// explain gives an error of the file system its code.
func explain(name string, err error) error {
	var e *api.Error
	switch {
	case errors.As(err, &e):
		return err
	case escapes(err):
		return refuse(name, "leads out of the target through a symbolic link")
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return api.Errorf(api.CodeExhausted, "cannot unpack %q: %w", name, err)
	case errors.Is(err, fs.ErrPermission):
		return api.Errorf(api.CodeDenied, "cannot unpack %q: %w", name, err)
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EISDIR), errors.Is(err, unix.ENAMETOOLONG),
		errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTEMPTY), errors.Is(err, fs.ErrNotExist):
		return api.Errorf(api.CodeInvalid, "cannot unpack %q: %w", name, err)
	}
	return fmt.Errorf("cannot unpack %q: %w", name, err)
}

// escapes recognises the error of os.Root for a path that leaves it; the standard library has
// no name for it, only this property: it is no errno.
func escapes(err error) bool {
	var pe *fs.PathError
	if !errors.As(err, &pe) {
		return false
	}
	var errno unix.Errno
	return !errors.As(pe.Err, &errno)
}

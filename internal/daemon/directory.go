package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"banger/api"
)

// ownDirectory makes a directory, or refuses one that is there and is not ours alone to
// write. A symlink to a directory of ours is taken for that directory.
func ownDirectory(path, key string, uid int, mode fs.FileMode) error {
	err := os.MkdirAll(path, mode)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		code := api.CodeInternal
		if errors.Is(err, fs.ErrPermission) {
			code = api.CodeDenied
		}
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EROFS) {
			code = api.CodeExhausted
		}
		return api.Errorf(code, "cannot make the directory %s: %w", path, err).
			WithHint("%s=/another/directory (now %s)", "BANGER_"+key, path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("cannot use the directory %s: %w", path, err)
	}
	if !info.IsDir() {
		return api.Errorf(api.CodeConflict, "%s is not a directory", path).WithHint("BANGER_%s=/another/directory", key)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(st.Uid) != uid {
		return api.Errorf(api.CodeDenied, "%s belongs to uid %d, and this is uid %d", path, st.Uid, uid).
			WithHint("run banger as its owner, or BANGER_%s=/another/directory", key)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return api.Errorf(api.CodeDenied, "%s can be written by others (mode %04o)", path, info.Mode().Perm()).
			WithHint("chmod go-w %s", path)
	}
	// MkdirAll went through the umask. Where VMMs have uids of their own they must reach their files.
	if missing := mode &^ info.Mode().Perm(); missing != 0 {
		if err := os.Chmod(path, info.Mode().Perm()|mode); err != nil {
			return fmt.Errorf("cannot use the directory %s: %w", path, err)
		}
	}
	return nil
}

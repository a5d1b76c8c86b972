package serve

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strconv"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/api/agentapi"
)

// getFile sends one regular file.
func (s *Server) getFile(w http.ResponseWriter, r *http.Request) error {
	name, err := guestPath(r)
	if err != nil {
		return err
	}
	f, err := s.open(name, unix.O_RDONLY|unix.O_NONBLOCK, 0) // O_NONBLOCK: do not wait at a FIFO
	if err != nil {
		return fileError("read", name, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return fileError("read", name, err)
	}
	if !st.Mode().IsRegular() {
		return api.Errorf(api.CodeInvalid, "%s is not a regular file", name)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set(agentapi.FileModeHeader, fmt.Sprintf("%04o", unixMode(st.Mode())))
	var body io.Reader = f
	if st.Size() > 0 { // the kernel's own files say 0 and have contents all the same
		w.Header().Set("Content-Length", strconv.FormatInt(st.Size(), 10))
		body = io.LimitReader(f, st.Size())
	}
	n, err := io.Copy(w, body)
	if err != nil || n < st.Size() {
		panic(http.ErrAbortHandler) // the only way left to say that this is not all
	}
	return nil
}

func unixMode(m fs.FileMode) uint32 {
	out := uint32(m.Perm())
	for bit, flag := range map[fs.FileMode]uint32{fs.ModeSetuid: unix.S_ISUID, fs.ModeSetgid: unix.S_ISGID, fs.ModeSticky: unix.S_ISVTX} {
		if m&bit != 0 {
			out |= flag
		}
	}
	return out
}

// stat describes a path, symbolic links followed; one that leads nowhere is a symlink.
func (s *Server) stat(w http.ResponseWriter, r *http.Request) error {
	name, err := guestPath(r)
	if err != nil {
		return err
	}
	f, err := s.open(name, unix.O_PATH, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) {
		f, err = s.open(name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	}
	if err != nil {
		return fileError("look at", name, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return fileError("look at", name, err)
	}
	kind := "other"
	switch {
	case st.Mode().IsRegular():
		kind = "file"
	case st.IsDir():
		kind = "dir"
	case st.Mode()&fs.ModeSymlink != 0:
		kind = "symlink"
	}
	return ok(w, api.FileStat{Path: path.Clean(name), Kind: kind, Mode: unixMode(st.Mode()), SizeBytes: st.Size()})
}

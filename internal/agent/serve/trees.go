package serve

import (
	"encoding/json"
	"net/http"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/frame/tree"
)

// maxSkipped is how many names of what did not travel are told.
const maxSkipped = 20

// getTree sends a directory or a file as a tar stream. What goes wrong on the way comes as a
// trailer, since the status has been sent by then.
func (s *Server) getTree(w http.ResponseWriter, r *http.Request) error {
	name, err := guestPath(r)
	if err != nil {
		return err
	}
	f, err := s.open(name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fileError("read", name, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return fileError("read", name, err)
	}
	if !st.IsDir() && !st.Mode().IsRegular() {
		return api.Errorf(api.CodeInvalid, "%s is neither a directory nor a regular file", name)
	}
	base := path.Base(name)
	if strings.HasSuffix(name, "/.") || base == "/" || base == ".." {
		base = "." // the contents
	}
	send(w, r, f, name, tree.PackOptions{Name: base})
	return nil
}

// send answers with a tar stream.
func send(w http.ResponseWriter, r *http.Request, f *os.File, name string, o tree.PackOptions) {
	var skipped []string
	o.Skipped = func(name, kind string) {
		if len(skipped) < maxSkipped {
			skipped = append(skipped, name+" ("+kind+")")
		}
	}
	w.Header().Set("Content-Type", "application/x-tar")
	err := tree.Pack(r.Context(), w, f, o)
	if len(skipped) > 0 {
		setTrailer(w, agentapi.TreeSkippedTrailer, skipped)
	}
	if err != nil {
		setTrailer(w, agentapi.TreeErrorTrailer, api.AsError(fileError("read", name, err)))
	}
}

func setTrailer(w http.ResponseWriter, name string, v any) {
	b, err := json.Marshal(v) // escapes all that a header may not hold, but non-ASCII
	if err == nil {
		w.Header().Set(http.TrailerPrefix+name, string(b))
	}
}

// putTree unpacks a tar stream below a directory that exists.
func (s *Server) putTree(w http.ResponseWriter, r *http.Request) error {
	name, err := guestPath(r)
	if err != nil {
		return err
	}
	var o tree.UnpackOptions
	if u := r.URL.Query().Get("user"); u != "" {
		uid, gid, err := s.place.owner(u)
		if err != nil {
			return err
		}
		if s.place.own() {
			o.Owner = &tree.Owner{UID: uid, GID: gid}
		}
	}
	f, err := s.open(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return fileError("unpack into", name, err)
	}
	defer f.Close()
	if err := tree.Unpack(r.Context(), r.Body, f, o); err != nil {
		return fileError("unpack into", name, err)
	}
	return ok(w, struct{}{})
}

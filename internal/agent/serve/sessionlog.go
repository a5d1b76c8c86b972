package serve

import (
	"context"
	"io"
	"net/http"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"banger/api"
)

// sessionLog sends a stream's bytes from an offset on; with follow until the session has
// ended and everything is sent. A reader that is so slow that what it waits for has been dropped
// is cut off: it asks again, and the header tells it from where on.
func (s *Server) sessionLog(w http.ResponseWriter, r *http.Request) error {
	id, q := r.PathValue("id"), r.URL.Query()
	if _, err := s.readSession(id); err != nil {
		return err
	}
	name := fileStdout
	switch q.Get("stream") {
	case "", "stdout":
	case "stderr":
		name = fileStderr
	default:
		return api.Errorf(api.CodeInvalid, "no stream %q: it is stdout or stderr", q.Get("stream"))
	}
	var offset int64
	if v := q.Get("offset"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 0 {
			return api.Errorf(api.CodeInvalid, "the offset %q is not a number from 0 up", v)
		}
		offset = n
	}
	t, _ := s.trace(id)
	// A session that never ran has no logs, which is as good as empty ones.
	f, err := os.OpenFile(t.path(name), os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fileError("read", name, err)
	}
	defer f.Close()
	start, err := logStart(f)
	if err != nil {
		return fileError("read", name, err)
	}
	offset = max(offset, start)
	if v := q.Get("tail"); v != "" {
		lines, err := strconv.ParseInt(v, 10, 32)
		if err != nil || lines < 0 {
			return api.Errorf(api.CodeInvalid, "tail is %q: give a number of lines", v)
		}
		if offset, err = tailOffset(f, start, lines); err != nil {
			return fileError("read", name, err)
		}
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set(api.LogOffsetHeader, strconv.FormatInt(offset, 10))
	if q.Get("follow") != "true" {
		_, err := sendLog(w, f, offset)
		return abort(err)
	}
	changes, err := watch(r.Context(), string(t))
	if err != nil {
		return err
	}
	defer changes.Close()
	flush := http.NewResponseController(w)
	_ = flush.Flush() // the caller learns the offset even while there is nothing
	for {
		// The end is asked for before the log is read: what comes in between is then read too.
		st, err := s.readSession(id)
		ended := err != nil || st.EndedAt != nil
		n, err := sendLog(w, f, offset)
		if err != nil {
			return abort(err)
		}
		offset += n
		if n > 0 {
			_ = flush.Flush()
		}
		if ended {
			return nil
		}
		if err := changes.next(); err != nil {
			return abort(err)
		}
	}
}

// abort cuts the answer off: its status is sent already.
func abort(err error) error {
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	return nil
}

// sendLog sends what is there from offset on.
func sendLog(w io.Writer, f *os.File, offset int64) (int64, error) {
	buf := make([]byte, pumpSize)
	var sent int64
	for {
		n, err := f.ReadAt(buf, offset+sent)
		if n > 0 {
			// Asked after reading: zeros of a hole punched meanwhile are not sent as output.
			if start, err := logStart(f); err != nil || start > offset+sent {
				return sent, io.ErrUnexpectedEOF
			}
			if _, err := w.Write(buf[:n]); err != nil {
				return sent, err
			}
			sent += int64(n)
		}
		if err == io.EOF {
			return sent, nil
		}
		if err != nil {
			return sent, err
		}
	}
}

// tailOffset is where the last so many lines of what is kept begin. A line that has no end yet is one.
func tailOffset(f *os.File, start, lines int64) (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	end := st.Size()
	if lines == 0 {
		return end, nil
	}
	buf := make([]byte, pumpSize)
	for at := end; at > start; {
		n := min(int64(len(buf)), at-start)
		if _, err := f.ReadAt(buf[:n], at-n); err != nil {
			return 0, err
		}
		for i := n - 1; i >= 0; i-- {
			if pos := at - n + i; buf[i] == '\n' && pos != end-1 {
				if lines--; lines == 0 {
					return pos + 1, nil
				}
			}
		}
		at -= n
	}
	return start, nil
}

// watcher waits for changes in a directory, by inotify.
type watcher struct {
	f    *os.File
	stop func() bool
}

// watch begins to remember changes: what is written, closed or renamed in dir.
func watch(ctx context.Context, dir string) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, api.Errorf(api.CodeExhausted, "cannot watch %s: %w", dir, err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	// A holder that is killed closes its files: IN_CLOSE_WRITE.
	const events = unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_DELETE_SELF
	if _, err := unix.InotifyAddWatch(fd, dir, events); err != nil {
		_ = f.Close()
		return nil, api.Errorf(api.CodeInternal, "cannot watch %s: %w", dir, err)
	}
	return &watcher{f: f, stop: context.AfterFunc(ctx, func() { _ = f.Close() })}, nil
}

// next waits for a change since the last call, or since watch.
func (w *watcher) next() error {
	buf := make([]byte, 64<<10)
	_, err := w.f.Read(buf)
	return err
}

func (w *watcher) Close() {
	w.stop()
	_ = w.f.Close()
}

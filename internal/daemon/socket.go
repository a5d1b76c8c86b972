package daemon

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"banger/api"
)

// queueTime bounds the wait for the socket's queue.
const queueTime = 2 * time.Second

// socket is the daemon's door.
type socket struct {
	*net.UnixListener
	path string
	ino  uint64
}

// listen opens the socket. Whoever calls it holds the lock, so a socket that nobody
// answers was left by a daemon that is dead.
func listen(path string, uid int) (*socket, error) {
	if err := ownDirectory(filepath.Dir(path), "RUNTIME_DIR", uid, 0o700); err != nil {
		return nil, err
	}
	if err := clearStale(path); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("cannot listen at %s: %w", path, err)
	}
	// We remove it ourselves, and only while it is ours.
	l.SetUnlinkOnClose(false)
	s := &socket{UnixListener: l, path: path}
	if s.ino, err = inode(path); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot listen at %s: %w", path, err), l.Close())
	}
	return s, nil
}

// hide takes the socket away if it is still ours, and returns when all who connected before
// have been accepted: the queue is first in, first out, and we stand at its end ourselves.
// Otherwise their calls would be lost as the listener closes.
func (s *socket) hide() error {
	if !s.inPlace() {
		return nil
	}
	hidden := filepath.Join(filepath.Dir(s.path), ".gone")
	if err := os.Rename(s.path, hidden); err != nil {
		return err
	}
	conn, err := net.DialTimeout("unix", hidden, queueTime)
	if err == nil {
		err = conn.SetDeadline(time.Now().Add(queueTime))
		if err == nil {
			_, err = io.WriteString(conn, "GET /v1/info HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		}
		if err == nil {
			_, err = io.Copy(io.Discard, conn)
		}
		conn.Close()
	}
	return errors.Join(err, os.Remove(hidden))
}

// inPlace reports whether clients still find us at our path.
func (s *socket) inPlace() bool {
	ino, err := inode(s.path)
	return err == nil && ino == s.ino
}

func inode(path string) (uint64, error) {
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		return 0, err
	}
	return st.Ino, nil
}

// clearStale removes a socket that nobody answers, and nothing else.
func clearStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot listen at %s: %w", path, err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return api.Errorf(api.CodeConflict, "%s is there and is no socket", path).WithHint("see what it is and move it away: ls -l %s", path)
	}
	conn, err := net.DialTimeout("unix", path, 2*time.Second)
	if err == nil {
		conn.Close()
		return api.Errorf(api.CodeConflict, "another daemon, with another state directory, listens at %s", path).
			WithHint("BANGER_RUNTIME_DIR=/another/directory")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("cannot tell who listens at %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("cannot remove the stale socket %s: %w", path, err)
	}
	return nil
}

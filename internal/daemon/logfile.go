package daemon

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// logLimit is how large bangerd.log gets before it becomes bangerd.log.1, in bytes.
const logLimit = 10 << 20

// logFile is a log of at most two files of limit bytes each. It takes over stderr, so that
// what Go prints as the process dies is in the log as well.
type logFile struct {
	path  string
	limit int64
	// stderr is the descriptor that follows the file; -1 for none.
	stderr int

	// mu protects the following.
	mu   sync.Mutex
	f    *os.File
	size int64
}

func openLog(path string, limit int64, stderr int) (*logFile, error) {
	l := &logFile{path: path, limit: limit, stderr: stderr}
	return l, l.open()
}

// open is called with mu held, or before anybody else has l.
func (l *logFile) open() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("cannot open the log: %w", err)
	}
	info, err := f.Stat()
	if err == nil && l.stderr >= 0 {
		err = unix.Dup3(int(f.Fd()), l.stderr, 0)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cannot open the log: %w", err), f.Close())
	}
	if l.f != nil {
		_ = l.f.Close() // the old one; what was written to it is there
	}
	l.f, l.size = f, info.Size()
	return nil
}

// Write never splits p over two files.
func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size > 0 && l.size+int64(len(p)) > l.limit {
		if err := os.Rename(l.path, l.path+".1"); err != nil {
			return 0, err
		}
		if err := l.open(); err != nil {
			return 0, err
		}
	}
	n, err := l.f.Write(p)
	l.size += int64(n)
	return n, err
}

// Close closes the file; stderr stays where it is.
func (l *logFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Close()
}

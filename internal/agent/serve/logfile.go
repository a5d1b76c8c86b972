package serve

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// logBlock is how much is dropped at least of a stream that is longer than its limit. Offsets count from the
// session's start for ever: dropping punches a hole, the file's size stays.
const logBlock = 1 << 20

// pageSize is what file systems keep apart: holes are made of such.
const pageSize = 4096

// minLog is the smallest limit.
const minLog = 64 << 10

// logFile is written by one goroutine of the holder, and read by those who are attached.
type logFile struct {
	f     *os.File
	limit int64
	// mu protects the following.
	mu sync.Mutex
	// seen is told of what is written, in order, with mu held; may be nil.
	seen  func([]byte)
	size  int64
	start int64 // what is before has been dropped
	ended bool
	// lost is what could not be written since the last that could; losses is all of it, and why is the first reason.
	lost, losses int64
	why          error
	// grown is closed and made anew when there is more, or no more; nil while nobody waits.
	grown chan struct{}
}

// createLog makes a log that keeps limit bytes.
func createLog(path string, limit int64) (*logFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return &logFile{f: f, limit: max(limit, minLog)}, nil
}

// append never fails the command: where there is no room, output is lost, the log says so where it goes on, and the next is
// tried again.
func (l *logFile) append(p []byte) error {
	if l.lost > 0 && !l.admit() {
		l.lose(p, l.why)
		return nil
	}
	n, err := l.f.Write(p)
	l.lose(p[n:], err)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrote(p[:n])
	block := min(logBlock, l.limit/4/pageSize*pageSize)
	if l.size-l.start < l.limit+block {
		return nil
	}
	start := (l.size - l.limit) / block * block
	err = unix.Fallocate(int(l.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, start)
	if err == nil {
		l.start = start
		// For people who look at the file; a program finds its first data.
		cut := strings.TrimSuffix(l.f.Name(), ".log") + ".cut"
		_ = os.WriteFile(cut, fmt.Appendf(nil, "The first %d bytes were dropped; in the file they are a hole.\n", start), 0o600)
	}
	return nil
}

// wrote is called with mu held.
func (l *logFile) wrote(p []byte) {
	l.size += int64(len(p))
	if l.seen != nil {
		l.seen(p)
	}
	l.wake()
}

func (l *logFile) lose(p []byte, why error) {
	if len(p) == 0 {
		return
	}
	if l.losses == 0 {
		l.why = errnoOf(why)
	}
	l.lost, l.losses = l.lost+int64(len(p)), l.losses+int64(len(p))
}

// admit writes into the log that something is missing here; false where there is no room even for that.
func (l *logFile) admit() bool {
	note := fmt.Appendf(nil, "\n[banger: %d bytes of output are missing here: %v]\n", l.lost, l.why)
	if n, err := l.f.Write(note); err != nil {
		_ = l.f.Truncate(l.size) // by n: it is tried again
		return n == len(note)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost = 0
	l.wrote(note)
	return true
}

// end says that there will be no more.
func (l *logFile) end() {
	if l.lost > 0 {
		l.admit()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	l.wake()
}

// wake is called with mu held.
func (l *logFile) wake() {
	if l.grown != nil {
		close(l.grown)
		l.grown = nil
	}
}

// errCut says that what was to be read has been dropped meanwhile.
var errCut = errors.New("the output that comes next has been dropped")

// readAt reads what there is from an offset on. Where there is nothing it returns a channel that is closed when that
// changes; io.EOF where there never will be; errCut where it is gone.
func (l *logFile) readAt(buf []byte, offset int64) (n int, more <-chan struct{}, err error) {
	l.mu.Lock()
	left := l.size - offset
	switch {
	case offset < l.start:
		err = errCut
	case left <= 0 && l.ended:
		err = io.EOF
	case left <= 0:
		if l.grown == nil {
			l.grown = make(chan struct{})
		}
		more = l.grown
	}
	l.mu.Unlock()
	if err != nil || more != nil {
		return 0, more, err
	}
	n, err = l.f.ReadAt(buf[:min(int64(len(buf)), left)], offset)
	if err != nil {
		return n, nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if offset < l.start { // asked after reading: a hole punched meanwhile is not output
		return 0, nil, errCut
	}
	return n, nil, nil
}

// bounds are the offsets of the first byte that is kept and of the end.
func (l *logFile) bounds() (start, size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.start, l.size
}

func (l *logFile) Close() error { return l.f.Close() }

// logStart is the offset of the first byte of a log that has not been dropped.
func logStart(f *os.File) (int64, error) {
	start, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) { // no data at all
		st, err := f.Stat()
		if err != nil {
			return 0, err
		}
		return st.Size(), nil
	}
	return start, err
}

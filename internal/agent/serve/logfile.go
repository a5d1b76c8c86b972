package serve

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// logKeep is how much of each stream of a session is kept; what is older is dropped in
// blocks of logBlock. Offsets count from the session's start for ever: dropping punches
// a hole, the file's size stays. (The logs usually lie in a tmpfs: this is the guest's memory.)
const (
	logKeep  = 16 << 20
	logBlock = 1 << 20
)

// logFile is written by one goroutine of the holder.
type logFile struct {
	f     *os.File
	size  int64
	start int64 // what is before has been dropped
}

func createLog(path string) (*logFile, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return &logFile{f: f}, nil
}

// append never fails the command: where there is no room, output is lost, and the next is tried again.
func (l *logFile) append(p []byte) error {
	n, _ := l.f.Write(p)
	l.size += int64(n)
	if l.size-l.start >= logKeep+logBlock {
		start := (l.size - logKeep) &^ (logBlock - 1)
		err := unix.Fallocate(int(l.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, start)
		if err == nil {
			l.start = start
		}
	}
	return nil
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

package vmm

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// OOMKills is how many processes the kernel has killed for want of memory since the
// host's boot, cgroups' limits included (oom_kill in /proc/vmstat, Linux 4.13).
func OOMKills() uint64 {
	b, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, _ := strconv.ParseUint(strings.TrimSpace(v), 10, 64)
			return n
		}
	}
	return 0
}

// maxQuote bounds what is quoted of a VMM's words.
const maxQuote = 2048

// LogTail is what a VMM's log has got since a certain moment.
type LogTail struct {
	path string
	from int64
	tidy func(line string) string
}

// TailFrom begins now. tidy, if not nil, makes a line what people are to read of it; empty leaves it out.
func TailFrom(path string, tidy func(line string) string) *LogTail {
	l := &LogTail{path: path, tidy: tidy}
	if fi, err := os.Lstat(path); err == nil {
		l.from = fi.Size()
	}
	return l
}

// TailAll is what a log has got since it was made.
func TailAll(path string) *LogTail { return &LogTail{path: path} }

// Lines are the last lines, at most five, joined by "; ".
func (l *LogTail) Lines() string { return strings.Join(l.Tail(5), "; ") }

// Last is the last line.
func (l *LogTail) Last() string { return strings.Join(l.Tail(1), "") }

// Tail is the last n lines.
func (l *LogTail) Tail(n int) []string {
	b, err := readEnd(l.path, l.from)
	if err != nil {
		return nil
	}
	var out []string
	for line := range bytes.Lines(b) {
		s := strings.TrimSpace(strings.ToValidUTF8(string(line), "?"))
		if l.tidy != nil {
			s = l.tidy(s)
		}
		if s != "" {
			out = append(out, s)
		}
	}
	return out[max(0, len(out)-n):]
}

// readEnd reads the end of a file in a directory that a less trusted uid owns: what is
// no plain file is not read, nor waited for.
func readEnd(path string, from int64) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, errors.New("not a plain file")
	}
	from = max(from, fi.Size()-maxQuote)
	return io.ReadAll(io.NewSectionReader(f, from, max(0, fi.Size()-from)))
}

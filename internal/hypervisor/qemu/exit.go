package qemu

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// exit is what is known about the end of a VMM.
type exit struct {
	status syscall.WaitStatus
	known  bool // status was ours to ask for
	off    bool // the guest powered off
	killed bool // by us
	oom    bool // the kernel has killed something for want of memory meanwhile
	stderr string
}

// wordExit says in a clause why a VMM is gone.
func wordExit(e exit) string {
	var why string
	switch {
	case e.killed:
		return "killed by banger"
	case e.known && e.status.Signaled() && e.status.Signal() == syscall.SIGKILL && e.oom:
		return "killed by the kernel: the host ran out of memory"
	case e.known && e.status.Signaled():
		why = fmt.Sprintf("QEMU was ended by signal %d (%s)", e.status.Signal(), e.status.Signal())
	case e.off:
		return "the guest powered off"
	case e.known && e.status.ExitStatus() != 0:
		why = fmt.Sprintf("QEMU ended with exit code %d", e.status.ExitStatus())
	case !e.known && e.oom:
		why = "QEMU is gone; the kernel was killing processes because the host ran out of memory"
	default:
		why = "QEMU ended"
	}
	if e.stderr != "" {
		why += ": " + e.stderr
	}
	return why
}

// oomKills is how many processes the kernel has killed for want of memory since the
// host's boot, cgroups' limits included (oom_kill in /proc/vmstat, Linux 4.13).
func oomKills() uint64 {
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

// maxQuote bounds what is quoted of QEMU's stderr.
const maxQuote = 2048

// logTail is what a VMM's log has got since a certain moment.
type logTail struct {
	path string
	from int64
}

func tailFrom(path string) *logTail {
	fi, err := os.Lstat(path)
	if err != nil {
		return &logTail{path: path}
	}
	return &logTail{path: path, from: fi.Size()}
}

// lines are the last lines, at most five, joined by "; ".
func (l *logTail) lines() string { return strings.Join(l.tail(5), "; ") }

func (l *logTail) last() string { return strings.Join(l.tail(1), "") }

func (l *logTail) tail(n int) []string {
	b, err := readEnd(l.path, l.from)
	if err != nil {
		return nil
	}
	var out []string
	for line := range bytes.Lines(b) {
		s := strings.TrimSpace(strings.ToValidUTF8(string(line), "?"))
		if _, rest, ok := strings.Cut(s, "qemu-system-x86_64: "); ok {
			s = rest
		}
		// QEMU on a TCG host says this of CPU features that no guest of ours needs.
		if s != "" && !strings.Contains(s, "TCG doesn't support requested feature") {
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

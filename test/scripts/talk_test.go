package scripts

import (
	"context"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/creack/pty"
	"github.com/rogpeppe/go-internal/testscript"
)

// talk OUT SCRIPT CODE PROGRAM ARGS...: as tty, but what is typed depends on what is seen. The file SCRIPT has lines of
// "expect TEXT", which waits until that is shown behind what was expected before, and "type TEXT"; TEXT may have Go's escapes.
func cmdTalk(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 4 {
		ts.Fatalf("usage: talk OUT SCRIPT CODE PROGRAM ARGS...")
	}
	want, err := strconv.Atoi(args[2])
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), retryFor)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[3], args[4:]...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = append(environ(ts), "TERM=xterm")
	screen, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 30, Cols: 100})
	ts.Check(err)
	defer screen.Close()
	s := &shown{}
	s.more = sync.NewCond(&s.mu)
	ended := make(chan struct{})
	go func() { defer close(ended); _, _ = io.Copy(s, screen); s.end() }()
	for line := range strings.Lines(ts.ReadFile(args[1])) {
		verb, text, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		text, err := strconv.Unquote(`"` + text + `"`)
		ts.Check(err)
		switch verb {
		case "expect":
			if !s.expect(text) {
				ts.Logf("[terminal]\n%s", s.text)
				ts.Fatalf("the terminal does not show %q", text)
			}
		case "type":
			_, err := screen.Write([]byte(text))
			ts.Check(err)
		default:
			ts.Fatalf("what is %q?", verb)
		}
	}
	<-ended
	err = cmd.Wait()
	ts.Logf("[terminal]\n%s", s.text)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(s.text), 0o600))
	if got := codeOf(ts, err); got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// shown is what a terminal has shown so far.
type shown struct {
	mu    sync.Mutex
	more  *sync.Cond
	text  string
	seen  int // what is before has been expected already
	ended bool
}

func (s *shown) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text += string(p)
	s.more.Broadcast()
	return len(p), nil
}

func (s *shown) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.more.Broadcast()
}

func (s *shown) expect(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	late := time.AfterFunc(retryFor, s.end)
	defer late.Stop()
	for {
		if i := strings.Index(s.text[s.seen:], text); i >= 0 {
			s.seen += i + len(text)
			return true
		}
		if s.ended {
			return false
		}
		s.more.Wait()
	}
}

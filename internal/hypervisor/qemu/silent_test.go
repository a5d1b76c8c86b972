package qemu

import (
	"bytes"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger/internal/config"
	"banger/internal/hypervisor"
	"banger/internal/hypervisor/hypervisortest"
)

// logText is what was logged.
type logText struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logText) count(words string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), words)
}

// TestSilentBoot: a guest that got the CPU in so short turns that its kernel has given up its timer boots after all.
func TestSilentBoot(t *testing.T) {
	t.Parallel()
	log := &logText{}
	h := New(Options{Host: needQEMU(t), Paths: config.Paths{State: hypervisortest.ShortDir(t)}, Log: slog.New(slog.NewTextHandler(log, nil)), Accel: "tcg"})
	for range 5 {
		if halted := bootInShortTurns(t, h); halted {
			if log.count("and is reset") == 0 {
				t.Error("it was reset, and nothing says so")
			}
			return
		}
	}
	t.Error("no guest of five has given up its timer")
}

// bootInShortTurns boots a guest whose VMM sleeps most of the time until the kernel has measured its timer, and reports whether it gave it up.
func bootInShortTurns(t *testing.T, h *Hypervisor) (halted bool) {
	t.Helper()
	m := theLab.Machine(t)
	m.Cmdline = strings.ReplaceAll(m.Cmdline, "quiet ", "")
	i := startMachine(t, h, m)
	defer i.Kill(bounded(t, time.Minute))
	console := func(words string) bool {
		text, err := os.ReadFile(consoleLog(&m))
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Contains(text, []byte(words))
	}
	for begin := time.Now(); !console("smpboot: Total of"); {
		signal(t, i, syscall.SIGSTOP)
		time.Sleep(130 * time.Millisecond) // longer than the kernel's measurement
		signal(t, i, syscall.SIGCONT)
		time.Sleep(4 * time.Millisecond) // the first of its readings
		if time.Since(begin) > 2*time.Minute {
			t.Fatal("the kernel has not come so far")
		}
	}
	awaitAgent(t, i)
	select {
	case e := <-i.Events():
		t.Errorf("event %+v of a guest that has only booted", e)
	default:
	}
	return console("APIC frequency too slow")
}

func signal(t *testing.T, i hypervisor.Instance, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(i.Process().PID, s); err != nil {
		t.Fatal(err)
	}
}

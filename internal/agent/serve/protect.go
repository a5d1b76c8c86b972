package serve

import (
	"os"
	"sync"
)

// How the kernel chooses whom to end when the guest's memory is full (proc(5)): rather anything than the agent or a session's holder, without
// which the host can do nothing about it. What they start is like everything else in the guest.
const (
	protectedScore = "-900"
	ordinaryScore  = "0"
)

// protection is this process's oom_score_adj. It stays open: opening is most of what setting it costs. A nil one does nothing.
type protection struct {
	file *os.File
	// mu protects the following.
	mu sync.Mutex
	// lent counts those who are starting a process, which inherits what this one has at that moment.
	lent int
}

// protect protects this process. Without the right to, it returns nil.
func protect() *protection {
	f, err := os.OpenFile("/proc/self/oom_score_adj", os.O_WRONLY, 0)
	if err != nil {
		return nil
	}
	if _, err := f.WriteAt([]byte(protectedScore), 0); err != nil {
		_ = f.Close()
		return nil
	}
	return &protection{file: f}
}

// lend gives the protection up until the returned function is called.
func (p *protection) lend() (back func()) {
	if p == nil {
		return func() {}
	}
	p.count(1, ordinaryScore)
	return func() { p.count(-1, protectedScore) }
}

func (p *protection) count(by int, score string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lent += by; p.lent == max(by, 0) { // the first, or the last
		_, _ = p.file.WriteAt([]byte(score), 0) // who may write it once may always
	}
}

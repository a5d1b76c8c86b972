package vmm

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/api"
	"banger/internal/hypervisor"
	"banger/internal/hypervisor/hypervisortest"
)

func TestListen(t *testing.T) {
	t.Parallel()
	path := filepath.Join(hypervisortest.ShortDir(t), "q")
	f, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	conn, pid, err := Connect(t.Context(), path)
	if err != nil || pid != os.Getpid() {
		t.Fatalf("Connect: pid %d, %v", pid, err)
	}
	conn.Close()
	if _, err := Listen(path); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("a living socket was taken over: %v", err)
	}
	f.Close()
	// The name of a socket that nobody listens on any more is used again.
	f, err = Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", path); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil {
		t.Error("something that is no socket was removed")
	}
	if _, err := Listen("/tmp/" + strings.Repeat("x", 110)); api.CodeOf(err) != api.CodeInvalid || api.AsError(err).Hint == "" {
		t.Errorf("a path that is too long: %v", err)
	}
}

// The VMM's directory is the VMM's to write: a socket of another process in the place of its own is not talked to.
func TestChannelRefusesOtherProcesses(t *testing.T) {
	t.Parallel()
	path := filepath.Join(hypervisortest.ShortDir(t), "a")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan int, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		n, _ := conn.Read(make([]byte, 100))
		got <- n
	}()
	c := NewChannel(t.Context(), PortOf(path, os.Getpid()+1), RandomEpoch)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := c.Open(ctx); api.CodeOf(err) != api.CodeNotReady {
		t.Errorf("Open: %v", err)
	}
	if n := <-got; n != 0 {
		t.Errorf("%d bytes were said to a stranger", n)
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	q := NewEvents()
	for range 1000 { // never blocks, though nobody reads
		q.Put(hypervisor.Event{Kind: hypervisor.EventReset})
	}
	q.Put(hypervisor.Event{Kind: hypervisor.EventExited})
	q.Finish()
	q.Put(hypervisor.Event{Kind: hypervisor.EventReset})
	n := 0
	var last hypervisor.Event
	for last = range q.Out() {
		n++
	}
	if n != 1001 || last.Kind != hypervisor.EventExited {
		t.Errorf("%d events, the last %+v", n, last)
	}
	q = NewEvents()
	q.Put(hypervisor.Event{Kind: hypervisor.EventReset})
	q.Abandon()
	q.Abandon()
	for range q.Out() { // ends
	}
}

func TestDeadSocketRefuses(t *testing.T) {
	t.Parallel()
	path := filepath.Join(hypervisortest.ShortDir(t), "q")
	f, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, _, err := Connect(t.Context(), path); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Connect: %v", err)
	}
}

package firecracker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/internal/frame/link"
	"banger/internal/frame/wire"
	"banger/internal/host"
	"banger/internal/hypervisor"
	"banger/internal/hypervisor/vmm"
)

// vsocks stands for Firecracker's side of its guests' vsocks: it answers CONNECT, and its connections to a guest that has forgotten
// them stay open and say nothing.
type vsocks struct {
	host.Host
	t     *testing.T
	mu    sync.Mutex
	guest string // the present guest's socket
	ends  []net.Conn
}

func (v *vsocks) DialJailed(context.Context, host.Jail, string, host.Process) (net.Conn, error) {
	near, far := net.Pipe()
	v.mu.Lock()
	guest := v.guest
	v.mu.Unlock()
	go func() {
		in := bufio.NewReader(far)
		line, err := in.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, "CONNECT ") {
			_ = far.Close()
			return
		}
		conn, err := net.Dial("unix", guest)
		if err != nil {
			_ = far.Close()
			return
		}
		v.mu.Lock()
		v.ends = append(v.ends, conn)
		v.mu.Unlock()
		_, _ = fmt.Fprintf(far, "OK 1024\n")
		go func() { _, _ = io.Copy(far, conn) }()
		_, _ = io.Copy(conn, in)
		_, _ = io.Copy(io.Discard, in)
	}()
	return near, nil
}

// forget is what the transport reset does in the guest.
func (v *vsocks) forget() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, c := range v.ends {
		_ = c.Close()
	}
	v.ends = nil
}

// boots makes another guest the present one, whose agent says back what it hears.
func (v *vsocks) boots() {
	path := filepath.Join(v.t.TempDir(), "v")
	l, err := net.Listen("unix", path)
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { _ = l.Close() })
	w := wire.Listen(time.Hour)
	agent := link.Listen(w)
	go w.Serve(l, agent.HangUp) //nolint:errcheck // it ends with the listener
	go func() {
		for {
			c, err := agent.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	v.mu.Lock()
	v.guest = path
	v.mu.Unlock()
}

func process0() *process {
	ps := &process{next: make(chan struct{}), api: newClient(func(context.Context) (net.Conn, error) { return nil, net.ErrClosed })}
	ps.life, ps.end = context.WithCancelCause(context.Background())
	return ps
}

// TestStreamsOutliveResets: what a snapshot does to the vsock ends no stream; the end of the guest's Firecracker does, and the next one
// is found.
func TestStreamsOutliveResets(t *testing.T) {
	t.Parallel()
	v := &vsocks{t: t}
	v.boots()
	i := newInstance(&Hypervisor{o: Options{Host: v}}, hypervisor.Machine{ID: "x"}, nil)
	if err := i.publish(process0()); err != nil {
		t.Fatal(err)
	}
	open := func() net.Conn {
		t.Helper()
		c, err := i.DialGuest(bounded(t, time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	says := func(c net.Conn, word string) error {
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		if _, err := c.Write([]byte(word)); err != nil {
			return err
		}
		got := make([]byte, len(word))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != word {
			return errors.Join(fmt.Errorf("%q", got), err)
		}
		return nil
	}
	c := open()
	for n := range 20 {
		v.forget()
		time.AfterFunc(time.Duration(n)*time.Millisecond, i.reset)
		if err := says(c, fmt.Sprint("said while the guest has forgotten the connection ", n)); err != nil {
			t.Fatal(err)
		}
	}
	v.boots() // another Firecracker
	i.current().let(vmm.ErrDied)
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes of a guest that is gone", n)
	}
	if err := i.publish(process0()); err != nil {
		t.Fatal(err)
	}
	if err := says(open(), "again"); err != nil {
		t.Error(err)
	}
	i.finish(vmm.ErrDied)
	if _, err := i.DialGuest(bounded(t, time.Minute)); !errors.Is(err, vmm.ErrDied) {
		t.Errorf("%v", err)
	}
}

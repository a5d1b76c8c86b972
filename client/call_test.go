package client

import (
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"banger/api"
)

// TestUnheardRequestIsSentAgain: a daemon that was killed a moment ago still has connections in
// its queue. They end in a reset, and the call goes to the next daemon, whatever it asks for.
func TestUnheardRequestIsSentAgain(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "b")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	listen := func(path string) *net.UnixListener {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		return l
	}
	dying := listen(socket)
	c := New(Options{Socket: socket, NoStart: true})
	calls := make(chan error, 1)
	go func() {
		_, err := c.KillVM(t.Context(), "x")
		calls <- err
	}()
	waitQueued(t, dying)

	next := listen(filepath.Join(dir, "n"))
	heard := 0
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		heard++
		_, _ = w.Write([]byte("{}"))
	})}
	go func() {
		if err := server.Serve(next); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { server.Close() })
	if err := os.Rename(filepath.Join(dir, "n"), socket); err != nil {
		t.Fatal(err)
	}
	dying.Close()
	if err := <-calls; err != nil {
		t.Fatalf("%v (%s)", err, api.CodeOf(err))
	}
	if heard != 1 {
		t.Errorf("the next daemon heard %d calls", heard)
	}
}

// waitQueued returns when a connection waits to be accepted: the listener is then readable.
func waitQueued(t *testing.T, l *net.UnixListener) {
	t.Helper()
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var selErr error
	if err := raw.Control(func(fd uintptr) {
		var set syscall.FdSet
		set.Bits[fd/64] |= 1 << (fd % 64)
		_, selErr = syscall.Select(int(fd)+1, &set, nil, nil, &syscall.Timeval{Sec: 10})
	}); err != nil || selErr != nil {
		t.Fatal(err, selErr)
	}
}

package guest_test

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/guest"
	"banger/internal/loud"
)

func TestCalls(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	h, err := a.WaitReady(within(t))
	if err != nil || !h.Ready || h.BootID != "boot" {
		t.Errorf("%+v, %v", h, err)
	}
	if _, err := a.Personalise(within(t), agentapi.Personalise{Hostname: "x", Entropy: []byte{1, 2}}); err != nil || a.system.personal.Hostname != "x" || len(a.system.personal.Entropy) != 2 {
		t.Errorf("%+v, %v", a.system.personal, err)
	}
	if err := errors.Join(a.Release(within(t), agentapi.Release{}), a.Quiesce(within(t))); err != nil || !slices.Equal(a.system.calls, []string{"release", "quiesce"}) {
		t.Errorf("%v, %v", a.system.calls, err)
	}
	if h, err := a.Grow(within(t)); err != nil || !h.Ready {
		t.Errorf("%+v, %v", h, err)
	}
	if err := a.Shutdown(within(t), agentapi.Shutdown{Reboot: true}); err != nil || !a.system.shutdown.Reboot {
		t.Errorf("%+v, %v", a.system.shutdown, err)
	}
	st, err := a.Stats(within(t))
	if err != nil || st.MemTotalBytes < 1<<20 || st.MemUsedBytes <= 0 || st.MemUsedBytes > st.MemTotalBytes {
		t.Errorf("%+v, %v", st, err)
	}
}

func TestWaitReadySaysWhatIsWaitedFor(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	a.system.becomes(agentapi.Health{Waiting: "dbus.service"})
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	_, err := a.WaitReady(ctx)
	if api.CodeOf(err) != api.CodeNotReady || !strings.Contains(err.Error(), "dbus.service") || !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestWaitReadyIsToldAtOnce(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	a.system.becomes(agentapi.Health{Waiting: "dbus.service"})
	asked := make(chan struct{}, 10)
	c := guest.New(func(ctx context.Context) (net.Conn, error) { asked <- struct{}{}; return a.session.Open(ctx) })
	type answer struct {
		h   agentapi.Health
		err error
	}
	done := make(chan answer)
	go func() { h, err := c.WaitReady(within(t)); done <- answer{h, err} }()
	<-asked
	<-asked
	a.system.becomes(agentapi.Health{Waiting: "ssh.service"}) // it hears of this, and asks on
	<-asked
	a.system.becomes(agentapi.Health{Ready: true, BootID: "late"})
	select {
	case got := <-done:
		if got.err != nil || got.h.BootID != "late" {
			t.Errorf("%+v", got)
		}
	case <-time.After(20 * time.Second): // less than one question waits
		t.Fatal("it does not hear that the guest is ready")
	}
	if n := len(asked); n > 0 {
		t.Errorf("it has asked %d times more than there was news", n)
	}
}

func TestNoAgent(t *testing.T) {
	t.Parallel()
	c := guest.New(func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() })
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Health(ctx); api.CodeOf(err) != api.CodeTimeout {
		t.Error(err)
	}
	c = guest.New(func(context.Context) (net.Conn, error) { return nil, io.ErrClosedPipe })
	if _, err := c.Health(within(t)); api.CodeOf(err) != api.CodeNotReady {
		t.Error(err)
	}
}

func listen(t *testing.T, address string) *net.TCPListener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		loud.Skip(t, "cannot listen on %s: %v", address, err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

func TestDialCarriesHalfClose(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(address, func(t *testing.T) {
			l := listen(t, address)
			go func() {
				c, err := l.AcceptTCP()
				if err != nil {
					return
				}
				defer c.Close()
				asked, _ := io.ReadAll(c) // all of it, before it answers
				_, _ = c.Write([]byte(strings.ToUpper(string(asked))))
			}()
			c, err := a.Dial(within(t), l.Addr().(*net.TCPAddr).Port)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			want := strings.Repeat("question ", 50_000)
			if _, err := io.WriteString(c, want); err != nil {
				t.Fatal(err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(c)
			if err != nil || string(got) != strings.ToUpper(want) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
}

func TestDialThatIsCutOff(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	l := listen(t, "127.0.0.1:0")
	accepted := make(chan *net.TCPConn, 2)
	go func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	port := l.Addr().(*net.TCPAddr).Port
	c, err := a.Dial(within(t), port)
	if err != nil {
		t.Fatal(err)
	}
	there := <-accepted
	c.Close() // without CloseWrite: the server must hear of it although it only writes
	_ = there.SetDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 64<<10)
	for err = nil; err == nil; {
		_, err = there.Write(buf)
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Error("the server never learned that its caller has gone")
	}
	there.Close()

	c, err = a.Dial(within(t), port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	there = <-accepted
	_ = there.SetLinger(0)
	there.Close() // a reset, no end-of-file
	if _, err := io.ReadAll(c); err == nil {
		t.Error("a reset looks like an end")
	}
}

func TestDialRefused(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	l := listen(t, "127.0.0.1:0")
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	if _, err := a.Dial(within(t), port); api.CodeOf(err) != api.CodeUnreachable {
		t.Error(err)
	}
	for _, port := range []int{0, -1, 65536} {
		if _, err := a.Dial(within(t), port); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%d: %v", port, err)
		}
	}
}

func TestPorts(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	l := listen(t, "127.0.0.1:0")
	u, err := net.ListenUDP("udp", &net.UDPAddr{})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	ports, err := a.Ports(within(t))
	if err != nil {
		t.Fatal(err)
	}
	want := map[api.Port]bool{
		{Port: l.Addr().(*net.TCPAddr).Port, Protocol: "tcp", Address: "127.0.0.1", Process: "guest.test"}: true,
		{Port: u.LocalAddr().(*net.UDPAddr).Port, Protocol: "udp", Address: "::", Process: "guest.test"}:   true,
	}
	for _, p := range ports {
		delete(want, p)
	}
	if len(want) > 0 {
		t.Errorf("not in the list: %v\nthe list: %v", want, ports)
	}
}

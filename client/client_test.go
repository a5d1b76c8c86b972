package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"banger/api"
	"banger/internal/frame"
)

const patience = 20 * time.Second

// daemon answers a socket in place of bangerd.
func daemon(t *testing.T, h http.Handler) *Client {
	t.Helper()
	// Not t.TempDir(): its name may be longer than a socket's may be.
	dir, err := os.MkdirTemp("", "bc")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: patience}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() {
		if err := errors.Join(srv.Close(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return New(Options{Socket: l.Addr().String(), NoStart: true})
}

func replies(status int, header, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if name, value, ok := strings.Cut(header, ": "); ok {
			w.Header().Set(name, value)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func TestErrorsOfTheDaemon(t *testing.T) {
	for body, code := range map[string]api.Code{
		`{"error":{"code":"busy","message":"m","hint":"h","retryable":true,"operation_id":"o"}}`: api.CodeBusy,
		`<html>not bangerd</html>`: api.CodeInternal,
		`{}`:                       api.CodeInternal,
	} {
		_, err := daemon(t, replies(409, "", body)).Images(t.Context())
		if api.CodeOf(err) != code {
			t.Errorf("%s: %v", body, err)
		}
		if e := api.AsError(err); code == api.CodeBusy && (e.Message != "m" || e.Hint != "h" || e.OperationID != "o" || !e.Retryable) {
			t.Errorf("%+v", e)
		}
	}
	_, err := daemon(t, replies(200, "", `{"half":`)).Info(t.Context())
	if api.CodeOf(err) != api.CodeUnreachable {
		t.Errorf("a cut answer: %v", err)
	}
}

func TestContext(t *testing.T) {
	c := daemon(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := c.VMs(ctx); api.CodeOf(err) != api.CodeTimeout {
		t.Error(err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if _, err := c.VMs(ctx); api.CodeOf(err) != api.CodeCancelled || !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := c.Exec(ctx, "x", api.ExecSpec{}, ExecIO{}); api.CodeOf(err) != api.CodeCancelled {
		t.Error(err)
	}
}

func TestVersionNotice(t *testing.T) {
	c := daemon(t, replies(200, api.VersionHeader+": v0.0.1-other", `[]`))
	var notices []string
	c.opts.Notice = func(s string) { notices = append(notices, s) }
	for range 3 {
		if _, err := c.VMs(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(notices) != 1 || !strings.Contains(notices[0], "v0.0.1-other") || !strings.Contains(notices[0], "banger daemon stop") {
		t.Errorf("%q", notices)
	}
}

// TestStopping: a daemon that is ending is asked again, with the whole body.
func TestStopping(t *testing.T) {
	var calls atomic.Int32
	c := daemon(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) < 3 {
			replies(502, api.StoppingHeader+": true", `{"error":{"code":"unreachable","message":"stopping"}}`)(w, r)
			return
		}
		body, _ := io.ReadAll(r.Body)
		var in api.VMCreate
		if err := json.Unmarshal(body, &in); err != nil || in.Name != "n" {
			t.Errorf("%s: %v", body, err)
		}
		_, _ = io.WriteString(w, `{"vm":{"name":"n"}}`)
	}))
	if vm, err := c.CreateVM(t.Context(), api.VMCreate{Name: "n"}); err != nil || vm.VM.Name != "n" || calls.Load() != 3 {
		t.Errorf("%+v, %v after %d calls", vm.VM.Name, err, calls.Load())
	}
	calls.Store(0)
	if err := c.PutFile(t.Context(), "x", "/f", "", 0o644, strings.NewReader("once")); api.CodeOf(err) != api.CodeUnreachable || calls.Load() != 1 {
		t.Errorf("a stream cannot be sent twice: %v after %d calls", err, calls.Load())
	}
}

func TestLines(t *testing.T) {
	c := daemon(t, replies(200, "", `{"cursor":1}`+"\n"+`{"cursor":2}`+"\n"+`{"error":{"code":"exhausted","message":"m"}}`+"\n"))
	var seen []int64
	err := c.Events(t.Context(), 0, true, func(e api.Event) error { seen = append(seen, e.Cursor); return nil })
	if api.CodeOf(err) != api.CodeExhausted || !slices.Equal(seen, []int64{1, 2}) {
		t.Errorf("%v, %v", seen, err)
	}
	enough := errors.New("enough")
	if err := c.Events(t.Context(), 0, true, func(api.Event) error { return enough }); !errors.Is(err, enough) {
		t.Error(err)
	}
}

// TestWatchOperation: an operation's own error is not taken for the stream's; a stream that
// ends while the operation runs is an error.
func TestWatchOperation(t *testing.T) {
	c := daemon(t, replies(200, "", `{"id":"o","state":"running"}`+"\n"+`{"id":"o","state":"failed","error":{"code":"busy","message":"m"}}`+"\n"))
	o, err := c.WatchOperation(t.Context(), "o", nil)
	if err != nil || o.State != api.OperationFailed || o.Error == nil || o.Error.Code != api.CodeBusy {
		t.Errorf("%+v, %v", o, err)
	}
	c = daemon(t, replies(200, "", `{"id":"o","state":"running"}`+"\n"))
	if _, err := c.WatchOperation(t.Context(), "o", nil); api.CodeOf(err) != api.CodeUnreachable {
		t.Error(err)
	}
}

// TestRefs: whatever a user types as a name reaches the daemon as that, in one piece.
func TestRefs(t *testing.T) {
	for _, ref := range []string{"plain", "a/b", "a b", "..", "a?b#c", "ä%2F"} {
		var got string
		mux := http.NewServeMux()
		mux.HandleFunc("GET /v1/vms/{ref}/stats", func(w http.ResponseWriter, r *http.Request) {
			got = r.PathValue("ref")
			_, _ = io.WriteString(w, `{}`)
		})
		if _, err := daemon(t, mux).Stats(t.Context(), ref); err != nil || got != ref {
			t.Errorf("%q arrived as %q, %v", ref, got, err)
		}
	}
}

func TestEmptyRef(t *testing.T) {
	c := daemon(t, http.NotFoundHandler())
	if _, err := c.VM(t.Context(), ""); api.CodeOf(err) != api.CodeInvalid {
		t.Error(err)
	}
	if _, err := c.StopVM(t.Context(), "", api.VMStop{}); api.CodeOf(err) != api.CodeInvalid {
		t.Error(err)
	}
}

func TestFiles(t *testing.T) {
	c := daemon(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			body, _ := io.ReadAll(r.Body)
			if got := r.URL.RawQuery + " " + string(body); got != "mode=750&path=%2Fa+b&user=dev text" {
				t.Error(got)
			}
			w.WriteHeader(204)
			return
		}
		w.Header().Set(api.FileModeHeader, "4755")
		w.Header().Set(api.LogOffsetHeader, "7")
		_, _ = io.WriteString(w, r.URL.RawQuery)
	}))
	if err := c.PutFile(t.Context(), "x", "/a b", "dev", 0o750, strings.NewReader("text")); err != nil {
		t.Error(err)
	}
	r, mode, err := c.GetFile(t.Context(), "x", "/f")
	if err != nil || mode != 0o4755 {
		t.Fatalf("%o, %v", mode, err)
	}
	r.Close()
	for want, o := range map[string]LogOptions{
		"":                        {Offset: -1, Tail: -1},
		"offset=0":                {},
		"tail=0":                  {Offset: -1},
		"offset=9&source=console": {Offset: 9, Tail: 4, Source: "console"},
		"follow=true&stream=stdout&tail=2&timestamps=true": {Offset: -1, Tail: 2, Stream: "stdout", Follow: true, Timestamps: true},
	} {
		r, offset, err := c.Logs(t.Context(), "x", o)
		if err != nil || offset != 7 {
			t.Fatal(offset, err)
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != want {
			t.Errorf("%+v: %s, %v; want %s", o, got, err, want)
		}
		r.Close()
	}
}

// execDaemon answers an exec with serve.
func execDaemon(t *testing.T, serve func(r *frame.Reader, w *frame.Writer, conn net.Conn)) *Client {
	t.Helper()
	return daemon(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != api.UpgradeFrames {
			t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
		}
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: banger-frames\r\n\r\n")
		serve(frame.NewReader(buf.Reader), frame.NewWriter(conn), conn)
	}))
}

func TestExec(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	resize := make(chan api.Control, 1)
	resize <- api.Control{Type: api.ControlResize, Rows: 5, Cols: 6}
	c := execDaemon(t, func(r *frame.Reader, w *frame.Writer, _ net.Conn) {
		var sawResize, sawEnd bool
		for stdin := 0; ; {
			f, err := r.Read()
			if err != nil {
				t.Error(err)
				return
			}
			if f.Channel == frame.Stdin {
				stdin += len(f.Payload)
				if err := w.Write(frame.Stdout, f.Payload); err != nil {
					t.Error(err)
				}
				continue
			}
			m, err := f.Control()
			if err != nil {
				t.Error(err)
				return
			}
			switch m.Type {
			case api.ControlStart:
				if !slices.Equal(m.Exec.Argv, []string{"cat", "a b"}) {
					t.Errorf("%+v", m.Exec)
				}
			case api.ControlResize:
				sawResize = m.Rows == 5 && m.Cols == 6
			case api.ControlEOF:
				if sawEnd = true; stdin != len(big) {
					t.Errorf("%d bytes", stdin)
				}
			}
			if sawResize && sawEnd { // they are sent side by side
				_ = w.Write(frame.Stderr, []byte("bye"))
				_ = w.Control(api.Control{Type: api.ControlExit, ExitCode: 137, Signal: "KILL", TimedOut: true, DurationMS: 8})
				return
			}
		}
	})
	var out, stderr bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	res, err := c.Exec(ctx, "x", api.ExecSpec{Argv: []string{"cat", "a b"}, Stdin: true},
		ExecIO{Stdin: bytes.NewReader(big), Stdout: &out, Stderr: &stderr, Control: resize})
	if err != nil || res.ExitCode != 137 || res.Signal != "KILL" || !res.TimedOut || res.DurationMS != 8 {
		t.Errorf("%+v, %v", res, err)
	}
	if !bytes.Equal(out.Bytes(), big) || stderr.String() != "bye" {
		t.Errorf("%d bytes of output, %q", out.Len(), stderr.String())
	}
}

func TestExecFailures(t *testing.T) {
	for name, c := range map[string]struct {
		serve func(*frame.Reader, *frame.Writer, net.Conn)
		out   io.Writer
		code  api.Code
	}{
		"refused by the agent": {func(_ *frame.Reader, w *frame.Writer, _ net.Conn) {
			_ = w.Control(api.Control{Type: api.ControlError, Error: api.Errorf(api.CodeNotFound, "no such command")})
		}, nil, api.CodeNotFound},
		"daemon gone": {func(r *frame.Reader, w *frame.Writer, _ net.Conn) {
			_, _ = r.Read()
			_ = w.Write(frame.Stdout, []byte("some"))
		}, nil, api.CodeUnreachable},
		"our stdout closed": {func(r *frame.Reader, w *frame.Writer, _ net.Conn) {
			_ = w.Write(frame.Stdout, []byte("some"))
			_, _ = r.Read()
			if _, err := r.Read(); err == nil {
				t.Error("the client stays though nobody reads")
			}
		}, closedPipe{}, api.CodeCancelled},
	} {
		_, err := execDaemon(t, c.serve).Exec(t.Context(), "x", api.ExecSpec{Argv: []string{"x"}}, ExecIO{Stdout: c.out})
		if api.CodeOf(err) != c.code {
			t.Errorf("%s: %v (%s), want %s", name, err, api.CodeOf(err), c.code)
		}
	}
}

type closedPipe struct{}

func (closedPipe) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// TestExecHangsUp: the end of the context closes the connection.
func TestExecHangsUp(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	c := execDaemon(t, func(r *frame.Reader, _ *frame.Writer, _ net.Conn) {
		_, _ = r.Read()
		cancel()
		_, err := r.Read()
		gone <- err
	})
	if _, err := c.Exec(ctx, "x", api.ExecSpec{Argv: []string{"x"}}, ExecIO{}); api.CodeOf(err) != api.CodeCancelled {
		t.Error(err)
	}
	select {
	case err := <-gone:
		if err == nil {
			t.Error("it said something more")
		}
	case <-time.After(patience):
		t.Error("the connection is still there")
	}
}

func TestLongSocketPath(t *testing.T) {
	c := New(Options{Socket: "/" + strings.Repeat("x", 107)})
	if _, err := c.Info(t.Context()); api.CodeOf(err) != api.CodeInvalid || !strings.Contains(api.AsError(err).Hint, "BANGER_RUNTIME_DIR") {
		t.Error(err)
	}
}

// TestStartTimeout starts a program that neither serves nor ends before we are done.
func TestStartTimeout(t *testing.T) {
	dir := t.TempDir()
	fifo, program := filepath.Join(dir, "fifo"), filepath.Join(dir, "bangerd")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	// It ends when the test closes the fifo.
	if err := os.WriteFile(program, []byte("#!/bin/sh\nexec cat "+fifo+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	hold, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Close()
	c := New(Options{Socket: filepath.Join(dir, "s"), Program: program, StartTimeout: 200 * time.Millisecond, DaemonLog: filepath.Join(dir, "log")})
	_, err = c.Info(t.Context())
	if api.CodeOf(err) != api.CodeUnreachable || !strings.Contains(err.Error(), "did not begin to serve within 200ms") {
		t.Error(err)
	}
}

func TestDaemonEnv(t *testing.T) {
	got := daemonEnv([]string{"PATH=/bin", "AWS_SECRET=x", "BANGER_NET=none", "XDG_STATE_HOME=/s", "HTTPS_PROXY=p", "no_proxy=n", "LD_PRELOAD=y", "HOME=/h"})
	if want := []string{"PATH=/bin", "BANGER_NET=none", "XDG_STATE_HOME=/s", "HTTPS_PROXY=p", "no_proxy=n", "HOME=/h"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

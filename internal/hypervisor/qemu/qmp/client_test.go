package qmp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}` + "\r\n"

// server plays QEMU: answer gets each command and returns the lines to send for it.
func server(t *testing.T, answer func(command, id string) string) (net.Conn, net.Conn) {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	go func() {
		_, _ = theirs.Write([]byte(greeting))
		in := bufio.NewScanner(theirs)
		for in.Scan() {
			var r request
			if json.Unmarshal(in.Bytes(), &r) != nil {
				theirs.Close()
				return
			}
			line := `{"return": {}, "id": "` + r.ID + `"}`
			if r.Execute != "qmp_capabilities" {
				line = answer(r.Execute, r.ID)
			}
			if _, err := theirs.Write([]byte(line + "\r\n")); err != nil {
				return
			}
		}
	}()
	return ours, theirs
}

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func connect(t *testing.T, conn net.Conn, onEvent func(Event)) *Client {
	t.Helper()
	c, err := New(bounded(t), conn, onEvent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestAnswersFindTheirCommands(t *testing.T) {
	t.Parallel()
	conn, _ := server(t, func(command, id string) string {
		// A stale answer and an event come in between.
		return `{"return": "stale", "id": "none"}` + "\n" + `{"event": "RTC_CHANGE", "timestamp": {"seconds": 1, "microseconds": 2}}` +
			"\n" + fmt.Sprintf(`{"return": "for %s", "id": %q}`, command, id)
	})
	var mu sync.Mutex
	events := 0
	c := connect(t, conn, func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		if e.Name == "RTC_CHANGE" && e.At.Equal(time.Unix(1, 2000)) {
			events++
		}
	})
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			name := fmt.Sprintf("command-%d", i)
			var out string
			if err := c.Execute(bounded(t), name, nil, &out); err != nil || out != "for "+name {
				t.Errorf("%s: %q, %v", name, out, err)
			}
		})
	}
	wg.Wait()
	mu.Lock()
	defer mu.Unlock()
	if events != 20 {
		t.Errorf("%d events, want 20", events)
	}
}

func TestRefusal(t *testing.T) {
	t.Parallel()
	conn, _ := server(t, func(_, id string) string {
		return `{"error": {"class": "GenericError", "desc": "no such node"}, "id": "` + id + `"}`
	})
	c := connect(t, conn, func(Event) {})
	err := c.BlockResize(bounded(t), "d9", 1)
	var e *Error
	if !errors.As(err, &e) || e.Desc != "no such node" || !strings.Contains(err.Error(), "block_resize") {
		t.Errorf("error: %v", err)
	}
}

func TestConnectionLostMidCommand(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{})
	conn, theirs := server(t, func(string, string) string { close(asked); select {} })
	c := connect(t, conn, func(Event) {})
	go func() { <-asked; theirs.Close() }()
	if err := c.Cont(bounded(t)); !errors.Is(err, ErrClosed) {
		t.Errorf("error: %v", err)
	}
	<-c.Done()
	if err := c.Cont(bounded(t)); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

func TestContextEndsACommand(t *testing.T) {
	t.Parallel()
	conn, _ := server(t, func(string, string) string { return `{"event": "X"}` })
	c := connect(t, conn, func(Event) {})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := c.Cont(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error: %v", err)
	}
	if len(c.pending) != 0 {
		t.Error("the command is still waited for")
	}
}

func TestNoGreeting(t *testing.T) {
	t.Parallel()
	for name, say := range map[string]string{"garbage": "hello\n", "answer": `{"return": {}}` + "\n", "long": strings.Repeat("x", maxLine+2)} {
		ours, theirs := net.Pipe()
		go func() { _, _ = theirs.Write([]byte(say)); theirs.Close() }()
		if _, err := New(bounded(t), ours, func(Event) {}); err == nil {
			t.Errorf("%s was taken for a greeting", name)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	ours, theirs := net.Pipe()
	defer theirs.Close()
	if _, err := New(ctx, ours, func(Event) {}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("silence: %v", err)
	}
}

func TestPlainName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"":         "",
		"/v/root":  "/v/root",
		"json:{":   "json:{",
		"json:{}":  "json:{}",
		"json:[1]": "json:[1]",
		`json:{"backing": {"driver": "qcow2", "file": {"driver": "file", "filename": "/below"}}, "driver": "qcow2", "file": {"driver": "file", "filename": "/v/\u0072oot"}}`: "/v/root",
	} {
		if got := plainName(name); got != want {
			t.Errorf("plainName(%s) = %q, want %q", name, got, want)
		}
	}
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte(greeting))
	f.Add([]byte(`{"return": {"status": "running"}, "id": "1"}` + "\n"))
	f.Add([]byte(`{"error": {"class": "GenericError", "desc": "x"}, "id": 7}` + "\n"))
	f.Add([]byte(`{"event": "STOP", "data": null, "timestamp": {"seconds": 9223372036854775807, "microseconds": -1}}` + "\n"))
	f.Add([]byte("\r\n\r\n{}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := readMessage(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			return
		}
		var v any
		switch m.kind() {
		case kindEvent:
			_ = m.event().Decode(&v)
		case kindReturn:
			if m.result("x", &v) != nil {
				t.Error("a parsed answer does not decode into any")
			}
		case kindError:
			if m.result("x", nil) == nil {
				t.Error("an error became a success")
			}
		case kindGreeting, kindUnknown:
		}
		_ = m.id()
	})
}

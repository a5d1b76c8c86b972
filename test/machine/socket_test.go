package machine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"banger/api"
)

// This file speaks to the socket with nothing of banger's but the nouns, as another
// engine's program would.

// http is a client of the box's daemon. An HTTP client of any kind will do.
func (b *box) http() *http.Client {
	return &http.Client{Timeout: commandTime, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", b.socket())
		},
		DisableKeepAlives: true,
	}}
}

// call sends body as JSON (nil: none, []byte: as it is) and decodes the answer into out (nil: dropped).
func (b *box) call(want int, method, path string, body, out any) http.Header {
	b.t.Helper()
	var r io.Reader
	switch body := body.(type) {
	case nil:
	case []byte:
		r = bytes.NewReader(body)
	default:
		text, err := json.Marshal(body)
		if err != nil {
			b.t.Fatal(err)
		}
		r = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, "http://banger"+path, r)
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if _, isRaw := body.([]byte); isRaw {
		req.Header.Set("Content-Type", "application/octet-stream")
	}
	req.Header.Set("Accept", "application/json")
	res, err := b.http().Do(req)
	if err != nil {
		b.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatalf("%s %s: %v", method, path, err)
	}
	if res.StatusCode != want {
		b.t.Fatalf("%s %s: %s, want %d: %s", method, path, res.Status, want, text)
	}
	switch out := out.(type) {
	case nil:
	case *string:
		*out = string(text)
	default:
		decode(b.t, string(text), out)
	}
	return res.Header
}

// try sends body and returns the status, or 599 where the daemon cut the call off.
func (b *box) try(method, path string, body []byte) int {
	b.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, "http://banger"+path, bytes.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	res, err := b.http().Do(req)
	if err != nil {
		return 599
	}
	res.Body.Close()
	return res.StatusCode
}

// operation waits for an operation's end and returns it.
func (b *box) operation(id string) api.Operation {
	b.t.Helper()
	var op api.Operation
	deadline := time.Now().Add(commandTime)
	for {
		b.call(200, "GET", "/v1/operations/"+id, nil, &op)
		if op.State != api.OperationRunning {
			return op
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("operation %+v does not end", op)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// stream is an upgraded connection.
type stream struct {
	t    *testing.T
	conn *net.UnixConn
	r    *bufio.Reader
}

// upgrade opens a stream; it is closed when the test ends.
func (b *box) upgrade(method, path, token string) *stream {
	b.t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: b.socket(), Net: "unix"})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(commandTime)); err != nil {
		b.t.Fatal(err)
	}
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: banger\r\nConnection: Upgrade\r\nUpgrade: %s\r\nContent-Length: 0\r\n\r\n", method, path, token)
	s := &stream{b.t, conn, bufio.NewReader(conn)}
	res, err := http.ReadResponse(s.r, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		text, _ := io.ReadAll(res.Body)
		b.t.Fatalf("%s %s: %s %s", method, path, res.Status, text)
	}
	return s
}

// The channels of the framing, as the documents give them.
const (
	stdinChannel   = 1
	stdoutChannel  = 2
	stderrChannel  = 3
	controlChannel = 4
)

func (s *stream) send(channel byte, payload []byte) {
	s.t.Helper()
	head := append([]byte{channel}, binary.BigEndian.AppendUint32(nil, uint32(len(payload)))...)
	if _, err := s.conn.Write(append(head, payload...)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stream) control(c api.Control) {
	s.t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		s.t.Fatal(err)
	}
	s.send(controlChannel, text)
}

// next reads a frame.
func (s *stream) next() (byte, []byte) {
	s.t.Helper()
	var head [5]byte
	if _, err := io.ReadFull(s.r, head[:]); err != nil {
		s.t.Fatalf("the stream ended: %v", err)
	}
	payload := make([]byte, binary.BigEndian.Uint32(head[1:]))
	if _, err := io.ReadFull(s.r, payload); err != nil {
		s.t.Fatal(err)
	}
	return head[0], payload
}

// output reads until the words have come on stdout.
func (s *stream) output(words string) {
	s.t.Helper()
	var seen []byte
	for !bytes.Contains(seen, []byte(words)) {
		channel, payload := s.next()
		if channel == controlChannel {
			s.t.Fatalf("%s came before %q; output: %q", payload, words, seen)
		}
		seen = append(seen, payload...)
	}
}

// end reads until the stream's last frame, and returns it with what came on stdout.
func (s *stream) end() (api.Control, string) {
	s.t.Helper()
	var out []byte
	for {
		channel, payload := s.next()
		switch channel {
		case stdoutChannel:
			out = append(out, payload...)
		case controlChannel:
			var c api.Control
			decode(s.t, string(payload), &c)
			return c, string(out)
		}
	}
}

// exec opens an exec stream and starts the command.
func (b *box) exec(vm string, spec api.ExecSpec) *stream {
	b.t.Helper()
	s := b.upgrade("POST", "/v1/vms/"+vm+"/exec", "banger-frames")
	s.control(api.Control{Type: api.ControlStart, Exec: &spec})
	return s
}

package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"banger/api"
	"banger/internal/frame"
)

// Sessions lists the sessions of a VM, oldest first; those of all VMs where ref is empty.
func (c *Client) Sessions(ctx context.Context, ref string) ([]api.Session, error) {
	path := "/v1/sessions"
	if ref != "" {
		path = vmPath(ref, "sessions")
	}
	return call[[]api.Session](ctx, c, request{method: http.MethodGet, path: path})
}

// Session finds a VM's session by its name or id.
func (c *Client) Session(ctx context.Context, ref, name string) (api.Session, error) {
	return call[api.Session](ctx, c, request{method: http.MethodGet, path: sessionPath(ref, name)})
}

// StartSession starts a command that lives on without this client. One that cannot be started is returned in state
// failed, with the stage and the reason.
func (c *Client) StartSession(ctx context.Context, ref string, create api.SessionCreate) (api.Session, error) {
	return call[api.Session](ctx, c, request{method: http.MethodPost, path: vmPath(ref, "sessions"), body: create})
}

// StopSession asks a session's command to end.
func (c *Client) StopSession(ctx context.Context, ref, name string) (api.Session, error) {
	return call[api.Session](ctx, c, request{method: http.MethodPost, path: sessionPath(ref, name, "stop")})
}

// SignalSession sends a signal ("TERM", "SIGTERM" or "15") to a session's process group; KILL is for all that it has started.
func (c *Client) SignalSession(ctx context.Context, ref, name, signal string) error {
	return c.callNone(ctx, request{method: http.MethodPost, path: sessionPath(ref, name, "signal"), body: api.VMSignal{Signal: signal}})
}

// WaitSession returns when a session has ended. A timeout of 0 waits without end; one that passes is an error of code timeout.
func (c *Client) WaitSession(ctx context.Context, ref, name string, timeout time.Duration) (api.Session, error) {
	q := url.Values{}
	if timeout > 0 {
		q.Set("timeout_ms", strconv.FormatInt(max(1, timeout.Milliseconds()), 10))
	}
	return call[api.Session](ctx, c, request{method: http.MethodGet, path: sessionPath(ref, name, "wait"), query: q})
}

// DeleteSession removes a session that has ended, and its logs.
func (c *Client) DeleteSession(ctx context.Context, ref, name string) (api.Session, error) {
	return call[api.Session](ctx, c, request{method: http.MethodDelete, path: sessionPath(ref, name)})
}

// SessionLogOptions say which part of a session's output.
type SessionLogOptions struct {
	Stream string // "stdout" or "stderr"
	Offset int64  // -1 leaves it to Tail
	Tail   int    // lines from the end; -1 for all
	Follow bool
}

// SessionLogs reads what a session has written; offset is that of the first byte. The caller closes it.
func (c *Client) SessionLogs(ctx context.Context, ref, name string, o SessionLogOptions) (r io.ReadCloser, offset int64, err error) {
	q := url.Values{"stream": {o.Stream}, "follow": {strconv.FormatBool(o.Follow)}}
	if o.Offset >= 0 {
		q.Set("offset", strconv.FormatInt(o.Offset, 10))
	} else if o.Tail >= 0 {
		q.Set("tail", strconv.Itoa(o.Tail))
	}
	resp, err := c.do(ctx, request{method: http.MethodGet, path: sessionPath(ref, name, "logs"), query: q})
	if err != nil {
		return nil, 0, err
	}
	offset, err = strconv.ParseInt(resp.Header.Get(api.LogOffsetHeader), 10, 64)
	if err != nil {
		resp.Body.Close()
		return nil, 0, api.Errorf(api.CodeInternal, "cannot read the daemon's answer: %w", err)
	}
	return resp.Body, offset, nil
}

// AttachIO is what an attach is connected to.
type AttachIO struct {
	ExecIO
	// Rows and Cols are the caller's terminal.
	Rows, Cols int
	// Begun is told from where on each stream is sent, before anything is, and what api.StdinOffsetHeader says, before
	// Stdin is read.
	Begun func(AttachOffsets)
	// Beside gets what is shown on a terminal that the session has not written itself; nil: thrown away. It counts in no offset.
	Beside io.Writer
}

// AttachOffsets are the headers of an answer to attach.
type AttachOffsets struct{ Stdin, Stdout, Stderr int64 }

// AttachSession is attached to a session until it has ended, or ctx has: that detaches. See api.SessionAttach.
func (c *Client) AttachSession(ctx context.Context, ref string, session api.Session, attach api.SessionAttach, streams AttachIO) (api.ExecResult, error) {
	q := url.Values{}
	for name, offset := range map[string]*int64{"stdout_offset": attach.StdoutOffset, "stderr_offset": attach.StderrOffset} {
		if offset != nil {
			q.Set(name, strconv.FormatInt(*offset, 10))
		}
	}
	if attach.Key != "" {
		q.Set("key", attach.Key)
	}
	conn, err := c.upgrade(ctx, request{method: http.MethodPost, path: sessionPath(ref, session.ID, "attach"), query: q}, api.UpgradeFrames)
	if err != nil {
		return api.ExecResult{}, err
	}
	if streams.Begun != nil {
		at := AttachOffsets{Stdin: stdinOffset(conn)}
		at.Stdout, _ = strconv.ParseInt(conn.header.Get(api.StdoutOffsetHeader), 10, 64)
		at.Stderr, _ = strconv.ParseInt(conn.header.Get(api.StderrOffsetHeader), 10, 64)
		streams.Begun(at)
	}
	if err := conn.SetWriteBuffer(typedAhead); err != nil {
		conn.Close()
		return api.ExecResult{}, c.callError(ctx, err)
	}
	if session.TTY {
		streams.Stderr = streams.Beside
	}
	return c.converse(ctx, conn, api.ExecSpec{Stdin: true, Rows: streams.Rows, Cols: streams.Cols}, streams.ExecIO, false)
}

// Sending is what a SendSession sends.
type Sending struct {
	Stdin io.Reader
	// EOF ends the session's standard input behind it.
	EOF bool
	// Key is the caller's own, if it wants to send on where it has lost its connection. Begun is then told what
	// api.StdinOffsetHeader says, before Stdin is read, and returns from which byte on Stdin is read.
	Key   string
	Begun func(taken int64) (from int64)
}

// SendSession writes to a session's standard input. It returns when the command has been given all of it.
func (c *Client) SendSession(ctx context.Context, ref, name string, what Sending) error {
	q := url.Values{}
	if what.Key != "" {
		q.Set("key", what.Key)
	}
	conn, err := c.upgrade(ctx, request{method: http.MethodPost, path: sessionPath(ref, name, "send"), query: q}, api.UpgradeFrames)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetWriteBuffer(typedAhead); err != nil {
		return c.callError(ctx, err)
	}
	var from, taken int64
	if what.Begun != nil {
		taken = stdinOffset(conn)
		from = what.Begun(taken)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	w := frame.NewWriter(conn)
	unread := make(chan error, 1)
	go func() {
		n, err := io.CopyBuffer(w.Channel(frame.Stdin), readerOnly{what.Stdin}, make([]byte, 32<<10))
		if err != nil {
			unread <- err
			conn.Close()
			return
		}
		if what.EOF && taken <= from+n { // else that has been taken, too
			_ = w.Control(api.Control{Type: api.ControlEOF})
		}
		_ = w.Write(frame.Stdin, nil) // the answer tells whether that went well
	}()
	_, err = receive(frame.NewReader(conn.buf), ExecIO{})
	if err == nil {
		return nil
	}
	select {
	case why := <-unread:
		if api.CodeOf(err) == api.CodeInternal {
			err = why
		}
	default:
	}
	return c.callError(ctx, err)
}

func sessionPath(ref, name string, rest ...string) string {
	return objectPath(vmPath(ref, "sessions")+"/", name, rest...)
}

// typedAhead is half of what may be in the socket to the daemon of what a session is sent (socket(7): the kernel doubles it), in bytes.
// Whoever wants to send it again when the connection has broken keeps more than is on its way, whatever this host's defaults are.
const typedAhead = 64 << 10

// stdinOffset is -1 where the daemon does not say it.
func stdinOffset(s *stream) int64 {
	if n, err := strconv.ParseInt(s.header.Get(api.StdinOffsetHeader), 10, 64); err == nil {
		return n
	}
	return -1
}

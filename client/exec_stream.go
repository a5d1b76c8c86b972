package client

import (
	"context"
	"errors"
	"io"
	"net/http"

	"banger/api"
	"banger/internal/frame"
)

func (c *Client) exec(ctx context.Context, ref string, spec api.ExecSpec, streams ExecIO) (api.ExecResult, error) {
	conn, err := c.upgrade(ctx, request{method: http.MethodPost, path: vmPath(ref, "exec")}, api.UpgradeFrames)
	if err != nil {
		return api.ExecResult{}, err
	}
	return c.converse(ctx, conn, spec, streams, true)
}

// converse carries a command's streams until its end. With end, the end of stdin is passed on.
func (c *Client) converse(ctx context.Context, conn *stream, spec api.ExecSpec, streams ExecIO, end bool) (api.ExecResult, error) {
	defer conn.Close()
	// Closing is what cancels: the daemon ends the command when we are gone.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	w := frame.NewWriter(conn)
	// A spec too large for a frame is refused here; a connection that broke may hold the reason, so we read.
	if err := w.Control(api.Control{Type: api.ControlStart, Exec: &spec}); api.CodeOf(err) == api.CodeInvalid {
		return api.ExecResult{}, err
	}
	if spec.Stdin && streams.Stdin != nil {
		go sendStdin(w, streams.Stdin, end)
	}
	ended := make(chan struct{})
	defer close(ended)
	if streams.Control != nil {
		go sendControls(w, streams.Control, ended)
	}
	res, err := receive(frame.NewReader(conn.buf), streams)
	if err != nil {
		return api.ExecResult{}, c.callError(ctx, err)
	}
	return res, nil
}

// receive copies output until the command's end. A write that fails (a closed pipe) ends it too.
func receive(r *frame.Reader, streams ExecIO) (api.ExecResult, error) {
	for {
		f, err := r.Read()
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // no exit, no error: the daemon has gone
		}
		if err != nil {
			return api.ExecResult{}, err
		}
		switch f.Channel {
		case frame.Stdout:
			err = write(streams.Stdout, f.Payload)
		case frame.Stderr:
			err = write(streams.Stderr, f.Payload)
		case frame.Control:
			m, err := f.Control()
			if err != nil {
				return api.ExecResult{}, err
			}
			switch m.Type {
			case api.ControlExit:
				return api.ExecResult{ExitCode: m.ExitCode, Signal: m.Signal, TimedOut: m.TimedOut, DurationMS: m.DurationMS}, nil
			case api.ControlError:
				if m.Error == nil {
					m.Error = api.Errorf(api.CodeInternal, "the command failed for no reason given")
				}
				return api.ExecResult{}, m.Error
			}
		}
		if err != nil {
			return api.ExecResult{}, api.Errorf(api.CodeCancelled, "cannot write the command's output: %w", err)
		}
	}
}

func write(w io.Writer, p []byte) error {
	if w == nil {
		return nil
	}
	_, err := w.Write(p)
	return err
}

// sendStdin stays in its last Read when the command ends first; see ExecIO. Whether stdin
// ends or cannot be read, there is no more of it.
func sendStdin(w *frame.Writer, r io.Reader, end bool) {
	_, _ = io.CopyBuffer(w.Channel(frame.Stdin), readerOnly{r}, make([]byte, 32<<10))
	if end {
		_ = w.Control(api.Control{Type: api.ControlEOF})
	}
}

// readerOnly hides WriterTo, so that stdin is read in our pieces.
type readerOnly struct{ io.Reader }

func sendControls(w *frame.Writer, controls <-chan api.Control, ended <-chan struct{}) {
	for {
		select {
		case m, ok := <-controls:
			if !ok || w.Control(m) != nil {
				return
			}
		case <-ended:
			return
		}
	}
}

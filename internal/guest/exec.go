package guest

import (
	"context"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"unicode/utf8"

	"banger/api"
	"banger/internal/frame"
	"banger/internal/frame/brief"
)

// Exec opens a stream for one command; package frame tells the conversation, which begins with
// the control "start". Closing the connection cancels the command. Proxy and ExecWait begin more briefly.
func (c *Client) Exec(ctx context.Context) (net.Conn, error) {
	return c.upgrade(ctx, http.MethodPost, "/exec", nil, api.UpgradeFrames)
}

// Limits of ExecWait, as documented at api.ExecSpec.
const (
	defaultOutput = 1 << 20
	maxOutput     = 64 << 20
)

// ExecWait runs a command to its end and collects its output up to the spec's limit; what is beyond
// is read and thrown away. The end of ctx cancels the command.
func (c *Client) ExecWait(ctx context.Context, spec api.ExecSpec) (api.ExecResult, error) {
	limit := spec.OutputLimitBytes
	if limit <= 0 {
		limit = defaultOutput
	}
	input := spec.StdinData
	spec.StdinData, spec.TTY, spec.Main = nil, false, false
	spec.Stdin = len(input) > 0
	conn, err := c.start(ctx, spec)
	if err != nil {
		return api.ExecResult{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	out := frame.NewWriter(conn)
	if spec.Stdin {
		go func() { // ends at the latest when conn is closed
			if out.Write(frame.Stdin, input) == nil {
				_ = out.Control(api.Control{Type: api.ControlEOF})
			}
		}()
	}
	stdout, stderr := capped{limit: min(limit, maxOutput)}, capped{limit: min(limit, maxOutput)}
	end, err := receive(frame.NewReader(conn), func(ch frame.Channel, p []byte) error {
		if ch == frame.Stderr {
			stderr.add(p)
		} else {
			stdout.add(p)
		}
		return nil
	})
	if err != nil {
		return api.ExecResult{}, broken(ctx, err)
	}
	res := api.ExecResult{
		ExitCode: end.ExitCode, Signal: end.Signal, TimedOut: end.TimedOut, DurationMS: end.DurationMS,
		Truncated: stdout.truncated || stderr.truncated,
	}
	res.Stdout, res.StdoutBase64 = stdout.text()
	res.Stderr, res.StderrBase64 = stderr.text()
	return res, nil
}

// receive reads a stream to its end: the exit, or the error that the agent sent.
func receive(in *frame.Reader, output func(frame.Channel, []byte) error) (api.Control, error) {
	for {
		f, err := in.Read()
		if err != nil {
			return api.Control{}, err
		}
		if f.Channel == frame.Exit {
			return brief.Exit(f.Payload)
		}
		if f.Channel != frame.Control {
			if err := output(f.Channel, f.Payload); err != nil {
				return api.Control{}, err
			}
			continue
		}
		m, err := f.Control()
		if err != nil {
			return api.Control{}, err
		}
		switch {
		case m.Type == api.ControlExit:
			return m, nil
		case m.Type == api.ControlError && m.Error != nil:
			return api.Control{}, m.Error
		case m.Type == api.ControlError:
			return api.Control{}, api.Errorf(api.CodeInternal, "the agent gave no reason")
		}
	}
}

// broken tells the end of a stream that came before the command's.
func broken(ctx context.Context, err error) error {
	var e *api.Error
	if ctx.Err() == nil && !errors.As(err, &e) {
		return api.Errorf(api.CodeNotReady, "the guest ended, or its agent did, before the command had: %w", err)
	}
	return unreachable(ctx, err)
}

// capped keeps the beginning of a stream.
type capped struct {
	b         []byte
	limit     int64
	truncated bool
}

func (c *capped) add(p []byte) {
	if room := c.limit - int64(len(c.b)); int64(len(p)) > room {
		p, c.truncated = p[:room], true
	}
	c.b = append(c.b, p...)
}

// text returns the bytes as text, or where they are none in base64. A character that the limit
// has cut in two is left out.
func (c *capped) text() (text, b64 string) {
	b := c.b
	if c.truncated {
		for i := 1; i < utf8.UTFMax && i <= len(b); i++ {
			if r := b[len(b)-i]; utf8.RuneStart(r) {
				if !utf8.FullRune(b[len(b)-i:]) {
					b = b[:len(b)-i]
				}
				break
			}
		}
	}
	if utf8.Valid(b) {
		return string(b), ""
	}
	return "", base64.StdEncoding.EncodeToString(c.b)
}

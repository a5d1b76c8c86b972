package server

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"

	"banger/api"
)

// lines answers with whatever fn hands to line, one JSON value each, as it comes. An error
// before the first is an ordinary refusal; a later one is the last line, {"error": …}.
func (c *call) lines(fn func(line func(any) error) error) error {
	flush := http.NewResponseController(c.w).Flush
	send := func(v any) error {
		data, err := encode(v)
		if err != nil {
			return err
		}
		c.openLines()
		if _, err := c.w.Write(data); err != nil {
			return gone(c.ctx, err)
		}
		return flush()
	}
	err := fn(send)
	if err == nil && c.ctx.Err() != nil {
		err = context.Cause(c.ctx) // cut off is not the end
	}
	switch {
	case err == nil:
		c.openLines()
	case c.w.status == 0:
		return err
	case c.ctx.Err() == nil || context.Cause(c.ctx) == errStopping: //nolint:errorlint // the very value
		_ = send(api.ErrorBody{Error: *wireError(err)})
	}
	return nil
}

// openLines begins a stream of lines, if it has not begun.
func (c *call) openLines() {
	if c.w.status == 0 {
		c.w.Header().Set("Content-Type", "application/x-ndjson")
		c.w.WriteHeader(c.status)
	}
}

// copyOut answers with the bytes of r, flushed as they come, and closes r. The header is
// sent before the first byte is there: a follower wants to know that it is connected.
func (c *call) copyOut(media string, r io.ReadCloser) error {
	// A reader that waits for more is woken by its Close when the caller has gone.
	stop := context.AfterFunc(c.ctx, func() { r.Close() })
	defer func() {
		if stop() {
			r.Close()
		}
	}()
	c.w.Header().Set("Content-Type", media)
	c.w.WriteHeader(c.status)
	flush := http.NewResponseController(c.w).Flush
	if err := flush(); err != nil {
		return nil //nolint:nilerr // the caller has gone
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if _, err := c.w.Write(buf[:n]); err != nil {
				return gone(c.ctx, err)
			}
			if err := flush(); err != nil {
				return gone(c.ctx, err)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// gone is the error of a caller that does not read any more.
func gone(ctx context.Context, err error) error {
	return api.Errorf(api.CodeCancelled, "the caller has gone: %w", firstError(context.Cause(ctx), err))
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// wantsUpgrade reports that the request asks for the connection to become such a stream.
func (c *call) wantsUpgrade(token string) bool {
	return strings.EqualFold(c.r.Header.Get("Upgrade"), token)
}

// upgraded is a connection that has left HTTP. CloseWrite ends our direction only.
type upgraded struct {
	*net.UnixConn
	in io.Reader
}

func (u *upgraded) Read(p []byte) (int, error) { return u.in.Read(p) }

// upgrade turns the connection into a stream for fn, and closes it after fn. From here
// on errors go to the log only; fn tells them in its own way.
func (s *Server) upgrade(c *call, token string, fn func(*upgraded) error) error {
	s.streams.Add(1) // before http.Server forgets it, so that Shutdown sees it the whole time
	defer s.streams.Done()
	conn, buf, err := http.NewResponseController(c.w).Hijack()
	if err != nil {
		return err
	}
	defer conn.Close()
	c.w.status = http.StatusSwitchingProtocols
	header := c.w.Header()
	header.Set("Connection", "Upgrade")
	header.Set("Upgrade", token)
	var head strings.Builder
	head.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = header.Write(&head) // a strings.Builder takes everything
	head.WriteString("\r\n")
	if _, err := io.WriteString(conn, head.String()); err != nil {
		return nil //nolint:nilerr // the caller has gone
	}
	// What the caller sent right behind its request is in the buffer already.
	early := io.LimitReader(buf, int64(buf.Reader.Buffered()))
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return nil
	}
	if err := fn(&upgraded{uc, io.MultiReader(early, uc)}); err != nil {
		s.Log.Debug("stream ended", "path", c.r.URL.Path, "error", err)
	}
	return nil
}

package server

import (
	"context"
	"net/http"
	"strconv"

	"banger/api"
	"banger/internal/session"
)

const stdinOffset = "how much of what this key sent has been taken: bytes, and one for each eof; -1: not known"

var sendKey = []param{{"key", text, "the caller's own: the answer tells how much of what it sent before has been taken", false}}

var sessionOffsets = []param{
	{"stdout_offset", number, "first byte of stdout wanted; if absent, what comes from now on, of a terminal what it shows too", false},
	{"stderr_offset", number, "first byte of stderr wanted; if absent, what comes from now on", false},
	{"key", text, "the caller's own: it takes over from itself", false},
}

func (c *call) session() string { return c.r.PathValue("session") }

func (s *Server) listSessions(c *call) ([]api.Session, error) { return s.Sessions.List(c.ctx, "") }
func (s *Server) listSessionsOf(c *call) ([]api.Session, error) {
	return s.Sessions.List(c.ctx, c.ref())
}

func (s *Server) startSession(c *call, create api.SessionCreate) (api.Session, error) {
	return s.Sessions.Start(c.ctx, c.ref(), create)
}

func (s *Server) getSession(c *call) (api.Session, error) {
	return s.Sessions.Get(c.ctx, c.ref(), c.session())
}

func (s *Server) stopSession(c *call) (api.Session, error) {
	return s.Sessions.Stop(c.ctx, c.ref(), c.session())
}

func (s *Server) signalSession(c *call, signal api.VMSignal) (empty, error) {
	return empty{}, s.Sessions.Signal(c.ctx, c.ref(), c.session(), signal)
}

func (s *Server) deleteSession(c *call) (api.Session, error) {
	return s.Sessions.Delete(c.ctx, c.ref(), c.session())
}

func (s *Server) waitSession(c *call) (api.Session, error) {
	ctx := c.ctx
	d, err := milliseconds("timeout_ms", c.number("timeout_ms", 0))
	if err != nil {
		return api.Session{}, err
	}
	if d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, d,
			api.Errorf(api.CodeTimeout, "waited %s for session %s of %s, and it has not ended", d, c.session(), c.ref()))
		defer cancel()
	}
	out, err := s.Sessions.Wait(ctx, c.ref(), c.session())
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return out, err
}

func (s *Server) sessionLogs(c *call) error {
	q := session.LogQuery{Stream: c.query.Get("stream"), Offset: c.number("offset", 0), Follow: c.flag("follow")}
	switch {
	case q.Stream == "":
		q.Stream = "stdout"
	case q.Stream != "stdout" && q.Stream != "stderr":
		return api.Errorf(api.CodeInvalid, "there is no stream %q: it is stdout or stderr", q.Stream)
	case c.query.Has("offset") && c.query.Has("tail"):
		return api.Errorf(api.CodeInvalid, "offset and tail exclude each other")
	}
	if c.query.Has("tail") {
		lines := int(min(c.number("tail", 0), 1<<30))
		q.Tail = &lines
	}
	r, offset, err := s.Sessions.Logs(c.ctx, c.ref(), c.session(), q)
	if err != nil {
		return err
	}
	c.w.Header().Set(api.LogOffsetHeader, strconv.FormatInt(offset, 10))
	return c.copyOut("text/plain; charset=utf-8", r)
}

// frames is an action whose connection turns into frames.
func frames(serve func(*call) error) action {
	return action{status: http.StatusSwitchingProtocols, upgrade: api.UpgradeFrames, serve: func(c *call) error {
		if !c.wantsUpgrade(api.UpgradeFrames) {
			return api.Errorf(api.CodeInvalid, "this call needs the headers Connection: Upgrade and Upgrade: %s", api.UpgradeFrames)
		}
		return serve(c)
	}}
}

func (s *Server) attachSession(c *call) error {
	attach := api.SessionAttach{Key: c.query.Get("key")}
	for name, to := range map[string]**int64{"stdout_offset": &attach.StdoutOffset, "stderr_offset": &attach.StderrOffset} {
		if c.query.Has(name) {
			offset := c.number(name, 0)
			*to = &offset
		}
	}
	stream, err := s.Sessions.Attach(c.ctx, c.ref(), c.session(), attach)
	if err != nil {
		return err
	}
	defer stream.Close()
	c.w.Header().Set(api.StdoutOffsetHeader, strconv.FormatInt(stream.StdoutOffset, 10))
	c.w.Header().Set(api.StderrOffsetHeader, strconv.FormatInt(stream.StderrOffset, 10))
	c.w.Header().Set(api.StdinOffsetHeader, strconv.FormatInt(stream.StdinOffset, 10))
	return s.upgrade(c, api.UpgradeFrames, func(conn *upgraded) error { return stream.Relay(c.ctx, conn) })
}

func (s *Server) sendSession(c *call) error {
	stream, err := s.Sessions.Send(c.ctx, c.ref(), c.session(), c.query.Get("key"))
	if err != nil {
		return err
	}
	defer stream.Close()
	c.w.Header().Set(api.StdinOffsetHeader, strconv.FormatInt(stream.StdinOffset, 10))
	return s.upgrade(c, api.UpgradeFrames, func(conn *upgraded) error { return stream.Relay(c.ctx, conn) })
}

package server

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"reflect"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"banger/api"
	"banger/internal/vm"
)

// execAction reads its body only when it waits; an upgraded call sends its ExecSpec in the first frame.
func (s *Server) execAction() action {
	return action{
		request: reflect.TypeFor[api.ExecSpec](), response: reflect.TypeFor[api.ExecResult](),
		status: http.StatusOK, upgrade: api.UpgradeFrames, serve: s.exec,
	}
}

func (s *Server) exec(c *call) error {
	if !c.wantsUpgrade(api.UpgradeFrames) || strings.Contains(c.r.Header.Get("Accept"), "application/json") {
		var spec api.ExecSpec
		if err := c.decode(&spec, execBody); err != nil {
			return err
		}
		res, err := s.VMs.Guests.ExecWait(c.ctx, c.ref(), spec)
		if err != nil {
			return err
		}
		return c.answer(res)
	}
	stream, err := s.VMs.Guests.OpenExec(c.ctx, c.ref())
	if err != nil {
		return err
	}
	defer stream.Close()
	return s.upgrade(c, api.UpgradeFrames, func(conn *upgraded) error { return stream.Proxy(c.ctx, conn) })
}

func (s *Server) dialAction() action {
	return action{status: http.StatusSwitchingProtocols, upgrade: api.UpgradeRaw, serve: s.dial}
}

func (s *Server) dial(c *call) error {
	if !c.wantsUpgrade(api.UpgradeRaw) {
		return api.Errorf(api.CodeInvalid, "this call needs the headers Connection: Upgrade and Upgrade: %s", api.UpgradeRaw)
	}
	port := c.number("port", 0)
	if port < 1 || port > 65535 {
		return api.Errorf(api.CodeInvalid, "port %d is not 1 to 65535", port)
	}
	guest, err := s.VMs.Guests.Dial(c.ctx, c.ref(), int(port))
	if err != nil {
		return err
	}
	defer guest.Close()
	return s.upgrade(c, api.UpgradeRaw, func(conn *upgraded) error { return join(c.ctx, conn, guest) })
}

// join copies both ways until both directions have ended; the end of one is passed on as a half-close.
func join(ctx context.Context, a *upgraded, b net.Conn) error {
	stop := context.AfterFunc(ctx, func() { a.Close(); b.Close() })
	defer stop()
	var g errgroup.Group
	g.Go(func() error { return copyHalf(b, a, b, a) })
	g.Go(func() error { return copyHalf(a, b, a, b) })
	return g.Wait()
}

// copyHalf copies src to dst; a failure closes both ends, so that the other direction ends too.
func copyHalf(dst io.Writer, src io.Reader, ends ...io.Closer) error {
	_, err := io.Copy(dst, src)
	if half, ok := dst.(interface{ CloseWrite() error }); ok && err == nil {
		if err := half.CloseWrite(); err == nil {
			return nil
		}
	}
	for _, e := range ends {
		e.Close()
	}
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (s *Server) logs(c *call) error {
	q := vm.LogQuery{
		Source: c.query.Get("source"), Stream: c.query.Get("stream"),
		Offset: c.number("offset", -1), Tail: int(min(c.number("tail", -1), 1<<30)),
		Follow: c.flag("follow"), Timestamps: c.flag("timestamps"),
	}
	switch {
	case q.Source == "":
		q.Source = "main"
	case q.Source != "main" && q.Source != "console":
		return api.Errorf(api.CodeInvalid, "there is no log %q: source is main or console", q.Source)
	}
	if q.Stream != "" && (q.Source == "console" || q.Stream != "stdout" && q.Stream != "stderr") {
		return api.Errorf(api.CodeInvalid, "there is no stream %q of %s: stream is stdout or stderr of main", q.Stream, q.Source)
	}
	if q.Offset >= 0 && q.Tail >= 0 {
		return api.Errorf(api.CodeInvalid, "offset and tail exclude each other")
	}
	r, offset, err := s.VMs.Logs.Read(c.ctx, c.ref(), q)
	if err != nil {
		return err
	}
	c.w.Header().Set(api.LogOffsetHeader, strconv.FormatInt(offset, 10))
	return c.copyOut("text/plain; charset=utf-8", r)
}

func (s *Server) statFile(c *call) (api.FileStat, error) {
	return s.VMs.Guests.StatFile(c.ctx, c.ref(), c.query.Get("path"))
}

func (s *Server) getFile(c *call) error {
	r, mode, err := s.VMs.Guests.GetFile(c.ctx, c.ref(), c.query.Get("path"))
	if err != nil {
		return err
	}
	c.w.Header().Set(api.FileModeHeader, strconv.FormatUint(uint64(mode.Perm()), 8))
	return c.copyOut("application/octet-stream", r)
}

func (s *Server) putFile(c *call) error {
	mode := fs.FileMode(0o644)
	if c.query.Has("mode") {
		bits, err := strconv.ParseUint(c.query.Get("mode"), 8, 12)
		if err != nil || bits > 0o777 {
			return api.Errorf(api.CodeInvalid, "mode %q is not 0 to 777, octal", c.query.Get("mode"))
		}
		mode = fs.FileMode(bits)
	}
	if err := s.VMs.Guests.PutFile(c.ctx, c.ref(), c.query.Get("path"), c.query.Get("user"), mode, c.r.Body); err != nil {
		return err
	}
	return c.answer(empty{})
}

func (s *Server) getTree(c *call) error {
	r, err := s.VMs.Guests.GetTree(c.ctx, c.ref(), c.query.Get("path"))
	if err != nil {
		return err
	}
	return c.copyOut("application/x-tar", r)
}

func (s *Server) putTree(c *call) error {
	if err := s.VMs.Guests.PutTree(c.ctx, c.ref(), c.query.Get("path"), c.query.Get("user"), c.r.Body); err != nil {
		return err
	}
	return c.answer(empty{})
}

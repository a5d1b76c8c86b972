package server

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
)

// call is one request on its way through a route.
type call struct {
	w     *recorder
	r     *http.Request
	ctx   context.Context
	query url.Values
	// status is what a success is answered with.
	status int
	// operation is the id of the operation that the answer tells of, for the log.
	operation string
}

// recorder remembers what has been sent.
type recorder struct {
	http.ResponseWriter
	status int
}

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController find Flush and Hijack.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (c *call) ref() string { return c.r.PathValue("ref") }

func (c *call) flag(name string) bool {
	v, _ := strconv.ParseBool(c.query.Get(name)) // checked by checkQuery
	return v
}

func (c *call) number(name string, missing int64) int64 {
	if !c.query.Has(name) {
		return missing
	}
	v, _ := strconv.ParseInt(c.query.Get(name), 10, 64) // checked by checkQuery
	return v
}

// handler is what every request goes through, whatever its route.
func (s *Server) handler(route route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		c := &call{w: &recorder{ResponseWriter: w}, r: r, ctx: r.Context(), status: route.action.status}
		w.Header().Set(api.VersionHeader, api.Version)
		err := s.serve(c, route)
		uid := -1
		if cred, ok := c.ctx.Value(peerKey{}).(*unix.Ucred); ok {
			uid = int(cred.Uid)
		}
		attrs := []any{"method", r.Method, "path", r.URL.Path, "uid", uid, "took", time.Since(begin)}
		if c.operation != "" {
			attrs = append(attrs, "operation", c.operation)
		}
		if err == nil {
			s.Log.Debug("request", append(attrs, "status", c.w.status)...)
			return
		}
		e := wireError(err)
		attrs = append(attrs, "status", e.Code.Status(), "code", e.Code, "error", err)
		if e.Code == api.CodeInternal {
			s.Log.Error("request failed", attrs...)
		} else {
			s.Log.Debug("request refused", attrs...)
		}
		c.fail(e)
	})
}

func (s *Server) serve(c *call, route route) error {
	err := s.allow(c.ctx, route.access)
	if err == nil && s.draining.Load() {
		err = errStopping
	}
	if errors.Is(err, errStopping) {
		c.w.Header().Set(api.StoppingHeader, "true")
		c.w.Header().Set("Connection", "close")
	}
	if err != nil {
		return err
	}
	if err := checkQuery(c, route.query); err != nil {
		return err
	}
	return route.action.serve(c)
}

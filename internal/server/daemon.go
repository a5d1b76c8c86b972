package server

import (
	"context"
	"net/http"

	"banger/api"
)

func (s *Server) doctor(c *call) ([]api.Check, error) { return s.Doctor(c.ctx), nil }

func (s *Server) openAPI(c *call) error {
	data, err := Document()
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/json")
	_, _ = c.w.Write(data)
	return nil
}

func (s *Server) stopDaemon(c *call) (empty, error) {
	// The answer leaves before the end begins: Stop returns at once, and Shutdown waits for this request.
	c.status = http.StatusNoContent
	s.Stop()
	return empty{}, nil
}

func (s *Server) events(c *call, send func(api.Event) error) error {
	follow := c.flag("follow")
	if follow {
		// The first event may be long in coming: the follower wants to know that it is connected.
		c.openLines()
		if err := http.NewResponseController(c.w).Flush(); err != nil {
			return gone(c.ctx, err)
		}
	}
	return s.VMs.Records.Events(c.ctx, c.number("after", 0), follow, send)
}

func (s *Server) listOperations(*call) ([]api.Operation, error) { return s.Operations.List(), nil }

func (s *Server) getOperation(c *call) (api.Operation, error) {
	o, err := s.Operations.Get(c.r.PathValue("id"))
	if err != nil {
		return api.Operation{}, err
	}
	return c.begun(o, nil)
}

func (s *Server) cancelOperation(c *call) (api.Operation, error) {
	o, err := s.Operations.Get(c.r.PathValue("id"))
	if err != nil {
		return api.Operation{}, err
	}
	o.Cancel()
	return c.begun(o, nil)
}

func (s *Server) watchOperation(c *call, send func(api.Operation) error) error {
	o, err := s.Operations.Get(c.r.PathValue("id"))
	if err != nil {
		return err
	}
	c.operation = o.ID()
	for {
		state, changed := o.Watch()
		if err := send(state); err != nil || state.EndedAt != nil {
			return err
		}
		select {
		case <-changed:
		case <-c.ctx.Done():
			return context.Cause(c.ctx)
		}
	}
}

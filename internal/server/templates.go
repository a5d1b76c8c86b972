package server

import (
	"context"

	"banger/api"
	"banger/internal/operation"
)

func (s *Server) listTemplates(c *call) ([]api.Template, error) {
	return s.VMs.Objects.ListTemplates(c.ctx)
}

func (s *Server) buildTemplate(_ *call, b api.TemplateBuild) (*operation.Operation, error) {
	if err := b.Spec.Validate(); err != nil {
		return nil, err
	}
	return s.Operations.Start("template.build", "", func(ctx context.Context, o *operation.Operation) error {
		t, err := s.VMs.Objects.BuildTemplate(ctx, o, b.Spec)
		o.SetResult(t.ID)
		return err
	}), nil
}

func (s *Server) pruneTemplates(c *call) ([]api.Template, error) {
	return s.VMs.Objects.PruneTemplates(c.ctx)
}

func (s *Server) deleteTemplate(c *call) (api.Template, error) {
	return s.VMs.Objects.DeleteTemplate(c.ctx, c.ref())
}

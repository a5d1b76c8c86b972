package client

import (
	"context"
	"net/http"

	"banger/api"
)

// Templates lists all templates, discarded ones that are still in use too.
func (c *Client) Templates(ctx context.Context) ([]api.Template, error) {
	return call[[]api.Template](ctx, c, request{method: http.MethodGet, path: "/v1/templates"})
}

// BuildTemplate begins to build the template that VMs of this spec are thawed from.
func (c *Client) BuildTemplate(ctx context.Context, build api.TemplateBuild) (api.Operation, error) {
	return call[api.Operation](ctx, c, request{method: http.MethodPost, path: "/v1/templates/build", body: build})
}

// PruneTemplates removes all templates that no VM lies on.
func (c *Client) PruneTemplates(ctx context.Context) ([]api.Template, error) {
	return call[[]api.Template](ctx, c, request{method: http.MethodPost, path: "/v1/templates/prune"})
}

// DeleteTemplate removes a template; one that is in use goes with the last VM on it.
func (c *Client) DeleteTemplate(ctx context.Context, ref string) (api.Template, error) {
	return call[api.Template](ctx, c, request{method: http.MethodDelete, path: objectPath("/v1/templates/", ref)})
}

package client

import (
	"context"
	"net/http"

	"banger/api"
)

// Images lists the images of this daemon.
func (c *Client) Images(ctx context.Context) ([]api.Image, error) {
	return call[[]api.Image](ctx, c, request{method: http.MethodGet, path: "/v1/images"})
}

// Image finds one by name, digest, or a prefix of it of at least 12 characters.
func (c *Client) Image(ctx context.Context, ref string) (api.Image, error) {
	return call[api.Image](ctx, c, request{method: http.MethodGet, path: objectPath("/v1/images/", ref)})
}

// DeleteImage removes an image that no VM uses.
func (c *Client) DeleteImage(ctx context.Context, ref string) error {
	return c.callNone(ctx, request{method: http.MethodDelete, path: objectPath("/v1/images/", ref)})
}

// BuildImage begins to build an image; the operation's Result is its digest.
func (c *Client) BuildImage(ctx context.Context, build api.ImageBuild) (api.Operation, error) {
	return call[api.Operation](ctx, c, request{method: http.MethodPost, path: "/v1/images/build", body: build})
}

// ImportImage begins to import an image; the operation's Result is its digest.
func (c *Client) ImportImage(ctx context.Context, imp api.ImageImport) (api.Operation, error) {
	return call[api.Operation](ctx, c, request{method: http.MethodPost, path: "/v1/images/import", body: imp})
}

// SaveImage begins to make an image of a running VM's root; the operation's Result is its digest.
func (c *Client) SaveImage(ctx context.Context, save api.ImageSave) (api.Operation, error) {
	return call[api.Operation](ctx, c, request{method: http.MethodPost, path: "/v1/images/save", body: save})
}

// Kernels lists the kernels of this daemon.
func (c *Client) Kernels(ctx context.Context) ([]api.Kernel, error) {
	return call[[]api.Kernel](ctx, c, request{method: http.MethodGet, path: "/v1/kernels"})
}

// Kernel finds one by name, digest, or a prefix of it of at least 12 characters.
func (c *Client) Kernel(ctx context.Context, ref string) (api.Kernel, error) {
	return call[api.Kernel](ctx, c, request{method: http.MethodGet, path: objectPath("/v1/kernels/", ref)})
}

// DeleteKernel removes a kernel that no VM uses.
func (c *Client) DeleteKernel(ctx context.Context, ref string) error {
	return c.callNone(ctx, request{method: http.MethodDelete, path: objectPath("/v1/kernels/", ref)})
}

// BuildKernel begins to build a kernel; the operation's Result is its digest.
func (c *Client) BuildKernel(ctx context.Context, build api.KernelBuild) (api.Operation, error) {
	return call[api.Operation](ctx, c, request{method: http.MethodPost, path: "/v1/kernels/build", body: build})
}

// ImportKernel begins to import a kernel; the operation's Result is its digest.
func (c *Client) ImportKernel(ctx context.Context, imp api.KernelImport) (api.Operation, error) {
	return call[api.Operation](ctx, c, request{method: http.MethodPost, path: "/v1/kernels/import", body: imp})
}

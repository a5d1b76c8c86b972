package server

import (
	"context"

	"banger/api"
	"banger/internal/operation"
)

func (s *Server) listImages(c *call) ([]api.Image, error) { return s.Images.Images(c.ctx) }
func (s *Server) getImage(c *call) (api.Image, error)     { return s.Images.Image(c.ctx, c.ref()) }

func (s *Server) deleteImage(c *call) (empty, error) {
	return empty{}, s.VMs.Objects.DeleteImage(c.ctx, c.ref())
}

func (s *Server) saveImage(c *call, i api.ImageSave) (*operation.Operation, error) {
	return s.VMs.SaveImage(c.ctx, i)
}

func (s *Server) buildImage(_ *call, b api.ImageBuild) (*operation.Operation, error) {
	return s.Operations.Start("image.build", "", func(ctx context.Context, o *operation.Operation) error {
		img, err := s.Images.BuildImage(ctx, o, b)
		o.SetResult(img.Digest)
		return err
	}), nil
}

func (s *Server) importImage(_ *call, i api.ImageImport) (*operation.Operation, error) {
	return s.Operations.Start("image.import", "", func(ctx context.Context, o *operation.Operation) error {
		img, err := s.Images.ImportImage(ctx, o, i)
		o.SetResult(img.Digest)
		return err
	}), nil
}

func (s *Server) listKernels(c *call) ([]api.Kernel, error) { return s.Images.Kernels(c.ctx) }
func (s *Server) getKernel(c *call) (api.Kernel, error)     { return s.Images.Kernel(c.ctx, c.ref()) }

func (s *Server) deleteKernel(c *call) (empty, error) {
	return empty{}, s.VMs.Objects.DeleteKernel(c.ctx, c.ref())
}

func (s *Server) buildKernel(_ *call, b api.KernelBuild) (*operation.Operation, error) {
	return s.Operations.Start("kernel.build", "", func(ctx context.Context, o *operation.Operation) error {
		k, err := s.Images.BuildKernel(ctx, o, b)
		o.SetResult(k.Digest)
		return err
	}), nil
}

func (s *Server) importKernel(_ *call, i api.KernelImport) (*operation.Operation, error) {
	return s.Operations.Start("kernel.import", "", func(ctx context.Context, o *operation.Operation) error {
		k, err := s.Images.ImportKernel(ctx, o, i)
		o.SetResult(k.Digest)
		return err
	}), nil
}

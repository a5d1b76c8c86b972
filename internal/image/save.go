package image

import (
	"context"
	"io"

	"banger/api"
	"banger/internal/operation"
)

// SaveImage makes an image of a guest's root, which comes as a tar stream. base is the image that the guest began with. The
// stream is a guest's word: it is unpacked as every foreign archive is, and no file system of a guest's is looked at here. open is called
// when the name is known to be free. It adds steps to op.
func (s *Service) SaveImage(ctx context.Context, op *operation.Operation, name, source string, base api.Image, open func(context.Context) (io.ReadCloser, error)) (_ api.Image, err error) {
	if err := api.ValidateObjectName(name); err != nil {
		return api.Image{}, err
	}
	unlock, err := s.locks.Lock(ctx, "image "+name)
	if err != nil {
		return api.Image{}, err
	}
	defer unlock()
	if err := s.NameIsFree(ctx, name); err != nil {
		return api.Image{}, err
	}
	img := api.Image{Name: name, Source: source, Init: base.Init}
	return s.makeImage(ctx, op, img, 0, func(ctx context.Context, u *unpacker, _ string) (err error) {
		r, err := open(ctx)
		if err != nil {
			return err
		}
		defer r.Close()
		return op.Step(ctx, "copy the root", func(ctx context.Context) error {
			return readTar(u, &counter{ctx: ctx, r: r, report: func(n int64) { op.Progress(n, 0) }})
		})
	})
}

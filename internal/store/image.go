package store

import (
	"context"

	"banger/api"
)

func imageTable() objects[api.Image] {
	return objects[api.Image]{"images", func(i api.Image) (string, string) { return i.Name, i.Digest }}
}

// PutImage records an image. The name moves to it if another image had it.
func (s *Store) PutImage(ctx context.Context, i api.Image) error { return imageTable().put(ctx, s, i) }

// Images reads all records, by name. Two names may stand for one digest.
func (s *Store) Images(ctx context.Context) ([]api.Image, error) { return imageTable().list(ctx, s) }

// DeleteImage removes every name of a digest; none is no error.
func (s *Store) DeleteImage(ctx context.Context, digest string) error {
	return imageTable().delete(ctx, s, digest)
}

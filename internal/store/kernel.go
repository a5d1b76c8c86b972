package store

import (
	"context"

	"banger/api"
)

func kernelTable() objects[api.Kernel] {
	return objects[api.Kernel]{"kernels", func(k api.Kernel) (string, string) { return k.Name, k.Digest }}
}

// PutKernel records a kernel. The name moves to it if another kernel had it.
func (s *Store) PutKernel(ctx context.Context, k api.Kernel) error {
	return kernelTable().put(ctx, s, k)
}

// Kernels reads all records, by name. Two names may stand for one digest.
func (s *Store) Kernels(ctx context.Context) ([]api.Kernel, error) { return kernelTable().list(ctx, s) }

// DeleteKernel removes every name of a digest; none is no error.
func (s *Store) DeleteKernel(ctx context.Context, digest string) error {
	return kernelTable().delete(ctx, s, digest)
}

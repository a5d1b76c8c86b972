package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"banger/api"
)

// Reconcile brings files and rows together after whatever ended the last daemon. It must run
// before anything else uses the service.
//
// Half-made objects go. An object that was sealed but not recorded is recorded, unless its name is
// taken: then a newer build has it, and only VMs that stand on the old one still know it. A
// row without files goes.
func (s *Service) Reconcile(ctx context.Context) error {
	return errors.Join(s.emptyTemp(), s.reconcileImages(ctx), s.reconcileKernels(ctx))
}

func (s *Service) emptyTemp() error {
	entries, err := os.ReadDir(s.Paths.Temp())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		dir := filepath.Join(s.Paths.Temp(), e.Name())
		errs = append(errs, s.removeScratch(dir), os.RemoveAll(dir))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot clean up: %w", err)
	}
	return nil
}

func (s *Service) reconcileImages(ctx context.Context) error {
	rows, err := s.Store.Images(ctx)
	if err != nil {
		return err
	}
	return reconcile(ctx, s.Paths.Images(), rows, table[api.Image]{
		record: func(digest string) string { return s.Paths.Image(digest).Record() },
		key:    func(i api.Image) (string, string) { return i.Name, i.Digest },
		whole: func(i api.Image) bool {
			return i.SizeBytes > 0 && fileSize(s.Paths.Image(i.Digest).Root()) == i.SizeBytes
		},
		put:    s.Store.PutImage,
		delete: s.Store.DeleteImage,
	})
}

func (s *Service) reconcileKernels(ctx context.Context) error {
	rows, err := s.Store.Kernels(ctx)
	if err != nil {
		return err
	}
	return reconcile(ctx, s.Paths.Kernels(), rows, table[api.Kernel]{
		record: func(digest string) string { return s.Paths.Kernel(digest).Record() },
		key:    func(k api.Kernel) (string, string) { return k.Name, k.Digest },
		whole: func(k api.Kernel) bool {
			p := s.Paths.Kernel(k.Digest)
			return fileSize(p.Vmlinuz()) > 0 && fileSize(p.Modules()) > 0
		},
		put:    s.Store.PutKernel,
		delete: s.Store.DeleteKernel,
	})
}

// table is what images and kernels differ in.
type table[T any] struct {
	record func(digest string) string
	key    func(T) (name, digest string)
	whole  func(T) bool
	put    func(context.Context, T) error
	delete func(ctx context.Context, digest string) error
}

func reconcile[T any](ctx context.Context, dir string, rows []T, t table[T]) error {
	names, digests := map[string]bool{}, map[string]bool{}
	var errs []error
	for _, row := range rows {
		name, digest := t.key(row)
		if !t.whole(row) {
			errs = append(errs, t.delete(ctx, digest))
			continue
		}
		names[name], digests[digest] = true, true
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, e := range entries {
		if digests[e.Name()] {
			continue
		}
		v, ok := readRecord[T](t.record(e.Name()))
		name, digest := t.key(v)
		switch {
		case !ok || digest != e.Name() || !t.whole(v):
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		case !names[name]:
			names[name] = true
			errs = append(errs, t.put(ctx, v))
		}
	}
	return errors.Join(errs...)
}

// readRecord reads the record beside a sealed object.
func readRecord[T any](path string) (v T, ok bool) {
	text, err := os.ReadFile(path)
	return v, err == nil && json.Unmarshal(text, &v) == nil
}

// fileSize is -1 for a file that is not there.
func fileSize(path string) int64 {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return -1
	}
	return info.Size()
}

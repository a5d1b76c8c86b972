package template

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"banger/api"
)

// InUse tells which VM's disks or memory lie on a template.
type InUse func(id string) (vm string, used bool)

// Discard makes a template be thawed no longer, because it did not thaw; its files go when nothing lies on them.
func (s *Service) Discard(ctx context.Context, t api.Template, why error, inUse InUse) error {
	s.Log.Warn("template discarded", "template", t.ID, "image", t.Image, "error", why)
	if err := s.Store.DiscardTemplate(ctx, t.ID, why.Error()); err != nil {
		return err
	}
	return s.Sweep(ctx, inUse)
}

// Delete removes a template by its id or a prefix of it of at least four characters. One that is in use is
// thawed no longer, and goes with the last VM that lies on it.
func (s *Service) Delete(ctx context.Context, ref string, inUse InUse) (api.Template, error) {
	all, err := s.Store.Templates(ctx)
	if err != nil {
		return api.Template{}, err
	}
	var match []api.Template
	for _, t := range all {
		if t.ID == ref || len(ref) >= 4 && strings.HasPrefix(t.ID, ref) {
			match = append(match, t)
		}
	}
	switch len(match) {
	case 0:
		return api.Template{}, api.Errorf(api.CodeNotFound, "no template %q", ref).WithHint("banger template list")
	case 1:
	default:
		return api.Template{}, api.Errorf(api.CodeInvalid, "more than one template's id begins with %q", ref).WithHint("banger template list")
	}
	if err := s.Store.DiscardTemplate(ctx, match[0].ID, "deleted"); err != nil {
		return match[0], err
	}
	return match[0], s.Sweep(ctx, inUse)
}

// Prune discards every template, or those only that are good for nothing any more (an image or kernel that is gone).
func (s *Service) Prune(ctx context.Context, inUse InUse) ([]api.Template, error) {
	all, err := s.Store.Templates(ctx)
	if err != nil {
		return nil, err
	}
	gone := []api.Template{}
	for _, t := range all {
		if _, used := inUse(t.ID); used {
			continue
		}
		if err := s.Store.DiscardTemplate(ctx, t.ID, "pruned"); err != nil {
			return gone, err
		}
		gone = append(gone, t)
	}
	return gone, s.Sweep(ctx, inUse)
}

// DiscardOf discards the templates whose image or kernel is gone: nothing is thawed from them again.
func (s *Service) DiscardOf(ctx context.Context, digest string, inUse InUse) error {
	all, err := s.Store.Templates(ctx)
	if err != nil {
		return err
	}
	for _, t := range all {
		if t.ImageDigest != digest && t.KernelDigest != digest || t.Discarded != "" {
			continue
		}
		if err := s.Store.DiscardTemplate(ctx, t.ID, "its image or kernel was deleted"); err != nil {
			return err
		}
	}
	return s.Sweep(ctx, inUse)
}

// Sweep removes the files and records of discarded templates that nothing lies on.
func (s *Service) Sweep(ctx context.Context, inUse InUse) error {
	all, err := s.Store.Templates(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, t := range all {
		if _, used := inUse(t.ID); t.Discarded == "" || used {
			continue
		}
		if err := os.RemoveAll(s.Paths.Template(t.ID).Dir); err != nil {
			errs = append(errs, fmt.Errorf("cannot remove template %s: %w", t.ID, err))
			continue
		}
		errs = append(errs, s.Store.DeleteTemplate(ctx, t.ID))
	}
	return errors.Join(errs...)
}

// Reconcile removes what a dead daemon left half-made: directories without a record, discarded templates.
// What still ran of a build is ended by vm, which knows all directories of machines.
func (s *Service) Reconcile(ctx context.Context, inUse InUse) error {
	entries, err := os.ReadDir(s.Paths.Templates())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if _, err := s.Store.Template(ctx, e.Name()); api.CodeOf(err) == api.CodeNotFound {
			errs = append(errs, os.RemoveAll(s.Paths.Template(e.Name()).Dir))
		}
	}
	return errors.Join(append(errs, s.Sweep(ctx, inUse))...)
}

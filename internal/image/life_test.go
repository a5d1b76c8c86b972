package image

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/api"
	"banger/internal/operation"
)

func (r *rig) minimalImage() api.Image {
	r.t.Helper()
	img, _, err := do(r, func(ctx context.Context, op *operation.Operation) (api.Image, error) {
		return r.EnsureImage(ctx, op, "minimal")
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return img
}

// Many callers at once get one build.
func TestEnsureOnce(t *testing.T) {
	r := newRig(t)
	var wg sync.WaitGroup
	digests, built := make([]string, 8), make([]int, 8)
	for i := range digests {
		wg.Go(func() {
			op := r.ops.Start("test", "", func(ctx context.Context, op *operation.Operation) error {
				img, err := r.EnsureImage(ctx, op, "minimal")
				digests[i] = img.Digest
				return err
			})
			end, err := op.Wait(context.Background())
			if err != nil {
				t.Error(err)
			}
			built[i] = len(end.Steps)
		})
	}
	wg.Wait()
	builders := 0
	for i := range digests {
		if digests[i] != digests[0] || digests[i] == "" {
			t.Errorf("digests %v", digests)
		}
		if built[i] > 0 {
			builders++
		}
	}
	if builders != 1 {
		t.Errorf("%d of 8 callers built", builders)
	}
}

// A waiting caller that gives up neither waits on nor harms the build.
func TestEnsureCancelled(t *testing.T) {
	r := newRig(t)
	unlock, err := r.locks.Lock(t.Context(), "image minimal")
	if err != nil {
		t.Fatal(err)
	}
	op := r.ops.Start("test", "", func(ctx context.Context, op *operation.Operation) error {
		_, err := r.EnsureImage(ctx, op, "minimal")
		return err
	})
	op.Cancel()
	if _, err := op.Wait(t.Context()); api.CodeOf(err) != api.CodeCancelled {
		t.Error(err)
	}
	unlock()
	r.minimalImage()
}

func TestLookup(t *testing.T) {
	r := newRig(t)
	img := r.minimalImage()
	for _, ref := range []string{"minimal", img.Digest, img.Digest[:12]} {
		if got, err := r.Image(t.Context(), ref); err != nil || got.Digest != img.Digest {
			t.Errorf("%s: %v, %v", ref, got, err)
		}
	}
	for _, ref := range []string{"", "none", img.Digest[:11], strings.Repeat("0", 64), "../" + img.Digest} {
		_, err := r.Image(t.Context(), ref)
		if api.CodeOf(err) != api.CodeNotFound || api.AsError(err).Hint != "banger image list" {
			t.Errorf("%q: %v", ref, err)
		}
		if _, err := r.KernelFiles(ref); api.CodeOf(err) != api.CodeNotFound {
			t.Errorf("kernel %q: %v", ref, err)
		}
	}
	_, _, err := do(r, func(ctx context.Context, op *operation.Operation) (api.Image, error) {
		return r.EnsureImage(ctx, op, "none")
	})
	if api.CodeOf(err) != api.CodeNotFound {
		t.Error(err)
	}
}

func TestDeleteInUse(t *testing.T) {
	r := newRig(t)
	img := r.minimalImage()
	err := r.DeleteImage(t.Context(), "minimal", func(digest string) (string, bool) { return "busy-bee", digest == img.Digest })
	if api.CodeOf(err) != api.CodeConflict || !strings.Contains(err.Error(), "busy-bee") {
		t.Errorf("deleted under a VM: %v", err)
	}
	if err := r.DeleteImage(t.Context(), img.Digest[:12], unused); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(r.Paths.Image(img.Digest).Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("files are left: %v", err)
	}
	if err := r.DeleteImage(t.Context(), "minimal", unused); api.CodeOf(err) != api.CodeNotFound {
		t.Error(err)
	}
	r.noLeftovers()
}

// A second build takes the name; VMs on the first find it by its digest until prune.
func TestRebuildAndPrune(t *testing.T) {
	r := newRig(t)
	old := r.minimalImage()
	renewed, _, err := do(r, func(ctx context.Context, op *operation.Operation) (api.Image, error) {
		return r.BuildImage(ctx, op, api.ImageBuild{Recipe: "minimal", SizeBytes: 64 << 20})
	})
	if err != nil {
		t.Fatal(err)
	}
	if renewed.Digest == old.Digest || renewed.SizeBytes != 64<<20 {
		t.Fatalf("the second: %+v", renewed)
	}
	if got, err := r.Image(t.Context(), old.Digest); err != nil || got.SizeBytes != old.SizeBytes {
		t.Errorf("the first is gone: %v", err)
	}
	if err := r.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Image(t.Context(), "minimal"); err != nil || got.Digest != renewed.Digest {
		t.Errorf("the name went back: %+v, %v", got, err)
	}
	p, err := r.Prune(t.Context(), false, func(d string) (string, bool) { return "vm", d == old.Digest }, unused)
	if err != nil || len(p.Images) != 0 {
		t.Errorf("pruned under a VM: %+v, %v", p, err)
	}
	p, err = r.Prune(t.Context(), false, unused, unused)
	if err != nil || len(p.Images) != 1 || p.Images[0] != old.Digest || p.FreedBytes == 0 {
		t.Errorf("pruned %+v, %v", p, err)
	}
	p, err = r.Prune(t.Context(), true, unused, unused)
	if err != nil || len(p.Images) != 1 {
		t.Errorf("pruned %+v, %v", p, err)
	}
}

// What a daemon that died in the middle leaves is finished or cleaned up by the next.
func TestReconcile(t *testing.T) {
	r := newRig(t)
	img := r.minimalImage()
	// Sealed, not recorded.
	if err := r.Store.DeleteImage(t.Context(), img.Digest); err != nil {
		t.Fatal(err)
	}
	// Recorded, without files.
	if err := r.Store.PutImage(t.Context(), api.Image{Name: "ghost", Digest: strings.Repeat("a", 64), SizeBytes: 1, CreatedAt: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if err := r.Store.PutKernel(t.Context(), api.Kernel{Name: "ghost", Digest: strings.Repeat("a", 64)}); err != nil {
		t.Fatal(err)
	}
	// Half-made, and nonsense beside the sealed ones.
	for _, d := range []string{"tmp/image-1/tree/x", "images/" + strings.Repeat("b", 64), "images/nonsense", "kernels/half"} {
		if err := os.MkdirAll(filepath.Join(r.Paths.State, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	scratch, err := makeScratch(filepath.Join(r.Paths.Temp(), "image-1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(scratch, "mmdebstrap.x/etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.Reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	images, err := r.Images(t.Context())
	if err != nil || len(images) != 1 || images[0].Digest != img.Digest || images[0].Name != "minimal" {
		t.Errorf("images %+v, %v", images, err)
	}
	if kernels, err := r.Kernels(t.Context()); err != nil || len(kernels) != 0 {
		t.Errorf("kernels %+v, %v", kernels, err)
	}
	if _, err := os.Lstat(scratch); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory of a build is left: %v", err)
	}
	for dir, want := range map[string]int{r.Paths.Images(): 1, r.Paths.Kernels(): 0, r.Paths.Temp(): 0} {
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != want {
			t.Errorf("%s: %v, %v", dir, entries, err)
		}
	}
}

func TestBuildRefusals(t *testing.T) {
	r := newRig(t)
	for name, b := range map[string]api.ImageBuild{
		"no recipe":       {},
		"unknown recipe":  {Recipe: "gentoo"},
		"name":            {Recipe: "minimal", Name: "../x"},
		"packages":        {Recipe: "minimal", Packages: []string{"git"}},
		"hostile package": {Recipe: "debian", Packages: []string{"git", "--customize-hook=touch /x"}},
		"package file":    {Recipe: "debian", Packages: []string{"./x.deb"}},
		"mirror":          {Recipe: "debian", Mirror: "copy:///etc"},
		"mirror options":  {Recipe: "debian", Mirror: "http://[trusted=yes] x"},
		"too small":       {Recipe: "minimal", SizeBytes: 1 << 20},
		"odd":             {Recipe: "minimal", SizeBytes: 64<<20 + 1},
		"negative":        {Recipe: "minimal", SizeBytes: -4096},
		"huge":            {Recipe: "minimal", SizeBytes: 1 << 60},
	} {
		_, _, err := do(r, func(ctx context.Context, op *operation.Operation) (api.Image, error) { return r.BuildImage(ctx, op, b) })
		if api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.noLeftovers()
}

func TestSourceLines(t *testing.T) {
	const out = `http://deb.example/debian/ bookworm main
http://deb.example/debian/ bookworm main
http://deb.example/debian/ bookworm contrib
http://deb.example/debian/ bookworm-updates main
https://sec.example/debian-security bookworm-security main
https://other.example/x nodistro main
`
	want := []string{"deb http://deb.example/debian bookworm main", "deb http://deb.example/debian bookworm-updates main", "deb https://sec.example/debian-security bookworm-security main"}
	if got := sourceLines(out, "bookworm"); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got %q", got)
	}
	if got := sourceLines(out, "trixie"); got != nil {
		t.Errorf("trixie: %q", got)
	}
}

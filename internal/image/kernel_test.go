package image

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/operation"
)

func TestBuildKernel(t *testing.T) {
	r := newRig(t)
	k, _, err := do(r, func(ctx context.Context, op *operation.Operation) (api.Kernel, error) {
		return r.EnsureKernel(ctx, op, "debian")
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %d MiB", k.Version, k.UsedBytes>>20)
	files, err := r.KernelFiles(k.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if files.Version != k.Version || !strings.Contains(k.Version, "cloud") {
		t.Errorf("versions %q and %q", files.Version, k.Version)
	}
	r.fsck(files.ModulesDisk)
	for _, name := range []string{"modules.dep.bin", "modules.alias.bin", "kernel/fs/overlayfs/overlay.ko", "kernel/net/bridge/bridge.ko"} {
		if got := r.stat(files.ModulesDisk, "/"+k.Version+"/"+name); !strings.Contains(got, "Type: regular") || !strings.Contains(got, "User:     0   Group:     0") {
			t.Errorf("%s:\n%s", name, got)
		}
	}
	// The boot modules are enough for an initramfs, and few.
	agent := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(agent, []byte("stand-in"), 0o755); err != nil {
		t.Fatal(err)
	}
	boot := filepath.Join(r.Paths.Kernel(k.Digest).Boot(), k.Version)
	if n, err := disk.Used(boot); err != nil || n > 8<<20 {
		t.Errorf("the boot modules take %d KiB, %v", n>>10, err)
	}
	r.AgentPath = agent
	checkInitramfs(t, r, k.Digest)
	checkImportKernel(t, r, k, files.Vmlinuz, boot)
	again, op, err := do(r, func(ctx context.Context, op *operation.Operation) (api.Kernel, error) {
		return r.EnsureKernel(ctx, op, "debian")
	})
	if err != nil || again.Digest != k.Digest || len(op.Steps) != 0 {
		t.Errorf("a second time: %v, %v, steps %v", again.Digest, err, op.Steps)
	}
	r.noLeftovers()
}

// checkInitramfs: made once for the same files, anew for another agent, and pruned when out of use.
func checkInitramfs(t *testing.T, r *rig, kernel string) {
	t.Helper()
	paths := make([]string, 4)
	var wg sync.WaitGroup
	for i := range paths {
		wg.Go(func() {
			var err error
			if paths[i], err = r.Initramfs(context.Background(), kernel); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	first := paths[0]
	for _, p := range paths {
		if p != first {
			t.Errorf("paths %q", paths)
		}
	}
	info, err := os.Stat(first)
	if err != nil || info.Mode() != 0o444 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	t.Logf("initramfs: %d KiB", info.Size()>>10)
	if err := os.WriteFile(r.AgentPath, []byte("a newer stand-in"), 0o755); err != nil {
		t.Fatal(err)
	}
	second, err := r.Initramfs(t.Context(), kernel)
	if err != nil || second == first {
		t.Errorf("another agent, the same initramfs: %v", err)
	}
	now := r.Now
	r.Now = func() time.Time { return now().Add(2 * keepInitramfs) }
	defer func() { r.Now = now }()
	if p, err := r.Prune(t.Context(), false, unused, unused); err != nil || p.Initramfs != 1 || len(p.Kernels) != 0 {
		t.Errorf("pruned %+v, %v", p, err)
	}
	if fileSize(first) >= 0 || fileSize(second) < 0 {
		t.Error("prune removed the wrong one")
	}
}

func checkImportKernel(t *testing.T, r *rig, built api.Kernel, vmlinuz, modules string) {
	t.Helper()
	own := func(i api.KernelImport) (api.Kernel, error) {
		k, _, err := do(r, func(ctx context.Context, op *operation.Operation) (api.Kernel, error) {
			return r.ImportKernel(ctx, op, i)
		})
		return k, err
	}
	k, err := own(api.KernelImport{Name: "own", Path: vmlinuz, ModulesDir: modules})
	if err != nil || k.Version != built.Version || k.Digest == built.Digest {
		t.Fatalf("imported %+v, %v", k, err)
	}
	if _, err := r.Initramfs(t.Context(), k.Digest); err != nil {
		t.Error(err)
	}
	bare, err := own(api.KernelImport{Name: "bare", Path: vmlinuz})
	if err != nil {
		t.Fatal(err)
	}
	if files, err := r.KernelFiles(bare.Digest); err != nil || files.Version != built.Version {
		t.Errorf("%+v, %v", files, err)
	} else {
		r.fsck(files.ModulesDisk)
	}
	for name, i := range map[string]api.KernelImport{
		"not a kernel":  {Name: "x", Path: r.AgentPath},
		"other modules": {Name: "x", Path: vmlinuz, ModulesDir: filepath.Dir(modules)},
		"no directory":  {Name: "x", Path: vmlinuz, ModulesDir: vmlinuz},
		"name":          {Name: "X Y", Path: vmlinuz},
	} {
		if _, err := own(i); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := own(api.KernelImport{Name: "own", Path: vmlinuz}); api.CodeOf(err) != api.CodeExists {
		t.Errorf("a taken name: %v", err)
	}
	for _, name := range []string{"own", "bare"} {
		if err := r.DeleteKernel(t.Context(), name, unused); err != nil {
			t.Error(err)
		}
	}
}

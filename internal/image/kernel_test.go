package image

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/api"
	"banger/internal/image/initramfs"
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
	out, err := os.Create(filepath.Join(t.TempDir(), "initramfs"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	boot := filepath.Join(r.Paths.Kernel(k.Digest).Boot(), k.Version)
	if err := initramfs.Build(out, initramfs.Spec{Agent: agent, ModulesDir: boot}); err != nil {
		t.Error(err)
	}
	if n, err := usedBytes(boot); err != nil || n > 8<<20 {
		t.Errorf("the boot modules take %d KiB, %v", n>>10, err)
	}
	again, op, err := do(r, func(ctx context.Context, op *operation.Operation) (api.Kernel, error) {
		return r.EnsureKernel(ctx, op, "debian")
	})
	if err != nil || again.Digest != k.Digest || len(op.Steps) != 0 {
		t.Errorf("a second time: %v, %v, steps %v", again.Digest, err, op.Steps)
	}
	r.noLeftovers()
}

package image

import (
	"context"
	"os"
	"strings"
	"testing"

	"banger/api"
	"banger/internal/operation"
)

func TestBuildMinimal(t *testing.T) {
	r := newRig(t)
	img, op, err := do(r, func(ctx context.Context, op *operation.Operation) (api.Image, error) {
		return r.EnsureImage(ctx, op, "minimal")
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(op.Warnings) != 1 || !strings.Contains(op.Warnings[0], r.Paths.Images()) {
		t.Errorf("warnings %q do not say where it goes", op.Warnings)
	}
	disk := r.RootPath(img.Digest)
	r.fsck(disk)
	if info, err := os.Stat(disk); err != nil || info.Mode() != 0o444 {
		t.Errorf("the disk's mode is %v, %v", info.Mode(), err)
	}
	if img.UsedBytes > 8<<20 || img.SizeBytes > 16<<20 {
		t.Errorf("minimal has %d KiB on disk, %d KiB for the guest", img.UsedBytes>>10, img.SizeBytes>>10)
	}
	t.Logf("%d KiB used of %d KiB", img.UsedBytes>>10, img.SizeBytes>>10)
	for name, want := range map[string]string{
		"/bin/busybox": "Mode:  0755", "/tmp": "Mode:  01777", "/bin/sh": `Fast link dest: "/bin/busybox"`,
		"/sbin/reboot": "symlink", "/etc/passwd": "User:     0   Group:     0", "/root": "Mode:  0755",
	} {
		if got := r.stat(disk, name); !strings.Contains(got, want) {
			t.Errorf("%s: no %q in\n%s", name, want, got)
		}
	}
	if img.Init != "none" || img.HasSSHD || img.HasGit {
		t.Errorf("facts are wrong: %+v", img)
	}
	r.noLeftovers()
}

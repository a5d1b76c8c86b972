package image

import (
	"context"
	"os"
	"strings"
	"testing"

	"banger/api"
	"banger/internal/operation"
)

// TestLongBuildDebian takes about a minute. BANGER_TEST_KEEP=FILE keeps the disk.
func TestLongBuildDebian(t *testing.T) {
	r := newRig(t)
	img, _, err := do(r, func(ctx context.Context, op *operation.Operation) (api.Image, error) {
		return r.BuildImage(ctx, op, api.ImageBuild{Recipe: "debian", Run: "#!/bin/sh\nset -e\nid dev\necho from the script >/etc/script\n"})
	})
	if err != nil {
		t.Fatal(err)
	}
	disk := r.RootPath(img.Digest)
	t.Logf("%d MiB used of %d MiB", img.UsedBytes>>20, img.SizeBytes>>20)
	r.fsck(disk)
	if img.Init != "systemd" || !img.HasSSHD || !img.HasGit {
		t.Errorf("facts are wrong: %+v", img)
	}
	for name, want := range map[string]string{
		"/usr/bin/sudo": "Mode:  04755", "/home/dev": "User:  1000   Group:  1000", "/root": "Mode:  0755",
		"/etc/machine-id": "Size: 0", "/etc/resolv.conf": "Size: 0", "/etc/script": "Size: 16",
		"/etc/systemd/system/apt-daily.timer": `Fast link dest: "/dev/null"`, "/etc/sudoers.d/dev": "Mode:  0440",
		"/etc/systemd/system/default.target":                      "multi-user.target",
		"/etc/systemd/system/multi-user.target.wants/ssh.service": "symlink",
	} {
		if got := r.stat(disk, name); !strings.Contains(got, want) {
			t.Errorf("%s: no %q in\n%s", name, want, got)
		}
	}
	for _, name := range []string{"/etc/ssh/ssh_host_ed25519_key", "/etc/hostname", "/var/lib/dbus/machine-id", "/.banger"} {
		if got := r.stat(disk, name); strings.Contains(got, "Inode:") {
			t.Errorf("%s is in the image:\n%s", name, got)
		}
	}
	if lists := r.run("debugfs", "-R", "ls /var/lib/apt/lists", disk); !strings.Contains(lists, "_Packages") {
		t.Errorf("no package lists: %s", lists)
	}
	r.noLeftovers()
	if to := os.Getenv("BANGER_TEST_KEEP"); to != "" {
		r.run("cp", "--sparse=always", disk, to)
	}
}

func TestLongDebianScriptFails(t *testing.T) {
	r := newRig(t)
	_, _, err := do(r, func(ctx context.Context, op *operation.Operation) (api.Image, error) {
		// The least that still runs a script.
		return r.BuildImage(ctx, op, api.ImageBuild{Recipe: "debian", Packages: []string{"less"}, Run: "#!/bin/sh\nexit 3\n"})
	})
	if api.CodeOf(err) != api.CodeInvalid || !strings.Contains(err.Error(), "the script failed") {
		t.Fatalf("a failing script: %v", err)
	}
	if images, err := r.Images(t.Context()); err != nil || len(images) != 0 {
		t.Errorf("images %v, %v", images, err)
	}
	r.noLeftovers()
}

// A build that is cancelled half-way leaves no process, mount or file behind.
func TestLongDebianCancelled(t *testing.T) {
	r := newRig(t)
	before := scratches(t)
	op := r.ops.Start("test", "", func(ctx context.Context, op *operation.Operation) error {
		_, err := r.BuildImage(ctx, op, api.ImageBuild{Recipe: "debian"})
		return err
	})
	for { // until packages are being unpacked in the chroot
		s, changed := op.Watch()
		if s.State != api.OperationRunning {
			t.Fatalf("it ended: %v", s.Error)
		}
		if n := len(s.Steps); n > 0 && strings.HasPrefix(s.Steps[n-1].Detail, "installing") {
			break
		}
		<-changed
	}
	op.Cancel()
	if _, err := op.Wait(t.Context()); api.CodeOf(err) != api.CodeCancelled {
		t.Error(err)
	}
	r.noLeftovers()
	if after := scratches(t); after != before {
		t.Errorf("directories left behind: %d before, %d after", before, after)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), "banger-image-") {
		t.Errorf("mounts left behind: %v\n%s", err, mounts)
	}
	pids, err := r.Host.PIDs()
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if line, err := r.Host.CommandLine(pid); err == nil && strings.Contains(strings.Join(line, " "), r.Paths.State) {
			t.Errorf("left running: %q", line)
		}
	}
}

package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"banger/api"
	"banger/internal/host"
	"banger/internal/operation"
)

func (r *rig) importAs(name, path string) (api.Image, error) {
	r.t.Helper()
	img, _, err := do(r, func(ctx context.Context, op *operation.Operation) (api.Image, error) {
		return r.ImportImage(ctx, op, api.ImageImport{Name: name, Path: path})
	})
	return img, err
}

// root is a small root file system as an archive.
func root(t testing.TB) []byte {
	owned := entry(tar.TypeReg, "home/dev/file", "hello")
	owned.Mode, owned.Uid, owned.Gid = 0o640, 1000, 100000
	able := entry(tar.TypeReg, "usr/bin/ping", "ping")
	raw := writeTar(t,
		entry(tar.TypeDir, "./", ""), entry(tar.TypeReg, "bin/sh", "#!"), owned,
		entry(tar.TypeReg, "usr/lib/systemd/systemd", "!"), entry(tar.TypeSymlink, "lib", "usr/lib"), entry(tar.TypeSymlink, "sbin", "usr/sbin"),
		entry(tar.TypeSymlink, "usr/sbin/init", "/lib/systemd/systemd"), entry(tar.TypeReg, "usr/sbin/sshd", "!"), entry(tar.TypeReg, "usr/bin/git", "!"),
		device(tar.TypeChar, "dev/null", 1, 3), entry(tar.TypeLink, "bin/ash", "bin/sh"),
		tar.Header{Typeflag: tar.TypeFifo, Name: "pipe", Mode: 0o600}, entry(tar.TypeReg, "name with blank", "x"), entry(tar.TypeReg, "-odd\nname \"'$(reboot)\x1b[1m", "x"))
	// writeTar drops PAX records; a capability is one.
	var b bytes.Buffer
	able.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00" + strings.Repeat("\x00", 12)}
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&able); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return append(b.Bytes(), raw...)
}

func TestImportTar(t *testing.T) {
	r := newRig(t)
	plain := root(t)
	var gz bytes.Buffer
	z := gzip.NewWriter(&gz)
	if _, err := z.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	files := map[string][]byte{"plain": plain, "gzip": gz.Bytes(), "xz": filter(r, "xz", plain), "zstd": filter(r, "zstd", plain)}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		img, err := r.importAs(name, path)
		if err != nil {
			t.Fatal(err)
		}
		disk := r.RootPath(img.Digest)
		r.fsck(disk)
		if img.Init != "systemd" || !img.HasSSHD || !img.HasGit || img.Source != "import "+name {
			t.Errorf("facts are wrong: %+v", img)
		}
		for file, want := range map[string]string{
			"/home/dev/file": "User:  1000   Group: 100000", "/dev/null": "Device major/minor number: 01:03", "/pipe": "FIFO",
			"/bin/ash": "Links: 2", "/bin": "Mode:  0755", "/usr/bin/ping": "security.capability (20)",
		} {
			if got := r.stat(disk, file); !strings.Contains(got, want) {
				t.Errorf("%s: %s: no %q in\n%s", name, file, want, got)
			}
		}
		if name == "plain" {
			// The disk itself is looked into as any user's ext4 file would be.
			facts, err := r.ext4Facts(t.Context(), disk)
			if err != nil || facts.init != "systemd" || !facts.sshd || !facts.git {
				t.Errorf("facts of the disk: %+v, %v", facts, err)
			}
		}
		// A damaged archive leaves nothing.
		if err := os.WriteFile(path, text[:len(text)*2/3], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := r.importAs("cut-"+name, path); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("a cut %s: %v", name, err)
		}
	}
	if images, err := r.Images(t.Context()); err != nil || len(images) != len(files) {
		t.Errorf("images %v, %v", images, err)
	}
	r.noLeftovers()
}

func filter(r *rig, program string, text []byte) []byte {
	r.t.Helper()
	var out bytes.Buffer
	if err := r.Host.Run(r.t.Context(), host.Command{Path: program, Args: []string{"-c"}, Stdin: bytes.NewReader(text), Stdout: &out}); err != nil {
		r.t.Fatal(err)
	}
	return out.Bytes()
}

func TestImportDirAndExt4(t *testing.T) {
	r := newRig(t)
	dir := filepath.Join(t.TempDir(), "root")
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/sh"), []byte("#!"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, "bin/sh"), filepath.Join(dir, "bin/ash")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/nowhere/at/all", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	img, err := r.importAs("dir", dir)
	if err != nil {
		t.Fatal(err)
	}
	disk := r.RootPath(img.Digest)
	r.fsck(disk)
	for file, want := range map[string]string{"/bin/sh": "Links: 2", "/link": "/nowhere/at/all", "/pipe": "FIFO", "/bin": "User:     0   Group:     0"} {
		if got := r.stat(disk, file); !strings.Contains(got, want) {
			t.Errorf("%s: no %q in\n%s", file, want, got)
		}
	}

	// The disk of one image makes another, under the same digest.
	again, err := r.importAs("ext4", disk)
	if err != nil {
		t.Fatal(err)
	}
	if again.Digest != img.Digest || again.Init != "none" || again.SizeBytes != img.SizeBytes {
		t.Errorf("imported again: %+v, before %+v", again, img)
	}
	if err := r.DeleteImage(t.Context(), "dir", unused); err != nil {
		t.Fatal(err)
	}
	if images, err := r.Images(t.Context()); err != nil || len(images) != 0 {
		t.Errorf("a digest was deleted, and names stay: %v, %v", images, err)
	}
	r.noLeftovers()
}

func unused(string) (string, bool) { return "", false }

func TestImportRefusals(t *testing.T) {
	r := newRig(t)
	dir := t.TempDir()
	file := func(name string, text []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	good := file("good.tar", root(t))
	if _, err := r.importAs("taken", good); err != nil {
		t.Fatal(err)
	}
	link, pipe := filepath.Join(dir, "link"), filepath.Join(dir, "pipe")
	if err := os.Symlink(good, link); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	super := make([]byte, 4096)
	super[1024+0x38], super[1024+0x39], super[1024+4] = 0x53, 0xef, 0xff
	for name, c := range map[string]struct {
		name, path string
		code       api.Code
	}{
		"bad name":        {"No Name", good, api.CodeInvalid},
		"taken":           {"taken", good, api.CodeExists},
		"relative":        {"x", "good.tar", api.CodeInvalid},
		"missing":         {"x", filepath.Join(dir, "none"), api.CodeNotFound},
		"link":            {"x", link, api.CodeInvalid},
		"pipe":            {"x", pipe, api.CodeInvalid},
		"device":          {"x", "/dev/zero", api.CodeInvalid},
		"empty file":      {"x", file("empty", nil), api.CodeInvalid},
		"text":            {"x", file("text", []byte(strings.Repeat("no archive ", 1000))), api.CodeInvalid},
		"no program":      {"x", file("docs.tar", writeTar(t, tar.Header{Typeflag: tar.TypeReg, Name: "readme", Mode: 0o644})), api.CodeInvalid},
		"damaged ext4":    {"x", file("bad.ext4", append(super[:1024+4:1024+4], append([]byte{1, 0, 0, 0}, super[1024+8:]...)...)), api.CodeInvalid},
		"cut-off ext4":    {"x", file("cut.ext4", super), api.CodeInvalid},
		"damaged gzip":    {"x", file("bad.gz", []byte("\x1f\x8b\x08\x00nonsense and more of it")), api.CodeInvalid},
		"damaged zstd":    {"x", file("bad.zst", []byte("\x28\xb5\x2f\xfdnonsense and more of it")), api.CodeInvalid},
		"empty directory": {"x", t.TempDir(), api.CodeInvalid},
	} {
		if _, err := r.importAs(c.name, c.path); api.CodeOf(err) != c.code {
			t.Errorf("%s: %v (%s), want %s", name, err, api.CodeOf(err), c.code)
		}
	}
	if images, err := r.Images(t.Context()); err != nil || len(images) != 1 {
		t.Errorf("images %v, %v", images, err)
	}
	r.noLeftovers()
}

func FuzzSuperblock(f *testing.F) {
	f.Add(make([]byte, 2048))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := readSuperblock(bytes.NewReader(b)); err == nil && (s.sizeBytes <= 0 || s.sizeBytes > maxDisk) {
			t.Fatalf("size %d", s.sizeBytes)
		}
	})
}

package guest_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"banger/api"
	"banger/internal/agent/serve"
	"banger/internal/frame/tree"
	"banger/internal/loud"
)

func mode(m fs.FileMode) *fs.FileMode { return &m }

func put(t *testing.T, a *agent, path, text string, m *fs.FileMode) {
	t.Helper()
	if err := a.PutFile(within(t), path, "", m, strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
}

func fetch(t *testing.T, a *agent, path string) (string, fs.FileMode) {
	t.Helper()
	r, m, _, err := a.GetFile(within(t), path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), m
}

func TestFiles(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	put(t, a, file, "one", nil)
	if text, m := fetch(t, a, file); text != "one" || m != 0o644 {
		t.Errorf("%q %v", text, m)
	}
	put(t, a, file, "", mode(0o750))
	put(t, a, file, "three", nil) // keeps the mode
	if text, m := fetch(t, a, file); text != "three" || m != 0o750 {
		t.Errorf("%q %v", text, m)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("f", link); err != nil {
		t.Fatal(err)
	}
	put(t, a, link, "through", nil)
	if b, _ := os.ReadFile(file); string(b) != "through" {
		t.Errorf("%q", b)
	}
	if st, err := os.Lstat(link); err != nil || st.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v", err)
	}
	if text, _ := fetch(t, a, "/proc/self/comm"); text == "" {
		t.Error("a file of the kernel's, which says that it is empty, came as that")
	}
	names, _ := filepath.Glob(dir + "/.*")
	if len(names) > 0 {
		t.Errorf("left behind: %v", names)
	}
}

func TestFileErrors(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]api.Code{
		dir + "/none": api.CodeNotFound, dir: api.CodeInvalid, dir + "/fifo": api.CodeInvalid, "/dev/zero": api.CodeInvalid, "": api.CodeInvalid,
	} {
		if _, _, _, err := a.GetFile(within(t), path); api.CodeOf(err) != want {
			t.Errorf("get %q: %v", path, err)
		}
	}
	for path, want := range map[string]api.Code{
		dir + "/no/dir": api.CodeNotFound, dir: api.CodeInvalid, dir + "/fifo": api.CodeInvalid, dir + "/x/": api.CodeInvalid,
	} {
		if err := a.PutFile(within(t), path, "", nil, strings.NewReader("x")); api.CodeOf(err) != want {
			t.Errorf("put %q: %v", path, err)
		}
	}
	// A source that breaks off leaves the old file as it was.
	put(t, a, dir+"/f", "old", nil)
	broken := errors.New("the disk is on fire")
	err := a.PutFile(within(t), dir+"/f", "", nil, io.MultiReader(strings.NewReader(strings.Repeat("x", 1<<20)), failing{broken}))
	if !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if text, _ := fetch(t, a, dir+"/f"); text != "old" {
		t.Errorf("half a file: %d bytes", len(text))
	}
	await(t, "the half file's removal", func() bool { names, _ := os.ReadDir(dir); return len(names) == 2 })
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestStat(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	dir := t.TempDir()
	put(t, a, dir+"/f", "12345", mode(0o711|fs.ModeSetuid))
	for name, target := range map[string]string{"l": "f", "d": ".", "dangling": "nowhere", "loop": "loop"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, kind := range map[string]string{"f": "file", "l": "file", "d": "dir", "": "dir", "dangling": "symlink", "loop": "symlink", "../../../../../../../dev/null": "other"} {
		st, err := a.Stat(within(t), dir+"/"+name)
		if err != nil || st.Kind != kind {
			t.Errorf("%s: %+v, %v", name, st, err)
		}
		if name == "f" && (st.SizeBytes != 5 || st.Mode != 0o4711) {
			t.Errorf("%+v", st)
		}
	}
	if _, err := a.Stat(within(t), dir+"/none"); api.CodeOf(err) != api.CodeNotFound {
		t.Error(err)
	}
}

// In the fake, Root is a directory of the host's: nothing may lead out of it.
func TestRootConfines(t *testing.T) {
	t.Parallel()
	root, outside := t.TempDir(), t.TempDir()
	a := start(t, func(o *serve.Options) { o.Root = root; o.SessionDir = "" })
	if err := os.MkdirAll(root+"/etc", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, root+"/out"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(outside+"/secret", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	put(t, a, "/etc/hostname", "inside\n", nil)
	if b, _ := os.ReadFile(root + "/etc/hostname"); string(b) != "inside\n" {
		t.Errorf("%q", b)
	}
	for _, path := range []string{"/out/secret", "/../" + outside + "/secret", "/etc/../../.." + outside + "/secret"} {
		if _, _, _, err := a.GetFile(within(t), path); api.CodeOf(err) != api.CodeNotFound {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := os.MkdirAll(root+"/root", 0o755); err != nil {
		t.Fatal(err)
	}
	if res := run(t, a, sh("pwd; echo $HOME")); res.Stdout != root+"/root\n"+root+"/root\n" {
		t.Errorf("%q", res.Stdout)
	}
	startSession(t, a, "main", sh("echo hi"))
	if _, err := os.Stat(root + api.SessionsDir + "/main/status"); err != nil {
		t.Error(err)
	}
}

func TestGetImage(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	a.system.disk = t.TempDir()
	if err := os.WriteFile(a.system.disk+"/f", []byte("text"), 0o640); err != nil {
		t.Fatal(err)
	}
	tr, err := a.GetImage(within(t))
	if err != nil {
		t.Fatal(err)
	}
	dst := t.TempDir()
	d, err := os.Open(dst)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := errors.Join(tree.Unpack(context.Background(), tr, d, tree.UnpackOptions{}), tr.Close()); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(dst + "/f"); err != nil || string(b) != "text" {
		t.Errorf("%q, %v", b, err)
	}
	a.system.disk += "/none"
	if tr, err := a.GetImage(within(t)); err == nil {
		_ = tr.Close()
		t.Error("there is no root disk, and it was read")
	}
}

func TestTrees(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	src, dst := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(src+"/top/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(src+"/top/sub/f", []byte("text"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(src+"/top/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	tr, err := a.GetTree(within(t), src+"/top")
	if err != nil {
		t.Fatal(err)
	}
	var stream bytes.Buffer
	if _, err := io.Copy(&stream, tr); err != nil {
		t.Fatal(err)
	}
	if s := tr.Skipped(); len(s) != 1 || s[0] != "top/fifo (FIFO)" {
		t.Errorf("skipped %q", s)
	}
	tr.Close()
	if err := a.PutTree(within(t), dst, "", bytes.NewReader(stream.Bytes())); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(dst + "/top/sub/f"); err != nil || string(b) != "text" {
		t.Errorf("%q, %v", b, err)
	}

	contents, err := a.GetTree(within(t), src+"/top/.")
	if err != nil {
		t.Fatal(err)
	}
	defer contents.Close()
	d, err := os.Open(dst)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := tree.Unpack(context.Background(), contents, d, tree.UnpackOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dst + "/sub/f"); err != nil {
		t.Error(err)
	}

	if err := a.PutTree(within(t), dst+"/none", "", bytes.NewReader(stream.Bytes())); api.CodeOf(err) != api.CodeNotFound {
		t.Error(err)
	}
	if err := a.PutTree(within(t), dst, "", strings.NewReader(strings.Repeat("no tar", 1000))); api.CodeOf(err) != api.CodeInvalid {
		t.Error(err)
	}
	// An evil stream is refused although more of it is still coming than fits on the way.
	var evil bytes.Buffer
	w := tar.NewWriter(&evil)
	_ = w.WriteHeader(&tar.Header{Name: "../escaped", Size: 1, Mode: 0o600})
	_, _ = w.Write([]byte("x"))
	_ = w.WriteHeader(&tar.Header{Name: "big", Size: 8 << 20, Mode: 0o600})
	_, _ = w.Write(make([]byte, 8<<20))
	_ = w.Close()
	if err := a.PutTree(within(t), dst, "", &evil); api.CodeOf(err) != api.CodeInvalid || !strings.Contains(err.Error(), "..") {
		t.Error(err)
	}
	if _, err := a.GetTree(within(t), src+"/none"); api.CodeOf(err) != api.CodeNotFound {
		t.Error(err)
	}
}

func TestTreeOwners(t *testing.T) {
	if os.Geteuid() != 0 {
		loud.Skip(t, "giving files away takes root")
	}
	t.Parallel()
	a := start(t, nil)
	pack := func() io.Reader {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		_ = w.WriteHeader(&tar.Header{Name: "f", Mode: 0o4755, Uid: 1234, Gid: 5678})
		_ = w.Close()
		return &b
	}
	owner := func(path string) (uint32, uint32, fs.FileMode) {
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		s := st.Sys().(*syscall.Stat_t)
		return s.Uid, s.Gid, st.Mode()
	}
	dir := t.TempDir()
	if err := a.PutTree(within(t), dir, "", pack()); err != nil {
		t.Fatal(err)
	}
	if u, g, m := owner(dir + "/f"); u != 0 || g != 0 || m != 0o755 {
		t.Errorf("%d:%d %v", u, g, m)
	}
	if err := a.PutTree(within(t), dir, "nobody:4321", pack()); err != nil {
		t.Fatal(err)
	}
	if u, g, _ := owner(dir + "/f"); u != 65534 || g != 4321 {
		t.Errorf("%d:%d", u, g)
	}
	if err := a.PutFile(within(t), dir+"/g", "12:34", nil, strings.NewReader("")); err != nil {
		t.Fatal(err)
	}
	if u, g, _ := owner(dir + "/g"); u != 12 || g != 34 {
		t.Errorf("%d:%d", u, g)
	}
}

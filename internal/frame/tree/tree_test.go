package tree

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/api"
)

func open(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func pack(t testing.TB, path, name string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Pack(context.Background(), &b, open(t, path), PackOptions{Name: name}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func unpack(t testing.TB, stream []byte, dir string, o UnpackOptions) error {
	t.Helper()
	return Unpack(context.Background(), bytes.NewReader(stream), open(t, dir), o)
}

// listing is a directory as text.
func listing(t testing.TB, dir string) string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		line := strings.TrimPrefix(path, dir+"/") + " " + st.Mode().String()
		switch {
		case st.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += " " + string(b) + " " + st.ModTime().UTC().Format(time.RFC3339Nano)
		case st.Mode()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(path)
			line += " -> " + target
		case st.IsDir():
			line += " " + st.ModTime().UTC().Format(time.RFC3339Nano)
		}
		out = append(out, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(out)
	return strings.Join(out, "\n")
}

func write(t testing.TB, path, text string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestThereAndBack(t *testing.T) {
	t.Parallel()
	src, dst := t.TempDir(), t.TempDir()
	write(t, src+"/a/b/file", "text", 0o751)
	write(t, src+"/a/empty", "", 0o600)
	write(t, src+"/a/ü \n\"odd\"", "x", 0o644)
	write(t, src+"/a/"+strings.Repeat("long", 60), "x", 0o644)
	for name, target := range map[string]string{"in": "b/file", "out": "../../../../etc/passwd", "abs": "/etc/passwd", "dangling": "nowhere"} {
		if err := os.Symlink(target, src+"/a/"+name); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(src+"/a/b/file", src+"/a/hard"); err != nil {
		t.Fatal(err)
	}
	when := time.Date(2001, 2, 3, 4, 5, 6, 789_000_000, time.UTC)
	for _, p := range []string{"/a/b/file", "/a/b"} {
		if err := os.Chtimes(src+p, when, when); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(src+"/a/b", 0o555); err != nil { // a directory that cannot be written to
		t.Fatal(err)
	}
	stream := pack(t, src+"/a", "a")
	for round := range 2 {
		if err := unpack(t, stream, dst, UnpackOptions{}); err != nil {
			t.Fatal(err)
		}
		got, want := listing(t, dst+"/a"), listing(t, src+"/a")
		if round == 1 { // a directory that is there is joined: its time is its own
			now, _ := os.Stat(dst + "/a/b")
			got = strings.Replace(got, now.ModTime().UTC().Format(time.RFC3339Nano), when.Format(time.RFC3339Nano), 1)
		}
		if got != want {
			t.Fatalf("got\n%s\nwant\n%s", got, want)
		}
	}
	one, _ := os.Stat(dst + "/a/hard")
	two, _ := os.Stat(dst + "/a/b/file")
	if !os.SameFile(one, two) {
		t.Error("the hard link has become a copy")
	}
	if err := unpack(t, stream, dst, UnpackOptions{As: "other"}); err != nil {
		t.Fatal(err)
	}
	if got, want := listing(t, dst+"/other"), listing(t, src+"/a"); got != want {
		t.Errorf("under another name: got\n%s\nwant\n%s", got, want)
	}
	for _, d := range []string{src, dst} {
		for _, p := range []string{"/a/b", "/other/b"} {
			_ = os.Chmod(d+p, 0o755)
		}
	}
}

func TestOneFile(t *testing.T) {
	t.Parallel()
	src, dst := t.TempDir(), t.TempDir()
	write(t, src+"/f", "text", 0o640)
	if err := unpack(t, pack(t, src+"/f", "g"), dst, UnpackOptions{}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(dst + "/g"); err != nil || string(b) != "text" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestWhatCannotTravelIsTold(t *testing.T) {
	t.Parallel()
	src := t.TempDir()
	if err := syscall.Mkfifo(src+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: src + "/sock"}); err != nil {
		t.Fatal(err)
	}
	var skipped []string
	err = Pack(context.Background(), io.Discard, open(t, src), PackOptions{Name: "x", Skipped: func(n, k string) { skipped = append(skipped, n+" "+k) }})
	if err != nil || strings.Join(skipped, ",") != "x/fifo FIFO,x/sock socket" {
		t.Errorf("%v, %v", skipped, err)
	}
}

func TestSparse(t *testing.T) {
	t.Parallel()
	src, dst := t.TempDir(), t.TempDir()
	f, err := os.Create(src + "/sparse")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("middle"), 5<<20); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(10<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	if err := unpack(t, pack(t, src+"/sparse", "sparse"), dst, UnpackOptions{}); err != nil {
		t.Fatal(err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(dst+"/sparse", &st); err != nil || st.Size != 10<<20 || st.Blocks*512 > 1<<20 {
		t.Errorf("size %d in %d blocks, %v", st.Size, st.Blocks, err)
	}
	a, _ := os.ReadFile(src + "/sparse")
	b, _ := os.ReadFile(dst + "/sparse")
	if !bytes.Equal(a, b) {
		t.Error("the contents differ")
	}
}

// member is a line of a stream made by hand.
func stream(t testing.TB, members ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range members {
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		body := ""
		if h.Typeflag == tar.TypeReg {
			body = "evil"
			h.Size = int64(len(body))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func dir(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir} }
func link(name, target string) tar.Header {
	return tar.Header{Name: name, Linkname: target, Typeflag: tar.TypeSymlink}
}
func hard(name, target string) tar.Header {
	return tar.Header{Name: name, Linkname: target, Typeflag: tar.TypeLink}
}
func file(name string) tar.Header            { return tar.Header{Name: name} }
func node(name string, kind byte) tar.Header { return tar.Header{Name: name, Typeflag: kind} }

func TestEvilStreamsAreRefused(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	write(t, outside+"/secret", "secret", 0o600)
	rel := func(dst string) string { r, _ := filepath.Rel(dst, outside); return r }
	for name, make := range map[string]func(dst string) []tar.Header{
		"dot-dot":                  func(string) []tar.Header { return []tar.Header{file("../secret")} },
		"dot-dot within":           func(string) []tar.Header { return []tar.Header{dir("a"), file("a/../../secret")} },
		"absolute":                 func(string) []tar.Header { return []tar.Header{file(outside + "/secret")} },
		"through an absolute link": func(string) []tar.Header { return []tar.Header{link("l", outside), file("l/secret")} },
		"through a relative link":  func(d string) []tar.Header { return []tar.Header{link("l", rel(d)), file("l/secret")} },
		"through two links": func(d string) []tar.Header {
			return []tar.Header{link("a", "."), link("a/l", rel(d)), file("a/l/secret")}
		},
		"a directory through a link": func(d string) []tar.Header { return []tar.Header{link("l", rel(d)), dir("l/new")} },
		"a directory that is a link": func(d string) []tar.Header { return []tar.Header{link("l", rel(d)), dir("l"), file("l/secret")} },
		"a link after its directory": func(d string) []tar.Header {
			return []tar.Header{dir("a"), file("a/x"), link("a", rel(d)), file("a/secret")}
		},
		"a link made through a link":  func(d string) []tar.Header { return []tar.Header{link("l", rel(d)), link("l/new", "x")} },
		"a hard link to the outside":  func(string) []tar.Header { return []tar.Header{hard("h", "../secret")} },
		"an absolute hard link":       func(string) []tar.Header { return []tar.Header{hard("h", outside+"/secret")} },
		"a hard link through a link":  func(d string) []tar.Header { return []tar.Header{link("l", rel(d)), hard("h", "l/secret"), file("h")} },
		"a hard link to itself":       func(string) []tar.Header { return []tar.Header{file("h"), hard("h", "h")} },
		"a device":                    func(string) []tar.Header { return []tar.Header{node("d", tar.TypeChar)} },
		"a block device":              func(string) []tar.Header { return []tar.Header{node("d", tar.TypeBlock)} },
		"a FIFO":                      func(string) []tar.Header { return []tar.Header{node("d", tar.TypeFifo)} },
		"a file where a directory is": func(string) []tar.Header { return []tar.Header{dir("a"), file("a/x"), file("a")} },
		"a file below a file":         func(string) []tar.Header { return []tar.Header{file("a"), file("a/x")} },
		"a file without a name":       func(string) []tar.Header { return []tar.Header{file(".")} },
	} {
		t.Run(name, func(t *testing.T) {
			dst := t.TempDir()
			err := unpack(t, stream(t, make(dst)...), dst, UnpackOptions{})
			if api.CodeOf(err) != api.CodeInvalid {
				t.Errorf("%v", err)
			}
			if got := listing(t, outside); !strings.HasPrefix(got, "secret -rw------- secret ") || strings.Contains(got, "\n") {
				t.Errorf("outside now: %s", got)
			}
		})
	}
}

// A symbolic link may point anywhere, and a file may take a link's place.
func TestLinksAreReplacedNotFollowed(t *testing.T) {
	t.Parallel()
	outside, dst := t.TempDir(), t.TempDir()
	write(t, outside+"/secret", "secret", 0o600)
	err := unpack(t, stream(t, link("l", outside+"/secret"), file("l"), link("k", outside), hard("h", "k")), dst, UnpackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(outside + "/secret"); string(b) != "secret" {
		t.Error("it was written through a link")
	}
	if st, err := os.Lstat(dst + "/l"); err != nil || !st.Mode().IsRegular() {
		t.Errorf("%v, %v", st, err)
	}
	if target, _ := os.Readlink(dst + "/h"); target != outside {
		t.Error("the hard link was followed")
	}
	// A directory's place may be taken by a link within the target: it is joined.
	if err := os.MkdirAll(dst+"/usr/lib", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("usr/lib", dst+"/lib"); err != nil {
		t.Fatal(err)
	}
	if err := unpack(t, stream(t, dir("lib"), file("lib/new")), dst, UnpackOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dst + "/usr/lib/new"); err != nil {
		t.Error(err)
	}
}

func TestCutOffStreams(t *testing.T) {
	t.Parallel()
	src := t.TempDir()
	write(t, src+"/f", strings.Repeat("x", 100_000), 0o644)
	whole := pack(t, src, "d")
	for _, n := range []int{1, 512, 1024, 3000, len(whole) / 2} {
		if err := unpack(t, whole[:n], t.TempDir(), UnpackOptions{}); api.CodeOf(err) != api.CodeInvalid && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut off at %d: %v", n, err)
		}
	}
}

func TestContextEnds(t *testing.T) {
	t.Parallel()
	src := t.TempDir()
	write(t, src+"/f", "x", 0o644)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Pack(ctx, io.Discard, open(t, src), PackOptions{Name: "d"}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := Unpack(ctx, bytes.NewReader(pack(t, src, "d")), open(t, t.TempDir()), UnpackOptions{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestPseudoFileSystemsAreNotEntered(t *testing.T) {
	t.Parallel()
	names := 0
	tr := tar.NewReader(bytes.NewReader(pack(t, "/proc/sys/kernel", "kernel")))
	for {
		_, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names++
	}
	if names != 1 {
		t.Errorf("%d members", names)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(stream(f, dir("a"), file("a/b"), link("a/l", "/etc"), hard("h", "a/b")), "")
	f.Add(stream(f, link("l", ".."), file("l/x")), "as")
	f.Add(stream(f, file("../x")), "")
	f.Add([]byte("no tar"), "")
	base := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte, as string) {
		if strings.ContainsAny(as, "/\x00") || as == "." || as == ".." || len(as) > 100 {
			as = ""
		}
		box, err := os.MkdirTemp(base, "box")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(box)
		dst := box + "/dst"
		write(t, box+"/outside/f", "untouched", 0o600)
		if err := os.Mkdir(dst, 0o755); err != nil {
			t.Fatal(err)
		}
		// Links that lead out are there from the beginning.
		for name, target := range map[string]string{"a": "../outside", "l": "..", "b": "../outside/f"} {
			if err := os.Symlink(target, dst+"/"+name); err != nil {
				t.Fatal(err)
			}
		}
		before := listing(t, box+"/outside")
		d, err := os.Open(dst)
		if err != nil {
			t.Fatal(err)
		}
		_ = Unpack(context.Background(), io.LimitReader(bytes.NewReader(data), 1<<20), d, UnpackOptions{As: as})
		d.Close()
		if after := listing(t, box+"/outside"); after != before {
			t.Fatalf("the outside was touched: %s", after)
		}
		names, err := os.ReadDir(box)
		if err != nil || len(names) != 2 {
			t.Fatalf("beside the target stands %v", names)
		}
	})
}

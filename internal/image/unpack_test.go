package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/api"
)

// entry is a short way to write a tar entry in a table.
func entry(kind byte, name, linkOrText string) tar.Header {
	h := tar.Header{Typeflag: kind, Name: name, Mode: 0o755}
	switch kind {
	case tar.TypeSymlink, tar.TypeLink:
		h.Linkname = linkOrText
	case tar.TypeReg:
		h.Size = int64(len(linkOrText))
		h.PAXRecords = map[string]string{"BANGER.text": linkOrText}
	}
	return h
}

func device(kind byte, name string, major, minor int64) tar.Header {
	return tar.Header{Typeflag: kind, Name: name, Mode: 0o666, Devmajor: major, Devminor: minor}
}

func writeTar(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		text := h.PAXRecords["BANGER.text"]
		h.PAXRecords = nil
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// unpack unpacks into DIR/tree. DIR/outside holds what must not change.
func unpack(t testing.TB, dir string, archive []byte) (*unpacker, error) {
	t.Helper()
	u, err := newUnpacker(filepath.Join(dir, "tree"), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := u.close(); err != nil {
			t.Error(err)
		}
	})
	return u, readTar(u, bytes.NewReader(archive))
}

func TestHostileArchives(t *testing.T) {
	for name, c := range map[string]struct {
		entries []tar.Header
		want    string // part of the error
	}{
		"parent":                 {[]tar.Header{entry(tar.TypeReg, "../outside", "x")}, `".."`},
		"parent inside":          {[]tar.Header{entry(tar.TypeReg, "a/../../outside", "x")}, `".."`},
		"parent directory":       {[]tar.Header{entry(tar.TypeDir, "..", "")}, `".."`},
		"through a link":         {[]tar.Header{entry(tar.TypeSymlink, "a", "/tmp"), entry(tar.TypeReg, "a/outside", "x")}, "no directory"},
		"through a relative one": {[]tar.Header{entry(tar.TypeSymlink, "a", ".."), entry(tar.TypeReg, "a/outside", "x")}, "no directory"},
		"through a link, deeper": {[]tar.Header{entry(tar.TypeSymlink, "a/b", "/"), entry(tar.TypeDir, "a/b/tmp/x", "")}, "no directory"},
		"through a file":         {[]tar.Header{entry(tar.TypeReg, "a", "x"), entry(tar.TypeReg, "a/b", "x")}, "no directory"},
		"directory over a link":  {[]tar.Header{entry(tar.TypeSymlink, "a", "/tmp"), entry(tar.TypeDir, "a", "")}, "once a directory"},
		"link over a directory":  {[]tar.Header{entry(tar.TypeDir, "a", ""), entry(tar.TypeSymlink, "a", "/tmp")}, "once a directory"},
		"hard link out":          {[]tar.Header{entry(tar.TypeLink, "a", "/etc/passwd")}, "not in the archive"},
		"hard link with parent":  {[]tar.Header{entry(tar.TypeLink, "a", "../outside")}, `".."`},
		"hard link via a link":   {[]tar.Header{entry(tar.TypeSymlink, "l", "/etc"), entry(tar.TypeLink, "a", "l/passwd")}, "not in the archive"},
		"hard link to a dir":     {[]tar.Header{entry(tar.TypeDir, "d", ""), entry(tar.TypeLink, "a", "d")}, "directory"},
		"hard link ahead":        {[]tar.Header{entry(tar.TypeLink, "a", "b"), entry(tar.TypeReg, "b", "x")}, "not in the archive"},
		"whiteout":               {[]tar.Header{entry(tar.TypeReg, "etc/.wh.passwd", "")}, "one layer"},
		"opaque whiteout":        {[]tar.Header{entry(tar.TypeReg, "etc/.wh..wh..opq", "")}, "one layer"},
		"overlay whiteout":       {[]tar.Header{device(tar.TypeChar, "etc/passwd", 0, 0)}, "one layer"},
		"disk":                   {[]tar.Header{device(tar.TypeBlock, "sda", 8, 0)}, "device 8:0"},
		"memory":                 {[]tar.Header{device(tar.TypeChar, "home/mem", 1, 1)}, "device 1:1"},
		"root is a link":         {[]tar.Header{entry(tar.TypeSymlink, ".", "/tmp")}, "must be a directory"},
		"long part":              {[]tar.Header{entry(tar.TypeReg, strings.Repeat("x", 256), "x")}, "longer than 255"},
		"too much":               {[]tar.Header{entry(tar.TypeReg, "a", strings.Repeat("x", 1<<20)), entry(tar.TypeReg, "b", "x")}, "need more than"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			u, err := unpack(t, dir, writeTar(t, c.entries...))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if code := api.CodeOf(err); code != api.CodeInvalid && code != api.CodeExhausted {
				t.Errorf("code %s", code)
			}
			confined(t, dir, u)
		})
	}
}

// confined fails the test unless everything that was made is a plain file of ours below DIR/tree.
func confined(t testing.TB, dir string, u *unpacker) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("beside the tree: %v, %v", entries, err)
	}
	err = filepath.WalkDir(filepath.Join(dir, "tree"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(filepath.Join(dir, "tree"), path)
		if err != nil {
			return err
		}
		if u.nodes[name] == nil {
			t.Errorf("%s is on the host, but not in the tree", name)
		}
		switch m := info.Mode(); {
		case m.IsRegular() && m.Perm() == 0o600, m.IsDir() && m.Perm() == 0o700, m&fs.ModeSymlink != 0:
		default:
			t.Errorf("%s is %v on the host", name, m)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range u.nodes {
		if _, err := u.root.Lstat(name); err != nil {
			t.Errorf("%s is in the tree, but not on the host: %v", name, err)
		}
	}
}

func TestArchiveIsConfined(t *testing.T) {
	dir := t.TempDir()
	suid := entry(tar.TypeReg, "usr/bin/su", "su")
	suid.Mode, suid.Uid, suid.Gid = 0o4755, 0, 5
	u, err := unpack(t, dir, writeTar(t,
		entry(tar.TypeReg, "/etc/absolute", "x"),
		entry(tar.TypeSymlink, "etc/out", "../../../../etc/passwd"),
		entry(tar.TypeSymlink, "abs", "/etc"),
		entry(tar.TypeReg, "a name\nwith \"all'\\ that", "x"),
		suid,
		entry(tar.TypeLink, "usr/bin/su2", "usr/bin/su"),
		entry(tar.TypeReg, "twice", "one"), entry(tar.TypeReg, "twice", "two"),
		entry(tar.TypeLink, "etc/out2", "etc/out"),
		device(tar.TypeChar, "dev/null", 1, 3),
		device(tar.TypeBlock, "dev/sda", 8, 0),
		device(tar.TypeChar, "var/spool/postfix/dev/urandom", 1, 9),
		tar.Header{Typeflag: tar.TypeFifo, Name: "run/pipe", Mode: 0o622},
	))
	if err != nil {
		t.Fatal(err)
	}
	confined(t, dir, u)
	if text, err := os.ReadFile(filepath.Join(dir, "tree/twice")); err != nil || string(text) != "two" {
		t.Errorf("the last one does not win: %q, %v", text, err)
	}
	if n := u.nodes["usr/bin/su2"]; n != u.nodes["usr/bin/su"] || n.mode != 0o4755 || n.gid != 5 {
		t.Errorf("hard link: %+v", n)
	}
	if u.exists("dev/sda") || u.dropped["device below /dev"] != 1 {
		t.Errorf("a disk's node below /dev was not left out: %v", u.dropped)
	}
	if u.lookup("etc/out") != "" || u.lookup("abs/absolute") != "etc/absolute" {
		t.Errorf("links resolve to %q and %q", u.lookup("etc/out"), u.lookup("abs/absolute"))
	}
}

func TestCutOffArchive(t *testing.T) {
	whole := writeTar(t, entry(tar.TypeReg, "a", strings.Repeat("x", 4096)))
	for _, n := range []int{100, 600, 512 + 4095} {
		if _, err := unpack(t, t.TempDir(), whole[:n]); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(writeTar(f, entry(tar.TypeDir, "a", ""), entry(tar.TypeReg, "a/b", "text"), entry(tar.TypeSymlink, "c", "a/../.."), entry(tar.TypeLink, "d", "a/b")))
	f.Add(writeTar(f, entry(tar.TypeSymlink, "a", "/tmp"), entry(tar.TypeReg, "a/x", "y"), device(tar.TypeChar, "n", 1, 3)))
	f.Fuzz(func(t *testing.T, archive []byte) {
		dir := t.TempDir()
		u, err := unpack(t, dir, archive)
		if err == nil {
			err = u.finish()
		}
		var a *api.Error
		if err != nil && !errors.As(err, &a) {
			t.Fatalf("an error without a code: %v", err)
		}
		if err == nil {
			confined(t, dir, u)
		}
		if u.bytes > 1<<20 {
			t.Fatalf("took %d bytes", u.bytes)
		}
	})
}

func TestCapability(t *testing.T) {
	v2 := "\x01\x00\x00\x02" + strings.Repeat("\x00", 16)
	v3 := "\x01\x00\x00\x03" + strings.Repeat("\x00", 20)
	if got := capability(v3); string(got) != v2 {
		t.Errorf("version 3 became %x", got)
	}
	for _, bad := range []string{"", "x", v2[:19], "\x01\x00\x00\x01" + v2[4:], v3[:20]} {
		if capability(bad) != nil {
			t.Errorf("took %x", bad)
		}
	}
}

func TestSaneTime(t *testing.T) {
	for _, at := range []time.Time{{}, time.Unix(-1, 0), time.Unix(1<<40, 0)} {
		if got := saneTime(at); got.Unix() != 0 {
			t.Errorf("%v became %v", at, got)
		}
	}
}

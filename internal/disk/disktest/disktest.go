// Package disktest is the conformance suite of disk.Driver. Only tests of drivers import it.
// It looks at disks with QEMU's own tools, as a VMM would.
package disktest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/host"
	"banger/internal/host/local"
	"banger/internal/loud"
)

const mib = 1 << 20

// Run checks a driver on the file system of dir.
func Run(t *testing.T, d disk.Driver, dir string) {
	run(t, suite{Driver: d, dir: dir, host: local.New()})
}

func run(t *testing.T, s suite) {
	for name, test := range map[string]func(*testing.T, suite){
		"base shows through":                    throughBase,
		"writes stay in the disk":               writesStay,
		"the base stays as it is":               baseStays,
		"larger than its base":                  largerThanBase,
		"empty":                                 empty,
		"grow":                                  grow,
		"refusals leave nothing":                refusals,
		"an existing file is kept":              existingKept,
		"delete":                                deleteTwice,
		"thin, and discard gives back":          discard,
		"owner and mode":                        owner,
		"links are not followed":                links,
		"many at once":                          concurrent,
		"damaged files are refused or harmless": damaged,
	} {
		t.Run(name, func(t *testing.T) { test(t, s.in(t)) })
	}
}

type suite struct {
	disk.Driver
	// attacher is how its disks are read and written; nil where QEMU's tools can.
	attacher disk.Attacher
	dir      string
	host     host.Host
}

// in is the suite with a directory of this test's own.
func (s suite) in(t *testing.T) suite {
	t.Helper()
	dir, err := os.MkdirTemp(s.dir, "disk-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	s.dir = dir
	return s
}

func (s suite) path(name string) string { return filepath.Join(s.dir, name) }

// base makes a sealed raw image: 1 MiB of 'A', a hole, 1 MiB of 'B' at the end of 16.
func (s suite) base(t *testing.T) string {
	t.Helper()
	path := s.path("base")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o444)
	if err != nil {
		t.Fatal(err)
	}
	_, e1 := f.WriteAt(bytes.Repeat([]byte("A"), mib), 0)
	_, e2 := f.WriteAt(bytes.Repeat([]byte("B"), mib), 15*mib)
	if err := errors.Join(e1, e2, f.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

func (s suite) create(t *testing.T, spec disk.Spec) string {
	t.Helper()
	if err := s.Create(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	return spec.Path
}

func (s suite) run(t *testing.T, program string, args ...string) {
	t.Helper()
	if _, err := s.host.LookPath(program); err != nil {
		loud.Skip(t, "%v", err)
	}
	var out bytes.Buffer
	if err := s.host.Run(t.Context(), host.Command{Path: program, Args: args, Stdout: &out}); err != nil {
		t.Fatalf("%s %q: %v\n%s", program, args, err, out.String())
	}
	// qemu-io ends with 0 whatever happens.
	if strings.Contains(out.String(), "failed") || strings.Contains(out.String(), "rror:") {
		t.Fatalf("%s %q:\n%s", program, args, out.String())
	}
}

// io runs a command of qemu-io on the disk, as a guest's write would be done.
func (s suite) io(t *testing.T, path, command string) {
	t.Helper()
	s.run(t, "qemu-io", "-f", s.Format(), "-d", "unmap", "-c", command, "-c", "flush", path)
}

// write writes bytes of one kind to the disk, and flushes it.
func (s suite) write(t *testing.T, path string, b byte, at, n int64) {
	t.Helper()
	if s.attacher != nil {
		s.with(t, path, false, func(f *os.File) { writeBytes(t, f, b, at, n) })
		return
	}
	s.io(t, path, fmt.Sprintf("write -P %#x %d %d", b, at, n))
}

// holds fails the test if the disk holds anything else there.
func (s suite) holds(t *testing.T, path string, b byte, at, n int64) {
	t.Helper()
	if s.attacher != nil {
		s.with(t, path, true, func(f *os.File) { wantBytes(t, f, b, at, n) })
		return
	}
	s.io(t, path, fmt.Sprintf("read -P %#x %d %d", b, at, n))
}

func (s suite) discard(t *testing.T, path string, at, n int64) {
	t.Helper()
	if s.attacher != nil {
		s.with(t, path, false, func(f *os.File) { discardBytes(t, f, at, n) })
		return
	}
	s.io(t, path, fmt.Sprintf("discard %d %d", at, n))
}

// raw gives what a guest would read.
func (s suite) raw(t *testing.T, path string) (text []byte) {
	t.Helper()
	if s.attacher != nil {
		s.with(t, path, true, func(f *os.File) {
			size, err := f.Seek(0, io.SeekEnd)
			if err != nil {
				t.Fatal(err)
			}
			text = aligned(int(size))
			if _, err := f.ReadAt(text, 0); err != nil {
				t.Fatal(err)
			}
		})
		return text
	}
	to := path + ".raw"
	s.run(t, "qemu-img", "convert", "-f", s.Format(), "-O", "raw", path, to)
	var err error
	text, err = os.ReadFile(to)
	if err := errors.Join(err, os.Remove(to)); err != nil {
		t.Fatal(err)
	}
	return text
}

// check asks QEMU whether it finds anything wrong.
func (s suite) check(t *testing.T, path string) {
	t.Helper()
	if s.attacher == nil && s.Format() != "raw" {
		s.run(t, "qemu-img", "check", "-f", s.Format(), path)
	}
}

func (s suite) size(t *testing.T, path string, want int64) {
	t.Helper()
	if got, err := s.Size(t.Context(), path); err != nil || got != want {
		t.Fatalf("size is %d, %v, want %d", got, err, want)
	}
}

func throughBase(t *testing.T, s suite) {
	p := s.create(t, disk.Spec{Path: s.path("d"), Base: s.base(t), SizeBytes: 16 * mib})
	s.check(t, p)
	s.size(t, p, 16*mib)
	got := s.raw(t, p)
	if len(got) != 16*mib || got[0] != 'A' || got[mib] != 0 || got[16*mib-1] != 'B' {
		t.Errorf("%d bytes, the base does not show through", len(got))
	}
}

func writesStay(t *testing.T, s suite) {
	p := s.create(t, disk.Spec{Path: s.path("d"), Base: s.base(t), SizeBytes: 16 * mib})
	s.write(t, p, 'C', 1*mib, 64<<10)
	s.check(t, p)
	if got := s.raw(t, p); got[mib] != 'C' || got[mib+65535] != 'C' || got[mib+65536] != 0 || got[mib-1] != 'A' {
		t.Error("what was written is not what is read")
	}
}

func baseStays(t *testing.T, s suite) {
	base := s.base(t)
	before := digest(t, base)
	p := s.create(t, disk.Spec{Path: s.path("d"), Base: base, SizeBytes: 16 * mib})
	q := s.create(t, disk.Spec{Path: s.path("e"), Base: base, SizeBytes: 16 * mib})
	s.write(t, p, 'C', 0, 16*mib)
	if digest(t, base) != before {
		t.Error("a write went into the base")
	}
	if s.raw(t, q)[0] != 'A' {
		t.Error("a write went into another disk")
	}
}

func largerThanBase(t *testing.T, s suite) {
	p := s.create(t, disk.Spec{Path: s.path("d"), Base: s.base(t), SizeBytes: 8 << 30})
	s.size(t, p, 8<<30)
	s.holds(t, p, 'B', 15*mib, 1*mib)
	s.holds(t, p, 0, 16*mib, 1*mib)
	s.write(t, p, 'D', 8191*mib, 1*mib)
	s.holds(t, p, 'D', 8191*mib, 1*mib)
	s.check(t, p)
	s.thin(t, p, 20*mib)
}

func empty(t *testing.T, s suite) {
	p := s.create(t, disk.Spec{Path: s.path("d"), SizeBytes: 4 * mib})
	if got := s.raw(t, p); len(got) != 4*mib || bytes.ContainsFunc(got, func(r rune) bool { return r != 0 }) {
		t.Errorf("%d bytes, not all zero", len(got))
	}
}

func grow(t *testing.T, s suite) {
	p := s.create(t, disk.Spec{Path: s.path("d"), Base: s.base(t), SizeBytes: 16 * mib})
	s.write(t, p, 'C', 15*mib, 1*mib)
	for _, want := range []int64{16 * mib, 64 * mib, 3 << 40} {
		if err := s.Grow(t.Context(), p, want); err != nil {
			t.Fatal(err)
		}
		s.size(t, p, want)
		s.check(t, p)
	}
	s.holds(t, p, 'C', 15*mib, 1*mib)
	s.holds(t, p, 0, 16*mib, 1*mib)
	s.write(t, p, 'E', 3145727*mib, 1*mib)
	s.holds(t, p, 'E', 3145727*mib, 1*mib)
	for _, bad := range []int64{8 * mib, 3<<40 + 1} {
		if err := s.Grow(t.Context(), p, bad); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("growing to %d: %v", bad, err)
		}
	}
	s.size(t, p, 3<<40)
}

func refusals(t *testing.T, s suite) {
	base := s.base(t)
	for _, spec := range []disk.Spec{
		{Path: s.path("d"), Base: base, SizeBytes: 15 * mib},
		{Path: s.path("d"), Base: base, SizeBytes: 16*mib + 1},
		{Path: s.path("d"), SizeBytes: 0},
		{Path: s.path("d"), SizeBytes: -512},
		{Path: s.path("d"), Base: s.path("none"), SizeBytes: 16 * mib},
		{Path: s.path("none/d"), SizeBytes: 16 * mib},
	} {
		if err := s.Create(t.Context(), spec); err == nil {
			t.Errorf("made %+v", spec)
		}
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func existingKept(t *testing.T, s suite) {
	p := s.path("d")
	if err := os.WriteFile(p, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	// A half-made one of a daemon that died is no obstacle.
	if err := os.WriteFile(p+".new", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(t.Context(), disk.Spec{Path: p, SizeBytes: mib}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over an existing file: %v", err)
	}
	if text, err := os.ReadFile(p); err != nil || string(text) != "precious" {
		t.Errorf("it holds %q, %v", text, err)
	}
	if _, err := os.Lstat(p + ".new"); !errors.Is(err, fs.ErrNotExist) {
		t.Error("left a half-made file behind")
	}
}

func deleteTwice(t *testing.T, s suite) {
	p := s.create(t, disk.Spec{Path: s.path("d"), SizeBytes: mib})
	for range 2 {
		if err := s.Delete(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(p); !errors.Is(err, fs.ErrNotExist) {
		t.Error("it is still there")
	}
}

func discard(t *testing.T, s suite) {
	spec, n := disk.Spec{Path: s.path("d"), SizeBytes: 1 << 30}, int64(64*mib)
	if s.attacher != nil { // device-mapper passes discards on only where what is below takes them too, as a disk of zeros does not
		spec.Base, spec.SizeBytes, n = s.base(t), 16*mib, 16*mib
	}
	p := s.create(t, spec)
	s.thin(t, p, mib)
	s.write(t, p, 'C', 0, n)
	s.run(t, "sync", "-f", p)
	if used(t, p) < n*15/16 {
		t.Fatalf("%d MiB take %d KiB", n>>20, used(t, p)>>10)
	}
	s.discard(t, p, 0, n)
	s.run(t, "sync", "-f", p)
	s.thin(t, p, 2*mib)
	s.check(t, p)
}

func owner(t *testing.T, s suite) {
	spec := disk.Spec{Path: s.path("d"), SizeBytes: mib}
	if os.Geteuid() == 0 {
		spec.UID, spec.GID = 65534, 65534
		if err := os.Chown(s.dir, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	s.create(t, spec)
	info, err := os.Lstat(spec.Path)
	if err != nil || info.Mode() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	if st := info.Sys().(*syscall.Stat_t); s.attacher != nil { // nobody but the daemon opens it
		if int(st.Uid) != os.Geteuid() {
			t.Errorf("it belongs to %d", st.Uid)
		}
	} else if spec.UID != 0 && (st.Uid != 65534 || st.Gid != 65534) {
		t.Errorf("it belongs to %d:%d", st.Uid, st.Gid)
	}
	if err := s.Grow(t.Context(), spec.Path, 2*mib); err != nil {
		t.Error(err)
	}
}

// links: the directory belongs to the VMM, which may have put anything there.
func links(t *testing.T, s suite) {
	victim := s.create(t, disk.Spec{Path: s.path("victim"), SizeBytes: mib})
	if err := os.Symlink(victim, s.path("soft")); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(victim, s.path("hard")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(s.path("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"soft", "hard", "pipe"} {
		if err := s.Grow(t.Context(), s.path(name), 4*mib); err == nil {
			t.Errorf("grew through %s", name)
		}
		if _, err := s.Size(t.Context(), s.path(name)); err == nil {
			t.Errorf("read through %s", name)
		}
	}
	if err := os.Symlink(s.path("elsewhere"), s.path("d.new")); err != nil {
		t.Fatal(err)
	}
	s.create(t, disk.Spec{Path: s.path("d"), SizeBytes: mib})
	if _, err := os.Lstat(s.path("elsewhere")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("made a file through a link")
	}
}

func concurrent(t *testing.T, s suite) {
	base := s.base(t)
	begin := time.Now()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := s.Create(context.Background(), disk.Spec{Path: s.path(fmt.Sprint("d", i)), Base: base, SizeBytes: 8 << 30}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("%s: %v for each of 20", s.Name(), time.Since(begin)/20)
	for i := range 20 {
		s.size(t, s.path(fmt.Sprint("d", i)), 8<<30)
	}
}

func damaged(t *testing.T, s suite) {
	for i, text := range [][]byte{nil, []byte("QFI"), bytes.Repeat([]byte{0xff}, 4096), append([]byte("QFI\xfb\x00\x00\x00\x03"), bytes.Repeat([]byte{0xff}, 200)...)} {
		p := s.path(fmt.Sprint("d", i))
		if err := os.WriteFile(p, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if n, err := s.Size(t.Context(), p); err == nil && (s.Format() != "raw" || n != int64(len(text))) {
			t.Errorf("a damaged disk has %d bytes", n)
		}
		if err := s.Grow(t.Context(), p, 64*mib); err == nil && s.Format() != "raw" {
			t.Error("a damaged disk grew")
		}
	}
}

// thin fails the test if the disk takes more than limit on the host.
func (s suite) thin(t *testing.T, path string, limit int64) {
	t.Helper()
	if n := used(t, path); n > limit {
		t.Errorf("it takes %d KiB, more than %d", n>>10, limit>>10)
	}
}

func used(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}

func digest(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return string(h.Sum(nil))
}

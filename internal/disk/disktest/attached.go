package disktest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/host/local"
)

// RunAttached checks a driver whose disks are block devices, as Run does, and the Attacher itself.
func RunAttached(t *testing.T, d disk.Driver, a disk.Attacher, dir string) {
	s := suite{Driver: d, attacher: a, dir: dir, host: local.New()}
	run(t, s)
	for name, test := range map[string]func(*testing.T, suite){
		"attach twice, detach twice":     attachTwice,
		"a device in use is waited for":  waitedFor,
		"a failed attach leaves nothing": failedAttach,
		"switch under load":              switchUnderLoad,
		"switch refusals":                switchRefusals,
		"a stack of 17":                  stackOf17,
		"flatten":                        flatten,
		"flatten under load":             flattenUnderLoad,
		"flatten is disturbed":           flattenDisturbed,
		"grow while in use":              growAttached,
	} {
		t.Run(name, func(t *testing.T) { test(t, s.in(t)) })
	}
}

// device is the name of a device for a test.
func (s suite) device(path string) string {
	return "banger-test-" + strings.ToLower(filepath.Base(filepath.Dir(path))) + "-" + filepath.Base(path)
}

// attach attaches a disk for the rest of the test, and opens its device.
func (s suite) attach(t *testing.T, path string, readOnly bool) (name string, f *os.File) {
	t.Helper()
	name = s.device(path)
	t.Cleanup(func() {
		if err := s.attacher.Detach(context.Background(), name); err != nil {
			t.Error(err)
		}
	})
	a, err := s.attacher.Attach(t.Context(), name, path, readOnly)
	if err != nil {
		t.Fatal(err)
	}
	f = openDevice(t, a.Device, readOnly)
	t.Cleanup(func() { _ = f.Close() })
	return name, f
}

func openDevice(t *testing.T, path string, readOnly bool) *os.File {
	t.Helper()
	flag := os.O_RDWR
	if readOnly {
		flag = os.O_RDONLY
	}
	f, err := os.OpenFile(path, flag|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// with attaches a disk for as long as use runs.
func (s suite) with(t *testing.T, path string, readOnly bool, use func(f *os.File)) {
	t.Helper()
	name := s.device(path)
	a, err := s.attacher.Attach(t.Context(), name, path, readOnly)
	if err != nil {
		t.Fatal(err)
	}
	f := openDevice(t, a.Device, readOnly)
	defer func() {
		if t.Failed() {
			_ = f.Close()
			_ = s.attacher.Detach(context.Background(), name)
		}
	}()
	use(f)
	if err := errors.Join(f.Close(), s.attacher.Detach(t.Context(), name)); err != nil {
		t.Fatal(err)
	}
}

// aligned is a buffer that can be written past the page cache.
func aligned(n int) []byte {
	const page = 4096
	b := make([]byte, n+page)
	skip := (page - int(uintptr(unsafe.Pointer(&b[0]))%page)) % page
	return b[skip : skip+n]
}

func writeBytes(t *testing.T, f *os.File, b byte, at, n int64) {
	t.Helper()
	buf := aligned(int(min(n, mib)))
	for i := range buf {
		buf[i] = b
	}
	for end := at + n; at < end; at += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), end-at)]
		if _, err := f.WriteAt(buf, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

func wantBytes(t *testing.T, f io.ReaderAt, b byte, at, n int64) {
	t.Helper()
	buf := aligned(int(min(n, mib)))
	for end := at + n; at < end; at += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), end-at)]
		if _, err := f.ReadAt(buf, at); err != nil {
			t.Fatal(err)
		}
		if wrong := bytes.IndexFunc(buf, func(r rune) bool { return r != rune(b) }); wrong >= 0 {
			t.Fatalf("%#x at %d, not %#x", buf[wrong], at+int64(wrong), b)
		}
	}
}

func discardBytes(t *testing.T, f *os.File, at, n int64) {
	t.Helper()
	span := [2]uint64{uint64(at), uint64(n)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKDISCARD, uintptr(unsafe.Pointer(&span))); errno != 0 {
		t.Fatalf("discard: %v", errno)
	}
}

func attachTwice(t *testing.T, s suite) {
	p := s.create(t, disk.Spec{Path: s.path("d"), Base: s.base(t), SizeBytes: 16 * mib})
	name, f := s.attach(t, p, false)
	writeBytes(t, f, 'C', 0, mib)
	first, err := s.attacher.Attach(t.Context(), name, p, false)
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.attacher.Attach(t.Context(), name, p, false)
	if err != nil || fmt.Sprint(again) != fmt.Sprint(first) || len(first.BaseLoops) != 1 || first.COWLoop == "" || first.DMName != name {
		t.Fatalf("first %+v, then %+v, %v", first, again, err)
	}
	wantBytes(t, f, 'C', 0, mib)
	if top, err := s.attacher.Top(t.Context(), name); err != nil || top != p {
		t.Errorf("its top is %s, %v", top, err)
	}
	if u, err := s.attacher.Usage(t.Context(), name); err != nil || u.Broken != "" || u.OwnBytes < mib {
		t.Errorf("usage %+v, %v", u, err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.attacher.Detach(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{second(s.attacher.Top(t.Context(), name)), second(s.attacher.Usage(t.Context(), name)), second(s.attacher.AwaitBroken(t.Context(), name))} {
		if api.CodeOf(err) != api.CodeNotFound {
			t.Errorf("of a device that is gone: %v", err)
		}
	}
	s.holds(t, p, 'C', 0, mib)
}

func second[T any](_ T, err error) error { return err }

func waitedFor(t *testing.T, s suite) {
	p := s.create(t, disk.Spec{Path: s.path("d"), SizeBytes: 16 * mib})
	name, f := s.attach(t, p, false)
	const held = 500 * time.Millisecond
	begin := time.Now()
	time.AfterFunc(held, func() { _ = f.Close() })
	if err := s.attacher.Detach(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < held {
		t.Errorf("an open device was gone after %v", took)
	}
}

func failedAttach(t *testing.T, s suite) {
	base := s.base(t)
	p := s.create(t, disk.Spec{Path: s.path("d"), Base: base, SizeBytes: 32 * mib})
	q := s.create(t, disk.Spec{Path: s.path("e"), Base: p, BaseFormat: s.Format(), SizeBytes: 32 * mib})
	if err := os.Rename(base, base+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.attacher.Attach(t.Context(), s.device(q), q, false); err == nil {
		t.Error("attached without its base")
	}
	if err := os.Symlink(base+".away", base); err != nil {
		t.Fatal(err)
	}
	if _, err := s.attacher.Attach(t.Context(), s.device(q), q, false); err == nil {
		t.Error("attached a base that is a link")
	}
	if _, err := s.attacher.Top(t.Context(), s.device(q)); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("something is left: %v", err)
	}
}

// load writes records to a device, each once the one before it is on the disk, until told to stop.
type load struct {
	done  chan error
	stop  atomic.Bool
	acked atomic.Int64
}

const records = 2000 // of 4 KiB, over and over

func record(n int64) []byte {
	b := aligned(4096)
	for at := 0; at < len(b); at += 8 {
		binary.LittleEndian.PutUint64(b[at:], uint64(n))
	}
	return b
}

// where is the place of a record: scattered, and written to several times.
func where(n int64) int64 { return n * 7919 % records * 4096 }

func startLoad(f *os.File) *load {
	l := &load{done: make(chan error, 1)}
	go func() {
		for n := int64(1); !l.stop.Load(); n++ {
			if _, err := f.WriteAt(record(n), where(n)); err != nil {
				l.done <- fmt.Errorf("record %d: %w", n, err)
				return
			}
			if err := f.Sync(); err != nil {
				l.done <- fmt.Errorf("record %d: %w", n, err)
				return
			}
			l.acked.Store(n)
		}
		l.done <- nil
	}()
	return l
}

// more waits until so many more records are written.
func (l *load) more(t *testing.T, n int64) {
	t.Helper()
	for end := l.acked.Load() + n; l.acked.Load() < end; {
		select {
		case err := <-l.done:
			t.Fatalf("the load ended: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
}

func (l *load) end(t *testing.T) int64 {
	t.Helper()
	l.stop.Store(true)
	if err := <-l.done; err != nil {
		t.Fatal(err)
	}
	return l.acked.Load()
}

// wantRecords checks that the disk holds the newest record of each place up to n, or a later one up to latest.
func wantRecords(t *testing.T, f io.ReaderAt, n, latest int64) {
	t.Helper()
	newest := map[int64]int64{}
	for i := int64(1); i <= n; i++ {
		newest[where(i)] = i
	}
	buf := aligned(4096)
	for at, want := range newest {
		if _, err := f.ReadAt(buf, at); err != nil {
			t.Fatal(err)
		}
		got := int64(binary.LittleEndian.Uint64(buf))
		if got < want || got > latest || where(got) != at || !bytes.Equal(buf, record(got)) {
			t.Fatalf("record %d at %d, not %d or later up to %d", got, at, want, latest)
		}
	}
}

// over makes an empty disk over another one.
func (s suite) over(t *testing.T, below, name string) string {
	t.Helper()
	size, err := s.Size(t.Context(), below)
	if err != nil {
		t.Fatal(err)
	}
	return s.create(t, disk.Spec{Path: s.path(name), Base: below, BaseFormat: s.Format(), SizeBytes: size})
}

func switchUnderLoad(t *testing.T, s suite) {
	tops := []string{s.create(t, disk.Spec{Path: s.path("d"), Base: s.base(t), SizeBytes: 64 * mib})}
	name, f := s.attach(t, tops[0], false)
	writeBytes(t, f, 'C', 32*mib, mib)
	l := startLoad(f)
	var before, after []int64
	var longest time.Duration
	for n := range 5 {
		l.more(t, 20)
		next := s.over(t, tops[n], fmt.Sprint("d", n+1))
		before = append(before, l.acked.Load())
		begin := time.Now()
		if err := s.attacher.Switch(t.Context(), name, next); err != nil {
			t.Fatal(err)
		}
		longest = max(longest, time.Since(begin))
		after = append(after, l.acked.Load())
		tops = append(tops, next)
		if top, err := s.attacher.Top(t.Context(), name); err != nil || top != next {
			t.Fatalf("its top is %s, %v", top, err)
		}
		if err := s.attacher.Switch(t.Context(), name, next); err != nil { // again, as after a failure that was none
			t.Fatal(err)
		}
	}
	l.more(t, 20)
	last := l.end(t)
	t.Logf("%d records, the longest of 5 switches took %v", last, longest)
	wantRecords(t, f, last, last)
	wantBytes(t, f, 'C', 32*mib, mib)
	if err := errors.Join(f.Close(), s.attacher.Detach(t.Context(), name)); err != nil {
		t.Fatal(err)
	}
	for n := range before {
		s.with(t, tops[n], true, func(f *os.File) {
			wantRecords(t, f, before[n], after[n]+1)
			wantBytes(t, f, 'C', 32*mib, mib)
		})
	}
	s.with(t, tops[5], true, func(f *os.File) { wantRecords(t, f, last, last) })
}

func switchRefusals(t *testing.T, s suite) {
	p := s.create(t, disk.Spec{Path: s.path("d"), Base: s.base(t), SizeBytes: 16 * mib})
	other := s.create(t, disk.Spec{Path: s.path("other"), SizeBytes: 16 * mib})
	name, f := s.attach(t, p, false)
	for _, bad := range []string{s.over(t, other, "x"), other, s.path("none")} {
		if err := s.attacher.Switch(t.Context(), name, bad); err == nil {
			t.Errorf("switched to %s", bad)
		}
	}
	if top, err := s.attacher.Top(t.Context(), name); err != nil || top != p {
		t.Errorf("its top is %s, %v", top, err)
	}
	writeBytes(t, f, 'C', 0, mib)
	if err := s.attacher.Switch(t.Context(), "banger-test-none", other); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("a device that is not there: %v", err)
	}
}

// stackOf17 is the longest chain that there can be: sixteen layers and an image.
func stackOf17(t *testing.T, s suite) {
	const layers = 16
	p := s.create(t, disk.Spec{Path: s.path("d0"), Base: s.base(t), SizeBytes: 32 * mib})
	name, f := s.attach(t, p, false)
	for n := range layers {
		writeBytes(t, f, byte('a'+n), int64(n)*mib, mib)
		writeBytes(t, f, byte('a'+n), 20*mib, 4096)
		if n < layers-1 {
			p = s.over(t, p, fmt.Sprint("d", n+1))
			if err := s.attacher.Switch(t.Context(), name, p); err != nil {
				t.Fatal(err)
			}
		}
	}
	look := func(f io.ReaderAt) {
		for n := range layers {
			wantBytes(t, f, byte('a'+n), int64(n)*mib, mib)
		}
		wantBytes(t, f, 'a'+layers-1, 20*mib, 4096)
		wantBytes(t, f, 0, 21*mib, mib)
	}
	look(f)
	if err := errors.Join(f.Close(), s.attacher.Detach(t.Context(), name)); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	a, err := s.attacher.Attach(t.Context(), name, p, false)
	t.Logf("attached in %v", time.Since(begin))
	if err != nil || len(a.BaseLoops) != layers {
		t.Fatalf("%+v, %v", a, err)
	}
	f = openDevice(t, a.Device, false)
	defer f.Close()
	look(f)
	begin = time.Now()
	wantBytes(t, f, 'a', 0, mib) // through all of it
	t.Logf("1 MiB read through all in %v", time.Since(begin))
}

func growAttached(t *testing.T, s suite) {
	p := s.create(t, disk.Spec{Path: s.path("d"), Base: s.base(t), SizeBytes: 16 * mib})
	name, f := s.attach(t, p, false)
	writeBytes(t, f, 'C', 0, mib)
	if err := s.attacher.GrowAttached(t.Context(), name, 64*mib); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, f, 'C', 0, mib)
	wantBytes(t, f, 'B', 15*mib, mib)
	wantBytes(t, f, 0, 63*mib, mib)
	writeBytes(t, f, 'D', 62*mib, 2*mib)
	if err := s.attacher.GrowAttached(t.Context(), name, 32*mib); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("it shrank: %v", err)
	}
	if err := errors.Join(f.Close(), s.attacher.Detach(t.Context(), name)); err != nil {
		t.Fatal(err)
	}
	s.size(t, p, 64*mib)
	s.holds(t, p, 'D', 62*mib, 2*mib)
	s.holds(t, p, 'B', 15*mib, mib)
}

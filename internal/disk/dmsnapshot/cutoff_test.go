package dmsnapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/host"
	"banger/internal/host/fake"
	"banger/internal/host/local"
)

// deed is something done to a device, of which a daemon may die at any moment.
type deed struct {
	what string
	// before is whether the device is there when it begins.
	before bool
	do     func(d *Driver, w world) error
}

// deeds are all that change devices.
func deeds() []deed {
	ctx := context.Background()
	return []deed{
		{"attach", false, func(d *Driver, w world) error { _, err := d.Attach(ctx, w.name, w.top, false); return err }},
		{"switch", true, func(d *Driver, w world) error { return d.Switch(ctx, w.name, w.next) }},
		{"flatten", true, func(d *Driver, w world) error { return d.Flatten(ctx, w.name, w.base) }},
		{"grow", true, func(d *Driver, w world) error { return d.GrowAttached(ctx, w.name, 2*testSize) }},
		{"detach", true, func(d *Driver, w world) error { return d.Detach(ctx, w.name) }},
	}
}

// world is the files of one try: an image, two layers over it, the top and what it may be switched to.
type world struct {
	name, base, top, next string
	low, high             string
}

func newWorld(t *testing.T, name string) world {
	t.Helper()
	dir := t.TempDir()
	at := func(n string) string { return filepath.Join(dir, n) }
	w := world{name: name, base: at("base"), low: at("low"), high: at("high"), top: at("top"), next: at("next")}
	if err := os.WriteFile(w.base, bytes.Repeat([]byte("B"), 1<<20), 0o444); err != nil {
		t.Fatal(err)
	}
	below, format := w.base, formatRaw
	for _, p := range []string{w.low, w.high, w.top, w.next} {
		if err := (&Driver{}).Create(t.Context(), disk.Spec{Path: p, Base: below, BaseFormat: format, SizeBytes: testSize}); err != nil {
			t.Fatal(err)
		}
		below, format = p, Format
	}
	for n, p := range []string{w.low, w.high, w.top} {
		l, err := openLink(p, Format, os.O_RDWR)
		if err != nil {
			t.Fatal(err)
		}
		st, err := l.store()
		if err != nil {
			t.Fatal(err)
		}
		put(t, l, given(st, uint64(1000+100*n), 300), byte('a'+n))
		_ = l.file.Close()
	}
	return w
}

// check looks at a device that a daemon has left: the next one can use it, and take it away.
func (w world) check(t *testing.T, d *Driver, dd deed, look func(path string)) {
	t.Helper()
	ctx := context.Background()
	err := d.Resume(ctx, w.name)
	gone := api.CodeOf(err) == api.CodeNotFound
	if err != nil && !gone || gone && dd.before && dd.what != "detach" {
		t.Fatalf("resume: %v", err)
	}
	path := w.top
	if !gone {
		if m, err := d.Host.Mapped(w.name); err != nil || len(m.Table) > 0 && (m.Suspended || m.Waiting) {
			t.Fatalf("%+v, %v", m, err)
		}
		top, err := d.Top(ctx, w.name)
		if api.CodeOf(err) != api.CodeNotFound { // without a table it is nobody's
			if err != nil || top != w.top && (top != w.next || dd.what != "switch") {
				t.Fatalf("its top is %s, %v", top, err)
			}
			path = top
		}
	}
	// As a start would, which finds the VMM gone.
	a, err := d.Attach(ctx, w.name, path, false)
	if err != nil {
		t.Fatal(err)
	}
	look(a.Device)
	if err := d.Detach(ctx, w.name); err != nil {
		t.Fatal(err)
	}
	names, err := d.Host.MappedNames(w.name)
	if err != nil || len(names) > 0 {
		t.Fatalf("left behind: %v, %v", names, err)
	}
}

// On a machine that only remembers, which can be cut off anywhere.
func TestCutOffRemembered(t *testing.T) {
	for _, dd := range deeds() {
		t.Run(dd.what, func(t *testing.T) {
			for n := 1; ; n++ {
				w := newWorld(t, "banger-x-root")
				machine := fake.New()
				d := New(Options{Host: machine, Log: quiet()})
				if dd.before {
					if _, err := d.Attach(t.Context(), w.name, w.top, false); err != nil {
						t.Fatal(err)
					}
				}
				left, dead := n, errors.New("the daemon is dead")
				machine.Blocks().Before = func(string) error {
					if left--; left <= 0 {
						return dead
					}
					return nil
				}
				err := dd.do(d, w)
				machine.Blocks().Before = nil
				w.check(t, New(Options{Host: machine, Log: quiet()}), dd, func(string) {})
				if left > 0 {
					if err != nil {
						t.Fatal(err)
					}
					t.Logf("%d steps", n-1)
					return
				}
			}
		})
	}
}

// Without anything going wrong: every step of a switch, in order.
func TestSwitchSteps(t *testing.T) {
	w := newWorld(t, "banger-x-root")
	machine := fake.New()
	d := New(Options{Host: machine, Log: quiet()})
	if _, err := d.Attach(t.Context(), w.name, w.low, false); err != nil {
		t.Fatal(err)
	}
	before := len(machine.Transcript())
	if err := d.Switch(t.Context(), w.name, w.high); err != nil {
		t.Fatal(err)
	}
	const want = `loop 7:5 of high from 8192, read-only false
loop 7:6 of low from 8192, read-only true
create banger-x-root.2
suspend banger-x-root
load banger-x-root.2: snapshot 131072 253:2 7:6
resume banger-x-root.2
load banger-x-root: snapshot 131072 253:7 7:5
resume banger-x-root
resize loop 7:5 to `
	if got := machine.Transcript()[before:]; !strings.HasPrefix(got, want) {
		t.Errorf("not\n%s\nbut\n%s", want, got)
	}
}

// dying is a machine on which this process is killed, as if by kill -9, in place of a step.
type dying struct {
	host.Blocks
	left int
}

func (d *dying) step() {
	if d.left--; d.left == 0 {
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	}
}

func (d *dying) OpenLoop(ctx context.Context, file *os.File, l host.Loop) (host.OpenedLoop, error) {
	d.step()
	return d.Blocks.OpenLoop(ctx, file, l)
}
func (d *dying) ResizeLoop(dev host.Device, size int64) error {
	d.step()
	return d.Blocks.ResizeLoop(dev, size)
}
func (d *dying) CreateMapped(name string) (host.Mapped, error) {
	d.step()
	return d.Blocks.CreateMapped(name)
}
func (d *dying) LoadMapped(name string, table []host.MapTarget, readOnly bool) error {
	d.step()
	return d.Blocks.LoadMapped(name, table, readOnly)
}
func (d *dying) ClearMapped(name string) error   { d.step(); return d.Blocks.ClearMapped(name) }
func (d *dying) SuspendMapped(name string) error { d.step(); return d.Blocks.SuspendMapped(name) }
func (d *dying) ResumeMapped(name string) error  { d.step(); return d.Blocks.ResumeMapped(name) }
func (d *dying) RemoveMapped(name string) error  { d.step(); return d.Blocks.RemoveMapped(name) }

// childEnv makes this program a daemon that does one deed and dies of it.
const childEnv = "DMSNAPSHOT_TEST_CHILD"

// TestChild is not a test of its own.
func TestChild(t *testing.T) {
	words := strings.Split(os.Getenv(childEnv), "\n")
	if len(words) != 6 {
		return
	}
	left, err := strconv.Atoi(words[1])
	if err != nil {
		t.Fatal(err)
	}
	w := world{name: words[2], base: words[3], top: words[4], next: words[5]}
	for _, dd := range deeds() {
		if dd.what == words[0] {
			if err := dd.do(New(Options{Host: &dying{Blocks: local.New(), left: left}, Log: quiet()}), w); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatal("no such deed")
}

// child does a deed in a process that dies at the given step; false when it did not come to that.
func child(t *testing.T, dd deed, left int, w world) (died bool) {
	t.Helper()
	var out bytes.Buffer
	err := local.New().Run(t.Context(), host.Command{
		Path: os.Args[0], Args: []string{"-test.run", "^TestChild$"}, Stdout: &out,
		Env: []string{childEnv + "=" + strings.Join([]string{dd.what, fmt.Sprint(left), w.name, w.base, w.top, w.next}, "\n")},
	})
	if err != nil && !strings.Contains(err.Error(), "killed") {
		t.Fatalf("%s, step %d: %v\n%s", dd.what, left, err, out.String())
	}
	return err != nil
}

// look reads a device as a guest would: what newWorld has put there.
func look(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for chunk, want := range map[int64]byte{0: 'B', 255: 'B', 256: 0, 999: 0, 1000: 'a', 1099: 'a', 1100: 'b', 1199: 'b', 1200: 'c', 1499: 'c', 1500: 0, testSize/chunkBytes - 1: 0} {
		buf := make([]byte, chunkBytes)
		if _, err := io.ReadFull(io.NewSectionReader(f, chunk*chunkBytes, chunkBytes), buf); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(buf, bytes.Repeat([]byte{want}, chunkBytes)) {
			t.Fatalf("chunk %d holds %#x, not %#x", chunk, buf[0], want)
		}
	}
}

// TestCutOff is TestCutOffRemembered with the kernel and with processes that are killed.
func TestCutOff(t *testing.T) {
	d := real(t)
	for _, dd := range deeds() {
		t.Run(dd.what, func(t *testing.T) {
			for n, died := 1, true; died; n++ {
				w := newWorld(t, fmt.Sprintf("banger-cut-%s-%d", dd.what, n))
				if dd.before {
					a, err := d.Attach(t.Context(), w.name, w.top, false)
					if err != nil {
						t.Fatal(err)
					}
					look(t, a.Device)
				}
				died = child(t, dd, n, w)
				w.check(t, d, dd, func(device string) { look(t, device) })
				noLoops(t, filepath.Dir(w.base))
				if !died {
					t.Logf("%d steps", n-1)
				}
			}
		})
	}
}

// noLoops fails the test if a loop device shows a file below dir. The kernel lets go of the last ones a moment later.
func noLoops(t *testing.T, dir string) {
	t.Helper()
	var left []string
	for range 100 {
		left = nil
		files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
		for _, f := range files {
			if text, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(text), dir) {
				left = append(left, f+": "+string(text))
			}
		}
		if len(left) == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("left behind: %q", left)
}

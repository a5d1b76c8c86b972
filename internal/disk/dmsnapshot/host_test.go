package dmsnapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/host"
	"banger/internal/host/local"
)

// smallDisk is a mounted file system of so many bytes.
func smallDisk(t *testing.T, bytes int64) string {
	t.Helper()
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "fs")
	run := func(program string, args ...string) {
		t.Helper()
		if err := local.New().Run(t.Context(), host.Command{Path: program, Args: args}); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, bytes)); err != nil {
		t.Fatal(err)
	}
	run("mkfs.ext4", "-q", "-F", file)
	run("mount", "-o", "loop", file, dir)
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// attach makes an empty disk and its device, for the rest of the test.
func attach(t *testing.T, d *Driver, name, path string, size int64) *os.File {
	t.Helper()
	if err := d.Create(t.Context(), disk.Spec{Path: path, SizeBytes: size}); err != nil {
		t.Fatal(err)
	}
	return reattach(t, d, name, path)
}

func reattach(t *testing.T, d *Driver, name, path string) *os.File {
	t.Helper()
	a, err := d.Attach(t.Context(), name, path, false)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(a.Device, os.O_RDWR|unix.O_SYNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = f.Close()
		if err := d.Detach(context.Background(), name); err != nil {
			t.Error(err)
		}
	})
	return f
}

// A disk that the host has no room for breaks, which is told; others go on, and when there is room again it holds all that was
// written before.
func TestExhausted(t *testing.T) {
	d := real(t)
	small := smallDisk(t, 48<<20)
	ballast := filepath.Join(small, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	const name = "banger-full-root"
	path := filepath.Join(small, "d")
	f := attach(t, d, name, path, 256<<20)
	other := attach(t, d, "banger-other-root", filepath.Join(t.TempDir(), "d"), 64<<20)
	type answer struct {
		reason string
		err    error
	}
	told := make(chan answer, 1)
	go func() {
		reason, err := d.AwaitBroken(t.Context(), name)
		told <- answer{reason, err}
	}()

	const block = 256 << 10
	var kept int64
	var failure error
	for kept = 0; failure == nil && kept < 1000; kept++ {
		_, failure = f.WriteAt(bytes.Repeat([]byte{byte(kept)}, block), kept*block)
	}
	kept-- // the last one failed
	t.Logf("%d KiB were written before %v", kept*block>>10, failure)
	if failure == nil || kept < 40 {
		t.Fatalf("%d blocks, then %v", kept, failure)
	}
	select {
	case a := <-told:
		if a.err != nil || a.reason != "no space left on the host" {
			t.Errorf("told %q, %v", a.reason, a.err)
		}
	case <-time.After(time.Minute):
		t.Fatal("nobody was told")
	}
	if u, err := d.Usage(t.Context(), name); err != nil || u.Broken == "" {
		t.Errorf("%+v, %v", u, err)
	}
	next := filepath.Join(t.TempDir(), "next")
	if err := d.Create(t.Context(), disk.Spec{Path: next, Base: path, BaseFormat: Format, SizeBytes: 256 << 20}); err != nil {
		t.Fatal(err)
	}
	if err := d.Switch(t.Context(), name, next); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("switched a broken disk: %v", err)
	}

	if _, err := other.WriteAt(bytes.Repeat([]byte("x"), 1<<20), 8<<20); err != nil {
		t.Errorf("another disk suffers: %v", err)
	}
	if u, err := d.Usage(t.Context(), "banger-other-root"); err != nil || u.Broken != "" {
		t.Errorf("another disk: %+v, %v", u, err)
	}

	if err := errors.Join(f.Close(), d.Detach(t.Context(), name), os.Remove(ballast)); err != nil {
		t.Fatal(err)
	}
	f = reattach(t, d, name, path)
	buf := make([]byte, block)
	for n := range kept {
		if _, err := f.ReadAt(buf, n*block); err != nil || !bytes.Equal(buf, bytes.Repeat([]byte{byte(n)}, block)) {
			t.Fatalf("block %d of %d holds %#x, %v", n, kept, buf[0], err)
		}
	}
	if _, err := f.WriteAt(buf, kept*block); err != nil {
		t.Error(err)
	}
}

// Fifty rounds, each ended at a random step by the death of the daemon, leave nothing once the device is detached.
func TestNothingLeaks(t *testing.T) {
	d := real(t)
	const name = "banger-leak-root"
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	dir := ""
	for range 50 {
		w := newWorld(t, name)
		dir = filepath.Dir(filepath.Dir(w.base))
		all := deeds()
		for _, dd := range []deed{all[0], all[1+rng.IntN(len(all)-1)]} {
			if child(t, dd, 1+rng.IntN(14), w) {
				break
			}
		}
	}
	names, err := d.Host.MappedNames(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("before it is detached: %v", names)
	if err := d.Detach(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if names, err := d.Host.MappedNames(name); err != nil || len(names) > 0 {
		t.Errorf("left behind: %v, %v", names, err)
	}
	noLoops(t, dir)
}

// timed is a machine that measures how long devices are suspended.
type timed struct {
	host.Blocks
	begin time.Time
	stood time.Duration
}

func (m *timed) SuspendMapped(name string) error {
	m.begin = time.Now()
	return m.Blocks.SuspendMapped(name)
}

func (m *timed) ResumeMapped(name string) error {
	err := m.Blocks.ResumeMapped(name)
	m.stood = time.Since(m.begin)
	return err
}

// How long a device stands still for a switch, by what was written to its old top: the kernel reads those tables again.
func TestSwitchTimes(t *testing.T) {
	machine := &timed{Blocks: local.New()}
	d := New(Options{Host: machine, Log: quiet()})
	needDevices(t, d)
	for _, mib := range []int64{1, 15, 128} {
		dir, name := t.TempDir(), fmt.Sprintf("banger-time-%d", mib)
		top, next := filepath.Join(dir, "top"), filepath.Join(dir, "next")
		f := attach(t, d, name, top, 1<<30)
		for n := range mib {
			if _, err := f.WriteAt(bytes.Repeat([]byte("x"), 1<<20), n<<20); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Create(t.Context(), disk.Spec{Path: next, Base: top, BaseFormat: Format, SizeBytes: 1 << 30}); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if err := d.Switch(t.Context(), name, next); err != nil {
			t.Fatal(err)
		}
		t.Logf("%3d MiB: a switch takes %v, the device stands still for %v", mib, time.Since(begin), machine.stood)
		begin = time.Now()
		if err := d.Flatten(t.Context(), name, ""); err != nil {
			t.Fatal(err)
		}
		t.Logf("%3d MiB: a flatten takes %v, the device stands still for %v", mib, time.Since(begin), machine.stood)
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		begin = time.Now()
		if err := d.Detach(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		took := time.Since(begin)
		begin = time.Now()
		if _, err := d.Attach(t.Context(), name, next, false); err != nil {
			t.Fatal(err)
		}
		t.Logf("%3d MiB: detached in %v, attached in %v", mib, took, time.Since(begin))
	}
}

// TestSwitchFromASealedDisk: a disk that is about to lie below others is read-only by then, for a daemon that is not root too.
func TestSwitchFromASealedDisk(t *testing.T) {
	d, dir, name := real(t), t.TempDir(), "banger-sealed"
	first, second := filepath.Join(dir, "first"), filepath.Join(dir, "second")
	f := attach(t, d, name, first, 8<<20)
	if _, err := f.WriteAt([]byte("first"), 0); err != nil {
		t.Fatal(err)
	}
	err := errors.Join(d.Create(t.Context(), disk.Spec{Path: second, Base: first, BaseFormat: Format, SizeBytes: 8 << 20}), os.Chmod(first, 0o444))
	if err != nil {
		t.Fatal(err)
	}
	if err := withoutOverride(func() error { return errors.Join(d.Resume(t.Context(), name), d.Switch(t.Context(), name, second)) }); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := f.WriteAt([]byte("below"), 4096); err != nil {
		t.Error(err)
	}
	if _, err := f.ReadAt(b, 0); err != nil || string(b) != "first" {
		t.Errorf("%q, %v", b, err)
	}
	if top, err := d.Top(t.Context(), name); err != nil || top != second {
		t.Errorf("it is on %s, %v", top, err)
	}
}

// withoutOverride runs f on a thread that may open only what its uid may (CAP_DAC_OVERRIDE is 1); the thread ends with it.
func withoutOverride(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		err := unix.Capget(&head, &data[0])
		if err == nil {
			data[0].Effective &^= 1 << unix.CAP_DAC_OVERRIDE
			err = unix.Capset(&head, &data[0])
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// TestTogether: many devices come and go at once, as with `fork --count`: the kernel must not be asked in a way that makes it
// refuse one for another's sake.
func TestTogether(t *testing.T) {
	d := real(t)
	dir := t.TempDir()
	var all sync.WaitGroup
	for i := range 8 {
		name, path := fmt.Sprintf("banger-together%d-root", i), filepath.Join(dir, strconv.Itoa(i))
		if err := d.Create(t.Context(), disk.Spec{Path: path, SizeBytes: 64 << 20}); err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			for range 20 {
				_, err := d.Attach(t.Context(), name, path, false)
				if err := errors.Join(err, d.Detach(context.Background(), name)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

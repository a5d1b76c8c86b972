package vm

import (
	"errors"
	"os"
	"reflect"
	"sync"
	"testing"

	"banger/internal/config"
	"banger/internal/host"
)

func newCache(t *testing.T, ids ...string) *handleCache {
	t.Helper()
	paths := config.Paths{State: t.TempDir()}
	for _, id := range ids {
		if err := os.MkdirAll(paths.VM(id).Dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return &handleCache{paths: paths}
}

func TestHandlesSurviveTheirDaemon(t *testing.T) {
	c := newCache(t, "aaaa")
	want := VMHandles{VMM: host.Process{PID: 77, StartTime: 5}, TapDevice: "bgr-aaaa"}
	if err := c.Set("aaaa", func(h *VMHandles) { *h = want }); err != nil {
		t.Fatal(err)
	}
	later := &handleCache{paths: c.paths}
	if got, err := later.Get("aaaa"); err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, %v", got, err)
	}
	if err := later.Clear("aaaa"); err != nil {
		t.Fatal(err)
	}
	if got, err := (&handleCache{paths: c.paths}).Get("aaaa"); err != nil || !reflect.DeepEqual(got, VMHandles{}) {
		t.Fatalf("after clear: %+v, %v", got, err)
	}
}

func TestDamagedHandlesAreAnErrorAndCanBeReplaced(t *testing.T) {
	c := newCache(t, "aaaa")
	for _, text := range []string{"", "{", "[]", `{"vmm":{"pid":1,"start_time":3}}`, `{"vmm":{"pid":-5,"start_time":3}}`, `{"vmm":{"pid":99}}`} {
		if err := os.WriteFile(c.paths.VM("aaaa").Handles(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if h, err := c.Get("aaaa"); err == nil {
			t.Errorf("%q was taken as %+v", text, h)
		}
	}
	if err := c.Set("aaaa", func(h *VMHandles) { h.TapDevice = "t" }); err != nil {
		t.Fatal(err)
	}
	if h, err := c.Get("aaaa"); err != nil || h.TapDevice != "t" {
		t.Errorf("got %+v, %v", h, err)
	}
}

// Run with -race: many writers on few VMs, and readers beside them.
func TestConcurrentWriters(t *testing.T) {
	c := newCache(t, "aaaa", "bbbb")
	const each = 50
	var all sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for _, id := range []string{"aaaa", "bbbb"} {
		for range 4 {
			all.Go(func() {
				for range each {
					err := c.Set(id, func(h *VMHandles) { h.VMM.PID, h.VMM.StartTime = h.VMM.PID+2, 1 })
					_, rerr := c.Get(id)
					mu.Lock()
					errs = append(errs, err, rerr)
					mu.Unlock()
				}
			})
		}
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	later := &handleCache{paths: c.paths}
	for _, id := range []string{"aaaa", "bbbb"} {
		if h, err := later.Get(id); err != nil || h.VMM.PID != 4*each*2 {
			t.Errorf("%s: on disk is %+v, %v; want pid %d", id, h, err, 4*each*2)
		}
	}
}

func FuzzHandles(f *testing.F) {
	f.Add([]byte(`{"vmm":{"pid":77,"start_time":5},"net_helper":{"pid":0,"start_time":0},"tap_device":"bgr-x"}`))
	f.Add([]byte(`{"vmm":{"pid":1e9}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		h, err := parseHandles(text)
		if err != nil {
			return
		}
		for _, p := range h.processes() {
			if p.PID <= 1 || p.StartTime == 0 {
				t.Errorf("accepted %+v", p)
			}
		}
	})
}

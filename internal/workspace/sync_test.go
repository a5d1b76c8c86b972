package workspace

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/api"
)

func TestSync(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	os.RemoveAll(s.repo + "/.git")
	s.put("a", "one\n")
	s.put("dir/b", "bee\n")
	s.put("dir/caf\xe9", "latin\n")
	s.put("new\nline", "odd\n")
	s.put("node_modules/x/y", "many\n")
	s.put("out/keep.o", "object\n")
	os.Mkdir(s.repo+"/empty", 0o755)
	os.Symlink("../../../etc/passwd", s.repo+"/link")
	there := s.guest.home + "/deep/site"
	round := func(o SyncOptions) Synced {
		t.Helper()
		o.Guest = "deep/site"
		o.Exclude = []string{"node_modules", "out/*.o"}
		f, err := OpenFolder(s.repo, o)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		done, err := f.Sync(t.Context(), s.guest)
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	if done := round(SyncOptions{}); done.Sent != 5 {
		t.Errorf("%+v", done)
	}
	for _, name := range []string{"/node_modules", "/out/keep.o"} {
		if _, err := os.Lstat(there + name); err == nil {
			t.Errorf("%s was brought", name)
		}
	}
	if _, err := os.Stat(there + "/empty"); err != nil {
		t.Error(err)
	}
	if done := round(SyncOptions{}); done.Sent > 1 { // but for the name with a line's end
		t.Errorf("nothing has changed: %+v", done)
	}
	os.Remove(s.repo + "/new\nline")
	os.Remove(there + "/new\nline")
	s.write("", "a", "two\n")
	os.Chmod(s.repo+"/dir/b", 0o755)
	os.MkdirAll(there+"/node_modules", 0o755)
	os.WriteFile(there+"/theirs", nil, 0o600)
	if done := round(SyncOptions{}); done.Sent != 2 || done.Removed != 0 {
		t.Errorf("%+v", done)
	}
	os.Remove(s.repo + "/dir/b")
	os.Remove(s.repo + "/link")
	s.put("link/is/a", "directory\n")
	os.RemoveAll(s.repo + "/empty")
	s.put("empty", "a file\n")
	round(SyncOptions{Delete: true})
	for _, name := range []string{"/node_modules"} {
		if _, err := os.Lstat(there + name); err != nil {
			t.Errorf("%s was excluded, and is gone", name)
		}
	}
	os.RemoveAll(there + "/node_modules")
	os.RemoveAll(s.repo + "/node_modules")
	os.RemoveAll(s.repo + "/out")
	round(SyncOptions{Delete: true})
	if got, want := listing(t, there), listing(t, s.repo); got != want {
		t.Errorf("there\n%s\nhere\n%s", got, want)
	}
	for _, o := range []SyncOptions{{Exclude: []string{"["}}, {Exclude: []string{""}}} {
		if _, err := OpenFolder(s.repo, o); api.CodeOf(err) != api.CodeInvalid {
			t.Error(err)
		}
	}
	if _, err := OpenFolder(s.repo+"/a", SyncOptions{}); err == nil {
		t.Error("a file is no folder")
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.put("a", "one\n")
	f, err := OpenFolder(s.repo, SyncOptions{Guest: "site", Delete: true, Exclude: []string{".git"}})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ctx, cancel := context.WithCancel(t.Context())
	steps := []func(){
		func() { s.write("", "a", "two\n") },
		func() { s.write("", "new/dir/b", "bee\n") },
		func() { s.write("", "new/dir/c", "sea\n") },
		func() { os.RemoveAll(s.repo + "/new") },
	}
	n := 0
	ended := make(chan error, 1)
	go func() {
		ended <- f.Watch(ctx, func() error {
			if _, err := f.Sync(ctx, s.guest); err != nil {
				return err
			}
			if listing(t, s.guest.home+"/site") == listing(t, s.repo) {
				if n == len(steps) {
					cancel()
					return nil
				}
				n++
				go steps[n-1]()
			}
			return nil
		})
	}()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("after step %d of %d the guest has\n%s\nand here is\n%s", n, len(steps), listing(t, s.guest.home+"/site"), listing(t, s.repo))
	}
	if _, err := os.Stat(filepath.Join(s.guest.home, "site/new")); err == nil || !strings.Contains(listing(t, s.guest.home+"/site"), "two") {
		t.Error(listing(t, s.guest.home+"/site"))
	}
}

package serve

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/api/agentapi"
)

// disk stands for a guest's root disk.
type disk struct {
	System
	dir  string
	done int
}

func (d *disk) RootDisk(context.Context) (*os.File, func() error, error) {
	f, err := os.Open(d.dir)
	return f, func() error { d.done++; return f.Close() }, err
}

func TestImageIsNobodys(t *testing.T) {
	t.Parallel()
	d := &disk{dir: t.TempDir()}
	const secret = "a secret of the source"
	put := func(name string) {
		t.Helper()
		path := filepath.Join(d.dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(secret), 0o640)); err != nil {
			t.Fatal(err)
		}
	}
	gone := []string{
		"etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_rsa_key.pub", "root/.ssh/authorized_keys", "home/dev/.ssh/id_ed25519",
		"root/.bash_history", "var/lib/systemd/random-seed", "var/lib/dbus/machine-id", "var/lib/dhcp/eth0.leases", "lost+found/1",
		"run/x", "tmp/x", "var/tmp/x", "dev/x", "proc/x", "var/log/journal/0123/system.journal",
	}
	empty := []string{"etc/machine-id", "etc/resolv.conf", "var/log/wtmp"}
	for _, name := range append(append([]string{"etc/hosts", "etc/hostname"}, gone...), empty...) {
		put(name)
	}
	kept := map[string]string{"bin/sh": "", "etc/motd": "", "root/.profile": "", "home/dev/notes": "", "etc/ssh/sshd_config": "", "srv/etc/machine-id": ""}
	for name := range kept {
		put(name)
		kept[name] = secret
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(d.dir, "etc/hosts"), []byte("127.0.0.1 localhost\n127.0.1.1\tsource source.vm\n10.0.0.1 other\n"), 0o644),
		os.Symlink("/etc/machine-id", filepath.Join(d.dir, "etc/mid")),
	); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	New(Options{System: d, Root: t.TempDir()}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/image", nil))
	if got := w.Result().Trailer.Get(agentapi.TreeErrorTrailer); w.Code != http.StatusOK || got != "" || d.done != 1 {
		t.Fatalf("status %d, error %q, let go %d times", w.Code, got, d.done)
	}
	got := map[string]string{}
	for r := tar.NewReader(w.Body); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got[strings.TrimSuffix(h.Name, "/")] = string(text)
	}
	for _, name := range gone {
		if _, there := got[name]; there {
			t.Errorf("%s is in the image", name)
		}
	}
	for _, name := range empty {
		if text, there := got[name]; !there || text != "" {
			t.Errorf("%s is %q in the image (there: %v), want it empty", name, text, there)
		}
	}
	for name, want := range kept {
		if got[name] != want {
			t.Errorf("%s is %q in the image, want %q", name, got[name], want)
		}
	}
	for _, name := range []string{"run", "tmp", "dev", "proc", "etc/mid"} {
		if _, there := got[name]; !there {
			t.Errorf("%s is not in the image", name)
		}
	}
	if got["etc/hostname"] != "localhost\n" || got["etc/hosts"] != "127.0.0.1 localhost\n10.0.0.1 other\n" {
		t.Errorf("names: %q, %q", got["etc/hostname"], got["etc/hosts"])
	}
}

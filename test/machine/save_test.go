package machine

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/api"
)

// TestImageSave: a running VM's root becomes an image, with nothing in it of the VM's identity, or of what was not on its root.
func TestImageSave(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.live("src", "--image", "minimal")
	b.guest("src", `mkdir -p /srv/app && echo content >/srv/app/file && chmod 2750 /srv/app && chown 12:34 /srv/app/file && ln -s file /srv/app/link && ln /srv/app/file /srv/app/hard
		echo SECRET-IN-ROOT-HOME >/root/secret; echo SECRET-IN-RUN >/run/secret; echo SECRET-IN-TMP >/tmp/secret
		echo SECRET-DELETED >/srv/deleted; sync; rm /srv/deleted
		mkdir -p /var/lib/systemd && echo SECRET-SEED >/var/lib/systemd/random-seed
		dd if=/dev/zero of=/srv/sparse bs=1M seek=40 count=1 2>/dev/null; sync`)
	source := b.identity("src")
	private, err := os.ReadFile(filepath.Join(b.vmDir(b.show("src")), "ssh_host_ed25519_key"))
	if err != nil {
		t.Fatal(err)
	}
	acked := b.number("src", "cat /run/acked")
	b.must("image", "save", "src", "mine")
	b.checkLives("src", acked)

	var img, base api.Image
	decode(t, b.must("image", "show", "--json", "mine"), &img)
	decode(t, b.must("image", "show", "--json", "minimal"), &base)
	same(t, "init", img.Init, base.Init)
	same(t, "source", img.Source, "save src of minimal ("+base.Digest[:12]+")")
	if img.UsedBytes > base.UsedBytes+8<<20 {
		t.Errorf("it takes %d MiB, its base %d: not sparse", img.UsedBytes>>20, base.UsedBytes>>20)
	}
	lines := strings.Split(string(private), "\n")
	wantNone(t, filepath.Join(b.state(), "images", img.Digest, "root.ext4"), map[string]string{
		"machine id": source["machine id"], "host key": strings.Fields(source["host key"])[1], "private host key": lines[1],
		"authorised key": authorised(b), "boot id": source["boot id"],
		"root's home": "SECRET-IN-ROOT-HOME", "/run": "SECRET-IN-RUN", "/tmp": "SECRET-IN-TMP", "a deleted file": "SECRET-DELETED", "a random seed": "SECRET-SEED",
	})

	b.must("template", "build", "--image", "mine")
	b.must("run", "-d", "--name", "one", "--image", "mine")
	if steps := b.steps("one"); !has(steps, "thaw") || has(steps, "boot") {
		t.Errorf("it was not thawed: %v", steps)
	}
	b.must("run", "-d", "--name", "two", "--image", "mine", "--cold")
	b.checkNothingShared("src", "one", "two")
	for _, name := range []string{"one", "two"} {
		same(t, name+": a file", b.guest(name, "cat /srv/app/link; stat -c '%a %u:%g %h' /srv/app /srv/app/file | tail -n 1"), "content\n644 12:34 2")
		same(t, name+": its directory", b.guest(name, "stat -c %a /srv/app"), "2750")
		same(t, name+": what must not be there", b.guest(name, "ls /root/secret /run/secret /tmp/secret /srv/deleted /var/lib/systemd/random-seed 2>/dev/null || true"), "")
	}
	b.fails(1, []string{"exists already", "banger image delete mine"}, "image", "save", "src", "mine")
	b.must("suspend", "src")
	b.fails(1, []string{"suspended", "banger vm start src"}, "image", "save", "src", "other")
	b.must("start", "src")
	b.must("pause", "src")
	b.must("image", "save", "src", "paused")
	same(t, "state", b.show("src").State, api.StatePaused)

	b.must("rm", "-f", "one", "two", "src")
	r := b.must("image", "delete", "mine", "paused")
	same(t, "deleted", r, "mine\npaused")
	if list := b.must("template", "list"); strings.Contains(list, " mine ") {
		t.Errorf("a template of an image that is gone: %s", list)
	}
	b.checkNothingOfVMs()
	if left := b.layers(); len(left) > 0 {
		t.Errorf("layers left: %v", left)
	}
}

// authorised is the key that banger has put into its guests.
func authorised(b *box) string {
	b.t.Helper()
	words := strings.Fields(b.guest("src", "cat /root/.ssh/authorized_keys"))
	if len(words) < 2 {
		b.t.Fatalf("no authorised key: %v", words)
	}
	return words[1]
}

// wantNone looks for strings in a file.
func wantNone(t *testing.T, path string, secrets map[string]string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const piece = 8 << 20
	buf := make([]byte, piece+4096)
	for at := int64(0); ; at += piece {
		n, err := f.ReadAt(buf, at)
		for what, secret := range secrets {
			if secret == "" || bytes.Contains(buf[:n], []byte(secret)) {
				t.Errorf("%s holds the source's %s", path, what)
			}
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestLongDaemonDiesInSave: wherever the daemon dies while it saves an image, the VM runs on, and there is a whole image or none.
func TestLongDaemonDiesInSave(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.must("run", "-d", "--name", "src", "--", "sh", "-c", counter)
	b.guest("src", "echo saved >/srv.txt")
	var c counts
	c.goOn(b, "src")
	id := b.show("src").ID
	check := func(b *box) {
		b.t.Helper()
		c.goOn(b, "src")
		for _, h := range b.holdings() {
			path := strings.Split(h, "/")
			other := len(path) > 2 && path[1] == "vms" && path[2] != id
			if other || strings.HasPrefix(h, "s/tmp/") || strings.HasPrefix(h, "process qemu") && !strings.Contains(h, id) {
				b.t.Errorf("left over: %s", h)
			}
		}
	}
	points := b.points("image.save", "image", "save", "src", "mine")
	b.must("image", "delete", "mine")
	check(b)
	for _, point := range points {
		b.sub(point, func(t *testing.T, b *box) {
			b.dies(point, "image", "save", "src", "mine")
			check(b)
			if b.banger("image", "show", "mine").code == 0 { // it was recorded, so it is whole
				same(t, "a file", b.must("run", "--rm", "--cold", "--image", "mine", "--", "cat", "/srv.txt"), "saved")
				b.must("image", "delete", "mine")
			}
		})
	}
	b.must("rm", "-f", "src")
	b.checkNothingOfVMs()
	if left := b.layers(); len(left) > 0 {
		t.Errorf("layers left: %v", left)
	}
}

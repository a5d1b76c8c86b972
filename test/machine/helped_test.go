package machine

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"banger/api"
)

// helped is a box for an ordinary user beside whose daemon a bangerd-root runs.
type helped struct {
	*box
	root *exec.Cmd
	// place is root's: the box's directory is the user's, so that bangerd-root neither runs programs in it nor has jails there.
	place string
}

// newHelpedBox makes one with the images prepared by scripts/machine-state.
func newHelpedBox(t *testing.T, options ...option) *helped {
	t.Helper()
	b := newRootBox(t, options...)
	b.makeUser()
	// The sealed files are other boxes' too and stay as they are; all that is written is the user's.
	err := filepath.WalkDir(b.state(), func(path string, d fs.DirEntry, err error) error {
		if err == nil && (d.IsDir() || d.Name() == "banger.db") {
			err = os.Lchown(path, b.uid, b.gid)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	b.env = append(b.env, "BANGER_ROOT_SOCKET="+filepath.Join(b.dir, "root", "socket"))
	h := &helped{box: b}
	h.makePlace()
	h.startRoot()
	b.beside = h.endRoot
	return h
}

// makePlace puts Firecracker, where there is one, where bangerd-root takes it from.
func (h *helped) makePlace() {
	h.t.Helper()
	var err error
	if h.place, err = os.MkdirTemp("/tmp", "r"); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Chmod(h.place, 0o711); err != nil {
		h.t.Fatal(err)
	}
	for name, variable := range map[string]string{"firecracker": "BANGER_FIRECRACKER_BIN", "jailer": "BANGER_JAILER_BIN"} {
		text, err := os.ReadFile(filepath.Join(h.bin, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		path := filepath.Join(h.place, name)
		if err == nil {
			err = os.WriteFile(path, text, 0o755)
		}
		if err != nil {
			h.t.Fatal(err)
		}
		h.env = append(h.env, variable+"="+path)
	}
}

// startRoot starts bangerd-root, which nobody has waited for yet.
func (h *helped) startRoot() {
	h.t.Helper()
	var base, count string
	for _, kv := range h.env {
		if v, ok := strings.CutPrefix(kv, "BANGER_UID_BASE="); ok {
			base = v
		}
		if v, ok := strings.CutPrefix(kv, "BANGER_UID_COUNT="); ok {
			count = v
		}
	}
	log, err := os.OpenFile(filepath.Join(h.dir, "root.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		h.t.Fatal(err)
	}
	defer log.Close()
	h.root = exec.Command("nsenter", "--net="+h.net.path(), filepath.Join(h.bin, "bangerd-root"), "--socket", filepath.Join(h.dir, "root", "socket"),
		"--uid", strconv.Itoa(h.uid), "--gid", strconv.Itoa(h.gid), "--state-dir", h.state(), "--uid-base", base, "--uid-count", count,
		"--jails", filepath.Join(h.place, "jails"), "--firecracker", filepath.Join(h.place, "firecracker"))
	h.root.Stdout, h.root.Stderr = log, log
	if err := h.root.Start(); err != nil {
		h.t.Fatal(err)
	}
	eventually(h.t, "bangerd-root listens", func() bool {
		c, err := net.Dial("unix", filepath.Join(h.dir, "root", "socket"))
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

// killRoot is kill -9; a new one takes the socket over.
func (h *helped) killRoot() {
	h.t.Helper()
	_ = h.root.Process.Kill()
	_ = h.root.Wait()
	h.startRoot()
}

func (h *helped) endRoot() {
	if h.t.Failed() {
		if text, err := os.ReadFile(filepath.Join(h.dir, "root.log")); err == nil {
			h.t.Logf("bangerd-root:\n%s", tail(string(text), 60))
		}
	}
	_ = h.root.Process.Kill()
	_ = h.root.Wait()
	left, err := filepath.Glob(filepath.Join(h.place, "jails", "*", "*"))
	if err != nil || len(left) > 0 {
		h.t.Errorf("jails are left: %v, %v", left, err)
	}
	if err := os.RemoveAll(h.place); err != nil {
		h.t.Error(err)
	}
}

// TestHelped is the whole flow of an ordinary user's daemon beside bangerd-root: bridge, taps, rules, VMMs under uids of their own.
func TestHelped(t *testing.T) {
	t.Parallel()
	h := newHelpedBox(t)
	b := h.box
	beyond := b.net.uplink()
	web := filepath.Join(b.dir, "web")
	if err := os.MkdirAll(web, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(web, "index.html"), []byte("page\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	beyond.start("busybox", "httpd", "-f", "-p", "80", "-h", web)

	if r := b.banger("doctor"); r.code != 0 {
		t.Errorf("doctor: %v", r)
	}
	b.must("run", "-d", "--name", "x")
	vm := b.show("x")
	same(t, "network", vm.Spec.Net, api.NetBridge)
	uid := status(t, b.vmm(vm), "Uid")
	if n, _ := strconv.Atoi(uid); n < 1_900_000_000 || n != vm.Runtime.UID {
		t.Errorf("the VMM runs under uid %s, the record says %d", uid, vm.Runtime.UID)
	}
	same(t, "no_new_privs of the VMM", status(t, b.vmm(vm), "NoNewPrivs"), "1")
	same(t, "capabilities of the VMM", status(t, b.vmm(vm), "CapEff"), "0000000000000000")
	page := "timeout 10 wget -q -O - http://" + uplinkBeyond + "/"
	same(t, "page beyond", b.guest("x", page), "page")
	boot := b.guest("x", "cat /proc/sys/kernel/random/boot_id")

	b.sub("kill -9 of both daemons", func(t *testing.T, b *box) {
		b.killDaemon()
		h.killRoot()
		same(t, "boot", b.guest("x", "cat /proc/sys/kernel/random/boot_id"), boot)
		h.killRoot()
		b.must("run", "--rm", "--", "true")
	})
	b.sub("stop and start", func(t *testing.T, b *box) {
		b.guest("x", "echo kept >/root/f; sync")
		b.must("stop", "x")
		b.must("start", "x")
		same(t, "file", b.guest("x", "cat /root/f"), "kept")
		same(t, "page beyond", b.guest("x", page), "page")
	})
	b.sub("suspend, snapshot, fork", func(t *testing.T, b *box) {
		b.guest("x", "echo kept >/run/tmpfs; echo then >/root/s; echo kept >/root/kept")
		b.must("suspend", "x")
		b.checkVMMsGone(b.show("x"))
		b.killDaemon()
		b.must("start", "x")
		if steps := b.steps("x"); !has(steps, "thaw") {
			t.Errorf("it was not thawed: %v", steps)
		}
		same(t, "tmpfs", b.guest("x", "cat /run/tmpfs"), "kept")
		b.must("vm", "snapshot", "create", "x")
		b.guest("x", "echo now >/root/s")
		b.must("vm", "snapshot", "restore", "-f", "x", "s1")
		same(t, "file", b.guest("x", "cat /root/s"), "then")
		same(t, "names", b.must("fork", "x", "--count", "2", "--name", "f"), "f-1\nf-2")
		for _, name := range []string{"f-1", "f-2"} {
			same(t, name+": tmpfs", b.guest(name, "cat /run/tmpfs"), "kept")
			same(t, name+": page beyond", b.guest(name, page), "page")
		}
		if one, two := b.show("f-1"), b.show("f-2"); one.Runtime.UID == two.Runtime.UID {
			t.Errorf("two VMs share uid %d", one.Runtime.UID)
		}
		b.forks("x", 8)
		eventually(t, "the chains of x are short", func() bool { return b.chain("x") < 9 })
		b.must("rm", "-f", "f-1", "f-2")
		b.must("vm", "snapshot", "delete", "x", "s1")
	})
	b.sub("a user network", func(t *testing.T, b *box) {
		b.must("run", "-d", "--name", "u", "--net", "user")
		same(t, "page beyond", b.guest("u", page), "page")
		b.must("rm", "-f", "u")
	})
	b.must("rm", "-f", "x")
	b.checkGone(vm)
	b.checkNothingOfVMs()
	for _, l := range b.net.links() {
		if strings.HasPrefix(l, "bgr-") {
			t.Errorf("left behind: %s", l)
		}
	}
}

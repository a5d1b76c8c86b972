package machine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"banger/api"
	"banger/internal/loud"
)

// boxes counts the boxes of this run, for names and uids that do not meet.
var boxes atomic.Int32

// box is a host of a test's own.
type box struct {
	t   *testing.T
	dir string // short, below /tmp; everything of the box is in it
	bin string
	net *namespace
	// uid and gid are those of the user whose banger this is; name is empty for root.
	uid, gid int
	name     string
	home     string
	// outside lets commands run in the host's own network: only to build images, never with a VM.
	outside bool
	// last runs when the box is gone, beforeGone when nothing in it runs any more.
	last, beforeGone func()
	// beside ends what runs beside the daemon, when that has ended.
	beside func()
	env    []string
	// bootID is the file of the boot id that banger is shown, after boots reboots; empty for the host's own.
	bootID string
	boots  int
}

// option changes a box before its first command.
type option func(*box)

// setting gives a configuration key a value, by its variable.
func setting(key, value string) option {
	return func(b *box) { b.env = append(b.env, "BANGER_"+strings.ToUpper(key)+"="+value) }
}

// newBox makes a box with the images prepared by scripts/machine-state: for root, or for a user beside whose daemon a
// bangerd-root runs where the environment wants that. The default image is minimal, VMs are small.
func newBox(t *testing.T, options ...option) *box {
	t.Helper()
	if asUser() {
		return newHelpedBox(t, options...).box
	}
	return newRootBox(t, options...)
}

func newRootBox(t *testing.T, options ...option) *box {
	t.Helper()
	needRoot(t)
	b := emptyBox(t)
	for _, o := range options {
		o(b)
	}
	if b.beforeGone == nil { // else an option has made the state directory
		link(t, preparedState(t), b.state())
	}
	return b
}

// emptyBox has no image and no kernel.
func emptyBox(t *testing.T) *box {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "b")
	if err != nil {
		t.Fatal(err)
	}
	n := int(boxes.Add(1))
	b := &box{t: t, dir: dir, bin: binDir(t), home: filepath.Join(dir, "h")}
	b.net = newNamespace(t, fmt.Sprintf("b%d-%d", os.Getpid(), n))
	t.Cleanup(func() { b.close() })
	for _, d := range []string{b.home, b.state()} {
		if err := os.MkdirAll(d, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	// VMMs under uids of their own must be able to walk down to their files.
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	b.env = []string{
		"PATH=" + b.bin + ":" + os.Getenv("PATH"), "HOME=" + b.home, "LANG=C.UTF-8", "TERM=dumb",
		"BANGER_STATE_DIR=" + b.state(), "BANGER_RUNTIME_DIR=" + b.runtime(), "BANGER_CONFIG_DIR=" + filepath.Join(dir, "c"),
		"BANGER_IMAGE=minimal", "BANGER_MEMORY=128M", "BANGER_CPUS=1", "BANGER_DISK_SIZE=256M", "BANGER_POOL=0",
		fmt.Sprintf("BANGER_UID_BASE=%d", 1_900_000_000+256*n), "BANGER_UID_COUNT=256",
	}
	if os.Getenv(patienceVariable) != "" {
		setting("ready_timeout", patience(2*time.Minute).String())(b)
		setting("stop_timeout", patience(10*time.Second).String())(b)
	}
	if hypervisor, _ := backend(); hypervisor != "" {
		setting("hypervisor", hypervisor)(b)
	}
	return b
}

// sub runs a part of the test in the same box; failures are that part's.
func (b *box) sub(name string, fn func(t *testing.T, b *box)) {
	b.t.Helper()
	b.t.Run(name, func(t *testing.T) {
		inner, network := *b, *b.net
		inner.t, inner.net, network.t = t, &network, t
		fn(t, &inner)
	})
}

func (b *box) state() string   { return filepath.Join(b.dir, "s") }
func (b *box) runtime() string { return filepath.Join(b.dir, "r") }
func (b *box) socket() string  { return filepath.Join(b.runtime(), "bangerd.sock") }
func (b *box) vmDir(vm api.VM) string {
	return filepath.Join(b.state(), "vms", vm.ID)
}
func (b *box) handles(vm api.VM) string { return filepath.Join(b.vmDir(vm), "handles.json") }

// close takes the box apart: what banger does not take away itself is a failure of the test.
func (b *box) close() {
	if b.t.Failed() {
		b.tellStory()
	}
	b.banger("ps") // a daemon that a test has killed comes back and adopts
	b.checkBackend()
	if ids := strings.Fields(b.banger("ps", "-aq").stdout); len(ids) > 0 {
		if r := b.banger(append([]string{"rm", "-f"}, ids...)...); r.code != 0 {
			b.t.Errorf("cannot delete the VMs: %s", r.stderr)
		}
	}
	b.checkNothingOfVMs()
	b.banger("daemon", "stop")
	if b.beside != nil {
		b.beside()
	}
	b.checkNoProcesses()
	if b.beforeGone != nil {
		b.beforeGone()
	}
	b.net.close()
	if err := os.RemoveAll(b.dir); err != nil {
		b.t.Errorf("cannot remove the box: %v", err)
	}
	if b.last != nil {
		b.last()
	}
}

// tellStory logs what helps to see why a test failed.
func (b *box) tellStory() {
	logs, _ := filepath.Glob(filepath.Join(b.state(), "vms", "*", "v", "*.log"))
	for _, path := range append(logs, filepath.Join(b.state(), "bangerd.log")) {
		if text, err := os.ReadFile(path); err == nil {
			b.t.Logf("end of %s:\n%s", path, tail(string(text), 40))
		}
	}
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// binDir is where `make build` puts the programs.
func binDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "banger")); err != nil {
		loud.Skip(t, "bin/banger is not built: make build")
	}
	return dir
}

func preparedState(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../.cache/test-state")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "stamp")); err != nil {
		loud.Skip(t, "no prepared images: scripts/machine-state")
	}
	return dir
}

// link copies the sealed files as hard links where the file system allows: they are never
// written again. The database is a copy of the box's own.
func link(t *testing.T, from, to string) {
	t.Helper()
	for _, part := range []string{"images", "kernels"} {
		src := filepath.Join(from, part)
		if exec.Command("cp", "-al", src, to).Run() == nil {
			continue
		}
		if err := os.RemoveAll(filepath.Join(to, part)); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("cp", "-a", "--reflink=auto", "--sparse=always", src, to).CombinedOutput(); err != nil {
			t.Fatalf("cannot copy %s: %s", src, out)
		}
	}
	if out, err := exec.Command("cp", "-a", filepath.Join(from, "banger.db"), to).CombinedOutput(); err != nil {
		t.Fatalf("cannot copy the database: %s", out)
	}
}
